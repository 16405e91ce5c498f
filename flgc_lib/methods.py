"""The methods that the experiment compares: one row each in `METHODS`, and the convolutions that only they use.

A new method is one row, its name in `Method`, and, if no convolution does yet what it says, one class: an `FLGConv2d`
with groups of its own, or an `nn.Conv2d` of fixed equal groups. Everything else asks the row: the networks, the
settings that a method allows, tables and figures.

Source: Motohashi and Yamauchi, sections 2-2 to 3; Xie et al. 2017; Wang et al. 2019; the controls are ours.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flgc_lib.grouping import check_choice, cocluster, membership
from flgc_lib.layers import FLGConv2d, Score

Method = Literal["dense", "grouped", "random", "flgc", "flgc-dup", "ring", "flgc-randdup", "cluster", "cluster-dup"]
ConvLayer = Callable[[int, int, int, int, int], nn.Module]
"""conv_layer(in_channels, out_channels, kernel_size, stride, padding) -> a convolution without bias."""


class DrawnConv2d(FLGConv2d):
    """Control for learning: groups that stay as they were drawn; S and T get no gradient."""

    def reset_parameters(self) -> None:
        """Draws as FLGC, and freezes S and T."""
        super().reset_parameters()
        self.input_logits.requires_grad_(False)
        self.filter_logits.requires_grad_(False)


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


class ClusteredConv2d(FLGConv2d):
    """Groups that keep what the weights have made important, instead of following the gradient of S and T.

    The groups have equal sizes and are random at first. While a soft start lets all weights train, `regroup` puts
    together the channels and filters with large weights between them; when the groups close they stay.

    Attributes:
        importance: shape (C, G), of channel c for the filters of group g when last regrouped: the root mean square of
            its weights there, each the norm of a kernel. It is what the duplication rule compares.
    """

    importance: Tensor

    def reset_parameters(self) -> None:
        """Draws as FLGC, then deals channels and filters out in the order of what was drawn; no gradient to S and T."""
        super().reset_parameters()
        with torch.no_grad():
            for logits in (self.input_logits, self.filter_logits):
                rank = logits[:, 0].argsort().argsort()
                logits.copy_(F.one_hot(rank * self.groups // len(rank), self.groups))
                logits.requires_grad_(False)
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


@dataclass(frozen=True)
class Facts:
    """What there is to know about a method.

    Attributes:
        what: a phrase for tables and help texts.
        layer: the class of its convolutions.
        style: how matplotlib draws it: colour and look (line and marker, which tell it apart in grey) are its own.
        groups_from: where its groups come from. There is "one" alone; or they are "fixed" when the network is built;
            "drawn" at random; or learned, by the "gradient" of S and T or from the "weights" in a soft start.
        copies: which channels are in several groups: "none"; those of the paper's "rule"; as many, "drawn" at random;
            or as many, "fixed" when the network is built.
        without_copies: of a method that copies by the rule, the one that is the same but for the copies.
        control_of: the method that it is a control of, if it is one.
    """

    what: str
    layer: type[nn.Conv2d] | type[FLGConv2d]
    style: dict[str, Any]
    groups_from: Literal["one", "fixed", "drawn", "gradient", "weights"]
    copies: Literal["none", "rule", "drawn", "fixed"] = "none"
    without_copies: Method | None = None
    control_of: Method | None = None

    @property
    def masked(self) -> bool:
        """Whether it trains a dense weight behind a mask, which a soft start can open."""
        return issubclass(self.layer, FLGConv2d)

    @property
    def regroups(self) -> bool:
        """Whether its groups can change in training."""
        return self.groups_from in ("gradient", "weights")


def _style(color: str, linestyle: str, marker: str = "") -> dict[str, Any]:
    return {"color": color, "linestyle": linestyle} | ({"marker": marker} if marker else {})


METHODS: Mapping[Method, Facts] = {
    "dense": Facts("ordinary convolutions", nn.Conv2d, _style("black", "--"), "one"),
    "grouped": Facts("fixed contiguous groups, as ResNeXt", nn.Conv2d, _style("#949494", "-", "s"), "fixed"),
    "random": Facts(
        "FLGC with S and T frozen at their random start", DrawnConv2d, _style("#ECE133", ":", "D"), "drawn",
        control_of="flgc",
    ),
    "flgc": Facts("fully learnable groups", FLGConv2d, _style("#0173B2", "-", "o"), "gradient"),
    "flgc-dup": Facts(
        "FLGC with the duplication rule: the paper's proposal", FLGConv2d, _style("#D55E00", "-", "^"), "gradient",
        copies="rule", without_copies="flgc",
    ),
    "ring": Facts(
        "fixed groups that overlap their neighbour", RingConv2d, _style("#029E73", "-.", "P"), "fixed",
        copies="fixed", control_of="flgc-dup",
    ),
    "flgc-randdup": Facts(
        "as many copies as by the rule, of channels drawn at random", RandomCopiesConv2d, _style("#DE8F05", "--", "v"),
        "gradient", copies="drawn", control_of="flgc-dup",
    ),
    "cluster": Facts("equal groups found from the weights", ClusteredConv2d, _style("#CC78BC", "-", "X"), "weights"),
    "cluster-dup": Facts(
        "the same with the rule, on the weights' importance", ClusteredConv2d, _style("#CA9161", "--", "*"), "weights",
        copies="rule", without_copies="cluster",
    ),
}  # fmt: skip
"""One row a method, in the order in which tables and legends list them."""


def dense_conv(in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int) -> nn.Module:
    """An ordinary convolution without bias, the default `conv_layer`."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)


def method_layer(method: Method, groups: int = 1, *, top_k: int = 3, score: Score = "logit") -> ConvLayer:
    """The `conv_layer` of a method of the experiment.

    Args:
        method: a row of `METHODS`.
        groups: G; ignored by "dense".
        top_k: k of the rule.
        score: what the rule compares.

    Raises:
        ValueError: for an unknown method, and from the returned function for groups that do not fit the channels.
    """
    check_choice("method", method, Method)
    facts = METHODS[method]
    if facts.groups_from == "one":
        return dense_conv
    if groups < 1:
        raise ValueError(f"groups={groups} must be at least 1")

    def conv_layer(in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int) -> nn.Module:
        if issubclass(facts.layer, FLGConv2d):
            return facts.layer(
                in_channels,
                out_channels,
                kernel_size,
                groups,
                stride=stride,
                padding=padding,
                duplicate_top_k=None if facts.copies == "none" else top_k,
                score=score,
            )
        for channels, name in ((in_channels, "in_channels"), (out_channels, "out_channels")):
            if channels % groups:
                raise ValueError(
                    f"groups={groups} must divide {name}={channels} for fixed groups of equal size; "
                    "method='flgc' takes any number of groups"
                )
        return facts.layer(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)

    return conv_layer
