"""The experiment's figures: each draws one table of `flgc_lib.experiment.analysis` on a canvas, and says how high.

They are narrow, and panels lie one upon the other, so that a phone shows them as they are. A point stands where it was
measured: no series is moved aside, so that several methods get a panel each.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from flgc_lib.figures.styles import STYLES, of_method
from flgc_lib.methods import METHODS

_SMALL: dict[str, Any] = {"frameon": False, "fontsize": "small"}
_PALE = "0.82"
_MANY = 5  # seeds: an interval from fewer rests on a guess of the spread


def draw_accuracy_by_groups(numbers: pd.DataFrame, canvas: Canvas) -> None:
    """The paper's question: a panel a method; with one group every method is the dense network."""
    for axes in _accuracy_panels(numbers, canvas, "groups"):
        ticks = sorted(numbers["groups"].unique())
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(t) for t in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("number of groups G" * _lowest(axes))


def draw_accuracy_by_macs(numbers: pd.DataFrame, canvas: Canvas) -> None:
    """The same accuracies against what the networks really cost."""
    costs = numbers.groupby("groups")["mega_macs"].min().sort_values()
    apart = np.log(costs.max() / costs.min()) / 5  # of two labels, so that they don't touch
    marked: dict[Hashable, float] = {}
    for g, cost in costs.items():
        if not marked or np.log(cost / max(marked.values())) > apart:
            marked[g] = cost
    labels = [f"{cost:.3g}\n{'dense' if g == 1 else f'G = {g}'}" for g, cost in marked.items()]
    for axes in _accuracy_panels(numbers, canvas, "mega_macs"):
        axes.set_xscale("log")
        axes.set_xticks(list(marked.values()), labels, fontsize="x-small")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("million MACs for one image,\ncopies included (log scale)" * _lowest(axes), fontsize="small")


def _accuracy_panels(numbers: pd.DataFrame, canvas: Canvas, x: str) -> Sequence[Axes]:
    """A panel for each method with groups: it and the dense network with intervals, the others as pale lines."""
    methods = [(method, cells) for method, cells in _by_method(numbers) if method != "dense"]
    rows = max(1, -(-len(methods) // 2))
    canvas.set_figheight(1.3 + 1.4 * rows)
    panels = canvas.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (method, cells) in zip(panels, methods, strict=False):
        for other, theirs in methods:
            if other != method:
                axes.plot(theirs[x], theirs["accuracy"], color=_PALE, linewidth=1, zorder=1)
        _points(axes, numbers[numbers["method"] == "dense"], x, "accuracy", **STYLES["dense"] | {"marker": "*"})
        _points(axes, cells, x, "accuracy", **STYLES[method])
        axes.set_title(method, fontsize="small", color=STYLES[method]["color"], fontweight="bold")
        axes.tick_params(labelbottom=True)
    for axes in panels[len(methods) :]:
        axes.remove()
    canvas.supylabel("test accuracy after the last epoch (%)", fontsize="medium")
    context = [Line2D([], [], color=_PALE, label="the other methods")] * (len(methods) > 1)
    if "dense" in set(numbers["method"]):
        context.append(Line2D([], [], color="black", marker="*", linestyle="none", label="dense: one group"))
    canvas.legend(handles=context + _few(numbers), loc="outside lower center", ncols=2, **_SMALL)
    return list(panels[: len(methods)])


def draw_frontier(numbers: pd.DataFrame, canvas: Canvas) -> None:
    """A panel a number of groups, from cheap to dear, and a row an arm, with what it costs; bold: on the frontier."""
    panels = [(g, rows.sort_values("accuracy")) for g, rows in numbers.groupby("groups")][::-1]
    canvas.set_figheight(1.6 + 0.35 * len(panels) + 0.19 * len(numbers))
    heights = [len(rows) + 0.5 for _, rows in panels]
    for axes, (g, rows) in zip(
        canvas.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0], panels, strict=True
    ):
        placed = rows.assign(place=range(len(rows)))
        for method, cells in _by_method(placed):
            style = {"marker": "*", **STYLES[method], "linestyle": "none"}
            _points(axes, cells, "accuracy", "place", across=True, **style)
        labels = [f"{row['arm']}, {row['mega_macs']:.2f}" for row in rows.to_dict("records")]
        axes.set_yticks(placed["place"], labels, fontsize="small")
        for label, best in zip(axes.get_yticklabels(), rows["frontier"], strict=True):
            label.set_fontweight("bold" if best else "normal")
        axes.set_ylim(-0.7, len(rows) - 0.3)
        axes.set_title("one group" if g == 1 else f"G = {g}", loc="left", fontsize="small")
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
    axes.set_xlabel("test accuracy after the last epoch (%)")
    if handles := _few(numbers):
        canvas.legend(handles=handles, loc="outside lower center", **_SMALL)


def draw_paired_differences(numbers: pd.DataFrame, canvas: Canvas) -> None:
    """A panel a pair of methods: difference at each G and, below, their mean; 0 is no difference."""
    pairs = list(dict.fromkeys(zip(numbers["method"], numbers["baseline"], strict=True)))
    of_pair = [numbers[(numbers["method"] == m) & (numbers["baseline"] == b)] for m, b in pairs]
    canvas.set_figheight(1.4 + 0.4 * len(pairs) + 0.19 * len(numbers))
    panels = canvas.subplots(len(pairs), 1, sharex=True, squeeze=False, height_ratios=[len(c) + 1 for c in of_pair])
    for axes, (method, baseline), cells in zip(panels[:, 0], pairs, of_pair, strict=True):
        axes.axvline(0, color="0.5", linewidth=1)
        placed = cells.assign(place=range(len(cells)))
        _points(axes, placed, "difference", "place", across=True, **STYLES[method] | {"linestyle": "none"})
        labels = ["mean over G" if g == "mean" else f"G = {g}" for g in cells["groups"]]
        axes.set_yticks(placed["place"], labels, fontsize="small")
        axes.set_ylim(len(cells) - 0.5, -0.5)
        axes.axhspan(len(cells) - 1.5, len(cells) - 0.5, color="0.94", zorder=0)  # what is judged
        axes.set_title(f"{method} − {baseline}", loc="left", fontsize="small", color=STYLES[method]["color"])
    panels[-1, 0].set_xlabel("difference in test accuracy (percentage points)")
    if handles := _few(numbers):
        canvas.legend(handles=handles, loc="outside lower center", **_SMALL)


def draw_rule_choices(numbers: pd.DataFrame, canvas: Canvas) -> None:
    """Against k, a column for each G: accuracy, a row for each score and time of copying; below, the copies of all."""
    groups = sorted(numbers["groups"].unique())
    choices = list(numbers.groupby(["score", "copy_time"]))
    canvas.set_figheight(1.5 + 1.15 * (len(choices) + 1))
    panels = canvas.subplots(len(choices) + 1, len(groups), sharex=True, squeeze=False)
    for axes in panels.ravel():
        top = panels[0, 0] if axes in panels[:-1] else panels[-1, 0]  # accuracies have one scale, and copies one
        if axes is not top:
            axes.sharey(top)
    for order, ((score, when), cells) in enumerate(choices):
        style = of_method("flgc-dup", order, len(choices))
        for g, above, below in zip(groups, panels[order], panels[-1], strict=True):
            of_g = cells[cells["groups"] == g]
            _points(above, of_g, "top_k", "accuracy", **style)
            above.set_title(f"{score}, {when}, G = {g}", fontsize="small")
            below.plot(of_g["top_k"], of_g["copies"], label=f"{score}, {when}", **style)
    for axes in panels[-1]:
        axes.set_title("copies of all four, all layers", fontsize="small")
        axes.set_xticks(sorted(numbers["top_k"].unique()))
        axes.set_xlabel("k of the rule")
    for axes in panels[:-1, 0]:
        axes.set_ylabel("accuracy (%)", fontsize="small")
    panels[-1, 0].set_ylabel("copies", fontsize="small")
    handles = panels[-1, 0].get_legend_handles_labels()[0] + _few(numbers)
    canvas.legend(handles=handles, loc="outside lower center", ncols=2, **_SMALL)


def draw_ways_to_learn(numbers: pd.DataFrame, canvas: Canvas) -> None:
    """A line for each way to get groups: accuracy on held-out images with its interval, and its cost in words."""
    canvas.set_figheight(1.2 + 0.45 * len(numbers))
    axes = canvas.subplots()
    labels = []
    for place, row in enumerate(numbers.to_dict("records")):
        start = f"soft start {row['soft_start']:g}" if row["soft_start"] else "hard from the start"
        labels.append(f"{row['method']}, {start}\n{row['mega_macs']:.3f} MMAC, {row['channels_moved']:.0f} % moved")
        style = STYLES[row["method"]] | {"linestyle": "none"}
        _points(axes, pd.DataFrame([row | {"place": place}]), "accuracy", "place", across=True, **style)
    axes.set_yticks(range(len(labels)), labels, fontsize="small")
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlabel("accuracy on held-out training images (%)")
    if handles := _few(numbers):
        canvas.legend(handles=handles, loc="outside lower center", **_SMALL)


def draw_copies_by_layer(numbers: pd.DataFrame, canvas: Canvas) -> None:
    """Copies in % of a layer's channels, from the first layer to the last: a panel a method, a line a G."""
    methods, groups = list(_by_method(numbers)), sorted(numbers["groups"].unique())
    canvas.set_figheight(1.3 + 1.7 * len(methods))
    panels = canvas.subplots(len(methods), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (method, cells) in zip(panels, methods, strict=True):
        for order, g in enumerate(groups):
            line = cells[cells["groups"] == g]
            share = 100 * line["copies"] / line["channels"]
            axes.plot(line["place"], share, markersize=4, **of_method(method, order, len(groups)))
        axes.set_title(method, fontsize="small", color=STYLES[method]["color"], fontweight="bold")
        axes.set_ylabel("copies (% of channels)", fontsize="small")
    layers = numbers.drop_duplicates("place").set_index("place")["layer"]
    stage = layers.str.split(".").str[0]
    first = stage[~stage.duplicated()]  # of each stage
    panels[-1].set_xticks(first.index, first.tolist())
    panels[-1].set_xlabel("layer, in the network's order; the mark is where a stage begins")
    canvas.legend(handles=_of_groups(groups), loc="outside lower center", ncols=len(groups), **_SMALL)


def draw_moves_by_epoch(numbers: pd.DataFrame, canvas: Canvas) -> None:
    """Share of channels in another group than at the start (left) and than an epoch before (right); a row a method."""
    methods, groups = list(_by_method(numbers)), sorted(numbers["groups"].unique())
    canvas.set_figheight(1.4 + 1.5 * len(methods))
    panels = canvas.subplots(len(methods), 2, sharex=True, sharey=True, squeeze=False)
    columns = {"channels_moved": "than at the start", "channels_moved_last": "than an epoch before"}
    for row, (method, cells) in zip(panels, methods, strict=True):
        for axes, (column, words) in zip(row, columns.items(), strict=True):
            for order, g in enumerate(groups):
                line = cells[cells["groups"] == g]
                axes.plot(line["epoch"], line[column], markersize=3, **of_method(method, order, len(groups)))
            axes.set_title(f"{method}, {words}", fontsize="small", color=STYLES[method]["color"])
            axes.set_yscale("symlog", linthresh=1)  # shares of 2 % and of 90 %
            axes.yaxis.set_major_formatter("{x:g}")
            axes.set_ylim(0, 130)
            axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
    canvas.supylabel("channels in another group (%, log above 1)", fontsize="medium")
    canvas.legend(handles=_of_groups(groups), loc="outside lower center", ncols=len(groups), **_SMALL)


def draw_group_sizes(numbers: pd.DataFrame, canvas: Canvas) -> None:
    """Sizes of the groups over the equal size, a line for each method, G and moment; the legend explains its boxes."""
    span = numbers.groupby("method").agg(smallest=("smallest", "min"), largest=("largest", "max"))
    equal = span.index[(span["smallest"] == 1) & (span["largest"] == 1)]
    drawn = numbers[~numbers["method"].isin(equal)]
    rows = drawn[["groups", "method", "moment"]].drop_duplicates().sort_values(["groups", "method"], kind="stable")
    keys = list(rows.itertuples(index=False, name=None))
    canvas.set_figheight(1.7 + 0.19 * len(keys))
    panels = canvas.subplots(1, 2, sharex=True, sharey=True)
    for axes, kind in zip(panels, ("channels", "filters"), strict=True):
        axes.axvline(1, color="0.5", linewidth=1, linestyle="--")
        for cell in drawn[drawn["kind"] == kind].to_dict("records"):
            place = keys.index((cell["groups"], cell["method"], cell["moment"]))
            style = STYLES[cell["method"]]
            axes.hlines(place, cell["smallest"], cell["largest"], color=style["color"], linewidth=1)
            axes.hlines(place, cell["low"], cell["high"], color=style["color"], linewidth=6, alpha=0.45)
            face = "white" if cell["moment"] == "start" else style["color"]
            axes.plot(cell["median"], place, color=style["color"], marker=style["marker"], markerfacecolor=face)
        axes.set_title(f"{kind} of a group", fontsize="small")
    panels[0].set_yticks(range(len(keys)), [f"G = {g}, {m}, {when}" for g, m, when in keys], fontsize="x-small")
    panels[0].set_ylim(len(keys) - 0.5, -0.5)
    panels[0].set_xlabel("size over C/G (no unit)")
    panels[1].set_xlabel("size over N/G (no unit)")
    boxes = [
        Line2D([], [], color="0.4", linewidth=1, label="smallest to largest"),
        Line2D([], [], color="0.4", linewidth=6, alpha=0.45, label="the middle 80 %"),
        Line2D([], [], color="0.4", marker="o", linestyle="none", markerfacecolor="white", label="median, start"),
        Line2D([], [], color="0.4", marker="o", linestyle="none", label="median, end"),
    ]
    if len(equal):
        boxes.append(Line2D([], [], linestyle="none", label=f"not drawn, always equal: {', '.join(equal)}"))
    canvas.legend(handles=boxes, loc="outside lower center", ncols=2, **_SMALL)


def _points(axes: Axes, cells: pd.DataFrame, x: str, y: str, *, across: bool = False, **style: Any) -> None:  # noqa: ANN401
    """Points with intervals of y or, `across`, of x: open and dotted from few seeds, none from one."""
    line = style.pop("linestyle")
    axes.plot(cells[x], cells[y], color=style["color"], linestyle=line)
    value = x if across else y
    for many, part in cells.groupby(cells["seeds"] >= _MANY):
        spread = [(part[value] - part["low"]).clip(lower=0), (part["high"] - part[value]).clip(lower=0)]
        bars: dict[str, Any] = {"xerr" if across else "yerr": spread} if (part["seeds"] > 1).any() else {}
        face = style["color"] if many else "white"
        drawn = axes.errorbar(part[x], part[y], linestyle="none", capsize=3, markerfacecolor=face, **bars, **style)
        for bar in drawn.lines[2]:
            bar.set_linestyle("-" if many else ":")


def _lowest(axes: Axes) -> bool:
    """Whether a panel has none below it, and so names the axis."""
    place = axes.get_subplotspec()
    assert place is not None
    figure = axes.figure
    below = [other.get_subplotspec() for other in figure.axes]
    return not any(o and o.colspan == place.colspan and o.rowspan.start > place.rowspan.start for o in below)


def _few(numbers: pd.DataFrame) -> list[Line2D]:
    """For a legend: what open marks say, if there are any."""
    words = f"open, dotted: fewer than {_MANY} seeds"
    mark = Line2D([], [], color="0.3", marker="o", markerfacecolor="white", linestyle=":", label=words)
    return [mark] if (numbers["seeds"] < _MANY).any() else []


def _of_groups(groups: Sequence[int]) -> list[Line2D]:
    """For a legend: the look of every number of groups, whatever the method's colour."""
    looks = [of_method("dense", order, len(groups)) for order in range(len(groups))]
    return [Line2D([], [], label=f"G = {g}", **look) for g, look in zip(groups, looks, strict=True)]


def _by_method(numbers: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    for method in METHODS:
        cells = numbers[numbers["method"] == method]
        if len(cells):
            yield method, cells
