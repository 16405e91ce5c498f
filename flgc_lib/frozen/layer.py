"""FrozenConv2d, a convolution for inference: by group, an index of input channels and a small weight; nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flgc_lib.frozen.forms import RUNNERS, Form, has_kernel, run_indirect
from flgc_lib.grouping import check_choice

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
    overwrite: bool = False
    """Whether nobody reads the residual after this layer, so that the result may take its place in memory."""
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
        offered["indirect"] = has_kernel() and self.weight.dtype == torch.float32 and self.weight.device.type == "cpu"
        order: tuple[Form, ...] = ("indirect", "equal", "loop", "matmul", "dense")
        return [form for form in order if offered[form]]

    def connections(self) -> int:
        """Weights that connect something: all of them."""
        return self.weight.numel()

    def inference_parameters(self) -> int:
        """Numbers of the trained layer, and of the norm that was folded into it, that inference needs."""
        return self.weight.numel() + self.bias.numel() + self.plan.folded

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
                return run_indirect(self, x, residual)
            form = "equal"  # the same function of x, in operations that PyTorch can trace, differentiate and broadcast
        out = RUNNERS[form](self, x)
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


def frozen_convolutions(model: nn.Module) -> Sequence[tuple[str, FrozenConv2d]]:
    """All frozen convolutions of a model with their names."""
    return [(name, m) for name, m in model.named_modules() if isinstance(m, FrozenConv2d)]
