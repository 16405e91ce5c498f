"""Checks of notebook 02's exercises."""

import torch
from torch import nn
from torch.nn import functional as F

from flgc_lib import cost
from flgc_lib.course.exercises.answers import Case, Student, draw
from flgc_lib.grouping import connection_mask


def exercise_1(answer: object) -> str:
    """Parameters and MACs of a grouped convolution, against `cost.count`."""
    hint = (
        "grouped_cost still returns `...`. Count for one group first: how many channels does it have, how many "
        "filters, and so how many weights? Then there are G such groups."
    )
    student, generator = Student(answer, "grouped_cost", hint), torch.Generator().manual_seed(0)
    by_hand = (
        "each of the 2 groups joins 2 channels with 2 filters, which makes 2 · (2 · 2) = 8 weights, each used once."
    )
    formula = "that is what the library counts. A filter has (C / G) · k · k weights; there are N filters."
    shown = [(4, 4, 1, 2, 1), (8, 16, 3, 4, 5), (64, 64, 3, 1, 8), (32, 32, 3, 32, 8), (12, 6, 1, 3, 7)]
    asked: list[Case] = []
    for C, N, k, G, side in (*shown, *(_grouped(generator) for _ in range(8))):
        wanted = tuple(cost.count(nn.Conv2d(C, N, k, padding=k // 2, groups=G, bias=False), (C, side, side)))
        mistakes = {
            "that is the dense convolution: a filter sees the C / G channels of its group.": [G * v for v in wanted],
            "that is divided by G twice; there are C / G channels for each of all N filters.": [v / G for v in wanted],
            "the two are exchanged: (parameters, MACs).": wanted[::-1],
        }
        why = by_hand if wanted == (8, 8) else formula
        asked.append(((C, N, k, G, side * side), wanted, why, mistakes))
    student.solves(asked)
    return "grouped costs agree with flgc_lib.cost from G = 1 (dense) to G = C (depthwise)."


def _grouped(generator: torch.Generator) -> tuple[int, int, int, int, int]:
    G, k = draw(1, 6, generator), (1, 3, 5)[draw(0, 2, generator)]
    return G * draw(1, 5, generator), G * draw(1, 5, generator), k, G, draw(3, 9, generator)


def exercise_2(answer: object) -> str:
    """M of a convolution with fixed groups of neighbours."""
    hint = (
        "fixed_mask still returns `...`. Build a matrix of zeros with N rows (filters) and C columns (channels), "
        "and write ones where a filter and a channel are in the same group."
    )
    student, generator = Student(answer, "fixed_mask", hint), torch.Generator().manual_seed(0)
    shown = [(4, 2, 2), (8, 8, 4), (6, 12, 3), (5, 5, 5), (6, 4, 1)]
    hidden = [_grouped(generator) for _ in range(8)]
    asked: list[Case] = []
    for C, N, G in (*shown, *((C, N, G) for C, N, _, G, _ in hidden)):
        channels, filters = torch.arange(C) // (C // G), torch.arange(N) // (N // G)
        M = connection_mask(F.one_hot(channels, G), F.one_hot(filters, G))
        mistakes = {
            "rows and columns are exchanged: M has a row for each filter, shape (N, C).": M.T,
            "every entry is the wrong way round: 1 where filter and channel are in the same group.": 1 - M,
            "neighbours share a group: c // (C / G), and not c % G.": connection_mask(
                F.one_hot(torch.arange(C) % G, G), F.one_hot(torch.arange(N) % G, G)
            ),
        }
        why = (
            "channel c is in group c // (C / G) and filter n in group n // (N / G); M[n, c] = 1 where the two are "
            "equal; one row a filter, one column a channel."
        )
        asked.append(((C, N, G), M, why, mistakes))
    student.solves(asked)
    return "M has N · C / G ones, in G blocks along the diagonal, as nn.Conv2d(groups=G) connects them."


def exercise_3(answer: object) -> str:
    """A channel shuffle absorbed by the weight of the convolution behind it."""
    hint = (
        "absorb still returns `...`. Which channel of x does W[:, 1] meet after a shuffle of 4 channels in 2 groups, "
        "0 1 | 2 3 → 0 2 1 3? Without the shuffle its weight must lie at that channel."
    )
    student, generator = Student(answer, "absorb", hint), torch.Generator().manual_seed(0)
    shown = [(1, 4, 1, 2), (1, 6, 1, 2)]
    hidden = [(draw(2, 5, generator), C, k, G) for C, G in ((12, 3), (12, 6), (8, 1), (8, 8), (20, 4)) for k in (1, 3)]
    asked: list[Case] = []
    for N, C, k, G in (*shown, *hidden):
        W = torch.arange(float(C)).view(1, C, 1, 1) if N == 1 else torch.randn(N, C, k, k, generator=generator)
        order = torch.arange(C).view(G, C // G).T.flatten()
        mistakes = {
            "that is the weight shuffled as the channels are; what is needed undoes the shuffle.": W[:, order],
            "that is W as it was; without the shuffle its weights meet other channels.": W,
        }
        moves = f"the shuffle puts at place i the channel order[i], order = {order.tolist()}"
        asked.append(
            ((W, G), W[:, order.argsort()], f"{moves}; so weight [:, i] belongs to channel order[i].", mistakes)
        )
    student.solves(asked)
    return "conv(shuffle(x), W) = conv(x, W'): a shuffle is free, it only re-orders the weights behind it."


def exercise_4(answer: object) -> str:
    """How many grouped layers with shuffles let every output see every input."""
    hint = (
        "layers_needed still returns `...`. Keep a 0/1 matrix of who reaches whom, multiply it with P (shuffle) "
        "and M (grouped layer) for each layer, and stop when no zero is left."
    )
    student, generator = Student(answer, "layers_needed", hint), torch.Generator().manual_seed(0)
    student(4, 2, wanted=2)  # None is an answer to other cases, but also what an untouched stub leaves
    shown = [(4, 2), (8, 4), (16, 4), (64, 16), (8, 1), (12, 4), (8, 8), (16, 8), (64, 32)]
    hidden = [(G * draw(1, 8, generator), G) for G in (2, 3, 4, 5, 6, 8)]
    asked: list[Case] = []
    for C, G in (*shown, *hidden):
        wanted = _layers_needed(C, G)
        if wanted is None:
            why = (
                f"C = G = {C}: a group has one channel, and a shuffle only moves it, so no number of layers is enough."
            )
        elif wanted == 1:
            why = "G = 1 is dense: one layer alone lets every output see all channels."
        else:
            why = (
                f"an output sees C/G = {C // G} channels after one layer and at most (C/G)² after two; a shuffle comes "
                "between two layers, not before the first."
            )
        asked.append(((C, G), wanted, why, {}))
    student.solves(asked, nothing=True)
    return "right for all cases; C/G channels per group need about log C / log(C/G) layers."


def _layers_needed(C: int, G: int) -> int | None:
    group = torch.arange(C) * G // C
    M = (group[:, None] == group).float()
    P = torch.eye(C)[torch.arange(C).view(G, C // G).T.flatten()]
    reach = M
    for layers in range(1, C + 1):
        if bool((reach > 0).all()):
            return layers
        reach = (M @ P @ reach > 0).float()
    return None
