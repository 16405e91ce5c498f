"""FLGConv2d, a convolution that learns its groups, and its controls: other copies, other groups, a channel shuffle.

Source: Motohashi and Yamauchi, sections 2-3 and 3; Wang et al. 2019.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair

from flgc_lib.grouping import (
    Estimator,
    check_choice,
    cocluster,
    connection_mask,
    duplicates,
    membership,
    straight_through,
)

Score = Literal["logit", "softmax"]
Method = Literal[
    "dense",
    "grouped",
    "shuffle",
    "random",
    "equal",
    "flgc",
    "flgc-dup",
    "ring",
    "flgc-randdup",
    "cluster",
    "cluster-dup",
]
UNMASKED: tuple[Method, ...] = ("dense", "grouped", "shuffle")
"""The methods without an FLGConv2d: nothing is learned or drawn."""
COPYING: tuple[Method, ...] = ("flgc-dup", "ring", "flgc-randdup", "cluster-dup")
"""The methods in which channels can be in several groups."""
CLUSTERED: tuple[Method, ...] = ("cluster", "cluster-dup")
"""Those that find their groups in a soft start."""
ConvLayer = Callable[[int, int, int, int, int], nn.Module]
"""conv_layer(in_channels, out_channels, kernel_size, stride, padding) -> a convolution without bias."""


class _MaskedWeight(torch.autograd.Function):
    """W ⊙ M in the type that the convolution works in.

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
            to_mask = gradient.to(weight.dtype, copy=True).mul_(weight).sum(dim=(2, 3))
        return gradient.to(weight.dtype, copy=True).mul_(mask[:, :, None, None]), to_mask, None


class FLGConv2d(nn.Module):
    """Fully learnable group convolution: conv(x, W ⊙ M), where M is learned through S and T.

    Input (B, C, H, W), output (B, N, H', W') as in `nn.Conv2d`. Any number of groups from 1 to min(C, N) is legal;
    groups may be unequal, overlap and be empty, and a filter whose group has no channel outputs its bias, or 0.
    With one group the layer is exactly `nn.Conv2d`.

    Args:
        in_channels: C.
        out_channels: N.
        kernel_size: of the square kernel, or (height, width).
        groups: G, the number of groups, not the channels in one.
        stride: as in `nn.Conv2d`.
        padding: as in `nn.Conv2d`, zeros.
        dilation: as in `nn.Conv2d`.
        bias: whether to learn a bias of shape (N,).
        duplicate_top_k: None for FLGC; k for the paper's rule (3 in the paper), applied in every forward pass.
        score: what the rule compares, "logit" (S itself, the paper's wording) or "softmax" (its row softmax).
        estimator: gradient of the choice, see `grouping.straight_through`.

    Attributes:
        weight: W, shape (N, C, kh, kw). Weights behind the mask exist, so that a channel can move, but are not used.
        bias: shape (N,), or None.
        input_logits: S, shape (C, G), drawn from N(0, 1).
        filter_logits: T, shape (N, G), drawn from N(0, 1).
        learns: whether S and T get a gradient in this pass; without, it is cheaper.
        softness: the share of a weight outside its group that counts all the same; 0 but for a soft start, in which
            all weights train before the groups close.

    Raises:
        ValueError: for groups outside 1 … min(C, N), top_k below 1, an unknown score or estimator.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        groups: int,
        *,
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        bias: bool = False,
        duplicate_top_k: int | None = None,
        score: Score = "logit",
        estimator: Estimator = "full",
    ) -> None:
        super().__init__()
        if groups < 1:
            raise ValueError(f"groups={groups} must be at least 1")
        for channels, name in ((in_channels, "in_channels"), (out_channels, "out_channels")):
            if groups > channels:
                raise ValueError(f"groups={groups} must be at most {name}={channels}")
        if duplicate_top_k is not None and duplicate_top_k < 1:
            raise ValueError(f"duplicate_top_k={duplicate_top_k} must be at least 1, or None for no copies")
        check_choice("score", score, Score)
        check_choice("estimator", estimator, Estimator)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair(kernel_size)
        self.groups = groups
        self.stride = _pair(stride)
        self.padding = _pair(padding)
        self.dilation = _pair(dilation)
        self.duplicate_top_k = duplicate_top_k
        self.score = score
        self.estimator: Estimator = estimator
        self.learns = True
        self.softness = 0.0
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.input_logits = nn.Parameter(torch.empty(in_channels, groups))
        self.filter_logits = nn.Parameter(torch.empty(out_channels, groups))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws W and the bias as `nn.Conv2d(groups=G)` would, from the fan-in C/G, and S and T from N(0, 1)."""
        fan_in = self.in_channels / self.groups * math.prod(self.kernel_size)
        nn.init.uniform_(self.weight, -(fan_in**-0.5), fan_in**-0.5)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -(fan_in**-0.5), fan_in**-0.5)
        nn.init.normal_(self.input_logits)
        nn.init.normal_(self.filter_logits)

    def forward(self, x: Tensor) -> Tensor:
        """conv(x, W ⊙ M); the mask follows S and T of this moment."""
        autocast = torch.is_autocast_enabled(x.device.type)
        dtype = torch.get_autocast_dtype(x.device.type) if autocast else self.weight.dtype
        # Autocast would multiply the two 0/1 matrices in bf16 for nothing and round the gradients of S and T.
        with torch.autocast(x.device.type, enabled=False):
            mask = self._mask()  # (N, C)
        # A convolution that is a matrix product of pixels and weights is several times faster as one than oneDNN's
        # convolution on small maps, above all backward, if the channels of a pixel lie together in memory.
        if x.is_contiguous(memory_format=torch.channels_last):
            if self.kernel_size == (1, 1) and self.padding == (0, 0):
                weight = _MaskedWeight.apply(self.weight, mask, dtype)
                pixels = x[:, :, :: self.stride[0], :: self.stride[1]].movedim(1, -1)  # (B, H', W', C)
                return F.linear(pixels, weight[:, :, 0, 0], self.bias).movedim(-1, 1)
            if self._has_one_position(x):
                top, left = self.padding
                covered = x[:, :, : self.kernel_size[0] - top, : self.kernel_size[1] - left]  # (B, C, h, w)
                taps = self.weight[:, :, top : top + covered.shape[2], left : left + covered.shape[3]]
                weight = _MaskedWeight.apply(taps, mask, dtype)  # (N, C, h, w): the other taps lie on the padding
                rows, columns = (t.movedim(1, -1).flatten(1) for t in (covered, weight))
                return F.linear(rows, columns, self.bias)[:, :, None, None]
        weight = _MaskedWeight.apply(self.weight, mask, dtype)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation)

    def _mask(self) -> Tensor:
        """M, shape (N, C), not yet hard in a soft start, and with the gradient to S and T if they learn."""
        if self.learns and (self.input_logits.requires_grad or self.filter_logits.requires_grad):
            A = straight_through(self.input_logits, self.input_membership(), estimator=self.estimator)  # (C, G)
            B = straight_through(self.filter_logits, self.filter_membership(), estimator=self.estimator)  # (N, G)
            mask = connection_mask(A, B)
        else:
            mask = self.connection_mask()
        return mask if self.softness == 0 else mask + self.softness * (1 - mask)

    def _has_one_position(self, x: Tensor) -> bool:
        """Whether the kernel fits the padded image in one place only and that place meets the image."""
        return self.dilation == (1, 1) and all(
            p < k <= size + 2 * p < k + s
            for size, k, s, p in zip(x.shape[2:], self.kernel_size, self.stride, self.padding, strict=True)
        )

    @torch.no_grad()
    def input_membership(self) -> Tensor:
        """A, BoolTensor (C, G): the group of each channel, and the groups that it is copied into."""
        members = membership(self.input_logits)
        if self.duplicate_top_k is None:
            return members
        return members | self._copies(members, self.duplicate_top_k)

    @torch.no_grad()
    def filter_membership(self) -> Tensor:
        """B, BoolTensor (N, G): the one group of each filter. Filters are never copied."""
        return membership(self.filter_logits)

    @torch.no_grad()
    def connection_mask(self) -> Tensor:
        """M, shape (N, C), 0/1: which filter sees which channel."""
        return connection_mask(self.input_membership(), self.filter_membership()).to(self.weight.dtype)

    def _copies(self, members: Tensor, top_k: int) -> Tensor:
        scores = self._scores()
        return duplicates(scores if self.score == "logit" else scores.softmax(dim=1), members, top_k)

    def _scores(self) -> Tensor:
        """How well channel c fits group g, shape (C, G)."""
        return self.input_logits

    def extra_repr(self) -> str:
        """What `print(layer)` shows."""
        copies = "" if self.duplicate_top_k is None else f", duplicate_top_k={self.duplicate_top_k}"
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, groups={self.groups}, "
            f"stride={self.stride}, padding={self.padding}, bias={self.bias is not None}{copies}"
        )


class RandomCopiesConv2d(FLGConv2d):
    """Control for the rule: as many copies into each group as the rule would make, of channels drawn at random.

    If it does as well as the rule, then it does not matter which feature maps are copied. Every group draws its
    copies in the order of a fixed random priority, so that they change only as far as the groups do.

    Attributes:
        priority: shape (C, G); of the channels outside group g, those with the largest priority are copied.
    """

    priority: Tensor

    def reset_parameters(self) -> None:
        """As FLGC, and draws the priorities without advancing the generator that the next layer draws from."""
        super().reset_parameters()
        with torch.random.fork_rng(devices=[]):
            generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        self.register_buffer("priority", torch.rand(self.input_logits.shape, generator=generator))

    def _copies(self, members: Tensor, top_k: int) -> Tensor:
        wanted = super()._copies(members, top_k).sum(dim=0)  # (G,)
        order = self.priority.masked_fill(members, -1).argsort(dim=0, descending=True)  # (C, G), best first
        rank = order.argsort(dim=0)  # (C, G)
        return rank < wanted


class RingConv2d(FLGConv2d):
    """Control for learning: fixed contiguous groups that overlap their neighbour.

    Group g also takes the first channels after its own, as many as the rule would copy into it at FLGC's random
    start, as far as there are so many: a static overlap at the same cost.

    Attributes:
        overlap: BoolTensor (C, G), the copies.
    """

    overlap: Tensor

    def reset_parameters(self) -> None:
        """Draws as FLGC, counts the rule's copies, then fixes contiguous groups; S and T get no gradient."""
        super().reset_parameters()
        C, N, G = self.in_channels, self.out_channels, self.groups
        with torch.no_grad():
            wanted = torch.zeros(G)
            if self.duplicate_top_k is not None:
                wanted = super()._copies(membership(self.input_logits), self.duplicate_top_k).sum(dim=0)  # (G,)
            for logits, rows in ((self.input_logits, C), (self.filter_logits, N)):
                logits.copy_(F.one_hot(torch.arange(rows) * G // rows, G))
                logits.requires_grad_(False)
        last = membership(self.input_logits).int().cumsum(dim=0).argmax(dim=0)  # (G,): last channel of each group
        distance = (torch.arange(C)[:, None] - last) % C  # (C, G): how far channel c lies behind group g
        self.register_buffer("overlap", (distance >= 1) & (distance <= wanted))

    def _copies(self, members: Tensor, top_k: int) -> Tensor:
        return self.overlap & ~members


class EqualConv2d(FLGConv2d):
    """Control for learning: drawn groups of equal size, a permutation of an ordinary grouped convolution's."""

    def reset_parameters(self) -> None:
        """Draws as FLGC, then deals channels and filters out in the order of what was drawn; no gradient to S and T."""
        super().reset_parameters()
        with torch.no_grad():
            for logits in (self.input_logits, self.filter_logits):
                rank = logits[:, 0].argsort().argsort()
                logits.copy_(F.one_hot(rank * self.groups // len(rank), self.groups))
                logits.requires_grad_(False)


class ClusteredConv2d(EqualConv2d):
    """Groups that keep what the weights have made important, instead of following the gradient of S and T.

    The groups have equal sizes and are random at first. While a soft start lets all weights train, `regroup` puts
    together the channels and filters with large weights between them; when the groups close they stay.

    Attributes:
        importance: shape (C, G), of channel c for the filters of group g when last regrouped: the root mean square of
            its weights there, each the norm of a kernel. It is what the duplication rule compares.
    """

    importance: Tensor

    def reset_parameters(self) -> None:
        """Draws as `EqualConv2d`; nothing is important yet."""
        super().reset_parameters()
        self.register_buffer("importance", torch.zeros_like(self.input_logits))

    @torch.no_grad()
    def regroup(self) -> None:
        """Assigns channels and filters by today's weights."""
        with torch.autocast(self.weight.device.type, enabled=False):  # which would round the importance
            importance = self.weight.square().sum(dim=(2, 3))  # (N, C)
            inputs, filters = cocluster(importance, membership(self.input_logits), membership(self.filter_logits))
            self.input_logits.copy_(inputs)
            self.filter_logits.copy_(filters)
            self.importance.copy_((importance.T @ filters.to(importance.dtype) / filters.sum(dim=0)).sqrt())

    def _scores(self) -> Tensor:
        return self.importance


class ShuffledConv2d(nn.Conv2d):
    """Control for learning: fixed contiguous groups behind ShuffleNet's channel shuffle.

    The shuffle deals the channels of each group that comes in to as many groups as there are; with G groups of C/G
    channels it is the transposition of a (G, C/G) matrix. Information passes between groups from layer to layer.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The grouped convolution of the shuffled channels."""
        return super().forward(F.channel_shuffle(x, self.groups))


def dense_conv(in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int) -> nn.Module:
    """An ordinary convolution without bias, the default `conv_layer`."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)


_KINDS: dict[str, type[FLGConv2d]] = {
    "equal": EqualConv2d,
    "ring": RingConv2d,
    "flgc-randdup": RandomCopiesConv2d,
    "cluster": ClusteredConv2d,
    "cluster-dup": ClusteredConv2d,
}


def method_layer(method: Method, groups: int = 1, *, top_k: int = 3, score: Score = "logit") -> ConvLayer:
    """The `conv_layer` of a method of the experiment.

    Args:
        method: "dense"; "grouped", fixed contiguous groups, and "shuffle", the same behind a channel shuffle;
            "random", FLGC with S and T frozen at their random start, and "equal", drawn groups of equal size; "flgc";
            "flgc-dup", FLGC with the rule; "ring" and "flgc-randdup", the controls above; "cluster", groups from the
            weights, and "cluster-dup", the same with the rule.
        groups: G.
        top_k: k of the rule.
        score: what the rule compares.

    Raises:
        ValueError: for an unknown method, and from the returned function for groups that do not fit the channels.
    """
    check_choice("method", method, Method)
    if method == "dense":
        return dense_conv
    if groups < 1:
        raise ValueError(f"groups={groups} must be at least 1")

    def grouped_conv(in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int) -> nn.Module:
        for channels, name in ((in_channels, "in_channels"), (out_channels, "out_channels")):
            if channels % groups:
                raise ValueError(
                    f"groups={groups} must divide {name}={channels} for fixed groups of equal size; "
                    "method='flgc' takes any number of groups"
                )
        kind = ShuffledConv2d if method == "shuffle" else nn.Conv2d
        return kind(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)

    def learned_conv(in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int) -> nn.Module:
        layer = _KINDS.get(method, FLGConv2d)(
            in_channels,
            out_channels,
            kernel_size,
            groups,
            stride=stride,
            padding=padding,
            duplicate_top_k=top_k if method in COPYING else None,
            score=score,
        )
        if method == "random":
            layer.input_logits.requires_grad_(False)
            layer.filter_logits.requires_grad_(False)
        return layer

    return grouped_conv if method in UNMASKED else learned_conv
