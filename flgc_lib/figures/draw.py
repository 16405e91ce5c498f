"""Draws every figure of the manifest, and says which stored one is not what the records say.

Beside each SVG lies a CSV with the numbers that it was drawn from; `check` computes them again and compares.
"""

import textwrap
from functools import cache, partial
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure as Canvas

from flgc_lib.experiment.analysis import of_grid
from flgc_lib.figures.manifest import FIGURES, Figure, OfGrid

_WIDTH = 7.2  # inches
_LINE = 105  # letters of a caption in a line of that width


def computed(results: Path) -> list[tuple[Figure, str, pd.DataFrame | None]]:
    """Every figure with its caption and its numbers.

    Args:
        results: folder of the records.

    Returns:
        The caption names the experiment's data. Numbers without rows: nothing to draw is recorded yet; None: a scheme,
        which has none.

    Raises:
        ValueError: as `of_grid`.
    """
    records_of = cache(partial(of_grid, folder=results))  # several figures show one experiment
    found = []
    for figure in FIGURES:
        caption, numbers = figure.caption, None
        if isinstance(figure.numbers, OfGrid):
            records = records_of(figure.numbers.grid)
            numbers = pd.DataFrame() if records.runs.empty else figure.numbers.table(records)
            caption += "" if numbers.empty else f": {records.describe(numbers)}."
        elif figure.numbers is not None:
            numbers = figure.numbers(results)
        found.append((figure, caption, numbers))
    return found


def regenerate(results: Path, folder: Path) -> list[Path]:
    """Draws every figure that there is something to draw for: `<id>.svg` and, if it has numbers, `<id>.csv`.

    The same records give the same bytes.

    Args:
        results: folder of the records.
        folder: where the figures go; made if missing.

    Returns:
        The SVG files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for figure, caption, numbers in computed(results):
        if numbers is not None and numbers.empty:
            continue
        pictures.append(folder / f"{figure.id}.svg")
        _save(figure, caption, numbers, pictures[-1])
        if numbers is not None:
            numbers.to_csv(folder / f"{figure.id}.csv", index=False)
    return pictures


def check(results: Path, folder: Path) -> list[str]:
    """Compares the stored numbers of every figure with those computed now.

    Returns:
        A sentence for each figure that is missing, or whose numbers are not the records'.
    """
    problems = []
    for figure, _, numbers in computed(results):
        picture, stored = folder / f"{figure.id}.svg", folder / f"{figure.id}.csv"
        if numbers is not None and numbers.empty and not stored.exists():
            continue
        if not picture.exists() or (numbers is not None and not stored.exists()):
            problems.append(f"{picture} is missing: type `flgc figures`")
        elif numbers is not None:
            try:
                pd.testing.assert_frame_equal(pd.read_csv(stored).astype(numbers.dtypes), numbers)
            except (AssertionError, KeyError, ValueError) as error:  # ValueError: not a table
                reason = str(error).splitlines()[0]
                problems.append(f"{stored} is not what the records say ({reason}): type `flgc figures`")
    return problems


def _save(figure: Figure, caption: str, numbers: pd.DataFrame | None, path: Path) -> None:
    """Writes the picture; a fixed salt and no date, so that its bytes depend on nothing but what it shows."""
    with mpl.rc_context({"svg.hashsalt": "flgc", "axes.spines.top": False, "axes.spines.right": False}):
        canvas = Canvas(figsize=(_WIDTH, figure.height), layout="constrained")
        figure.draw(pd.DataFrame() if numbers is None else numbers, canvas)
        canvas.suptitle(textwrap.fill(caption, _LINE), fontsize="small", x=0.01, ha="left")
        canvas.savefig(path, metadata={"Date": None})
