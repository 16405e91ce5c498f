"""Draws every figure of the manifest, and says which stored one is not what the records say.

Beside each SVG lies a CSV with the numbers that it was drawn from; `check` computes them again and compares. An SVG
names its maker: of a folder's files only those are taken away when they are no figure any more.
"""

import textwrap
from contextlib import AbstractContextManager
from functools import cache, partial
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure as Canvas

from flgc_lib.experiment.analysis import of_grid
from flgc_lib.figures.manifest import FIGURES, Figure, OfGrid
from flgc_lib.files import first_line, write_table, write_whole

_WIDTH = 5.2  # inches: a phone shows it as it is
_LINE = 74  # letters of a caption in a line of that width
_MAKER = "flgc figures"


def computed(results: Path, only: str | None = None) -> list[tuple[Figure, str, pd.DataFrame | None]]:
    """Every figure with its caption and its numbers.

    Args:
        results: folder of the records.
        only: the one with this `id` alone.

    Returns:
        The caption names the experiment's data. Numbers without rows: nothing to draw is recorded yet; None: a scheme,
        which has none.

    Raises:
        ValueError: as `of_grid`.
    """
    records_of = cache(partial(of_grid, folder=results))  # several figures show one experiment
    found = []
    for figure in (f for f in FIGURES if only in (None, f.id)):
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
        with _style():
            # The same bytes depend on nothing but what it shows: no date.
            canvas = _draw(figure, caption, numbers, Canvas())
            write_whole(pictures[-1], partial(canvas.savefig, metadata={"Date": None, "Creator": _MAKER}))
        if numbers is not None:
            write_table(folder / f"{figure.id}.csv", numbers)
    for old in _outdated(folder):
        old.unlink()
        old.with_suffix(".csv").unlink(missing_ok=True)
    return pictures


def show(name: str, results: Path) -> None:
    """Draws a figure of the manifest in a notebook, from the records as they are now; says so where there are none yet.

    Args:
        name: its `id`.
        results: folder of the records.

    Raises:
        ValueError: if there is no such figure.
    """
    found = computed(results, only=name)
    if not found:
        raise ValueError(f"there is no figure {name!r}: they are {', '.join(figure.id for figure in FIGURES)}")
    figure, caption, numbers = found[0]
    if numbers is not None and numbers.empty:
        print(f"{figure.caption}: no run for it is recorded yet.")
        return
    from matplotlib import pyplot  # which a notebook shows, and the command line does without

    with _style():
        _draw(figure, caption, numbers, pyplot.figure())
        pyplot.show()  # at the end of the cell it would be too late: leaving the style turns showing by itself off


def check(results: Path, folder: Path) -> list[str]:
    """Compares the stored numbers of every figure with those computed now.

    Returns:
        A sentence for each figure that is missing, or whose numbers are not the records'.
    """
    problems = []
    for figure, _, numbers in computed(results):
        picture, stored = folder / f"{figure.id}.svg", folder / f"{figure.id}.csv"
        if numbers is not None and numbers.empty:
            if stored.exists():
                problems.append(f"{stored} is of records that are not in {results}: restore them, or remove the figure")
            continue
        if not picture.exists() or (numbers is not None and not stored.exists()):
            problems.append(f"{picture} is missing: type `flgc figures`")
        elif numbers is not None:
            try:
                pd.testing.assert_frame_equal(pd.read_csv(stored).astype(numbers.dtypes), numbers)
            except (AssertionError, KeyError, ValueError) as error:  # ValueError: not a table
                problems.append(f"{stored} is not what the records say ({first_line(error)}): type `flgc figures`")
    problems += [f"{old} is no figure any more: type `flgc figures`" for old in _outdated(folder)]
    return problems


def _outdated(folder: Path) -> list[Path]:
    """The figures in a folder, made here, that the manifest does not have."""
    known = {figure.id for figure in FIGURES}
    return [
        path
        for path in sorted(folder.glob("*.svg"))
        if path.stem not in known and f"<dc:title>{_MAKER}</dc:title>" in path.read_text(encoding="utf-8")
    ]


def _style() -> AbstractContextManager[None]:
    return mpl.rc_context({"svg.hashsalt": "flgc", "axes.spines.top": False, "axes.spines.right": False})


def _draw(figure: Figure, caption: str, numbers: pd.DataFrame | None, canvas: Canvas) -> Canvas:
    canvas.set_size_inches(_WIDTH, 3.6)  # a function that draws sets the height that it needs
    canvas.set_layout_engine("constrained")
    figure.draw(pd.DataFrame() if numbers is None else numbers, canvas)
    canvas.suptitle(textwrap.fill(caption, _LINE), fontsize="small", x=0.01, ha="left")
    return canvas
