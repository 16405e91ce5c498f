"""What a notebook calls: `start` first, `pick` where the amount of work depends on the mode, `agree` for a claim."""

import os
from typing import Literal, TypeVar, cast

import matplotlib as mpl
import torch
from torch import Tensor

from flgc_lib.course.lessons import find_lesson
from flgc_lib.grouping import check_choice

Mode = Literal["smoke", "standard", "full"]
T = TypeVar("T")


def mode() -> Mode:
    """How much the notebooks compute, from the environment variable FLGC_MODE: smoke, standard (default) or full.

    Raises:
        ValueError: for another value.
    """
    value = os.environ.get("FLGC_MODE", "standard")
    check_choice("FLGC_MODE", value, Mode)
    return cast(Mode, value)


def pick(*, smoke: T, standard: T, full: T) -> T:
    """The value for this mode; only for cells whose checked output does not depend on it."""
    return {"smoke": smoke, "standard": standard, "full": full}[mode()]


def start(number: str) -> None:
    """First line of every notebook: fixes seed, threads and the look of plots, and says in which mode it runs.

    Except in full mode one thread computes, so that sums are added in the same order whatever the number of cores.

    Raises:
        ValueError: for a number that no notebook has.
    """
    torch.manual_seed(0)
    torch.set_num_threads((os.cpu_count() or 1) if mode() == "full" else 1)
    mpl.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "font.size": 9})
    print(f"{number} {find_lesson(number).title}: FLGC_MODE={mode()}, torch {torch.__version__}, seed 0")


def agree(what: str, found: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    """Says that two tensors are equal up to rounding, if they are.

    Args:
        what: the two, for example "our loops and nn.Conv2d".
        found: any tensor.
        expected: of the same shape.
        tolerance: the largest difference that is rounding.

    Raises:
        AssertionError: if they differ, with what was expected and by how much it was missed.
    """
    if found.shape != expected.shape:
        shapes = f"{tuple(found.shape)} and {tuple(expected.shape)}"
        raise AssertionError(f"{what} should have the same shape, but have {shapes}")
    difference = (found - expected).abs().max().item()
    if not difference <= tolerance:  # so that NaN is refused too
        raise AssertionError(f"{what} should be equal up to {tolerance:.0e}, but differ by up to {difference:.2g}")
    print(f"{what}: equal")
