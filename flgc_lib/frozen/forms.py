"""The exact forms in which a frozen convolution can be computed.

A frozen layer holds, by group, a 1-D index of its input channels and a small weight; no S, no T, no mask and no
zeros. What it computes is fixed; how is a choice, because the fastest form depends on the layer and the machine:

| form | what it does |
| --- | --- |
| `loop` | one small convolution a group, results concatenated |
| `equal` | groups padded to the same size, one grouped convolution |
| `matmul` | the same padding, one batched matrix product (1×1 only) |
| `dense` | the mask burnt into an ordinary convolution: multiplies zeros, but never loses against dense |
| `indirect` | the kernel of `indirect.py`: reads its channels through the index, computes no zeros (needs Numba) |

Source: Wang et al. 2019, section 3.4 (re-ordering after training); Dukhan 2019, arXiv 1907.02129 (indirection).
"""

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from flgc_lib.frozen.layer import FrozenConv2d

try:
    from flgc_lib.frozen.kernel.indirect import IndirectConvolution, Taps
except ImportError:  # no Numba: everything else works without it
    IndirectConvolution = None  # type: ignore[assignment, misc]

Form = Literal["loop", "equal", "matmul", "dense", "indirect"]


def _loop(layer: "FrozenConv2d", x: Tensor) -> Tensor:
    prepared = layer._prepared.get("loop")
    if prepared is None:
        indices = [_slice_or_index(part) for part in layer.inputs.split(layer.plan.group_inputs)]
        biases = layer.bias.split(layer.plan.group_filters)
        groups = list(zip(indices, layer.group_weights(), biases, strict=True))
        prepared = layer._prepared["loop"] = (groups, _inverse(layer.outputs))
    groups, inverse = prepared
    parts = []
    for index, weight, bias in groups:
        if weight.shape[1] == 0:  # nobody feeds these filters
            size = layer.output_size(*x.shape[2:])
            parts.append(bias[:, None, None].expand(x.shape[0], -1, *size))
            continue
        part = x[:, index] if isinstance(index, slice) else x.index_select(1, index)  # (B, inputs(g), H, W)
        parts.append(F.conv2d(part, weight, bias, layer.plan.stride, layer.plan.padding, layer.plan.dilation))
    out = torch.cat(parts, dim=1)
    return out if inverse is None else out.index_select(1, inverse)


def _equal(layer: "FrozenConv2d", x: Tensor) -> Tensor:
    index, weight, bias, inverse = _padded(layer)
    x = x if index is None else x.index_select(1, index)  # (B, G · widest, H, W)
    groups = len(layer.plan.group_filters)
    out = F.conv2d(x, weight, bias, layer.plan.stride, layer.plan.padding, layer.plan.dilation, groups)
    return out if inverse is None else out.index_select(1, inverse)


def _matmul(layer: "FrozenConv2d", x: Tensor) -> Tensor:
    index, weight, bias, inverse = _padded(layer)
    down, right = layer.plan.stride
    x = x[:, :, ::down, ::right]
    batch, _, height, width = x.shape
    x = x if index is None else x.index_select(1, index)
    groups = len(layer.plan.group_filters)
    columns = x.reshape(batch, groups, -1, height * width)  # (B, G, widest, H' W')
    out = weight.view(groups, -1, columns.shape[2]) @ columns  # (G, most filters, widest) @ … -> (B, G, most, H' W')
    out = out.reshape(batch, -1, height, width) + bias[:, None, None]
    return out if inverse is None else out.index_select(1, inverse)


def _dense(layer: "FrozenConv2d", x: Tensor) -> Tensor:
    prepared = layer._prepared.get("dense")
    if prepared is None:
        plan = layer.plan
        weight = layer.weight.new_zeros(plan.out_channels, plan.in_channels, *plan.kernel_size)
        bias = torch.empty_like(layer.bias)
        bias[layer.outputs.long()] = layer.bias
        parts = zip(
            layer.group_weights(),
            layer.inputs.long().split(plan.group_inputs),
            layer.outputs.long().split(plan.group_filters),
            strict=True,
        )
        for part, inputs, outputs in parts:
            weight[outputs[:, None], inputs] = part
        prepared = layer._prepared["dense"] = (weight, bias)
    weight, bias = prepared
    return F.conv2d(x, weight, bias, layer.plan.stride, layer.plan.padding, layer.plan.dilation)


RUNNERS = {"loop": _loop, "equal": _equal, "matmul": _matmul, "dense": _dense}
"""Form -> function(layer, x): conv(x) + bias. The kernel has one of its own, because it does the rest as well."""


def has_kernel() -> bool:
    """Whether the indirect form is installed."""
    return IndirectConvolution is not None


def run_indirect(layer: "FrozenConv2d", x: Tensor, residual: Tensor | None) -> Tensor:
    """relu(conv(x) + bias + residual) by the kernel, which checks nothing."""
    return _indirect(layer)(x, residual, overwrite=layer.plan.overwrite)


def _indirect(layer: "FrozenConv2d") -> IndirectConvolution:
    prepared = layer._prepared.get("indirect")
    if prepared is None:
        plan = layer.plan
        prepared = layer._prepared["indirect"] = IndirectConvolution(
            Taps(plan.kernel_size, plan.stride, plan.padding, plan.dilation),
            layer.group_weights(),
            list(layer.inputs.split(plan.group_inputs)),
            layer.outputs,
            layer.bias,
            plan.in_channels,
            relu=plan.relu,
        )
    return prepared


def _padded(layer: "FrozenConv2d") -> tuple[Tensor | None, Tensor, Tensor, Tensor | None]:
    """Index, weight, bias and read-out of groups padded to the largest; a padding channel meets a zero weight."""
    prepared = layer._prepared.get("padded")
    if prepared is None:
        plan = layer.plan
        groups, widest, most = len(plan.group_filters), max(1, *plan.group_inputs), max(plan.group_filters)
        index = layer.inputs.new_zeros(groups, widest)
        weight = layer.weight.new_zeros(groups, most, widest, *plan.kernel_size)
        bias = layer.bias.new_zeros(groups, most)
        position = torch.empty_like(layer.outputs)  # of each canonical filter in the padded result
        parts = zip(
            layer.group_weights(),
            layer.inputs.split(plan.group_inputs),
            layer.bias.split(plan.group_filters),
            layer.outputs.long().split(plan.group_filters),
            strict=True,
        )
        for g, (part, inputs, biases, outputs) in enumerate(parts):
            index[g, : len(inputs)] = inputs
            weight[g, : part.shape[0], : part.shape[1]] = part
            bias[g, : len(biases)] = biases
            position[outputs] = g * most + torch.arange(len(outputs), dtype=torch.int32, device=position.device)
        gather = None if _is_identity(index.flatten(), plan.in_channels) else index.flatten()
        read_out = None if _is_identity(position, groups * most) else position
        prepared = layer._prepared["padded"] = (gather, weight.flatten(0, 1), bias.flatten(), read_out)
    return prepared


def _is_identity(index: Tensor, length: int) -> bool:
    return len(index) == length and bool((index == torch.arange(length, device=index.device)).all())


def _slice_or_index(index: Tensor) -> slice | Tensor:
    """A slice where the channels lie side by side: it costs nothing, a gather copies."""
    if len(index) and bool((index.diff() == 1).all()):
        return slice(int(index[0]), int(index[0]) + len(index))
    return index


def _inverse(outputs: Tensor) -> Tensor | None:
    """Where to read each canonical channel, or None if they already are in order."""
    return None if _is_identity(outputs, len(outputs)) else outputs.argsort().to(torch.int32)
