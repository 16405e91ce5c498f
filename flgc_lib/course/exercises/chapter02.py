"""Checks of notebook 02's exercises."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flgc_lib import cost
from flgc_lib.course.exercises import NotYet, filled
from flgc_lib.grouping import connection_mask


def exercise_1(grouped_cost: Callable[..., tuple[int, int]]) -> str:
    """Parameters and MACs of a grouped convolution, against `cost.count`."""
    tiny = filled(
        grouped_cost(4, 4, 1, 2, 1),
        "grouped_cost still returns `...`. Count for one group first: how many channels does it have, how many "
        "filters, and so how many weights? Then there are G such groups.",
    )
    if tiny != (8, 8):
        raise NotYet(
            f"for C = N = 4, k = 1, G = 2 and one position you say {tiny}. Each of the 2 groups joins 2 channels with "
            "2 filters, which makes 2 · (2 · 2) = 8 weights, each used once: (8, 8)."
        )
    for C, N, k, G, side in ((8, 16, 3, 4, 5), (64, 64, 3, 1, 8), (32, 32, 3, 32, 8), (12, 6, 1, 3, 7)):
        expected = tuple(cost.count(nn.Conv2d(C, N, k, padding=k // 2, groups=G, bias=False), (C, side, side)))
        given = grouped_cost(C, N, k, G, side * side)
        if given != expected:
            raise NotYet(
                f"C={C}, N={N}, k={k}, G={G}, {side * side} positions: you say {given}, the library counts {expected}. "
                "A filter has (C / G) · k · k weights; there are N filters."
            )
        if any(type(value) is not int for value in given):
            raise NotYet(f"the values are right, but {given} are not whole numbers: divide with //, not with /.")
    return "grouped costs agree with flgc_lib.cost from G = 1 (dense) to G = C (depthwise)."


def exercise_2(fixed_mask: Callable[[int, int, int], Tensor]) -> str:
    """M of a convolution with fixed groups, against which weights of `nn.Conv2d(groups=G)` act."""
    tiny = filled(
        fixed_mask(4, 2, 2),
        "fixed_mask still returns `...`. Build a matrix of zeros with N rows (filters) and C columns (channels), "
        "and write ones where a filter and a channel are in the same group.",
    )
    if tuple(tiny.shape) != (2, 4):
        raise NotYet(
            f"for C = 4 channels and N = 2 filters M must have one row a filter and one column a channel, so the shape "
            f"(2, 4); yours has {tuple(tiny.shape)}."
        )
    for C, N, G in ((4, 2, 2), (8, 8, 4), (6, 12, 3), (5, 5, 5), (6, 4, 1)):
        A = F.one_hot(torch.arange(C) * G // C, G)
        B = F.one_hot(torch.arange(N) * G // N, G)
        expected = connection_mask(A, B)
        given = torch.as_tensor(fixed_mask(C, N, G)).float()
        if given.shape != expected.shape or not torch.equal(given, expected):
            wrong = "has another shape" if given.shape != expected.shape else f"is\n{given.int().tolist()}"
            raise NotYet(
                f"C={C}, N={N}, G={G}: your M {wrong}, but must be\n{expected.int().tolist()}\nChannel c is in group "
                "c // (C / G) and filter n in group n // (N / G); M[n, c] = 1 where the two are equal."
            )
    return "M has N · C / G ones, in G blocks along the diagonal, as nn.Conv2d(groups=G) connects them."


def exercise_3(channel_shuffle: Callable[[Tensor, int], Tensor]) -> str:
    """ShuffleNet's shuffle, against `nn.ChannelShuffle`."""
    given = filled(
        channel_shuffle(torch.arange(6.0).view(1, 6, 1, 1), 2),
        "channel_shuffle still returns `...`. Write the 6 channels of 2 groups as a table of 2 rows, "
        "0 1 2 and 3 4 5, and read it column by column.",
    )
    if tuple(given.shape) != (1, 6, 1, 1):
        raise NotYet(
            f"a shuffle changes only the order; the shape must stay (1, 6, 1, 1), not be {tuple(given.shape)}."
        )
    order = given.flatten().int().tolist()
    if order != [0, 3, 1, 4, 2, 5]:
        raise NotYet(
            f"channels 0 1 2 | 3 4 5 in 2 groups must come out as 0 3 1 4 2 5; yours are {order}. Split the channels "
            "into (groups, channels per group), in this order, swap these two axes, and flatten them again."
        )
    for channels, groups in ((12, 3), (12, 4), (8, 1), (8, 8)):
        x = torch.randn(2, channels, 3, 2, generator=torch.Generator().manual_seed(0))
        if not torch.equal(channel_shuffle(x, groups), nn.ChannelShuffle(groups)(x)):
            raise NotYet(
                f"{channels} channels in {groups} groups, images of 3 × 2 pixels, batch of 2: the order is not right. "
                "Only the channel axis may be split and swapped; batch, height and width keep their places."
            )
    return "the same order as nn.ChannelShuffle for every number of groups."


def exercise_4(layers_needed: Callable[[int, int], int | None]) -> str:
    """How many grouped layers with shuffles let every output see every input."""
    filled(
        (layers_needed(4, 2),),  # a pair of one: None is an answer here
        "layers_needed still returns `...`. Keep a 0/1 matrix of who reaches whom, multiply it with P (shuffle) "
        "and M (grouped layer) for each layer, and stop when no zero is left.",
    )
    for C, G in ((4, 2), (8, 4), (16, 4), (64, 16), (8, 1), (12, 4), (8, 8)):
        expected, given = _layers_needed(C, G), layers_needed(C, G)
        if given == expected:
            continue
        if expected is None:
            raise NotYet(
                f"C = G = {C}: every group has a single channel, and a shuffle only moves it, so no number of layers "
                f"is enough: return None. You say {given}."
            )
        if expected == 1:
            raise NotYet(f"G = 1 is dense: one layer alone lets every output see all channels; you say {given}.")
        raise NotYet(
            f"C={C}, G={G}: you say {given}, it is {expected}. An output sees C/G = {C // G} channels after one layer "
            "and at most (C/G)² after two. A shuffle comes between two layers, not before the first."
        )
    return "right for all seven cases; C/G channels per group need about log C / log(C/G) layers."


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
