"""conv(x, W ⊙ M) for training, by the fastest way that gives the same numbers.

A mask saves no multiplication: it is how groups learn, not how they get fast.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from flgc_lib.grouping import is_watched

Pair = tuple[int, int]


def masked_conv2d(
    x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """F.conv2d(x, W ⊙ M, bias, stride, padding, dilation), in autocast's type where autocast is on.

    A convolution that is a matrix product of pixels and weights is several times faster as one than oneDNN's
    convolution on small maps, above all backward, if the channels of a pixel lie together in memory.

    Args:
        x: (B, C, H, W).
        weight: W, shape (N, C, kh, kw).
        mask: M, shape (N, C).
        bias: shape (N,), or None.
        stride: vertical, horizontal; so are the other two.
        padding: with zeros.
        dilation: as in `nn.Conv2d`.

    Returns:
        (B, N, H', W').
    """
    if is_watched():  # in operations that PyTorch can differentiate and batch in every way
        return F.conv2d(x, weight * mask[:, :, None, None].to(weight.dtype), bias, stride, padding, dilation)
    if x.is_contiguous(memory_format=torch.channels_last):
        if weight.shape[2:] == (1, 1) and padding == (0, 0):
            return _pointwise(x, weight, mask, bias, stride)
        if dilation == (1, 1) and has_one_position(x, weight, stride, padding):
            return _at_one_position(x, weight, mask, bias, padding)
    return F.conv2d(x, _masked(weight, mask), bias, stride, padding, dilation)


def _pointwise(x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, stride: Pair) -> Tensor:
    """A 1×1 convolution as a matrix product."""
    pixels = x[:, :, :: stride[0], :: stride[1]].movedim(1, -1)  # (B, H', W', C)
    return F.linear(pixels, _masked(weight, mask)[:, :, 0, 0], bias).movedim(-1, 1)


def has_one_position(x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> bool:
    """Whether the kernel fits the padded image in one place only and that place meets the image."""
    sizes = zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True)
    return all(pad < kernel <= size + 2 * pad < kernel + step for size, kernel, step, pad in sizes)


def _at_one_position(x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, padding: Pair) -> Tensor:
    """A convolution with an output of one pixel as a matrix product, without the taps that lie on the padding."""
    top, left = padding
    covered = x[:, :, : weight.shape[2] - top, : weight.shape[3] - left]  # (B, C, h, w)
    taps = weight[:, :, top : top + covered.shape[2], left : left + covered.shape[3]]  # (N, C, h, w)
    rows, columns = (t.movedim(1, -1).flatten(1) for t in (covered, _masked(taps, mask)))
    return F.linear(rows, columns, bias)[:, :, None, None]


def _masked(weight: Tensor, mask: Tensor) -> Tensor:
    """W ⊙ M in the type in which a convolution takes W."""
    return _MaskedWeight.apply(weight, mask, working_type(weight))


def working_type(x: Tensor) -> torch.dtype:
    """The type in which a convolution takes images or weights: autocast's, which leaves float64 alone, or their own."""
    kind = x.device.type
    autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    narrowed = autocast and x.is_floating_point() and x.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if narrowed else x.dtype


class _MaskedWeight(torch.autograd.Function):
    """W ⊙ M in a given type.

    Rounding W before masking it gives the same numbers as after, in bf16 with half the memory traffic, and working in
    place keeps the gradients, ∂W = ∂ ⊙ M and ∂M = Σ over the kernel of ∂ ⊙ W, in W's own type without further copies.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:  # noqa: ANN401
        mask = mask.to(dtype)  # half the memory until the backward pass; 0 and 1 stay what they are
        ctx.save_for_backward(weight, mask)
        return weight.to(dtype) * mask[:, :, None, None]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:  # noqa: ANN401
        weight, mask = ctx.saved_tensors
        to_mask = None
        if ctx.needs_input_grad[1]:
            if torch.is_grad_enabled() and mask.dtype != weight.dtype:  # what was kept has no graph back to S and T
                raise RuntimeError(
                    "in autocast the gradients of learned groups cannot be differentiated again (create_graph=True): "
                    "leave autocast for this layer, or set learns=False"
                )
            to_mask = gradient.to(weight.dtype, copy=True).mul_(weight).sum(dim=(2, 3))
        return gradient.to(weight.dtype, copy=True).mul_(mask[:, :, None, None]), to_mask, None
