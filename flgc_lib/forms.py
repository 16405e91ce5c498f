"""A frozen convolution, and the exact forms in which it can be computed.

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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flgc_lib.grouping import check_choice

try:
    from flgc_lib.indirect import IndirectConvolution, Taps
except ImportError:  # no Numba: everything else works without it
    IndirectConvolution = None  # type: ignore[assignment, misc]

Form = Literal["loop", "equal", "matmul", "dense", "indirect"]

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
        self.plan = plan
        area = plan.kernel_size[0] * plan.kernel_size[1]
        connections = sum(c * n for c, n in zip(plan.group_inputs, plan.group_filters, strict=True))
        self.weight = nn.Parameter(torch.empty(connections * area), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(plan.out_channels), requires_grad=False)
        self.register_buffer("inputs", torch.zeros(sum(plan.group_inputs), dtype=torch.int32))
        self.register_buffer("outputs", torch.arange(plan.out_channels, dtype=torch.int32))
        self._prepared: dict[str, Any] = {}  # what a form derives from the four tensors; never saved

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FrozenConv2d":
        """Moves or casts the layer, and forgets what was derived from the old tensors."""
        self.forget()
        super()._apply(fn, recurse)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Loads the tensors, and forgets what was derived from the old ones."""
        self.forget()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """What is copied or pickled: not what was derived, which holds addresses in this process and this copy."""
        return self.__dict__ | {"_prepared": {}}

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
        if form not in self.available_forms():
            raise ValueError(
                f"form={form!r} cannot compute this layer here; it has {', '.join(self.available_forms())}. "
                "'indirect' needs float32 on a CPU, and Numba: pip install 'flgc-lib[fast]'"
            )
        if form != self.plan.form:
            self.plan = replace(self.plan, form=form)
        return self

    def forget(self) -> None:
        """Drops what the forms have derived from the weights; what is needed is derived again in the next call."""
        self._prepared.clear()

    def available_forms(self) -> list[Form]:
        """The forms that can compute this layer with what is installed, the likely fastest first."""
        plan = self.plan
        few = len(plan.group_filters) <= MANY_GROUPS
        pointwise = plan.kernel_size == (1, 1) and plan.padding == (0, 0)
        offered = {"loop": few, "equal": True, "matmul": few and pointwise, "dense": few}
        offered["indirect"] = (
            IndirectConvolution is not None and self.weight.dtype == torch.float32 and self.weight.device.type == "cpu"
        )
        order: tuple[Form, ...] = ("indirect", "equal", "loop", "matmul", "dense")
        return [form for form in order if offered[form]]

    def group_weights(self) -> list[Tensor]:
        """Views of `weight`: one (filters(g), inputs(g), kh, kw) a group."""
        sizes = zip(self.plan.group_inputs, self.plan.group_filters, strict=True)
        shapes = [(n, c, *self.plan.kernel_size) for c, n in sizes]
        parts = self.weight.split([n * c * kh * kw for n, c, kh, kw in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(H', W') for an input of H × W."""
        plan = self.plan
        sizes = zip((height, width), plan.kernel_size, plan.stride, plan.padding, plan.dilation, strict=True)
        high, wide = ((size + 2 * pad - gap * (kernel - 1) - 1) // step + 1 for size, kernel, step, pad, gap in sizes)
        return high, wide

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """relu(conv(x) + bias + residual), each of the last two if there is one."""
        form = self.plan.form
        if form == "indirect":
            if self._kernel_applies(x, residual):
                return _indirect(self)(x, residual)
            form = "equal"  # the same function of x, in operations that PyTorch can trace, differentiate and broadcast
        out = _RUNNERS[form](self, x)
        if residual is not None:
            out = out + residual
        return F.relu(out) if self.plan.relu else out

    def _kernel_applies(self, x: Tensor, residual: Tensor | None) -> bool:
        """Whether the kernel, which checks nothing, may be let loose on these tensors."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        if x.ndim != 4 or x.shape[1] != self.plan.in_channels:
            return False
        size = self.output_size(*x.shape[2:])
        if min(size) < 1 or (residual is not None and residual.shape != (len(x), self.plan.out_channels, *size)):
            return False
        return all(
            type(t) is Tensor
            and t.dtype == torch.float32
            and t.device.type == "cpu"
            and not (t.requires_grad and torch.is_grad_enabled())
            for t in (x, residual)
            if t is not None
        )

    def extra_repr(self) -> str:
        """What `print(layer)` shows."""
        plan = self.plan
        groups = len(plan.group_filters)
        return (
            f"{plan.in_channels}, {plan.out_channels}, kernel_size={plan.kernel_size}, stride={plan.stride}, "
            f"groups={groups}, weights={self.weight.numel()}, relu={plan.relu}, form={plan.form}"
        )


def _loop(layer: FrozenConv2d, x: Tensor) -> Tensor:
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


def _equal(layer: FrozenConv2d, x: Tensor) -> Tensor:
    index, weight, bias, inverse = _padded(layer)
    x = x if index is None else x.index_select(1, index)  # (B, G · widest, H, W)
    groups = len(layer.plan.group_filters)
    out = F.conv2d(x, weight, bias, layer.plan.stride, layer.plan.padding, layer.plan.dilation, groups)
    return out if inverse is None else out.index_select(1, inverse)


def _matmul(layer: FrozenConv2d, x: Tensor) -> Tensor:
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


def _dense(layer: FrozenConv2d, x: Tensor) -> Tensor:
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


_RUNNERS = {"loop": _loop, "equal": _equal, "matmul": _matmul, "dense": _dense}


def _indirect(layer: FrozenConv2d) -> IndirectConvolution:
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


def _padded(layer: FrozenConv2d) -> tuple[Tensor | None, Tensor, Tensor, Tensor | None]:
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


def frozen_convolutions(model: nn.Module) -> Sequence[tuple[str, FrozenConv2d]]:
    """All frozen convolutions of a model with their names."""
    return [(name, m) for name, m in model.named_modules() if isinstance(m, FrozenConv2d)]
