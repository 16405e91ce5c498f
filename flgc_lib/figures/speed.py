"""The benchmark's figure: how many times faster than the dense network each candidate is."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from flgc_lib.bench import report
from flgc_lib.bench.candidates import BASELINE, ENGINES
from flgc_lib.experiment import measurements
from flgc_lib.figures.styles import LINES, MARKERS, STYLES

_COLUMNS = ["processor", "stem", "batch", "threads", "candidate", "groups", "mmacs", "milliseconds", "times_faster"]
_LINES = {"frozen": "-", "frozen, PyTorch": "-.", "onnxruntime": "--", "eager": ":", "masked": ":"}
"""Line of each way to run a network."""
_NETWORKS: dict[str, dict[str, Any]] = {
    **STYLES,
    "depthwise": {"color": "#8C510A", "marker": "P"},
    "trained": STYLES["flgc"] | {"marker": "*"},  # FLGC with the groups that a recorded run ended with
}
"""Colour and marker of each network: its method's, as everywhere."""


_OTHERS = [*(called for called in ENGINES.values() if called != "onnxruntime"), "frozen bf16"]
_KINDS = {"grouped": "fixed groups", "equal": "learned, equal sizes", "flgc": "learned, unequal"}
"""What the networks of the engines' figure are: each has its method's colour, and a panel."""

LEAST_GROUPS = 3
"""Numbers of groups that make a line of the engines' figure; the tables have the others too."""

_WAYS = ("frozen", *ENGINES.values(), "frozen bf16")
"""What runs them."""


def speed(results: Path) -> pd.DataFrame:
    """What the figure shows of the benchmark's records: our own forms, PyTorch's, and onnxruntime in fp32."""
    rows = _all(results)
    if rows.empty:
        return rows
    return _of_one_processor(rows[~_in_other_engines(rows) & ~rows["candidate"].str.startswith("equal")])


def engine_speed(results: Path) -> pd.DataFrame:
    """What the figure of engines shows: every engine and precision, and the kernel, where they make a line."""
    rows = _all(results)
    if rows.empty:
        return rows
    names = [BASELINE, *(f"{kind} {how}" for kind in _KINDS for how in _WAYS)]
    case = [rows[name] for name in ("processor", "stem", "batch", "threads")]
    measured = _in_other_engines(rows).groupby(case).transform("any")
    shown = rows[measured & rows["candidate"].isin(names)]
    lines = shown["groups"].where(shown["groups"] > 1).groupby(case).transform("nunique") >= LEAST_GROUPS
    return _of_one_processor(shown[lines])


def draw_speed(numbers: pd.DataFrame, canvas: Canvas) -> None:
    """Times faster than dense against the number of groups, a panel for each combination, with what MACs promise."""
    candidates = sorted(numbers["candidate"][numbers["groups"] > 1].unique())
    styles = {name: _look(name) for name in candidates}
    cases = numbers.groupby(["stem", "batch", "threads"], sort=True)
    _draw({_case(case): (found, styles) for case, found in cases}, canvas)


def draw_engine_speed(numbers: pd.DataFrame, canvas: Canvas) -> None:
    """The same for every engine and precision, by line and marker, a panel for each kind of groups."""
    panels = {}
    for case, found in numbers.groupby(["stem", "batch", "threads"], sort=True):
        for kind, words in _KINDS.items():
            styles = {
                f"{kind} {how}": {"color": STYLES[kind]["color"], "linestyle": line, "marker": marker}
                for how, line, marker in zip(_WAYS, LINES * 2, MARKERS, strict=False)
            }
            panels[f"{words}\n{_case(case)}"] = (found, styles)
    _draw(panels, canvas, name=lambda candidate: candidate.partition(" ")[2])


def _all(results: Path) -> pd.DataFrame:
    """The rows of processors; a GPU runs other candidates, none of which is frozen."""
    rows = measurements.read(results / report.TABLE).filter(_COLUMNS)
    if rows.empty:
        return rows
    return rows[rows["candidate"].str.endswith("frozen").groupby(rows["processor"]).transform("any")]


def _in_other_engines(rows: pd.DataFrame) -> pd.Series:
    return rows["candidate"].str.endswith(tuple(_OTHERS))


def _of_one_processor(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the processor that has most: what is compared was measured on one."""
    if rows.empty:
        return rows
    return rows[rows["processor"] == rows["processor"].mode().iloc[0]].reset_index(drop=True)


def _case(case: object) -> str:
    stem, batch, threads = cast(tuple[str, int, int], case)
    return f"{stem}, {report.load(batch, threads)}"


def _draw(
    contents: Mapping[str, tuple[pd.DataFrame, Mapping[str, dict[str, Any]]]],
    canvas: Canvas,
    name: Callable[[str], str] = str,
) -> None:
    """A panel for each title, with lines of the candidates that have a style; `name` is what the legend calls them."""
    rows = -(-len(contents) // 2)
    canvas.set_figheight(1.9 + 2 * rows)
    panels = canvas.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (title, (found, styles)) in zip(panels, contents.items(), strict=False):
        for candidate, style in styles.items():
            line = found[found["candidate"] == candidate].sort_values("groups")
            if len(line):
                axes.plot(line["groups"], line["times_faster"], label=name(candidate), markersize=4, **style)
        dense = found[found["candidate"] == BASELINE]["mmacs"].iloc[0]
        promised = found[found["candidate"] == "grouped frozen"].sort_values("groups")
        axes.plot(promised["groups"], dense / promised["mmacs"], label="MACs of equal groups", color="0.8", linewidth=4,
                  zorder=1)  # fmt: skip
        axes.axhline(1, color="black", linestyle="--", linewidth=0.8)
        _log_axes(axes, sorted(found["groups"][found["groups"] > 1].unique()))
        axes.set_title(title, fontsize="small")
    for axes in panels[len(contents) :]:
        axes.set_axis_off()
    for axes in panels[-2:]:
        axes.set_xlabel("number of groups G")
    canvas.supylabel("times faster than dense (log scale)", fontsize="medium")
    labelled = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    canvas.legend(
        [*labelled.values()], [*labelled], loc="outside lower center", ncols=2, fontsize="small", frameon=False
    )


def _look(candidate: str) -> dict[str, Any]:
    network, _, way = candidate.partition(" ")
    look = _NETWORKS[network] | {"linestyle": _LINES[way]}
    return look if way == "frozen" else look | {"markerfacecolor": "white"}


def _log_axes(axes: Axes, groups: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(groups)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.tick_params(labelbottom=True)
