"""What a network costs: parameters and multiply-accumulates, with learned groups counted as they are.

Source: Motohashi and Yamauchi, section 1 (why the convolutions' cost matters); Wang et al. 2019.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


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
    """Multiply-accumulates of convolutions and linear layers; norms, activations and pooling are not counted."""


def count(model: nn.Module, input_size: tuple[int, int, int]) -> Cost:
    """Counts what `model` costs at inference.

    A frozen network is counted as the trained one that it came from, with the norms that were folded away.

    A convolution costs `Σ_g |inputs(g)| |filters(g)| · kh · kw` weights and as many MACs at every output position;
    `|inputs(g)|` counts a copied channel in every group that it is in.

    Args:
        model: any network of convolutions and linear layers; its mode and gradients are left alone.
        input_size: (channels, height, width) of one image.

    Raises:
        ValueError: if `input_size` is not three positive numbers.

    Example:
        >>> count(nn.Conv2d(4, 8, 3, padding=1, groups=2), (4, 10, 10))  # 8 filters of 2 · 9 weights, 100 positions
        Cost(parameters=152, macs=14400)
    """
    if len(input_size) != 3 or min(input_size) < 1:
        raise ValueError(f"input_size={input_size} must be (channels, height, width), for example (3, 32, 32)")
    parameters = sum(p.numel() for p in model.parameters())
    for layer in model.modules():
        if isinstance(layer, Accountable):
            parameters += layer.inference_parameters() - sum(p.numel() for p in layer.parameters())
    macs = 0

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        positions = output[0, ..., 0].numel() if isinstance(module, nn.Linear) else output[0, 0].numel()
        macs += connections(module) * positions

    counted = (nn.Conv2d, nn.Linear, Accountable)
    handles = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, counted)]
    was_training = {m: m.training for m in model.modules()}
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *input_size).to(next(model.parameters())))
    finally:
        for handle in handles:
            handle.remove()
        for module, training in was_training.items():
            module.training = training
    return Cost(parameters, macs)


def connections(layer: nn.Module) -> int:
    """Weights of a convolution or linear layer that connect something, kernel positions included."""
    if isinstance(layer, Accountable):
        return layer.connections()
    return layer.get_parameter("weight").numel()
