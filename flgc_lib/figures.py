"""Every figure of the project: one manifest says what it shows, and one command draws it from the records alone.

Beside each SVG lies a CSV with the numbers that were plotted; `check` computes them again and compares.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from flgc_lib.grids import Grid, grid
from flgc_lib.records import read_runs

# Colour, line and marker of each method: told apart in grey and by the colour-blind, the same in every figure.
_COLOURS = sns.color_palette("colorblind")
STYLES: dict[str, dict[str, Any]] = {
    "dense": {"color": "black", "linestyle": "--"},
    "grouped": {"color": _COLOURS[7], "linestyle": "-", "marker": "s"},
    "random": {"color": _COLOURS[8], "linestyle": ":", "marker": "D"},
    "flgc": {"color": _COLOURS[0], "linestyle": "-", "marker": "o"},
    "flgc-dup": {"color": _COLOURS[3], "linestyle": "-", "marker": "^"},
    "flgc-randdup": {"color": _COLOURS[1], "linestyle": "--", "marker": "v"},
    "ring": {"color": _COLOURS[2], "linestyle": "-.", "marker": "P"},
}


@dataclass(frozen=True)
class Figure:
    """An entry of the manifest.

    Attributes:
        id: name of the files in `figures/`.
        grid: the experiment whose records it is computed from.
        notebook: where it is explained.
        caption: what it shows; `caption_of` adds the data.
        numbers: from the grid's rows of `runs.csv`, the table of what is plotted.
        draw: from that table, the picture.
    """

    id: str
    grid: Grid
    notebook: str
    caption: str
    numbers: Callable[[pd.DataFrame], pd.DataFrame]
    draw: Callable[[pd.DataFrame, Axes], None]


def interval(values: np.ndarray, draws: int = 10_000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over seeds; one seed gives no spread and the value itself twice."""
    generator = np.random.default_rng(0)  # the same records, the same interval
    means = generator.choice(values, (draws, len(values))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def accuracy_by_groups(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean test accuracy in % with its interval, over the seeds of each method and number of groups."""
    rows = []
    for method in STYLES:
        for groups, cell in runs[runs["method"] == method].sort_values("seed").groupby("groups"):
            accuracy = 100 * cell["test_accuracy"].to_numpy(dtype=float)
            low, high = interval(accuracy)
            rows.append(
                {
                    "method": method,
                    "groups": groups,
                    "accuracy": accuracy.mean(),
                    "low": low,
                    "high": high,
                    "seeds": len(cell),
                    "mega_macs": cell["macs"].mean() / 1e6,
                    "mega_parameters": cell["parameters"].mean() / 1e6,
                    "copies": cell["copies"].mean(),
                    "channels_moved": 100 * cell["channels_moved"].mean(),
                }
            )
    return pd.DataFrame(rows)


def draw_accuracy_by_groups(numbers: pd.DataFrame, axes: Axes) -> None:
    """The paper's question: one line a method, the dense network as a level."""
    for method in [m for m in STYLES if m in set(numbers["method"])]:
        cells = numbers[numbers["method"] == method]
        label = f"{method} ({cells['mega_macs'].iloc[0]:.3g} MMAC)" if method == "dense" else method
        if method == "dense":
            axes.axhline(cells["accuracy"].iloc[0], label=label, **STYLES[method])
            continue
        spread = [cells["accuracy"] - cells["low"], cells["high"] - cells["accuracy"]]
        axes.errorbar(cells["groups"], cells["accuracy"], yerr=spread, capsize=3, label=label, **STYLES[method])
    ticks = sorted(numbers["groups"][numbers["method"] != "dense"].unique())
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    axes.set_xlabel("number of groups G")
    axes.set_ylabel("test accuracy after the last epoch (%)")
    axes.legend(frameon=False, fontsize="small")


def _accuracy(grid: Grid, network: str) -> Figure:
    return Figure(
        id=f"{grid}-accuracy-against-groups",
        grid=grid,
        notebook="07",
        caption=f"Accuracy against the number of groups, {network}",
        numbers=accuracy_by_groups,
        draw=draw_accuracy_by_groups,
    )


MANIFEST = (
    _accuracy("quick", "a three-block net"),
    _accuracy("first", "ResNet-50"),
)


def rows_of(figure: Figure, results: Path) -> pd.DataFrame:
    """The rows of `runs.csv` that belong to the figure's grid, on whichever dataset they were run.

    Raises:
        ValueError: if there are rows of several datasets, which must not be mixed in one figure.
    """
    runs = read_runs(results)
    names = {s.id for data in runs["data"].unique() for s in grid(figure.grid, data)}
    rows = runs[runs["run"].isin(names)]
    if rows["fingerprint"].nunique() > 1:
        raise ValueError(f"{results / 'runs.csv'} has runs of {figure.grid} on several datasets; keep one a folder")
    return rows


def caption_of(figure: Figure, rows: pd.DataFrame) -> str:
    """The caption with the data that the numbers come from."""
    seeds = rows["seed"].nunique()
    spread = f"{seeds} seeds; bars: 95 % bootstrap interval over seeds" if seeds > 1 else "one seed"
    return f"{figure.caption}: {rows['data'].iloc[0]}, {rows['epochs'].iloc[0]} epochs, {len(rows)} runs, {spread}."


def regenerate(results: Path, folder: Path) -> list[Path]:
    """Draws every figure that the records hold rows for: `<id>.svg` and `<id>.csv`.

    The same records give the same bytes.
    """
    written = []
    folder.mkdir(parents=True, exist_ok=True)
    for figure in MANIFEST:
        rows = rows_of(figure, results)
        if rows.empty:
            continue
        numbers = figure.numbers(rows)
        with mpl.rc_context({"svg.hashsalt": "flgc", "axes.spines.top": False, "axes.spines.right": False}):
            canvas = Canvas(figsize=(6.4, 4.2), layout="constrained")
            axes = canvas.subplots()
            figure.draw(numbers, axes)
            axes.set_title(caption_of(figure, rows), fontsize="small", loc="left", wrap=True)
            canvas.savefig(folder / f"{figure.id}.svg", metadata={"Date": None})
        numbers.to_csv(folder / f"{figure.id}.csv", index=False)
        written.append(folder / f"{figure.id}.svg")
    return written


def write_tables(document: Path, results: Path) -> str:
    """The text of a document with its tables computed anew from the records.

    A table stands between the lines `<!-- table: GRID -->` and `<!-- /table -->`; one without records stays as it is.
    """

    def table(match: re.Match[str]) -> str:
        figure = next(f for f in MANIFEST if f.grid == match["grid"])
        rows = rows_of(figure, results)
        return match[0] if rows.empty else f"{match['open']}\n{_markdown(accuracy_by_groups(rows))}\n{match['close']}"

    pattern = r"(?P<open><!-- table: (?P<grid>\w+) -->)\n.*?(?P<close><!-- /table -->)"
    return re.sub(pattern, table, document.read_text(), flags=re.DOTALL)


def check(results: Path, folder: Path) -> list[str]:
    """Compares the stored numbers of every figure with those computed from the records now.

    Returns:
        A sentence for each figure that is missing, or whose numbers are not the records'.
    """
    problems = []
    for figure in MANIFEST:
        rows, stored = rows_of(figure, results), folder / f"{figure.id}.csv"
        if rows.empty and not stored.exists():
            continue
        if not stored.exists() or not stored.with_suffix(".svg").exists():
            problems.append(f"{stored.with_suffix('.svg')} is missing: type `flgc figures`")
            continue
        try:
            pd.testing.assert_frame_equal(pd.read_csv(stored), figure.numbers(rows), check_dtype=False)
        except (AssertionError, KeyError, ValueError) as error:  # ValueError: not a table
            reason = str(error).splitlines()[0]
            problems.append(f"{stored} is not what the records say ({reason}): type `flgc figures`")
    return problems


def _markdown(numbers: pd.DataFrame) -> str:
    lines = [
        "| method | G | test accuracy (%) | seeds | MACs (M) | parameters (M) | copies | channels moved (%) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in numbers.to_dict("records"):
        spread = f" [{row['low']:.2f}, {row['high']:.2f}]" if row["seeds"] > 1 else ""
        lines.append(
            f"| {row['method']} | {row['groups']} | {row['accuracy']:.2f}{spread} | {row['seeds']} "
            f"| {row['mega_macs']:.2f} | {row['mega_parameters']:.2f} | {row['copies']:.0f} "
            f"| {row['channels_moved']:.1f} |"
        )
    return "\n".join(lines)
