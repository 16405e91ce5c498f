"""The benchmark's figure: how many times faster than the dense network each candidate is."""

from pathlib import Path
from typing import Any, cast

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from flgc_lib.bench import report
from flgc_lib.bench.candidates import BASELINE
from flgc_lib.figures.styles import STYLES

_COLUMNS = ["stem", "batch", "threads", "candidate", "groups", "mmacs", "milliseconds", "times_faster"]
_LINES = {"frozen": "-", "frozen, PyTorch": "-.", "onnxruntime": "--", "eager": ":", "masked": ":"}
"""Line of each way to run a network."""
_NETWORKS: dict[str, dict[str, Any]] = {
    **STYLES,
    "depthwise": {"color": "#8C510A", "marker": "P"},
    "trained": STYLES["flgc"] | {"marker": "*"},  # FLGC with the groups that a recorded run ended with
}
"""Colour and marker of each network: its method's, as everywhere."""


def speed(results: Path) -> pd.DataFrame:
    """What the figure shows of the benchmark's records."""
    return report.read(results).filter(_COLUMNS)


def draw_speed(numbers: pd.DataFrame, canvas: Canvas) -> None:
    """Times faster than dense against the number of groups, a panel for each combination, with what MACs promise."""
    candidates = sorted(numbers["candidate"][numbers["groups"] > 1].unique())
    cases = list(numbers.groupby(["stem", "batch", "threads"], sort=True))
    rows = -(-len(cases) // 2)
    canvas.set_figheight(1.9 + 2 * rows)
    panels = canvas.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (case, found) in zip(panels, cases, strict=False):
        stem, batch, threads = cast(tuple[str, int, int], case)
        for name in candidates:
            line = found[found["candidate"] == name].sort_values("groups")
            axes.plot(line["groups"], line["times_faster"], label=name, markersize=4, **_look(name))
        dense = found[found["candidate"] == BASELINE]["mmacs"].iloc[0]
        promised = found[found["candidate"] == "grouped frozen"].sort_values("groups")
        axes.plot(promised["groups"], dense / promised["mmacs"], label="MACs of equal groups", color="0.8", linewidth=4,
                  zorder=1)  # fmt: skip
        axes.axhline(1, color="black", linestyle="--", linewidth=0.8)
        _log_axes(axes, sorted(numbers["groups"][numbers["groups"] > 1].unique()))
        axes.set_title(f"{stem}, {report.load(batch, threads)}", fontsize="small")
    for axes in panels[len(cases) :]:
        axes.set_axis_off()
    for axes in panels[-2:]:
        axes.set_xlabel("number of groups G")
    canvas.supylabel("times faster than dense (log scale)", fontsize="medium")
    handles, labels = panels[0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=2, fontsize="small", frameon=False)


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
