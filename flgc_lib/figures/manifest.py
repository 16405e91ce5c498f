"""Every figure of the project: one manifest says what it shows, and one command draws it.

Beside each SVG lies a CSV with the numbers that it was drawn from; `check` computes them again and compares.
"""

import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import torch
from matplotlib.figure import Figure as Canvas
from torch.nn import functional as F

from flgc_lib.bench import report as bench_report
from flgc_lib.experiment import analysis
from flgc_lib.experiment.analysis import Records, accuracy_by_groups, of_grid
from flgc_lib.experiment.grids import Grid
from flgc_lib.figures import plots
from flgc_lib.figures.blocks import draw_basic_block, draw_bottleneck_block
from flgc_lib.figures.groups import draw_duplication, draw_groups, draw_mask
from flgc_lib.grouping import duplicates, membership, thresholds

WIDTH = 7.2  # inches
_LINE = 105  # letters of a caption in a line of that width

# The worked example of section 3: 8 channels, 4 filters, 2 groups.
S = torch.tensor([(2.0, 0.3), (1.5, 1.4), (1.0, -0.2), (0.2, 0.1), (0.4, 1.2), (-0.1, 0.9), (0.5, 0.6), (0.0, 0.1)])
T = torch.tensor([(1.0, 0.0), (0.2, 0.7), (-0.3, 0.1), (0.9, 0.4)])


@dataclass(frozen=True)
class Figure:
    """An entry of the manifest, computed from the records of a grid.

    Attributes:
        id: name of the files in `figures/`.
        grid: the experiment whose records it is computed from.
        notebook: where it is explained.
        caption: what it shows; `caption_of` adds the data.
        numbers: from the grid's records, the table of what is plotted; without rows there is no figure yet.
        draw: from that table, the picture.
        height: in inches.
    """

    id: str
    grid: Grid
    notebook: str
    caption: str
    numbers: Callable[[Records], pd.DataFrame]
    draw: Callable[[pd.DataFrame, Canvas], None]
    height: float = 4.2


@dataclass(frozen=True)
class Drawing:
    """An entry of the manifest that no experiment's runs are needed for.

    Attributes:
        id: name of the files in `figures/`.
        notebook: where it is explained.
        caption: what it shows, and where its numbers come from.
        draw: the picture, from the numbers.
        numbers: from the folder of the records, what it is drawn from; without rows there is no picture yet. None for
            a scheme without numbers.
        height: in inches.
    """

    id: str
    notebook: str
    caption: str
    draw: Callable[[pd.DataFrame, Canvas], None]
    numbers: Callable[[Path], pd.DataFrame] | None = None
    height: float = 4.2


def worked_example(_: Path | None = None) -> pd.DataFrame:
    """S of the worked example, a row a channel: both scores, its own group, τ of both, and where it is copied."""
    members, tau = membership(S), thresholds(S, membership(S))
    copies = duplicates(S, members)
    return pd.DataFrame(
        {
            "channel": range(len(S)),
            **{f"score_{g}": S[:, g].double().numpy().round(6) for g in range(2)},
            "own_group": members.int().argmax(dim=1).numpy(),
            **{f"threshold_{g}": round(float(tau[g]), 6) for g in range(2)},
            **{f"copied_into_{g}": copies[:, g].int().numpy() for g in range(2)},
        }
    )


def _draw_blocks(_: pd.DataFrame, canvas: Canvas) -> None:
    left, right = canvas.subplots(1, 2)
    draw_basic_block(left)
    draw_bottleneck_block(right)


def _draw_groups(_: pd.DataFrame, canvas: Canvas) -> None:
    fixed = [F.one_hot(torch.arange(n) * 2 // n, 2).bool() for n in (len(S), len(T))]
    titles = {"(a) fixed when the network is built": fixed, "(b) learned": [membership(S), membership(T)]}
    for axes, (title, (inputs, filters)) in zip(canvas.subplots(1, 2), titles.items(), strict=True):
        draw_groups(inputs, filters, axes)
        axes.set_title(title, fontsize=9)


def _draw_duplication(_: pd.DataFrame, canvas: Canvas) -> None:
    draw_duplication(S, canvas.subplots())


def _draw_masks(_: pd.DataFrame, canvas: Canvas) -> None:
    members, filters = membership(S), membership(T)
    titles = {"FLGC": members, "with the rule": members | duplicates(S, members)}
    for axes, (title, inputs) in zip(canvas.subplots(1, 2), titles.items(), strict=True):
        draw_mask(inputs, filters, axes)
        axes.set_title(title, fontsize=9)


def _of_experiment(grid: Grid, network: str) -> tuple[Figure, ...]:
    """All figures that show an experiment with several methods and numbers of groups."""
    kinds = (
        ("accuracy-against-groups", "07", "Accuracy against the number of groups", accuracy_by_groups,
         plots.draw_accuracy_by_groups, 4.4),
        ("accuracy-against-macs", "07", "Accuracy against actual MACs", accuracy_by_groups,
         plots.draw_accuracy_by_macs, 4.4),
        ("paired-differences", "07", "Paired differences in accuracy", analysis.paired_differences,
         plots.draw_paired_differences, 3.4),
        ("copies-by-layer", "06", "Copies that the rule makes, by layer, at the end", analysis.copies_by_layer,
         plots.draw_copies_by_layer, 3.6),
        ("moves-by-epoch", "06", "Moves of channels between groups", analysis.moves_by_epoch,
         plots.draw_moves_by_epoch, 3.6),
        ("group-sizes", "06", "Sizes of the groups at the start (random) and at the end of training",
         analysis.group_sizes, plots.draw_group_sizes, 3.8),
    )  # fmt: skip
    return tuple(
        Figure(f"{grid}-{name}", grid, notebook, f"{caption}, {network}", numbers, draw, height)
        for name, notebook, caption, numbers, draw, height in kinds
    )


_SMALL_NET = "a bottleneck net with one block a stage and 16 channels in the stem"
MANIFEST = (
    *_of_experiment("quick", "a three-block net"),
    *_of_experiment("first", "ResNet-50"),
    Figure(
        "learn-ways",
        "learn",
        "06",
        f"Ways to get the groups, G = 8, {_SMALL_NET}",
        partial(analysis.accuracy_by, by=("method", "soft_start")),
        plots.draw_ways_to_learn,
        3.2,
    ),
    *_of_experiment("small", _SMALL_NET),
    Figure(
        "rule-choices",
        "rule",
        "07",
        f"The rule's open choices, {_SMALL_NET}",
        partial(analysis.accuracy_by, by=("method", "groups", "top_k", "score", "copy_time")),
        plots.draw_rule_choices,
        5.0,
    ),
    *_of_experiment("paper", "ResNet-50"),
    *_of_experiment("gpu", "ResNet-50 with a 3×3 stem at full resolution"),
)
DRAWINGS = (
    Drawing("residual-blocks", "01", "The two residual blocks (the paper's Fig. 1, redrawn).", _draw_blocks, None, 6.6),
    Drawing(
        "groups-fixed-and-learned",
        "03",
        "Channels, groups and filters, (a) fixed and (b) learned (the paper's Fig. 2, redrawn; the worked example).",
        _draw_groups,
        worked_example,
    ),
    Drawing(
        "duplication-rule",
        "04",
        "The duplication rule, k = 3, on the worked example: one channel is copied.",
        _draw_duplication,
        worked_example,
    ),
    Drawing("masks", "04", "Masks M of the worked example; numbers: the group.", _draw_masks, worked_example, 2.6),
    Drawing(
        "frozen-speed",
        "08",
        "ResNet-50, all convolutions of all blocks in groups: how many times faster than the dense network in eager "
        "PyTorch with folded norms (`flgc bench`, data/results/bench.csv).",
        bench_report.draw,
        bench_report.speed,
        8.0,
    ),
)


def caption_of(figure: Figure, records: Records, numbers: pd.DataFrame) -> str:
    """The caption with the data that the numbers come from."""
    return f"{figure.caption}: {records.describe(numbers)}."


def regenerate(results: Path, folder: Path) -> list[Path]:
    """Draws every drawing, and every figure that the records hold rows for: `<id>.svg` and `<id>.csv`.

    The same records give the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for drawing in DRAWINGS:
        stored = None if drawing.numbers is None else drawing.numbers(results)
        if stored is None or not stored.empty:
            draw = partial(drawing.draw, pd.DataFrame() if stored is None else stored)
            written.append(_save(folder / drawing.id, drawing.caption, drawing.height, draw, stored))
    for figure, records, numbers in _computed(results):
        if not numbers.empty:
            caption, draw = caption_of(figure, records, numbers), partial(figure.draw, numbers)
            written.append(_save(folder / figure.id, caption, figure.height, draw, numbers))
    return written


def check(results: Path, folder: Path) -> list[str]:
    """Compares the stored numbers of every figure with those computed now.

    Returns:
        A sentence for each figure that is missing, or whose numbers are not the records'.
    """
    problems = []
    wanted = [(d.id, None if d.numbers is None else d.numbers(results)) for d in DRAWINGS]
    wanted += [(figure.id, numbers) for figure, _, numbers in _computed(results)]
    for name, numbers in wanted:
        picture, stored = folder / f"{name}.svg", folder / f"{name}.csv"
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


def write_tables(document: Path, results: Path) -> str:
    """The text of a document with its tables and answers computed anew from the records.

    A table stands between the lines `<!-- table: GRID -->` and `<!-- /table -->`, the answer to the paper's question
    between `<!-- answer: GRID -->` and `<!-- /answer -->`, the benchmark's tables as that of the grid `bench`; one
    without records stays as it is.
    """

    def fill(match: re.Match[str]) -> str:
        if match["grid"] == "bench":
            text = bench_report.tables(bench_report.read(results))
        else:
            records = of_grid(match["grid"], results)  # type: ignore[arg-type]
            of = {"answer": analysis.answer, "table": _markdown}[match["kind"]]
            text = "" if records.runs.empty else of(records)
        return f"{match['open']}\n{text}\n{match['close']}" if text else match[0]

    pattern = r"(?P<open><!-- (?P<kind>table|answer): (?P<grid>\w+) -->)\n.*?(?P<close><!-- /(?P=kind) -->)"
    return re.sub(pattern, fill, document.read_text(encoding="utf-8"), flags=re.DOTALL)


def _computed(results: Path) -> list[tuple[Figure, Records, pd.DataFrame]]:
    """Every figure with its records and numbers, of which a figure without records has none."""
    of = {name: of_grid(name, results) for name in dict.fromkeys(figure.grid for figure in MANIFEST)}
    return [(f, of[f.grid], f.numbers(of[f.grid]) if len(of[f.grid].runs) else pd.DataFrame()) for f in MANIFEST]


def _save(
    path: Path, caption: str, height: float, draw: Callable[[Canvas], None], numbers: pd.DataFrame | None
) -> Path:
    with mpl.rc_context({"svg.hashsalt": "flgc", "axes.spines.top": False, "axes.spines.right": False}):
        canvas = Canvas(figsize=(WIDTH, height), layout="constrained")
        draw(canvas)
        canvas.suptitle(textwrap.fill(caption, _LINE), fontsize="small", x=0.01, ha="left")
        canvas.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    if numbers is not None:
        numbers.to_csv(path.with_suffix(".csv"), index=False)
    return path.with_suffix(".svg")


def _markdown(records: Records) -> str:
    lines = [
        "| method | G | test accuracy (%) | seeds | MACs (M) | parameters (M) | copies | channels moved (%) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in accuracy_by_groups(records).to_dict("records"):
        spread = f" ± {row['spread']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" if row["seeds"] > 1 else ""
        lines.append(
            f"| {row['method']} | {row['groups']} | {row['accuracy']:.2f}{spread} | {row['seeds']} "
            f"| {row['mega_macs']:.2f} | {row['mega_parameters']:.2f} | {row['copies']:.0f} "
            f"| {row['channels_moved']:.1f} |"
        )
    return "\n".join(lines)
