"""Checks of notebook 03's exercises."""

import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from flgc_lib.course.exercises.answers import Case, Student, draw, gradients_of
from flgc_lib.course.exercises.values import NotYet, number, show, whole


def exercise_1(answer: object) -> str:
    """Which masks are B Aᵀ."""
    hint = "`possible` returns nothing yet: True if some groups make the mask, False if none do."
    student, generator = Student(answer, "possible", hint), torch.Generator().manual_seed(0)
    shown = [[[1, 1, 0], [0, 0, 1]], [[1, 1, 0], [0, 1, 1]], [[1, 0], [0, 0]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]]
    masks = [torch.tensor(rows) for rows in shown]
    for _ in range(20):
        C, N, G = draw(3, 8, generator), draw(3, 8, generator), draw(2, 4, generator)
        A, B = (F.one_hot(torch.randint(G, (rows,), generator=generator), G) for rows in (C, N))
        other = (B @ A.T).clone()
        other[draw(0, N - 1, generator), draw(0, C - 1, generator)] ^= 1
        masks += [B @ A.T, other]
    asked: list[Case] = []
    for M in masks:
        clash = next((pair for pair in itertools.combinations(range(len(M)), 2) if _overlap(M, *pair)), None)
        if clash is None:
            why = "any two of its rows are equal or have no channel in common, so equal rows make a group."
        else:
            n, m = clash
            channel = int((M[n] & M[m]).nonzero()[0])
            why = f"filters {n} and {m} share channel {channel}, so they are in its group, yet their rows differ."
        asked.append(((M,), clash is None, why, {}))
    student.solves(asked)
    return "Two rows of M are equal, or they have nothing in common: one channel for two different groups takes a copy."


def _overlap(M: Tensor, n: int, m: int) -> bool:
    return bool((M[n] & M[m]).any()) and not torch.equal(M[n], M[m])


def exercise_2(answer: object) -> str:
    """How many steps a channel takes to its new group."""
    hint = "`steps_until_move` returns nothing yet: take steps in a loop, and count them until the argmax is another."
    student, generator = Student(answer, "steps_until_move", hint), torch.Generator().manual_seed(0)
    shown = [(torch.tensor(s), torch.tensor([1.0, 0.0]), 1.0) for s in ([2.0, 0.0], [4.0, 0.0], [8.0, 0.0], [9.0, 0.0])]
    hidden: list[tuple[Tensor, Tensor, float]] = []
    while len(hidden) < 12:
        G = draw(2, 6, generator)
        s, u = 2 * torch.randn(G, generator=generator), torch.randn(G, generator=generator)
        case = (s, u, (0.3, 1.0, 3.0)[len(hidden) % 3])
        steps, sure = _steps(*case)
        if sure and steps is not None and steps < 500:
            hidden.append(case)
    asked: list[Case] = []
    for s, u, rate in shown + hidden:
        wanted = _steps(s, u, rate)[0] or 0  # of these cases every one moves
        mistakes = {
            "that is for steps along u itself, not along p (u - Σ p u).": _steps(s, u, rate, plain=True)[0],
            "that is one step off: count a step when it is taken, and look at the argmax after it.": wanted - 1,
            "one step more than needed: look at the argmax before each step.": wanted + 1,
            f"it does move, after {wanted} steps: a loop must not give up after a number of steps.": None,
        }
        why = f"from there p (u - Σ p u) moves the argmax from group {int(s.argmax())} after {wanted} steps."
        asked.append(((s, u, rate), wanted, why, mistakes))
    student.solves(asked, nothing=True)
    why = "the channel is in the group with the smallest u already; its own logit rises the most, for ever."
    stays = (([2.0, 0.0, 1.0], [-1.0, 0.0, 1.0]), ([0.0, 1.0], [0.5, -0.5]))
    student.solves(((torch.tensor(start), torch.tensor(pull), 1.0), None, why, {}) for start, pull in stays)
    return "A sure channel hardly feels the loss: its gradient has the factor p (1 - p), and fades as p nears 1."


def _steps(s: Tensor, u: Tensor, rate: float, *, plain: bool = False) -> tuple[int | None, bool]:
    """Steps until the argmax changes, None if never, and whether rounding can't change that number."""
    s, u = s.double(), u.double()
    own = int(s.argmax())
    if u[own] == u.min():
        return None, True
    others, before = torch.arange(len(s)) != own, math.inf
    for steps in range(5000):
        gap = float(s[own] - s[others].max())
        if gap < 0:
            return steps, abs(gap) > 1e-3 and before > 1e-3
        before, p = gap, s.softmax(dim=0)
        s = s - rate * (u if plain else p * (u - (p * u).sum()))
    return None, False


def exercise_3(answer: object) -> str:
    """Group sizes with the fewest connections."""
    hint = (
        "`cheapest` returns `...` yet: two lists of G sizes, channels and filters; begin with G = 2 and small numbers."
    )
    student, generator = Student(answer, "cheapest", hint), torch.Generator().manual_seed(0)
    shown = [(4, 4, 2), (32, 32, 4), (6, 4, 1), (5, 5, 5)]
    hidden = [(G + draw(0, 20, generator), G + draw(0, 20, generator), G) for G in (1, 2, 3, 5, 8)]
    for C, N, G in shown + hidden:
        called = student.called(C, N, G)
        pair = student(C, N, G)
        sizes = whole(pair, called)
        if sizes.shape != (2, G):
            raise NotYet(f"{called} should give two lists with a size for each group (G = {G}); yours is {show(pair)}.")
        if bool((sizes < 1).any()):
            raise NotYet(f"{called} gives {show(pair)}: every group has channels and filters, at least 1 of each.")
        for total, row, what in ((C, sizes[0], "channels"), (N, sizes[1], "filters")):
            if int(row.sum()) != total:
                raise NotYet(f"{called} gives {show(pair)}: these are {int(row.sum())} {what}, not {total}.")
        given, fewest = int((sizes[0] * sizes[1]).sum()), C * N if G == 1 else C + N - G
        if given > fewest:
            raise NotYet(
                f"{called} gives {show(pair)}, which has {given} connections; {fewest} are possible: no group should "
                "have many channels and many filters at once."
            )
    return (
        "with more than one group C + N - G connections, as few as can be; but then every group has one channel or "
        "one filter, so that next to nothing is combined."
    )


def exercise_4(answer: object) -> str:
    """A penalty that balances the groups."""
    hint = "`imbalance` returned nothing yet: it takes S and returns one number, 0 when groups are equal"
    student, generator = Student(answer, "imbalance", hint), torch.Generator().manual_seed(0)
    balanced = {
        "S = 0 (8 channels, 4 groups)": torch.zeros(8, 4),
        "8 channels that are sure of their group, two for each of 4 groups": 20 * torch.eye(4).repeat(2, 1),
    }
    for case, S in balanced.items():
        value = number(student(S), student.called(S))
        if not abs(value) <= 1e-5:
            raise NotYet(f"`imbalance` of {case} is {value:.3g}, but should be 0: no group is expected larger.")
        gradient = gradients_of(student, {"S": S}, torch.tensor(1.0))[0]
        if not bool(gradient.isfinite().all()):
            raise NotYet(
                f"for {case} `imbalance` is 0, but its gradient is not finite; one step with it would ruin S. A root, "
                "for example, has an infinite slope at 0: stay with squares."
            )
    same_mean = torch.tensor([[9.0, 0.0], [0.0, 3.0], [0.0, 3.0], [0.0, 3.0]])
    fair_first = torch.tensor([[0.25, 0.6, 0.1, 0.05]]).log().repeat(8, 1)  # group 0 has its share, others don't
    full = {G: draw(0, G - 1, generator) for G in (2, 4, 6)}
    pulled = [torch.randn(8, G, generator=generator) + 3 * F.one_hot(torch.tensor(g), G) for G, g in full.items()]
    for S in (same_mean, fair_first, *pulled):
        share = S.softmax(dim=1).mean(dim=0)
        value = number(student(S), student.called(S))
        if not value > 1e-6:
            raise NotYet(
                f"{student.called(S)} gives {value:.3g}, but must be above 0: the groups' expected shares are "
                f"{show(share)}, the mean of the channels' softmax (not of their logits)."
            )
    for S, g in zip(pulled, full.values(), strict=True):
        gradient = gradients_of(student, {"S": S}, torch.tensor(1.0))[0]
        after = (S - 0.01 * gradient / gradient.norm().clamp(min=1e-12)).softmax(dim=1).mean(dim=0)[g]
        if not after < S.softmax(dim=1).mean(dim=0)[g]:
            raise NotYet(
                f"a step against its gradient must drain group {g}, which most channels prefer; yours doesn't."
            )
    return "Zero for equal groups, its gradient drains the full group, and channels may still be sure of their choice."
