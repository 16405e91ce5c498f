"""FLGConv2d, a convolution that learns its groups.

Source: Motohashi and Yamauchi, sections 2-3 and 3; Wang et al. 2019.
"""

import math
from functools import partial
from typing import Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.utils import _pair

from flgc_lib.compact import compact_conv2d, equal_groups, pays
from flgc_lib.grouping import (
    Estimator,
    check_choice,
    connection_mask,
    duplicates,
    is_watched,
    membership,
    straight_through,
)
from flgc_lib.masked import masked_conv2d

Score = Literal["logit", "softmax"]


class FLGConv2d(nn.Module):
    """Fully learnable group convolution: conv(x, W ⊙ M), where M is learned through S and T.

    Input (B, C, H, W), output (B, N, H', W') as in `nn.Conv2d`. Any number of groups from 1 to min(C, N) is legal;
    groups may be unequal, overlap and be empty, and a filter whose group has no channel outputs its bias, or 0.
    With one group the layer is exactly `nn.Conv2d`. It is built differently: `groups` is required, all arguments behind
    the kernel size go by keyword (the fourth of `nn.Conv2d` is its stride), there is no bias unless one is asked for,
    padding is a number and with zeros.

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
        device: as in `nn.Conv2d`.
        dtype: as in `nn.Conv2d`.

    Attributes:
        weight: W, shape (N, C, kh, kw). Weights behind the mask exist, so that a channel can move, but are not used.
        bias: shape (N,), or None.
        input_logits: S, shape (C, G), drawn from N(0, 1).
        filter_logits: T, shape (N, G), drawn from N(0, 1).
        learns: whether S and T get a gradient in this pass; without, it is cheaper.
        compact: whether a layer whose groups rest, and are equal and without copies, is computed by groups where that
            is faster. Its last digits then differ from those with the mask; off by default, so that records repeat.
            Gradients of gradients need the mask, and raise an error without.
        softness: the share of a weight outside its group that counts all the same; 0 but for a soft start, in which
            all weights train before the groups close. A tensor of one number may change between the replays of a CUDA
            graph.

    Raises:
        ValueError: for padding in words, groups outside 1 … min(C, N), top_k below 1, an unknown score or estimator.

    Example:
        >>> layer = FLGConv2d(64, 32, 3, groups=8, padding=1, duplicate_top_k=3)
        >>> layer(torch.zeros(1, 64, 5, 5)).shape
        torch.Size([1, 32, 5, 5])
        >>> layer.connection_mask().shape, layer.filter_membership().sum().item()
        (torch.Size([32, 64]), 32)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        *,
        groups: int,
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        bias: bool = False,
        duplicate_top_k: int | None = None,
        score: Score = "logit",
        estimator: Estimator = "full",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if isinstance(padding, str):
            same = tuple(d * (k - 1) // 2 for d, k in zip(_pair(dilation), _pair(kernel_size), strict=True))
            raise ValueError(f"padding={padding!r} must be a number, or (vertical, horizontal): {same} is 'same'")
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
        self.compact = False
        self.softness: float | Tensor = 0.0
        empty = partial(torch.empty, device=device, dtype=dtype)
        self.weight = nn.Parameter(empty(out_channels, in_channels, *self.kernel_size))
        self.bias = nn.Parameter(empty(out_channels)) if bias else None
        self.input_logits = nn.Parameter(empty(in_channels, groups))
        self.filter_logits = nn.Parameter(empty(out_channels, groups))
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
        if isinstance(x, fx.Proxy):
            return self._as_leaf(x)
        geometry = (self.stride, self.padding, self.dilation)
        if self.compact and not self._learning() and self.softness == 0 and not is_watched():
            groups = equal_groups(self.input_membership(), self.filter_membership())
            if groups is not None and pays(self.weight, x, self.stride, self.padding):
                return compact_conv2d(x, self.weight, groups, self.bias, *geometry)
        return masked_conv2d(x, self.weight, self._mask(), self.bias, *geometry)

    def _learning(self) -> bool:
        """Whether S or T gets a gradient."""
        return self.learns and (self.input_logits.requires_grad or self.filter_logits.requires_grad)

    def _mask(self) -> Tensor:
        """M, shape (N, C), not yet hard in a soft start, and with the gradient to S and T if they learn."""
        # Autocast would multiply the two 0/1 matrices in bf16 for nothing and round the gradients of S and T.
        kind = self.weight.device.type
        with torch.autocast(kind if torch.amp.is_autocast_available(kind) else "cpu", enabled=False):
            if self._learning():
                A = straight_through(self.input_logits, self.input_membership(), estimator=self.estimator)  # (C, G)
                B = straight_through(self.filter_logits, self.filter_membership(), estimator=self.estimator)  # (N, G)
                mask = connection_mask(A, B)
            else:
                mask = self.connection_mask()
            hard = not isinstance(self.softness, Tensor) and self.softness == 0
            return mask if hard else mask + self.softness * (1 - mask)

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

    def connections(self) -> int:
        """Weights that connect something: the ones of M times the positions of the kernel, copies included."""
        return int(self.connection_mask().count_nonzero()) * math.prod(self.kernel_size)

    def inference_parameters(self) -> int:
        """Numbers that inference needs: connections and bias, but no S, no T and no weight behind the mask."""
        return self.connections() + (0 if self.bias is None else self.bias.numel())

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """An ordinary convolution with the weight W ⊙ M of this moment, without S and T.

        `timm.utils.reparameterize_model` calls it on the layers of a trained network. What comes out runs anywhere,
        as fast as a dense convolution; `flgc_lib.freeze` is what makes learned groups fast.
        """
        geometry = (self.kernel_size, self.stride, self.padding, self.dilation)
        # On the device "meta" nothing is drawn from the generator for a weight that is replaced at once.
        fused = nn.Conv2d(self.in_channels, self.out_channels, *geometry, bias=False, device="meta")
        fused.weight = nn.Parameter(self.weight * self._mask()[:, :, None, None])
        if self.bias is not None:
            fused.bias = nn.Parameter(self.bias.clone())
        return fused.train(self.training)

    def _copies(self, members: Tensor, top_k: int) -> Tensor:
        scores = self._scores()
        return duplicates(scores if self.score == "logit" else scores.softmax(dim=1), members, top_k)

    def _scores(self) -> Tensor:
        """How well channel c fits group g, shape (C, G)."""
        return self.input_logits

    def _as_leaf(self, x: fx.Proxy) -> fx.Proxy:
        """One node in the graph of whichever tracer asks, as the layers of torch.nn are."""
        tracer = x.tracer
        if not isinstance(tracer, fx.Tracer) or tracer.root is self:
            raise ValueError(
                "torch.fx can take an FLGConv2d as one step of a network, not look into it: "
                "trace the network, nn.Sequential(layer) or layer.fuse()"
            )
        return tracer.create_proxy("call_module", tracer.path_of_module(self), (x,), {})

    def extra_repr(self) -> str:
        """What `print(layer)` shows."""
        usual = {"dilation": (1, 1), "duplicate_top_k": None, "score": "logit", "estimator": "full"}
        others = "".join(f", {name}={now!r}" for name, value in usual.items() if (now := getattr(self, name)) != value)
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, groups={self.groups}, "
            f"stride={self.stride}, padding={self.padding}, bias={self.bias is not None}{others}"
        )
