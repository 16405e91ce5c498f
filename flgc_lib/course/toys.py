"""Planted problems for the notebooks: small enough that the right connections are known, so that they can be counted.

A problem is y = (W* ⊙ M*) x for one pixel. With white inputs (mean 0, covariance 1) the expected squared error of a
layer is exactly ‖W ⊙ M - W* ⊙ M*‖², and showing it the C unit vectors as a batch measures just that, without noise.

Source: Motohashi and Yamauchi, sections 2-3 and 3, as toy problems of our own.
"""

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from flgc_lib.clustered import ClusteredConv2d
from flgc_lib.grouping import check_choice, connection_mask
from flgc_lib.layers import FLGConv2d
from flgc_lib.methods import Method, method_layer

Known = Literal["nothing", "filters", "filters and weights"]


@dataclass(frozen=True)
class Planted:
    """A problem whose connections are known.

    Attributes:
        weight: W*, shape (N, C), also behind the mask, where it has no effect.
        inputs: A*, shape (C, G), bool; a channel that two groups need has two True.
        filters: B*, shape (N, G), bool, one True a row.
    """

    weight: Tensor
    inputs: Tensor
    filters: Tensor

    @property
    def mask(self) -> Tensor:
        """M*, shape (N, C), 0/1."""
        return connection_mask(self.inputs, self.filters)

    @property
    def target(self) -> Tensor:
        """W* ⊙ M*, shape (N, C)."""
        return self.weight * self.mask


def planted_groups(channels: int = 32, filters: int = 32, groups: int = 4, *, seed: int) -> Planted:
    """Equal groups whose members are drawn at random: no filter is next to the channels that it needs."""
    generator = torch.Generator().manual_seed(seed)

    def shuffled(rows: int) -> Tensor:
        groups_of = torch.arange(rows) * groups // rows
        return F.one_hot(groups_of[torch.randperm(rows, generator=generator)], groups).bool()

    inputs, outputs = shuffled(channels), shuffled(filters)
    return Planted(torch.randn(filters, channels, generator=generator), inputs, outputs)


def planted_shared(groups: int = 4, own: int = 3, filters_per_group: int = 8, *, seed: int) -> Planted:
    """Every group needs `own` channels of its own, and each pair of neighbours (in a ring) shares one more.

    C = groups · (own + 1); the last `groups` channels are the shared ones, channel C - groups + j needed by the
    groups j and j + 1. N = groups · filters_per_group.
    """
    generator = torch.Generator().manual_seed(seed)
    alone = F.one_hot(torch.arange(groups).repeat_interleave(own), groups).bool()
    ring = torch.eye(groups, dtype=torch.bool)
    inputs = torch.cat([alone, ring | ring.roll(1, dims=1)])
    filters = F.one_hot(torch.arange(groups).repeat_interleave(filters_per_group), groups).bool()
    return Planted(torch.randn(len(filters), len(inputs), generator=generator), inputs, filters)


def layer_for(problem: Planted, method: str, *, seed: int, known: Known = "nothing") -> FLGConv2d:
    """A 1×1 layer that is to learn a planted problem, with the same start for every method of one seed.

    Args:
        problem: gives the sizes, and what is known.
        method: "grouped" (contiguous, fixed), "random" (drawn, fixed), "masked" (FLGC with the masked estimator),
            "flgc", "flgc-dup" (with the rule), "flgc-randdup" (as many copies, of channels drawn at random) or
            "cluster" (equal groups from the weights, which need a soft start in `fit_planted`).
        seed: of W, S and T.
        known: what is given and not learned: the groups of the filters, and the weights too.

    Raises:
        ValueError: for an unknown method or `known`.
    """
    check_choice(
        "method", method, Literal["grouped", "random", "masked", "flgc", "flgc-dup", "flgc-randdup", "cluster"]
    )
    check_choice("known", known, Known)
    torch.manual_seed(seed)
    (C, G), N = problem.inputs.shape, len(problem.filters)
    # All as FLGC layers, with one start and a mask: fixed groups are drawn ones with other numbers.
    built_as = cast(Method, {"grouped": "random", "masked": "flgc"}.get(method, method))
    layer = cast(FLGConv2d, method_layer(built_as, G)(C, N, 1, 1, 0))
    learns_groups = layer.input_logits.requires_grad
    if method == "masked":
        layer.estimator = "masked"
    with torch.no_grad():
        if method == "grouped":
            layer.input_logits.copy_(F.one_hot(torch.arange(C) * G // C, G))
            layer.filter_logits.copy_(F.one_hot(torch.arange(N) * G // N, G))
        if known != "nothing":
            layer.filter_logits.copy_(problem.filters)
        if known == "filters and weights":
            layer.weight.copy_(problem.weight[:, :, None, None])
    layer.weight.requires_grad_(known != "filters and weights")
    layer.filter_logits.requires_grad_(learns_groups and known == "nothing")
    return layer


def error(layer: FLGConv2d, problem: Planted) -> float:
    """Expected squared error for white inputs, as a share of the expected squared output."""
    with torch.no_grad():
        found = layer.weight[:, :, 0, 0] * layer.connection_mask()
        return float((found - problem.target).square().sum() / problem.target.square().sum())


def recovered(layer: FLGConv2d, problem: Planted) -> float:
    """Share of the planted connections that the layer's mask opens."""
    return float((layer.connection_mask() * problem.mask).sum() / problem.mask.sum())


def least_error(problem: Planted) -> float:
    """The smallest error possible when the filters' groups are given and every channel is in one group only."""
    energy = problem.filters.T.float() @ problem.target.square()  # (G, C): what group g loses without channel c
    return float((energy.sum(dim=0) - energy.max(dim=0).values).sum() / energy.sum())


def fit_planted(
    layer: FLGConv2d,
    problem: Planted,
    *,
    steps: int,
    learning_rate: float = 0.03,
    soft_start: float = 0.0,
    regroup_every: int = 50,
    every: int = 10,
) -> dict[str, list[float]]:
    """Fits a layer to a planted problem with Adam, one optimiser for W and one, at 0.01, for S and T.

    Args:
        layer: from `layer_for`.
        problem: the same.
        steps: of gradient descent on the exact expected error.
        learning_rate: of W.
        soft_start: share of the steps in which the weights outside the groups fade out; after it the groups stay.
        regroup_every: steps of a soft start from one choice of groups by the weights to the next.
        every: how many steps between two entries of the history; the state after the last step is added.

    Returns:
        Lists of the same length: `step`, `error`, `recovered`, `connections` (opened by M) and `copies`.
    """
    C = layer.in_channels
    x = torch.eye(C)[:, :, None, None]  # (C, C, 1, 1): one image of one pixel for each channel
    y = problem.target.T[:, :, None, None]  # (C, N, 1, 1)
    rates = [([layer.weight], learning_rate), ([layer.input_logits, layer.filter_logits], 0.01)]
    learned = [([p for p in group if p.requires_grad], rate) for group, rate in rates]
    optimisers = [torch.optim.Adam(group, lr=rate) for group, rate in learned if group]
    history: dict[str, list[float]] = {name: [] for name in ("step", "error", "recovered", "connections", "copies")}
    for step in range(steps + 1):
        if step % every == 0 or step == steps:
            history["step"].append(step)
            history["error"].append(error(layer, problem))
            history["recovered"].append(recovered(layer, problem))
            history["connections"].append(int(layer.connection_mask().sum()))
            history["copies"].append(int(layer.input_membership().sum()) - C)
        if step == steps:
            return history
        if soft_start:
            layer.softness = max(0.0, 1 - step / (soft_start * steps))
            layer.learns = layer.softness > 0
            if isinstance(layer, ClusteredConv2d) and layer.learns and step % regroup_every == 0:
                layer.regroup()
        loss = (layer(x) - y).square().sum() / layer.out_channels
        layer.zero_grad()
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
    return history
