"""From trained convolutions to frozen ones: dropping the mask, folding batch norm, carrying the channel order.

Source: Wang et al. 2019, section 3.4: filters and channels are re-ordered after training so that groups lie together.
"""

import torch
from torch import Tensor, nn

from flgc_lib.controls import ShuffledConv2d
from flgc_lib.frozen.forms import Group, LayerPlan
from flgc_lib.frozen.layer import FrozenConv2d
from flgc_lib.layers import FLGConv2d


def is_convertible(module: nn.Module) -> bool:
    """Whether `from_convolution` can freeze the module: learned groups, or a zero-padded `nn.Conv2d`, also shuffled."""
    if isinstance(module, FLGConv2d):
        return True
    plain = type(module) in (nn.Conv2d, ShuffledConv2d)
    return plain and module.padding_mode == "zeros" and not isinstance(module.padding, str)


@torch.no_grad()
def from_convolution(conv: nn.Module, norm: nn.BatchNorm2d | None = None, *, relu: bool = False) -> FrozenConv2d:
    """Freezes a convolution, with the batch norm behind it folded into weight and bias.

    Args:
        conv: an `FLGConv2d`, or an `nn.Conv2d` for which `is_convertible` holds.
        norm: the norm that reads the convolution and nothing else, with running statistics.
        relu: whether a ReLU follows, behind the residual if the layer is given one.

    Returns:
        The frozen layer, on the convolution's device and of its type.
    """
    assert isinstance(conv, FLGConv2d | nn.Conv2d)
    scale, shift = _affine(conv, norm)
    groups = []
    for channels, filters in _members(conv):
        weight = conv.weight[filters]
        if isinstance(conv, FLGConv2d):
            weight = weight[:, channels]
        groups.append(Group(channels, weight.double() * scale[filters, None, None, None], shift[filters], filters))
    trained = [*([] if conv.bias is None else [conv.bias]), *([] if norm is None else norm.parameters())]
    plan = LayerPlan(
        conv.in_channels,
        conv.out_channels,
        kernel_size=_two(conv.kernel_size),
        stride=_two(conv.stride),
        padding=_two(conv.padding),
        dilation=_two(conv.dilation),
        group_inputs=tuple(len(group.inputs) for group in groups),
        group_filters=tuple(len(group.outputs) for group in groups),
        relu=relu,
        folded=sum(p.numel() for p in trained) - conv.out_channels,
    )
    layer = FrozenConv2d(plan).to(conv.weight)
    layer.fill(groups)
    return layer


def _members(conv: nn.Conv2d | FLGConv2d) -> list[tuple[Tensor, Tensor]]:
    """(input channels, filters) of every group that has filters, as indices in the order of the weights."""
    device = conv.weight.device
    if isinstance(conv, FLGConv2d):
        A, B = conv.input_membership(), conv.filter_membership()  # (C, G), (N, G)
        return [(a.nonzero().flatten(), b.nonzero().flatten()) for a, b in zip(A.T, B.T, strict=True) if b.any()]
    channels = torch.arange(conv.in_channels, device=device)
    if isinstance(conv, ShuffledConv2d):
        channels = channels.view(conv.groups, -1).T.flatten()  # what the shuffle puts at each place
    filters = torch.arange(conv.out_channels, device=device).chunk(conv.groups)
    return list(zip(channels.chunk(conv.groups), filters, strict=True))


def _affine(conv: nn.Conv2d | FLGConv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor]:
    """Scale and shift, (N,) each in float64, that bias and norm do to what the weights compute."""
    scale = conv.weight.new_ones(conv.out_channels, dtype=torch.float64)
    shift = torch.zeros_like(scale) if conv.bias is None else conv.bias.double()
    if norm is None:
        return scale, shift
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = (shift - norm.running_mean.double()) * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    return scale, shift


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
    for group in layer.groups():
        inputs = position[group.inputs.long()]
        order = inputs.argsort()
        groups.append(group._replace(inputs=inputs[order], weight=group.weight[:, order]))
    if set(layer.plan.group_inputs) == {1}:  # depthwise
        groups.sort(key=lambda group: int(group.inputs))
    layer.fill(groups)
