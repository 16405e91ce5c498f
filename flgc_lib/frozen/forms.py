"""The forms in which a frozen convolution can be computed: exact ones, and one in bf16.

A frozen layer holds, by group, a 1-D index of its input channels and a small weight; no S, no T, no mask and no
zeros. What it computes is fixed; how is a choice, because the fastest form depends on the layer and the machine:

| form | what it does |
| --- | --- |
| `loop` | one small convolution a group, results concatenated |
| `equal` | groups padded to the same size, one grouped convolution |
| `matmul` | the same padding, one batched matrix product (1×1 only) |
| `dense` | the mask burnt into an ordinary convolution: multiplies zeros, but never loses against dense |
| `indirect` | the kernel of `kernel/`: reads its channels through the index, computes no zeros (needs Numba) |
| `bf16` | the same with inputs and weights rounded to bf16, sums in float32; only where it is asked for |

A form is a function that takes a plan and the groups, derives from them what it needs, and returns what computes.

Source: Wang et al. 2019, section 3.4 (re-ordering after training); Dukhan 2019, arXiv 1907.02129 (indirection).
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from flgc_lib.frozen.window import Window

_NO_KERNEL = "Numba does not work here, so frozen networks compute in PyTorch's operations, which is slower"
try:
    from flgc_lib.frozen import kernel as kernel
except (
    ImportError,
    OSError,
    RuntimeError,
    AttributeError,
) as error:  # how Numba refuses a NumPy, a folder, a processor
    kernel = None  # type: ignore[assignment]  # everything else works
    if not isinstance(error, ModuleNotFoundError):
        warnings.warn(f"{_NO_KERNEL} ({type(error).__name__}: {error})", RuntimeWarning, stacklevel=2)

Form = Literal["loop", "equal", "matmul", "dense", "indirect", "bf16"]
KERNEL_FORMS: tuple[Form, ...] = ("bf16", "indirect")
"""Those of the kernel, which takes some tensors only."""
Precision = Literal["fp32", "bf16"]
"""fp32 is computed in exact forms; bf16 also in the form of that name."""

MANY_GROUPS = 64
"""Above this a loop over groups, or a dense weight for what is nearly depthwise, is no serious candidate."""


@dataclass(frozen=True)
class LayerPlan:
    """Everything about a frozen convolution that is not a number to multiply with."""

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    group_inputs: tuple[int, ...]
    """Input channels of each group; 0 for a group whose filters output their bias."""
    group_filters: tuple[int, ...]
    """Filters of each group, at least 1."""
    relu: bool = False
    form: Form = "equal"
    folded: int = 0
    """Numbers of the trained layer and its norm that folding made unnecessary: `cost.count` still counts them."""

    @cached_property
    def window(self) -> Window:
        """The sliding window."""
        return Window(self.kernel_size, self.stride, self.padding, self.dilation)


class Group(NamedTuple):
    """A group's part of a frozen convolution."""

    inputs: Tensor
    """int32 (inputs(g),), its input channels."""
    weight: Tensor
    """(filters(g), inputs(g), kh, kw)."""
    bias: Tensor
    """(filters(g),)."""
    outputs: Tensor
    """int32 (filters(g),), where its filters are written."""


Groups = Sequence[Group]
Convolution = Callable[[Tensor], Tensor]
"""x -> conv(x) + bias."""
Computation = Callable[[Tensor, Tensor | None], Tensor]
"""x, residual -> relu(conv(x) + bias + residual), each of the last two if there is one."""


def available_forms(plan: LayerPlan, weight: Tensor, precision: Precision = "fp32") -> list[Form]:
    """The forms that can compute a layer here, in this precision or better, the likely fastest first."""
    few = len(plan.group_filters) <= MANY_GROUPS
    by_kernel = weight.dtype == torch.float32 and weight.device.type == "cpu"
    applies: dict[Form, bool] = {
        "bf16": by_kernel and precision == "bf16",
        "indirect": by_kernel,
        "equal": True,
        "loop": few,
        "matmul": few and plan.kernel_size == (1, 1) and plan.padding == (0, 0),
        "dense": few,
    }
    return [form for form, can in applies.items() if can and form in FORMS]


def _by_kernel(form: Form) -> Callable[[LayerPlan, Groups], Computation]:
    def prepare(plan: LayerPlan, groups: Groups) -> Computation:
        inputs, weights, biases, outputs = zip(*groups, strict=True)
        try:
            return kernel.IndirectConvolution(
                plan.window,
                weights,
                inputs,
                torch.cat(outputs),
                torch.cat(biases),
                plan.in_channels,
                relu=plan.relu,
                bf16=form == "bf16",
            )
        except Exception as error:  # the machine code could not be made, or not be kept
            if FORMS.pop(form, None):
                warnings.warn(f"{_NO_KERNEL} ({type(error).__name__}: {error})", RuntimeWarning, stacklevel=2)
            return _equal(plan, groups)

    return prepare


def _then_sum_and_relu(form: Callable[[LayerPlan, Groups], Convolution]) -> Callable[[LayerPlan, Groups], Computation]:
    """What the kernel does by itself, for a form in PyTorch's operations."""

    def prepare(plan: LayerPlan, groups: Groups) -> Computation:
        convolution = form(plan, groups)

        def compute(x: Tensor, residual: Tensor | None) -> Tensor:
            out = convolution(x)
            if residual is not None:
                out = out + residual
            return F.relu(out) if plan.relu else out

        return compute

    return prepare


@_then_sum_and_relu
def _loop(plan: LayerPlan, groups: Groups) -> Convolution:
    parts = [(_slice_or_index(group.inputs), group.weight, group.bias) for group in groups]
    inverse = _inverse(torch.cat([group.outputs for group in groups]))

    def convolution(x: Tensor) -> Tensor:
        results = []
        for index, weight, bias in parts:
            if weight.shape[1] == 0:  # nobody feeds these filters
                size = plan.window.output_size(*x.shape[2:])
                results.append(bias[:, None, None].expand(x.shape[0], -1, *size))
                continue
            part = x[:, index] if isinstance(index, slice) else x.index_select(1, index)  # (B, inputs(g), H, W)
            results.append(F.conv2d(part, weight, bias, plan.stride, plan.padding, plan.dilation))
        return _select(torch.cat(results, dim=1), inverse)

    return convolution


@_then_sum_and_relu
def _equal(plan: LayerPlan, groups: Groups) -> Convolution:
    index, weight, bias, inverse = _padded(plan, groups)

    def convolution(x: Tensor) -> Tensor:
        x = _select(x, index)  # (B, G · widest, H, W)
        out = F.conv2d(x, weight.flatten(0, 1), bias, plan.stride, plan.padding, plan.dilation, len(groups))
        return _select(out, inverse)

    return convolution


@_then_sum_and_relu
def _matmul(plan: LayerPlan, groups: Groups) -> Convolution:
    index, weight, bias, inverse = _padded(plan, groups)
    weight = weight.flatten(2)
    widest = weight.shape[2]
    down, right = plan.stride

    def convolution(x: Tensor) -> Tensor:
        x = x[:, :, ::down, ::right]
        batch, _, height, width = x.shape
        columns = _select(x, index).reshape(batch, len(groups), widest, height * width)  # (B, G, widest, H' W')
        out = weight @ columns  # (G, most filters, widest) @ (B, G, widest, H' W') -> (B, G, most filters, H' W')
        return _select(out.reshape(batch, len(bias), height, width) + bias[:, None, None], inverse)

    return convolution


@_then_sum_and_relu
def _dense(plan: LayerPlan, groups: Groups) -> Convolution:
    weight = groups[0].weight.new_zeros(plan.out_channels, plan.in_channels, *plan.kernel_size)
    bias = weight.new_empty(plan.out_channels)
    for group in groups:
        outputs = group.outputs.long()
        weight[outputs[:, None], group.inputs.long()] = group.weight
        bias[outputs] = group.bias
    return lambda x: F.conv2d(x, weight, bias, plan.stride, plan.padding, plan.dilation)


FORMS: dict[Form, Callable[[LayerPlan, Groups], Computation]] = {
    "equal": _equal,
    "loop": _loop,
    "matmul": _matmul,
    "dense": _dense,
}
"""The installed forms."""
if kernel is not None:
    FORMS = {form: _by_kernel(form) for form in KERNEL_FORMS if form != "bf16" or kernel.BF16} | FORMS


def _padded(plan: LayerPlan, groups: Groups) -> tuple[Tensor | None, Tensor, Tensor, Tensor | None]:
    """Groups padded to the largest; a padding channel meets a zero weight.

    Returns:
        Index of the input channels (G · widest,); weight (G, most filters, widest, kh, kw); bias (G · most filters,);
        where to read each output channel (N,). The indices are None where they would change nothing.
    """
    widest, most = max(1, *plan.group_inputs), max(plan.group_filters)
    index = groups[0].inputs.new_zeros(len(groups), widest)
    weight = groups[0].weight.new_zeros(len(groups), most, widest, *plan.kernel_size)
    bias = weight.new_zeros(len(groups), most)
    position = index.new_empty(plan.out_channels)
    for g, group in enumerate(groups):
        filters, inputs = group.weight.shape[:2]
        index[g, :inputs] = group.inputs
        weight[g, :filters, :inputs] = group.weight
        bias[g, :filters] = group.bias
        position[group.outputs.long()] = g * most + torch.arange(filters, dtype=index.dtype, device=index.device)
    gather = None if is_identity(index.flatten(), plan.in_channels) else index.flatten()
    read_out = None if is_identity(position, len(groups) * most) else position
    return gather, weight, bias.flatten(), read_out


def _select(x: Tensor, index: Tensor | None) -> Tensor:
    return x if index is None else x.index_select(1, index)


def is_identity(index: Tensor, length: int) -> bool:
    """Whether an index into `length` channels moves nothing."""
    return len(index) == length and bool((index == torch.arange(length, device=index.device)).all())


def _slice_or_index(index: Tensor) -> slice | Tensor:
    """A slice where the channels lie side by side: it costs nothing, a gather copies."""
    if len(index) and bool((index.diff() == 1).all()):
        return slice(int(index[0]), int(index[0]) + len(index))
    return index


def _inverse(outputs: Tensor) -> Tensor | None:
    """Where to read each canonical channel, or None if they already are in order."""
    return None if is_identity(outputs, len(outputs)) else outputs.argsort().to(torch.int32)
