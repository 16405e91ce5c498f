"""conv(x, W ⊙ M) for training where groups rest and are equal in size: only the connections are multiplied.

While groups are learned, S and T need the gradient of every weight, also of those behind the mask. Once the groups are
closed, or drawn, neither that gradient nor the product with zeros is needed. The channels of a group do not lie
together, and moving them may cost more than small products save: a layer is computed in this way only where it pays.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from flgc_lib.masked import Pair, has_one_position, working_type

WEIGHTS_A_PIXEL = 64
"""From so many weights a pixel on, masking a pointwise layer's weights costs more than moving its maps."""


def pays(weight: Tensor, x: Tensor, stride: Pair, padding: Pair) -> bool:
    """Whether computing by groups is faster than with the mask; measured, see docs/performance.md."""
    if not x.is_contiguous(memory_format=torch.channels_last):
        return False
    if weight.shape[2:] != (1, 1):
        return not has_one_position(x, weight, stride, padding)  # then the mask meets few taps
    pixels = x.shape[0] * x.shape[2] * x.shape[3] // (stride[0] * stride[1])
    return weight.numel() >= WEIGHTS_A_PIXEL * pixels


def equal_groups(inputs: Tensor, filters: Tensor) -> tuple[Tensor, Tensor] | None:
    """Channels (G, C/G) and filters (G, N/G) of groups of equal size without copies, int64; None for other groups.

    Args:
        inputs: A, BoolTensor (C, G).
        filters: B, BoolTensor (N, G).
    """
    G = inputs.shape[1]
    sizes = torch.cat([inputs.sum(dim=0) * G - len(inputs), filters.sum(dim=0) * G - len(filters)])
    if bool(sizes.any()) or not bool((inputs.sum(dim=1) == 1).all()):
        return None
    return inputs.T.nonzero()[:, 1].view(G, -1), filters.T.nonzero()[:, 1].view(G, -1)


def compact_conv2d(
    x: Tensor,
    weight: Tensor,
    groups: tuple[Tensor, Tensor],
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Tensor:
    """As `masked_conv2d` with the mask of `groups`, from `equal_groups`, and the same gradients, up to rounding.

    Args:
        x: (B, C, H, W).
        weight: W, shape (N, C, kh, kw); weights outside the groups get the gradient 0.
        groups: channels and filters of each group.
        bias: as in `masked_conv2d`.
        stride: likewise.
        padding: likewise.
        dilation: likewise.

    Returns:
        (B, N, H', W').

    Raises:
        RuntimeError: if images and weights are of different types or numbers of channels, or if a backward pass is to
            be differentiated.
    """
    if x.shape[1] != weight.shape[1]:  # a gather would leave out what is too much
        raise RuntimeError(f"the images have {x.shape[1]} channels, and the weights are for {weight.shape[1]}")
    x, dtype = x.to(working_type(x)), working_type(weight)
    if weight.shape[2:] == (1, 1) and padding == (0, 0):
        pixels = x[:, :, :: stride[0], :: stride[1]].movedim(1, -1)  # (B, H', W', C)
        out = _CompactPointwise.apply(pixels.reshape(-1, x.shape[1]), weight, *groups, dtype)
        out = out.view(*pixels.shape[:3], -1).movedim(-1, 1)
    else:
        out = _Compact.apply(x, weight, *groups, dtype, (stride, padding, dilation))
    return out if bias is None else out + bias.to(dtype)[:, None, None]


class _Compact(torch.autograd.Function):
    """Gather, grouped convolution, gather; and back."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        weight: Tensor,
        channels: Tensor,
        filters: Tensor,
        dtype: torch.dtype,
        geometry: tuple[Pair, Pair, Pair],
    ) -> Tensor:
        small = weight[filters[:, :, None], channels[:, None, :]].to(dtype)  # (G, N/G, C/G, kh, kw)
        ordered = _move(x, channels.flatten())
        ctx.save_for_backward(ordered, small, channels, filters)
        ctx.geometry, ctx.weight_like = geometry, (weight.shape, weight.dtype)
        out = F.conv2d(ordered, small.flatten(0, 1), None, *geometry, len(channels))
        return _move(out, filters.flatten().argsort())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        ordered, small, channels, filters = _kept(ctx)
        to_x, to_small, _ = torch.ops.aten.convolution_backward(
            _move(gradient, filters.flatten()), ordered, small.flatten(0, 1), None, *ctx.geometry, False, (0, 0),
            len(channels), (ctx.needs_input_grad[0], ctx.needs_input_grad[1], False),
        )  # fmt: skip
        to_x = None if to_x is None else _move(to_x, channels.flatten().argsort())
        to_weight = None if to_small is None else _spread(to_small.view_as(small), ctx.weight_like, channels, filters)
        return to_x, to_weight, None, None, None, None


class _CompactPointwise(torch.autograd.Function):
    """The same for a 1×1 kernel, as a product of small matrices; the pixels of a channel lie together in them."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        pixels: Tensor,
        weight: Tensor,
        channels: Tensor,
        filters: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        """Pixels (P, C) -> (P, N)."""
        small = weight[filters[:, :, None], channels[:, None, :], 0, 0].to(dtype)  # (G, N/G, C/G)
        ordered = pixels.t().index_select(0, channels.flatten()).view(*channels.shape, -1)  # (G, C/G, P)
        ctx.save_for_backward(ordered, small, channels, filters)
        ctx.weight_like = (weight.shape, weight.dtype)
        return (small @ ordered).flatten(0, 1).index_select(0, filters.flatten().argsort()).t().contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        ordered, small, channels, filters = _kept(ctx)
        part = gradient.t().index_select(0, filters.flatten()).view(*filters.shape, -1)  # (G, N/G, P)
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            to_x = (small.mT @ part).flatten(0, 1).index_select(0, channels.flatten().argsort()).t().contiguous()
        if ctx.needs_input_grad[1]:
            to_small = part @ ordered.mT  # (G, N/G, C/G)
            to_weight = _spread(to_small[..., None, None], ctx.weight_like, channels, filters)
        return to_x, to_weight, None, None, None


def _kept(ctx: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # noqa: ANN401
    """What the backward pass needs; there is no graph from it back to images and weights."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "gradients computed by groups cannot be differentiated again (create_graph=True): "
            "set compact=False in the layer"
        )
    return ctx.saved_tensors


def _spread(parts: Tensor, like: tuple[torch.Size, torch.dtype], channels: Tensor, filters: Tensor) -> Tensor:
    """The gradient of W, 0 outside the groups, from that of the groups' weights (G, N/G, C/G, kh, kw)."""
    shape, dtype = like
    whole = parts.new_zeros(shape, dtype=dtype)
    whole[filters[:, :, None], channels[:, None, :]] = parts.to(dtype)
    return whole


def _move(x: Tensor, index: Tensor) -> Tensor:
    """The channels of (B, C, H, W), which lie together in memory, in another order."""
    return x.movedim(1, -1).index_select(-1, index).movedim(-1, 1)
