"""Planted problems for the notebooks: small enough that the right connections are known, so that they can be counted.

A problem is y = (W* ⊙ M*) x for one pixel. With white inputs (mean 0, covariance 1) the expected squared error of a
layer is exactly ‖W ⊙ M - W* ⊙ M*‖², and showing it the C unit vectors as a batch measures just that, without noise.

Source: Motohashi and Yamauchi, sections 2-3 and 3, as toy problems of our own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from flgc_lib.grouping import check_choice, connection_mask, duplicates, membership
from flgc_lib.layers import FLGConv2d, Score
from flgc_lib.methods import RandomCopiesConv2d

Known = Literal["nothing", "filters", "filters and weights"]
GIVEN = 1e3
"""Logit of a group that is given: its softmax is exactly 1, so that no gradient moves it."""


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


def layer_for(problem: Planted, method: str, *, seed: int, known: Known = "nothing", top_k: int = 3) -> FLGConv2d:
    """A 1×1 layer that is to learn a planted problem, with the same start for every method of one seed.

    Args:
        problem: gives the sizes, and what is known.
        method: "grouped" (contiguous, fixed), "random" (drawn, fixed), "masked" (FLGC with the masked estimator),
            "flgc", "flgc-dup" (with the rule) or "flgc-randdup" (as many copies, of channels drawn at random).
        seed: of W, S and T.
        known: what is given and not learned: the groups of the filters, and the weights too.
        top_k: k of the rule.

    Raises:
        ValueError: for an unknown method or `known`.
    """
    check_choice("method", method, Literal["grouped", "random", "masked", "flgc", "flgc-dup", "flgc-randdup"])
    check_choice("known", known, Known)
    torch.manual_seed(seed)
    (C, G), N = problem.inputs.shape, len(problem.filters)
    kind = RandomCopiesConv2d if method == "flgc-randdup" else FLGConv2d
    layer = kind(
        C,
        N,
        1,
        G,
        duplicate_top_k=top_k if method in ("flgc-dup", "flgc-randdup") else None,
        estimator="masked" if method == "masked" else "full",
    )
    with torch.no_grad():
        if method == "grouped":
            layer.input_logits.copy_(GIVEN * F.one_hot(torch.arange(C) * G // C, G))
            layer.filter_logits.copy_(GIVEN * F.one_hot(torch.arange(N) * G // N, G))
        if known != "nothing":
            layer.filter_logits.copy_(GIVEN * problem.filters)
        if known == "filters and weights":
            layer.weight.copy_(problem.weight[:, :, None, None])
    layer.weight.requires_grad_(known != "filters and weights")
    layer.input_logits.requires_grad_(method not in ("grouped", "random"))
    layer.filter_logits.requires_grad_(layer.input_logits.requires_grad and known == "nothing")
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


def fit(
    layer: FLGConv2d,
    problem: Planted,
    *,
    steps: int,
    learning_rate: float = 0.03,
    logit_learning_rate: float = 0.01,
    every: int = 10,
    watch: Callable[[], object] | None = None,
) -> dict[str, list[float]]:
    """Fits a layer to a planted problem with Adam, one optimiser for W and one for S and T.

    Args:
        layer: from `layer_for`.
        problem: the same.
        steps: of gradient descent on the exact expected error.
        learning_rate: of W.
        logit_learning_rate: of S and T.
        every: how many steps between two entries of the history; the state after the last step is added.
        watch: called at every entry of the history, for example to keep a copy of S.

    Returns:
        Lists of the same length: `step`, `error`, `recovered`, `connections` (opened by M) and `copies`.
    """
    C = layer.in_channels
    x = torch.eye(C)[:, :, None, None]  # (C, C, 1, 1): one image of one pixel for each channel
    y = problem.target.T[:, :, None, None]  # (C, N, 1, 1)
    rates = [([layer.weight], learning_rate), ([layer.input_logits, layer.filter_logits], logit_learning_rate)]
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
            if watch is not None:
                watch()
        if step == steps:
            return history
        loss = (layer(x) - y).square().sum() / layer.out_channels
        layer.zero_grad()
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
    return history


def simulated_copies(
    channels: int, groups: int, *, top_k: int = 3, score: Score = "logit", draws: int, seed: int = 0
) -> Tensor:
    """Number of copies that the rule makes in each of `draws` random S with independent N(0, 1) entries."""
    generator = torch.Generator().manual_seed(seed)
    copies = []
    for _ in range(draws):
        S = torch.randn(channels, groups, generator=generator)
        scores = S if score == "logit" else S.softmax(dim=1)
        copies.append(duplicates(scores, membership(S), top_k).sum())
    return torch.stack(copies).double()


def expected_copies(channels: int, groups: int, *, top_k: int = 3, step: float = 0.04) -> float:
    """Expected number of copies for S with independent N(0, 1) entries and the logit score, by integration.

    Exact up to the grid. A member's logit is the largest of G normals (distribution Φ^G); a non-member's has the
    distribution (GΦ - Φ^G) / (G - 1). Given that channel c is not in g, each of the other C - 1 channels is, with
    probability 1/G. Of m > k members the k largest, given the (k+1)-th largest t, are k independent draws above t,
    and their mean has a density by convolution.

    Args:
        channels: C.
        groups: G; with one group there is nothing to copy.
        top_k: k.
        step: of the grid.
    """
    C, G = channels, groups
    if G == 1:
        return 0.0
    x = np.arange(-6, 8, step)
    below = torch.special.ndtr(torch.from_numpy(x)).numpy()  # Φ
    member = np.clip(np.diff(below**G, append=1), 0, None)  # probability of each cell of the grid, (X,)
    outside = (G * below - below**G) / (G - 1)  # distribution of a non-member's logit

    def beats_mean(cells: np.ndarray, k: int) -> float:
        """P(a non-member's logit > the mean of k independent draws from `cells`)."""
        size = k * (len(cells) - 1) + 1
        total = np.fft.irfft(np.fft.rfft(cells, 2 * size) ** k, 2 * size)[:size]  # cell i: sum k·x[0] + i·step
        mean = x[0] + (np.arange(size) / k + 0.5) * step  # + 0.5: the middles of the cells
        return float(total @ (1 - np.interp(mean, x, outside)))

    probability = np.zeros(C)  # of a copy, given m members
    for m in range(1, min(top_k, C - 1) + 1):
        probability[m] = beats_mean(member, m)
    tail = member[::-1].cumsum()[::-1]  # P(a member's logit is in this cell or above)
    places = np.flatnonzero((tail > 1e-9) & (tail < 1 - 1e-12))
    above = np.array([beats_mean(np.where(np.arange(len(x)) >= i, member, 0) / tail[i], top_k) for i in places])
    above = (above + np.append(above[1:], above[-1])) / 2  # t lies somewhere in its cell
    for m in range(top_k + 1, C):
        # The (k+1)-th largest of m lies in cell i if at least k + 1 lie in i or above but not so for i + 1.
        reach = 1 - _binomial(m, tail[places])[: top_k + 1].sum(axis=0)
        probability[m] = np.clip(reach - np.append(reach[1:], 0), 0, None) @ above
    return float(C * (G - 1) * (_binomial(C - 1, np.array([1 / G]))[:, 0] @ probability))


def _binomial(trials: int, chance: np.ndarray) -> np.ndarray:
    """P(0 … trials successes), shape (trials + 1, len(chance))."""
    counts = np.arange(trials + 1)
    logs = np.concatenate([[0], np.log(np.arange(1, trials + 1)).cumsum()])  # log n!
    ways = (logs[-1] - logs - logs[::-1])[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = ways + counts[:, None] * np.log(chance) + (trials - counts)[:, None] * np.log1p(-chance)
    return np.exp(np.nan_to_num(terms, nan=0.0, neginf=-np.inf))
