"""What must be true of a layer before the kernel, which checks nothing, may compute it."""

from typing import get_args

import torch
from torch import Tensor

from flgc_lib.frozen.forms import Form, LayerPlan

MOST = 2**20
"""No convolution has more channels, filters or groups, or a larger window."""


def check_plan(plan: LayerPlan) -> None:
    """Looks at every number of a plan.

    Raises:
        ValueError: if one is not what a convolution can have.
    """
    for name, least in (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1)):
        value = getattr(plan, name)
        if not isinstance(value, tuple) or len(value) != 2 or not all(_is_within(v, least) for v in value):
            raise ValueError(f"{name}={value!r} must be two whole numbers from {least} to {MOST}")
    for name, least in (("in_channels", 1), ("out_channels", 1)):
        if not _is_within(getattr(plan, name), least):
            raise ValueError(f"{name}={getattr(plan, name)!r} must be a whole number from {least} to {MOST}")
    for name, least in (("group_inputs", 0), ("group_filters", 1)):
        value = getattr(plan, name)
        if not isinstance(value, tuple) or not value or not all(_is_within(v, least) for v in value):
            raise ValueError(f"{name} must be whole numbers from {least} to {MOST}, one for each group")
    if len(plan.group_inputs) != len(plan.group_filters) or sum(plan.group_filters) != plan.out_channels:
        raise ValueError(f"the groups of a layer must have out_channels={plan.out_channels} filters in all")
    if type(plan.relu) is not bool or type(plan.folded) is not int:
        raise ValueError("relu must be true or false, folded a whole number")
    if plan.form not in get_args(Form):
        raise ValueError(f"form={plan.form!r} must be one of {', '.join(get_args(Form))}")


def check_tensors(plan: LayerPlan, weight: Tensor, bias: Tensor, inputs: Tensor, outputs: Tensor) -> None:
    """Looks at the sizes of a layer's tensors and at every index.

    Raises:
        ValueError: if one does not fit the plan.
    """
    area = plan.kernel_size[0] * plan.kernel_size[1]
    connections = sum(c * n for c, n in zip(plan.group_inputs, plan.group_filters, strict=True))
    for name, tensor, length in (
        ("weight", weight, connections * area),
        ("bias", bias, plan.out_channels),
        ("inputs", inputs, sum(plan.group_inputs)),
        ("outputs", outputs, plan.out_channels),
    ):
        if tensor.shape != (length,):
            raise ValueError(f"{name} has the size {tuple(tensor.shape)}, the layer's groups need ({length},)")
    if inputs.dtype != torch.int32 or outputs.dtype != torch.int32:
        raise ValueError("inputs and outputs must be int32")
    if weight.dtype != bias.dtype or not weight.is_floating_point():
        raise ValueError("weight and bias must be floating-point numbers of one type")
    if len(inputs) and not 0 <= int(inputs.min()) <= int(inputs.max()) < plan.in_channels:
        raise ValueError(f"inputs must lie from 0 to {plan.in_channels - 1}, in_channels - 1")
    if not torch.equal(outputs.sort().values.cpu(), torch.arange(plan.out_channels, dtype=torch.int32)):
        raise ValueError(f"outputs must be the numbers from 0 to {plan.out_channels - 1}, each once")


def _is_within(value: object, least: int) -> bool:
    return type(value) is int and least <= value <= MOST
