"""FrozenConv2d, a convolution for inference: by group, an index of input channels and a small weight; nothing else."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from flgc_lib.frozen.bounds import check_plan, check_tensors
from flgc_lib.frozen.forms import FORMS, KERNEL_FORMS, Computation, Form, Group, LayerPlan, Precision, available_forms
from flgc_lib.grouping import check_choice, is_watched


class FrozenConv2d(nn.Module):
    """A grouped convolution for inference: relu(conv(x) + bias + residual), with unequal, overlapping or empty groups.

    Input (B, C, H, W), output (B, N, H', W') as in `nn.Conv2d`, in the layout of `torch.contiguous_format`.

    Args:
        plan: sizes and choices.

    Attributes:
        weight: all groups' weights one after the other, group g's as (filters(g), inputs(g), kh, kw); flat.
        bias: (N,), in the order of the groups' filters.
        inputs: int32, the input channels of all groups one after the other.
        outputs: int32 (N,), where each filter, in the order of the groups, is written.
    """

    inputs: Tensor
    outputs: Tensor

    def __init__(self, plan: LayerPlan) -> None:
        super().__init__()
        check_plan(plan)
        self._prepared: dict[Form, Computation] = {}  # from the plan and the four tensors; never saved
        self._prepared_for: tuple[Any, ...] = ()  # the tensors, and their versions
        self.plan = plan
        area = plan.kernel_size[0] * plan.kernel_size[1]
        connections = sum(c * n for c, n in zip(plan.group_inputs, plan.group_filters, strict=True))
        self.weight = nn.Parameter(torch.empty(connections * area), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(plan.out_channels), requires_grad=False)
        self.register_buffer("inputs", torch.zeros(sum(plan.group_inputs), dtype=torch.int32))
        self.register_buffer("outputs", torch.arange(plan.out_channels, dtype=torch.int32))

    @classmethod
    def from_tensors(cls, plan: LayerPlan, tensors: Mapping[str, Tensor]) -> "FrozenConv2d":
        """A layer with tensors of its plan: weight, bias, inputs, outputs.

        Raises:
            ValueError: if the plan is none of a convolution, or the tensors do not fit it.
        """
        check_plan(plan)
        check_tensors(plan, **tensors)
        with torch.device("meta"):
            layer = cls(plan)
        layer.load_state_dict(tensors, assign=True)
        return layer.requires_grad_(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FrozenConv2d":
        """Moves or casts the layer, and forgets what was derived from the old tensors."""
        self.forget()
        super()._apply(fn, recurse)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Loads the tensors, and forgets what was derived from the old ones."""
        self.forget()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """What is copied or pickled: not what was derived, which holds addresses in this process and this copy."""
        return self.__dict__ | {"_prepared": {}, "_prepared_for": ()}

    @property
    def plan(self) -> LayerPlan:
        """Sizes and choices; a new plan makes the layer forget what was derived from the old one."""
        return self._plan

    @plan.setter
    def plan(self, plan: LayerPlan) -> None:
        self._plan = plan
        self.forget()

    in_channels = property(lambda self: self.plan.in_channels)
    out_channels = property(lambda self: self.plan.out_channels)
    kernel_size = property(lambda self: self.plan.kernel_size)
    stride = property(lambda self: self.plan.stride)
    padding = property(lambda self: self.plan.padding)
    dilation = property(lambda self: self.plan.dilation)
    groups = property(lambda self: len(self.plan.group_filters))
    padding_mode = "zeros"

    @property
    def form(self) -> Form:
        """How the layer is computed; set by `use`."""
        return self.plan.form

    def use(self, form: Form) -> "FrozenConv2d":
        """Chooses how the layer is computed, and returns it.

        Raises:
            ValueError: for a form that this layer or this installation does not have.
        """
        check_choice("form", form, Form)
        forms = self.available_forms("bf16")
        if form not in forms:
            raise ValueError(
                f"form={form!r} cannot compute this layer here; it has {', '.join(forms)}. 'indirect' needs float32 on "
                "a CPU, and Numba: pip install -e '.[fast]'; 'bf16' also a processor with AVX512-BF16"
            )
        self._plan = replace(self.plan, form=form)  # what other forms have derived stays valid
        return self

    def forget(self) -> None:
        """Drops what the forms have derived from plan and tensors; the next call derives again what it needs."""
        self._prepared.clear()
        self._prepared_for = ()

    def available_forms(self, precision: Precision = "fp32") -> list[Form]:
        """The forms that can compute this layer here, in this precision or better, the likely fastest first."""
        return available_forms(self.plan, self.weight, precision)

    def connections(self) -> int:
        """Weights that connect something: all of them."""
        return self.weight.numel()

    def inference_parameters(self) -> int:
        """Numbers of the trained layer, and of the norm that was folded into it, that inference needs."""
        return self.weight.numel() + self.bias.numel() + self.plan.folded

    def parts(self) -> list[Group]:
        """The layer's tensors by group, as views."""
        plan = self.plan
        shapes = [(n, c, *plan.kernel_size) for c, n in zip(plan.group_inputs, plan.group_filters, strict=True)]
        parts = zip(
            self.inputs.split(plan.group_inputs),
            self.weight.split([math.prod(shape) for shape in shapes]),
            self.bias.split(plan.group_filters),
            self.outputs.split(plan.group_filters),
            shapes,
            strict=True,
        )
        return [Group(inputs, weight.view(shape), bias, outputs) for inputs, weight, bias, outputs, shape in parts]

    @torch.no_grad()
    def fill(self, groups: Sequence[Group]) -> None:
        """Takes over other groups, with as many inputs, weights and filters in all as the layer has."""
        self.inputs.copy_(torch.cat([group.inputs for group in groups]))
        self.weight.copy_(torch.cat([group.weight.flatten() for group in groups]))
        self.bias.copy_(torch.cat([group.bias for group in groups]))
        self.outputs.copy_(torch.cat([group.outputs for group in groups]))
        self.plan = replace(
            self.plan,
            group_inputs=tuple(len(group.inputs) for group in groups),
            group_filters=tuple(len(group.outputs) for group in groups),
        )

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """relu(conv(input) + bias + residual), each of the last two if there is one."""
        if input.ndim == 3:  # one image without a batch
            return self._compute(input[None], None if residual is None else residual[None]).squeeze(0)
        return self._compute(input, residual)

    def _compute(self, input: Tensor, residual: Tensor | None) -> Tensor:
        if input.shape[1] != self._plan.in_channels:  # where channels are gathered, others would do
            raise RuntimeError(
                f"the layer takes {self._plan.in_channels} channels, an input came of {tuple(input.shape)}"
            )
        form = self.plan.form
        if form in KERNEL_FORMS and not (form in FORMS and self._kernel_applies(input, residual)):
            form = "equal"  # the same function of x, in operations that PyTorch can trace, differentiate and broadcast
        return self._prepare(form)(input, residual)

    def _prepare(self, form: Form) -> Computation:
        """What computes the layer, from the tensors as they are now; in a graph that is captured, as they last were.

        It is kept, as numbers, unless a gradient of the weights is wanted, which has to find its way back to them.
        """
        own, index = self._parameters, self._buffers  # several times faster than by attribute
        tensors: Any = own["weight"], own["bias"], index["inputs"], index["outputs"]
        wanted = torch.is_grad_enabled() and any([tensor.requires_grad for tensor in tensors])
        if torch.compiler.is_compiling() and form in self._prepared and not wanted:
            return self._prepared[form]
        now = state(tensors)
        if not self._prepared_for or now != self._prepared_for[0]:
            check_tensors(self.plan, *tensors)
            self.forget()
            self._prepared_for = now, tensors  # the tensors are kept: others could get their ids
        if wanted:
            return FORMS[form](self.plan, self.parts())
        compute = self._prepared.get(form)
        if compute is None:
            with _disable_current_modes(), torch.inference_mode(False), torch.no_grad():  # constants for all calls
                compute = self._prepared[form] = FORMS[form](self.plan, self.parts())
        return compute

    def _kernel_applies(self, x: Tensor, residual: Tensor | None) -> bool:
        """Whether the kernel, which checks nothing, may be let loose on these tensors."""
        if torch.compiler.is_compiling() or is_watched():
            return False
        if not all(own is not None and is_floats(own) for own in self._parameters.values()):
            return False
        if not all(type(t) is Tensor and is_floats(t) for t in ((x,) if residual is None else (x, residual))):
            return False
        return self.output_size(x.shape, *(() if residual is None else (residual.shape,))) is not None

    def output_size(self, x: Sequence[int], residual: Sequence[int] | None = None) -> tuple[int, int, int, int] | None:
        """(B, N, H', W') for an input (B, C, H, W) and a residual of these sizes; None if it does not take them."""
        plan = self._plan
        if len(x) != 4 or x[1] != plan.in_channels:
            return None
        height, width = plan.window.output_size(x[2], x[3])
        size = x[0], plan.out_channels, height, width
        return size if min(height, width) > 0 and (residual is None or tuple(residual) == size) else None

    def computation(self) -> Computation:
        """What computes the layer in its form, from the tensors as they are now."""
        return self._prepare(self.form if self.form in FORMS else "equal")

    def extra_repr(self) -> str:
        """What `print(layer)` shows."""
        plan = self.plan
        groups = len(plan.group_filters)
        return (
            f"{plan.in_channels}, {plan.out_channels}, kernel_size={plan.kernel_size}, stride={plan.stride}, "
            f"groups={groups}, weights={self.weight.numel()}, relu={plan.relu}, form={plan.form}"
        )


def is_floats(tensor: Tensor) -> bool:
    """Whether the kernel can read it: float32 on the CPU, and no gradient is wanted."""
    return tensor.dtype is torch.float32 and tensor.is_cpu and not (tensor.requires_grad and torch.is_grad_enabled())


def state(tensors: tuple[Tensor, ...]) -> list[int]:
    """What changes when a tensor is replaced, or written to or moved other than through `.data`."""
    try:
        versions = [tensor._version for tensor in tensors]
    except RuntimeError:  # tensors made in inference mode have none
        versions = [0 if tensor.is_inference() else tensor._version for tensor in tensors]
    return [*map(id, tensors), *versions, *map(Tensor.data_ptr, tensors)]


def frozen_convolutions(model: nn.Module) -> Sequence[tuple[str, FrozenConv2d]]:
    """All frozen convolutions of a model with their names."""
    return [(name, m) for name, m in model.named_modules() if isinstance(m, FrozenConv2d)]


def place(root: nn.Module, name: str, value: Tensor | nn.Module) -> None:
    """Puts a tensor or layer into `root` under a name with dots, in modules that are made where there are none."""
    *parents, leaf = name.split(".")
    for part in parents:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    if isinstance(value, nn.Module):
        root.add_module(leaf, value)
    elif isinstance(value, nn.Parameter):
        root.register_parameter(leaf, nn.Parameter(value.detach(), requires_grad=False))
    else:
        root.register_buffer(leaf, value.detach())
