"""Checks of the exercises of notebook 00."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from flgc_lib.course.exercises.answers import Student
from flgc_lib.course.exercises.values import NotYet, filled, read, show
from flgc_lib.layers import FLGConv2d

TITLE = {
    "動的": "dynamic",
    "グループ化畳み込み": "grouped convolution",
    "ニューラルネットワークにおける": "in neural networks",
    "特徴割り当て": "feature assignment",
    "最適化": "optimisation",
}


def exercise_1(answer: object) -> str:
    """A layer with 12 channels, 24 filters and 4 groups."""
    filled(
        answer,
        "`layer` is still `...`. Put `FLGConv2d(C, N, kernel_size, groups=G)` there, with numbers for the letters.",
    )
    if answer is FLGConv2d:
        raise NotYet("`layer` is the class FLGConv2d itself; call it, with numbers for C, N, the kernel and G.")
    if isinstance(answer, nn.Conv2d):
        raise NotYet("`layer` is an nn.Conv2d, whose groups are fixed; make an FLGConv2d, which learns them.")
    if not isinstance(answer, FLGConv2d):
        raise NotYet(f"`layer` is {show(answer)}; it must be an FLGConv2d.")
    expected = {"in_channels": 12, "out_channels": 24, "kernel_size": (3, 3), "groups": 4}
    for name, value in expected.items():
        if getattr(answer, name) != value:
            given = getattr(answer, name)
            what = " `groups` is G, the number of groups, not the channels in one." if name == "groups" else ""
            raise NotYet(f"{name} is {given}, and should be {value}: C = 12, N = 24, kernel 3×3, G = 4.{what}")
    if answer.stride != (1, 1):
        raise NotYet(f"stride is {answer.stride}, so that the image gets smaller; with stride 1 it keeps its size.")
    layer = Student(answer, "layer", "`layer` returns nothing.")
    weight = answer.weight
    for height, width in ((8, 8), (5, 9)):
        image = torch.zeros(2, 12, height, width, dtype=weight.dtype, device=weight.device)
        size = tuple(layer(image).shape[2:])
        if size != (height, width):
            spread = answer.dilation[0]
            border = f"`padding={spread}` adds the border that a 3×3 kernel{' so spread out' * (spread > 1)} eats"
            raise NotYet(f"an image of {height}×{width} comes out {size[0]}×{size[1]}: {border}.")
    return "Right: 12 channels in, 24 out, four groups, and the image keeps its size."


def exercise_2(answer: object) -> str:
    """M for a hand-made A and B."""
    expected = [[1, 0, 0, 1], [0, 1, 1, 0], [1, 0, 0, 1]]
    filled(answer, "`M` is still `...`. Write three rows (filters) of four numbers (channels), each 0 or 1.")
    M = read(answer, "`M`")
    if M.shape == (4, 3):
        raise NotYet("`M` has a row for each channel; it needs a row for each filter: shape (N, C) = (3, 4).")
    if M.shape != (3, 4):
        raise NotYet(
            f"`M` has shape {tuple(M.shape)}; it needs a row for each filter and a column for each channel: (3, 4)."
        )
    for n, (row, right) in enumerate(zip(M.tolist(), expected, strict=True)):
        for c, (given, value) in enumerate(zip(row, right, strict=True)):
            if given != value:
                together = "are in the same group, so it is 1" if value else "are in different groups, so it is 0"
                raise NotYet(f"M[{n}][{c}] is {given:g}, but filter {n} and channel {c} {together}.")
    return "Right: a filter sees exactly the channels of its own group."


def exercise_3(answer: object) -> str:
    """The words of the paper's title."""
    title = _dictionary(answer)
    if set(title) != set(TITLE):
        raise NotYet(f"`title` must be a dictionary with these keys: {', '.join(TITLE)}.")
    if all(value in (..., None) for value in title.values()):
        raise NotYet("every word is still `...`. Begin with グループ化畳み込み: it stands in the glossary.")
    for word, english in TITLE.items():
        given = filled(title[word], f"{word} is still `...`; what remains to choose from is in the list `ENGLISH`.")
        if str(given).strip().lower() != english:
            raise NotYet(f"{word} is not {given!r}: look it up in the glossary, or for its parts.")
    return "Right: *Optimisation of feature assignment in dynamically grouped convolutional neural networks*."


def _dictionary(answer: object) -> dict[Any, Any]:
    """A dictionary, or pairs of which one can be made; else an empty one."""
    if isinstance(answer, Mapping):
        return dict(answer)
    pairs = list(answer) if isinstance(answer, (list, tuple, set)) else []
    return dict(pairs) if all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs) else {}
