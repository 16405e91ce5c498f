"""What a network costs: parameters and multiply-accumulates, with learned groups counted as they are.

Source: Motohashi and Yamauchi, section 1 (why the convolutions' cost matters); Wang et al. 2019.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

MULTIPLYING = {"_trilinear", "addmv", "addr", "dot", "mkldnn_rnn_layer", "mv", "vdot"}
"""PyTorch's operations that multiply matrices and that its counter does not know."""


@runtime_checkable
class Accountable(Protocol):
    """A convolution that answers for itself, because its tensors do not show what it costs."""

    def connections(self) -> int:
        """Weights that connect something, kernel positions included."""

    def inference_parameters(self) -> int:
        """Numbers that inference needs."""


class Cost(NamedTuple):
    """Cost of one forward pass for one image."""

    parameters: int
    """Numbers that inference needs: connected weights, biases, norms. S, T and weights behind the mask are none."""
    macs: int
    """Multiply-accumulates of convolutions, linear layers and attention; not of norms, activations and pooling."""


def count(model: nn.Module, input_size: tuple[int, int, int]) -> Cost:
    """Counts what `model` costs at inference.

    A frozen network is counted as the trained one that it came from, with the norms that were folded away.

    A convolution costs `Σ_g |inputs(g)| |filters(g)| · kh · kw` weights and as many MACs at every output position;
    `|inputs(g)|` counts a copied channel in every group that it is in. All other products of matrices are counted by
    PyTorch (`torch.utils.flop_counter`), whichever layer they come from. What it does not know (an LSTM's one
    operation, other libraries' operations) is named in a warning. A parameter that several layers share counts once.

    Args:
        model: any network that takes one batch of images; its mode and gradients are left alone.
        input_size: (channels, height, width) of one image.

    Raises:
        ValueError: if `input_size` is not three positive numbers.

    Example:
        >>> count(nn.Conv2d(4, 8, 3, padding=1, groups=2), (4, 10, 10))  # 8 filters of 2 · 9 weights, 100 positions
        Cost(parameters=152, macs=14400)
    """
    if len(input_size) != 3 or min(input_size) < 1:
        raise ValueError(f"input_size={input_size} must be (channels, height, width), for example (3, 32, 32)")
    counter, unknown = _Counter(), _Unknown()
    handles = []
    for module in model.modules():
        if isinstance(module, Accountable):
            handles.append(module.register_forward_pre_hook(counter.enter, prepend=True))
            handles.append(module.register_forward_hook(counter.leave))
    try:
        with torch.no_grad(), _in_eval_mode(model), _attention_in_steps(), unknown, counter:
            model(torch.zeros(1, *input_size).to(next(model.parameters(), torch.empty(0))))
    finally:
        for handle in handles:
            handle.remove()
    if unknown.names:
        warnings.warn(
            f"not counted in the MACs of {type(model).__name__}: {', '.join(sorted(unknown.names))}", stacklevel=2
        )
    return Cost(_parameters(model), counter.macs())


def connections(layer: nn.Module) -> int:
    """Weights of a convolution or linear layer that connect something, kernel positions included."""
    if isinstance(layer, Accountable):
        return layer.connections()
    return layer.get_parameter("weight").numel()


def _parameters(model: nn.Module) -> int:
    total = sum(p.numel() for p in model.parameters())
    seen: set[int] = set()
    for layer in model.modules():
        if isinstance(layer, Accountable):
            own = {id(p): p.numel() for p in layer.parameters()}
            bias = layer._parameters.get("bias")
            if bias is not None:  # is in the total as it is
                del own[id(bias)]
            new = own.keys() - seen
            seen |= new
            if new:  # else its weights are another layer's
                needed = layer.inference_parameters() - (0 if bias is None else bias.numel())
                total += needed - sum(own[p] for p in new)
    return total


class _Counter(FlopCounterMode):
    """PyTorch's counter, corrected for layers that answer for themselves."""

    def __init__(self) -> None:
        super().__init__(display=False)
        self._before: list[int] = []
        self._excess = 0

    def macs(self) -> int:
        return (self.get_total_flops() - self._excess) // 2  # it counts a multiplication and an addition as two

    def enter(self, module: nn.Module, inputs: Any) -> None:  # noqa: ANN401
        self._before.append(self.get_total_flops())

    def leave(self, module: nn.Module, inputs: Any, output: Tensor) -> None:  # noqa: ANN401
        assert isinstance(module, Accountable)
        positions = output.numel() // output.shape[-3]  # of all images, which may be more than came in
        flops = 2 * module.connections() * positions  # first of all, for this too may multiply matrices
        self._excess += self.get_total_flops() - self._before.pop() - flops


class _Unknown(TorchDispatchMode):
    """Notes the operations that may multiply and that PyTorch's counter does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        if func.namespace not in ("aten", "prim", "prims") or func._opname in MULTIPLYING:
            self.names.add(f"{func.namespace}.{func._opname}")
        return func(*args, **kwargs or {})


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    was_training = {m: m.training for m in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in was_training.items():
            module.training = training


@contextmanager
def _attention_in_steps() -> Iterator[None]:
    """As products of matrices: of the operations that compute attention at once, PyTorch does not count each."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
