"""From trained convolutions to frozen ones: dropping the mask, folding batch norm, carrying the channel order.

Source: Wang et al. 2019, section 3.4: filters and channels are re-ordered after training so that groups lie together.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flgc_lib.controls import ShuffledConv2d
from flgc_lib.frozen.forms import Group, LayerPlan
from flgc_lib.frozen.layer import FrozenConv2d
from flgc_lib.frozen.window import Window
from flgc_lib.layers import FLGConv2d

Members = Sequence[tuple[Tensor, Tensor]]
"""(input channels, filters) of every group that has filters, as indices in the order of the weights."""


_COMPUTING = {"forward", "_conv_forward", "_mask"}
"""Methods that say what a convolution computes."""


class Affine(NamedTuple):
    """What follows a convolution channel by channel: a multiplication and a sum."""

    scale: Tensor
    """float64 (N,)."""
    shift: Tensor
    """float64 (N,)."""
    numbers: int
    """How many numbers the trained network has for it."""


def is_convertible(module: nn.Module) -> bool:
    """Whether `from_convolution` can freeze the module: learned groups, or a zero-padded `nn.Conv2d`, also shuffled.

    Classes derived from these compute what they like, and are left alone if they define how; so are layers that were
    given a forward of their own, and weights that are no floating-point numbers.
    """
    if not isinstance(module, FLGConv2d | nn.Conv2d) or vars(module).keys() & _COMPUTING:
        return False
    if not module.weight.is_floating_point():
        return False
    if isinstance(module, FLGConv2d):
        return all(getattr(type(module), name) is getattr(FLGConv2d, name) for name in ("forward", "_mask"))
    plain = type(module) in (nn.Conv2d, ShuffledConv2d)
    return plain and module.padding_mode == "zeros" and not isinstance(module.padding, str)


@torch.no_grad()
def from_convolution(conv: nn.Module) -> FrozenConv2d:
    """Freezes a convolution.

    Args:
        conv: an `FLGConv2d`, or an `nn.Conv2d` for which `is_convertible` holds.

    Returns:
        The frozen layer, on the convolution's device and of its type.
    """
    assert isinstance(conv, FLGConv2d | nn.Conv2d)
    window = Window(_two(conv.kernel_size), _two(conv.stride), _two(conv.padding), _two(conv.dilation))
    weight: Tensor = conv.weight
    groups: int | Members = conv.groups
    if isinstance(conv, FLGConv2d | ShuffledConv2d):
        weight, groups = dense_weight(conv), own_members(conv)
    return from_weight(weight, conv.bias, window, groups)


@torch.no_grad()
def from_weight(
    weight: Tensor,
    bias: Tensor | None,
    window: Window,
    groups: int | Members,
    affines: Sequence[Affine] = (),
    *,
    relu: bool = False,
) -> FrozenConv2d:
    """A frozen layer from the tensors of a convolution.

    Args:
        weight: (N, C, kh, kw) for learned groups, (N, C / groups, kh, kw) for a number of groups.
        bias: (N,), or None.
        window: the sliding window.
        groups: their number, or the channels and filters of each.
        affines: what follows, in this order.
        relu: whether a ReLU follows, behind the residual if the layer is given one.
    """
    filters = len(weight)
    scale, shift = weight.new_ones(filters, dtype=torch.float64), weight.new_zeros(filters, dtype=torch.float64)
    if bias is not None:
        shift = bias.double()
    for affine in affines:
        scale, shift = scale * affine.scale.to(scale), shift * affine.scale.to(scale) + affine.shift.to(scale)
    parts = []
    for channels, outputs in _equal_members(weight, groups) if isinstance(groups, int) else groups:
        part = weight[outputs] if isinstance(groups, int) else weight[outputs][:, channels]
        parts.append(Group(channels, part.double() * scale[outputs, None, None, None], shift[outputs], outputs))
    trained = sum(affine.numbers for affine in affines) + (0 if bias is None else filters)
    plan = LayerPlan(
        weight.shape[1] * groups if isinstance(groups, int) else weight.shape[1],
        filters,
        kernel_size=window.kernel_size,
        stride=window.stride,
        padding=window.padding,
        dilation=window.dilation,
        group_inputs=tuple(len(part.inputs) for part in parts),
        group_filters=tuple(len(part.outputs) for part in parts),
        relu=relu,
        folded=trained - filters,
    )
    layer = FrozenConv2d(plan).to(weight)
    layer.fill(parts)
    return layer


def own_members(conv: FLGConv2d | ShuffledConv2d) -> Members:
    """The groups that a convolution has learned, one of everything in its soft start; or those of a shuffle."""
    device = conv.weight.device
    channels = torch.arange(conv.in_channels, device=device)
    filters = torch.arange(conv.out_channels, device=device)
    if isinstance(conv, ShuffledConv2d):
        dealt = channels.view(conv.groups, -1).T.flatten()  # what the shuffle puts at each place
        return list(zip(dealt.chunk(conv.groups), filters.chunk(conv.groups), strict=True))
    if conv.softness != 0:
        return [(channels, filters)]
    A, B = conv.input_membership(), conv.filter_membership()  # (C, G), (N, G)
    return [(a.nonzero().flatten(), b.nonzero().flatten()) for a, b in zip(A.T, B.T, strict=True) if b.any()]


@torch.no_grad()
def dense_weight(conv: FLGConv2d | ShuffledConv2d) -> Tensor:
    """What the convolution multiplies with, shape (N, C, kh, kw): outside its groups zeros, but for a soft start."""
    if isinstance(conv, FLGConv2d):
        mask = conv.connection_mask()
        return conv.weight * (mask + conv.softness * (1 - mask))[:, :, None, None]
    weight = conv.weight.new_zeros(conv.out_channels, conv.in_channels, *_two(conv.kernel_size))
    for channels, filters in own_members(conv):
        weight[filters[:, None], channels] = conv.weight[filters]
    return weight


def _equal_members(weight: Tensor, groups: int) -> Members:
    channels = torch.arange(weight.shape[1] * groups, device=weight.device).chunk(groups)
    filters = torch.arange(len(weight), device=weight.device).chunk(groups)
    return list(zip(channels, filters, strict=True))


def norm_affine(mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Affine:
    """What a batch norm with running statistics does to each channel."""
    scale = (variance.double() + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.double()
    shift = -mean.double() * scale
    if bias is not None:
        shift = shift + bias.double()
    return Affine(scale, shift, sum(t.numel() for t in (weight, bias) if t is not None))


def _two(value: tuple[int, ...] | str) -> tuple[int, int]:
    first, second = (int(v) for v in value)
    return first, second


@torch.no_grad()
def release_order(layer: FrozenConv2d) -> Tensor:
    """Lets the layer write its filters group by group, so that nothing has to be put back in order.

    Returns:
        position: int32 (N,), where each canonical output channel now lies; its readers need it for `read_order`.
    """
    position = layer.outputs.argsort().to(torch.int32)
    layer.outputs.copy_(torch.arange(len(position)))
    layer.forget()
    return position


@torch.no_grad()
def read_order(layer: FrozenConv2d, position: Tensor) -> None:
    """Makes the layer read canonical channel c at position[c].

    The channels of a group are sorted by where they now lie, and groups of one channel among each other: what the
    layer before wrote side by side is then read as one slice wherever the groups allow.
    """
    groups = []
    for group in layer.parts():
        inputs = position[group.inputs.long()]
        order = inputs.argsort()
        groups.append(group._replace(inputs=inputs[order], weight=group.weight[:, order]))
    if set(layer.plan.group_inputs) == {1}:  # depthwise
        groups.sort(key=lambda group: int(group.inputs))
    layer.fill(groups)
