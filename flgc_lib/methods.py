"""The methods that the experiment compares: one row each in `METHODS`.

A new method is one row, its name in `Method`, and, if no convolution does yet what it says, one class: an `FLGConv2d`
with groups of its own, or an `nn.Conv2d` of fixed equal groups. Everything else asks the row: the networks, the
settings that a method allows, tables and figures.

Source: Motohashi and Yamauchi, sections 2-2 to 3; Xie et al. 2017; Wang et al. 2019; the controls are ours.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from flgc_lib.clustered import (
    BudgetConv2d,
    ClusteredConv2d,
    RandomBudgetConv2d,
    RandomSelectionConv2d,
    SelectedConv2d,
)
from flgc_lib.controls import DrawnConv2d, EqualConv2d, RandomCopiesConv2d, RingConv2d, ShuffledConv2d
from flgc_lib.grouping import check_choice
from flgc_lib.layers import FLGConv2d, Score

Method = Literal[
    "dense", "grouped", "shuffle", "random", "equal", "flgc", "flgc-dup", "ring", "flgc-randdup",
    "cluster", "cluster-dup", "budget", "budget-random", "select", "select-random",
]  # fmt: skip
ConvLayer = Callable[[int, int, int, int, int], nn.Module]
"""conv_layer(in_channels, out_channels, kernel_size, stride, padding) -> a convolution without bias."""


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
            or as many, "fixed" when the network is built; or as many as make a given "share" of C/G.
        without_copies: of a method that copies by the rule, the one that is the same but for the copies.
        control_of: the method that it is a control of, if it is one.
    """

    what: str
    layer: type[nn.Conv2d] | type[FLGConv2d]
    style: dict[str, Any]
    groups_from: Literal["one", "fixed", "drawn", "gradient", "weights"]
    copies: Literal["none", "rule", "drawn", "fixed", "share"] = "none"
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
    "grouped": Facts("fixed contiguous groups, as ResNeXt", nn.Conv2d, _style("#6E6E6E", "-", "s"), "fixed"),
    "shuffle": Facts(
        "fixed groups that read shuffled channels", ShuffledConv2d, _style("#6E6E6E", "--", "h"), "fixed",
        control_of="cluster",
    ),
    "random": Facts(
        "FLGC with S and T frozen at their random start", DrawnConv2d, _style("#7A6A00", ":", "D"), "drawn",
        control_of="flgc",
    ),
    "equal": Facts(
        "equal groups, drawn at random", EqualConv2d, _style("#7A6A00", "-", "p"), "drawn", control_of="cluster"
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
    "budget": Facts(
        "the same, and each group imports as many channels", BudgetConv2d, _style("#332288", "-", "<"), "weights",
        copies="share",
    ),
    "budget-random": Facts(
        "the same, importing channels drawn at random", RandomBudgetConv2d, _style("#332288", ":", ">"), "weights",
        copies="share", control_of="budget",
    ),
    "select": Facts(
        "each group takes the channels most important to it", SelectedConv2d, _style("#882255", "-", "d"), "weights",
        copies="share",
    ),
    "select-random": Facts(
        "as many copies and drops, of random channels", RandomSelectionConv2d, _style("#882255", ":", "H"), "weights",
        copies="share", control_of="select",
    ),
}  # fmt: skip
"""One row a method, in the order in which tables and legends list them."""


def dense_conv(in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int) -> nn.Module:
    """An ordinary convolution without bias, the default `conv_layer`."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)


def method_layer(
    method: Method, groups: int = 1, *, top_k: int = 3, score: Score = "logit", share: float = 1.0
) -> ConvLayer:
    """The `conv_layer` of a method of the experiment.

    Args:
        method: a row of `METHODS`.
        groups: G; ignored by "dense".
        top_k: k of the rule.
        score: what the rule compares.
        share: channels of a group over C/G, of the methods whose copies are given by it.

    Raises:
        ValueError: for an unknown method, for a share that is not positive, less than a budget's own channels, or more
            than all there are; and from the returned function for groups that do not fit the channels.
    """
    check_choice("method", method, Method)
    facts = METHODS[method]
    if facts.groups_from == "one":
        return dense_conv
    if groups < 1:
        raise ValueError(f"groups={groups} must be at least 1")
    if facts.copies == "share":
        imports = issubclass(facts.layer, BudgetConv2d)  # besides the group's own channels, which are C/G
        enough = share >= 1 if imports else share > 0
        if not (enough and share <= groups):
            raise ValueError(
                f"share={share} must be {'at least 1' if imports else 'positive'}, and at most groups={groups}, for "
                f"method={method!r}: a group's channels over C/G, for example 1.5"
            )

    def conv_layer(in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int) -> nn.Module:
        if issubclass(facts.layer, FLGConv2d):
            layer = facts.layer(
                in_channels,
                out_channels,
                kernel_size,
                groups=groups,
                stride=stride,
                padding=padding,
                duplicate_top_k=None if facts.copies in ("none", "share") else top_k,
                score=score,
            )
            if isinstance(layer, BudgetConv2d | SelectedConv2d):
                layer.share = share
            return layer
        for channels, name in ((in_channels, "in_channels"), (out_channels, "out_channels")):
            if channels % groups:
                raise ValueError(
                    f"groups={groups} must divide {name}={channels} for fixed groups of equal size; "
                    "method='flgc' takes any number of groups"
                )
        return facts.layer(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)

    return conv_layer
