"""What a notebook calls: `start` in its first cell, and `pick` where the amount of work depends on the mode."""

import os
from typing import Literal, TypeVar, cast

import matplotlib as mpl
import torch

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
