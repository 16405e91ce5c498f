"""Checks of notebook 04."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from flgc_lib.course.exercises import NotYet, filled
from flgc_lib.grouping import duplicates, membership, thresholds

SMALL = torch.tensor([[1.2, 0.9], [0.8, 0.1], [0.6, 0.5], [0.3, 1.0], [0.2, 0.4], [0.1, 0.7]])
"""S of exercise 4.1, six channels in two groups."""


def exercise_1(answer: set[tuple[int, int]]) -> str:
    """The copies of a small S by hand."""
    filled(answer, "`copies` is still `...`: write a set of pairs (channel, group), for example {(4, 0), (5, 0)}")
    given = {tuple(pair) for pair in answer}
    members = membership(SMALL)
    for channel, group in sorted(given):
        if not (0 <= channel < 6 and 0 <= group < 2):
            raise NotYet(f"({channel}, {group}) is not a pair (channel 0 … 5, group 0 … 1)")
        if members[channel, group]:
            raise NotYet(f"channel {channel} is in group {group} already: only channels from outside are copied")
    wanted = {(int(c), int(g)) for c, g in duplicates(SMALL, members, 3).nonzero()}
    tau = thresholds(SMALL, members, 3)
    for channel, group in sorted(given - wanted):
        raise NotYet(
            f"channel {channel} is not copied into group {group}: its score {SMALL[channel, group]:.2f} is not above "
            f"τ({group}) = {tau[group]:.2f}, the mean of the group's three best members"
        )
    if given != wanted:
        raise NotYet("a copy is missing: compute τ of both groups, then compare every channel from outside with it")
    return "τ = (0.87, 0.70): channel 0, with 0.90, is good enough for group 1 as well, and nothing else is."


def exercise_2(answer: Callable[[list[float], int], float | None]) -> str:
    """τ of one group, edge cases included."""
    cases: tuple[tuple[list[float], int, float, str], ...] = (
        ([2.0, 1.5, 1.0, 0.2], 3, 1.5, "four members: the three best are 2.0, 1.5 and 1.0"),
        ([0.2, 1.0, 2.0, 1.5], 3, 1.5, "the same members in another order: look for the largest, not for the first"),
        ([1.0, 0.4], 3, 0.7, "two members, fewer than k: the mean over the two"),
        ([1.0, 0.4], 1, 1.0, "k = 1: the best member alone"),
        ([-1.0], 3, -1.0, "one member: its own score, even if negative"),
        ([], 3, math.inf, "no member: τ is +∞, so that an empty group imports nothing"),
    )
    for scores, top_k, wanted, why in cases:
        try:
            given = answer(list(scores), top_k)
        except (ZeroDivisionError, IndexError, ValueError) as fault:
            raise NotYet(f"members {scores}, k = {top_k} ends in {type(fault).__name__} ({fault}); {why}") from None
        given = filled(given, "`threshold` returned nothing yet: it takes the members' scores and k, and returns τ")
        if given != wanted and not abs(given - wanted) < 1e-6:
            raise NotYet(f"for members with scores {scores} and k = {top_k} you gave {given}, not {wanted}; {why}")
    return "The mean of the k best, of all if there are fewer, and +∞ if there are none."


def exercise_3(answer: Callable[[Tensor, float], int | None]) -> str:
    """The smallest k that copies enough."""
    generator = torch.Generator().manual_seed(0)
    for channels, groups, share in ((64, 16, 0.1), (64, 16, 0.2), (64, 8, 0.05)):
        S = torch.randn(channels, groups, generator=generator)
        hint = "`smallest_k` returned nothing yet: try k = 1, 2, 3, … and count the copies each time"
        given = filled(answer(S, share), hint)
        counts = [int(duplicates(S, membership(S), k).sum()) for k in range(1, channels + 1)]
        wanted = next(k for k, copies in enumerate(counts, 1) if copies >= share * channels)
        if given != wanted:
            now = counts[given - 1] if 1 <= given <= channels else "no valid number of"
            raise NotYet(
                f"for C = {channels}, G = {groups} and a share of {share:.0%}, k = {given} makes {now} copies; the "
                f"smallest k with at least {share * channels:.1f} is another one: start at 1 and stop at the first"
            )
    return "A larger k averages over weaker members, lowers τ and copies more: k is the knob of the rule's generosity."


def exercise_4(answer: Callable[[Tensor, Tensor, Tensor], Tensor | None]) -> str:
    """Copies that a learnable τ feels."""
    generator = torch.Generator().manual_seed(0)
    S = torch.randn(12, 4, generator=generator)
    members = membership(S)
    tau = (thresholds(S, members, 3) - 0.3).requires_grad_()
    hint = "`soft_copies` returned nothing yet: it should return a tensor of shape (C, G)"
    given = filled(answer(S, members, tau), hint)
    wanted = ((tau < S) & ~members).to(S)
    if not isinstance(given, Tensor) or given.shape != S.shape or not torch.allclose(given.detach().to(S), wanted):
        raise NotYet(
            "forward, the result must be exactly the rule: 1.0 where a channel from outside has S > τ, else 0.0; "
            "put the hard copies first, and add (soft - soft.detach())"
        )
    if not given.requires_grad:
        raise NotYet("τ gets no gradient: the comparison S > τ has none; use a sigmoid of S - τ for the way back")
    gradient = torch.autograd.grad(given.sum(), tau)[0]
    if not (gradient < 0).all():
        raise NotYet(
            "a higher τ must mean fewer copies: the gradient of the number of copies by every τ(g) should be "
            f"negative, yours is {[round(v, 2) for v in gradient.tolist()]}"
        )
    pulled = torch.autograd.grad((answer(S, members, tau) * members).sum(), tau)[0]  # type: ignore[operator]
    if pulled.abs().max() > 0:
        raise NotYet("members are no copies: multiply the soft part by ~members, so that they don't pull at τ")
    return "Hard copies forward, a sigmoid's gradient backward: now τ can be an nn.Parameter."
