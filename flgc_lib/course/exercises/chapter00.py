"""Checks of the exercises of notebook 00."""

import torch

from flgc_lib.course.exercises import NotYet, filled
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
    if not isinstance(answer, FLGConv2d):
        raise NotYet(f"`layer` is a {type(answer).__name__}; it must be an FLGConv2d.")
    expected = {"in_channels": 12, "out_channels": 24, "kernel_size": (3, 3), "groups": 4}
    for name, value in expected.items():
        if getattr(answer, name) != value:
            given = getattr(answer, name)
            what = " `groups` is G, the number of groups, not the channels in one." if name == "groups" else ""
            raise NotYet(f"{name} is {given}, and should be {value}: C = 12, N = 24, kernel 3×3, G = 4.{what}")
    size = tuple(answer(torch.zeros(1, 12, 8, 8)).shape[2:])
    if size != (8, 8):
        raise NotYet(f"an 8×8 image comes out {size[0]}×{size[1]}: `padding=1` adds the border that a 3×3 kernel eats.")
    return "Right: 12 channels in, 24 out, four groups, and the image keeps its size."


def exercise_2(answer: object) -> str:
    """M for a hand-made A and B."""
    expected = [[1, 0, 0, 1], [0, 1, 1, 0], [1, 0, 0, 1]]
    filled(answer, "`M` is still `...`. Write three rows (filters) of four numbers (channels), each 0 or 1.")
    try:
        rows = torch.as_tensor(answer).tolist()
        shape = tuple(torch.as_tensor(answer).shape)
    except (TypeError, ValueError, RuntimeError) as error:
        raise NotYet(
            "`M` is no matrix of numbers: write three rows of four numbers, like [[0, 0, 0, 0], …]."
        ) from error
    if shape == (4, 3):
        raise NotYet("`M` has a row for each channel; it needs a row for each filter: shape (N, C) = (3, 4).")
    if shape != (3, 4):
        raise NotYet(f"`M` has shape {shape}; it needs a row for each filter and a column for each channel: (3, 4).")
    for n, (row, right) in enumerate(zip(rows, expected, strict=True)):
        for c, (given, value) in enumerate(zip(row, right, strict=True)):
            if given != value:
                together = "are in the same group, so it is 1" if value else "are in different groups, so it is 0"
                raise NotYet(f"M[{n}][{c}] is {given}, but filter {n} and channel {c} {together}.")
    return "Right: a filter sees exactly the channels of its own group."


def exercise_3(answer: object) -> str:
    """The words of the paper's title."""
    if not isinstance(answer, dict) or set(answer) != set(TITLE):
        raise NotYet(f"`title` must be a dictionary with these keys: {', '.join(TITLE)}.")
    if all(value in (..., None) for value in answer.values()):
        raise NotYet("every word is still `...`. Begin with グループ化畳み込み: it stands in the glossary.")
    for word, english in TITLE.items():
        given = filled(answer[word], f"{word} is still `...`; what remains to choose from is in the list `ENGLISH`.")
        if given != english:
            raise NotYet(f"{word} is not {given!r}: look it up in the glossary, or for its parts.")
    return "Right: *Optimisation of feature assignment in dynamically grouped convolutional neural networks*."
