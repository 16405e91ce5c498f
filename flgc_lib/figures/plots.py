"""The experiment's figures: each draws one table of `flgc_lib.experiment.analysis` on a canvas."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from flgc_lib.figures.styles import COLOURS, LINES, MARKERS, STYLES, look
from flgc_lib.methods import METHODS


def draw_accuracy_by_groups(numbers: pd.DataFrame, canvas: Canvas) -> None:
    """The paper's question: one line a method, the dense network as a level."""
    axes = canvas.subplots()
    methods = list(_by_method(numbers))
    for order, (method, cells) in enumerate(methods):
        if method == "dense":
            label = f"{method} ({cells['mega_macs'].iloc[0]:.3g} MMAC)"
            axes.axhline(cells["accuracy"].iloc[0], label=label, **STYLES[method])
        else:  # side by side, not one upon the other
            apart = cells.assign(groups=cells["groups"] * 2 ** (0.06 * (order - len(methods) / 2)))
            _errorbar(axes, apart, "groups", "accuracy", label=method, **STYLES[method])
    _group_axis(axes, numbers["groups"][numbers["method"] != "dense"])
    axes.set_ylabel("test accuracy after the last epoch (%)")
    _legend_beside(axes)


def draw_accuracy_by_macs(numbers: pd.DataFrame, canvas: Canvas) -> None:
    """The same accuracies against what the networks really cost."""
    axes = canvas.subplots()
    for method, cells in _by_method(numbers):
        style = {"marker": "*"} | STYLES[method]  # dense, a level elsewhere, is a point here
        _errorbar(axes, cells, "mega_macs", "accuracy", label=method, **style)
    costs = numbers.groupby("groups")["mega_macs"].min()
    axes.set_xscale("log")
    axes.set_xticks(costs, [f"{cost:.3g}\n{'dense' if g == 1 else f'G = {g}'}" for g, cost in costs.items()])
    axes.minorticks_off()
    axes.set_xlabel("multiply-accumulates for one image, copies included (millions, log scale; marked: the cheapest)")
    axes.set_ylabel("test accuracy after the last epoch (%)")
    axes.legend(frameon=False, fontsize="small")


def draw_paired_differences(numbers: pd.DataFrame, canvas: Canvas) -> None:
    """One panel a pair of methods: difference at each G and, apart, their mean; 0 is no difference."""
    pairs = list(dict.fromkeys(zip(numbers["method"], numbers["baseline"], strict=True)))
    panels = canvas.subplots(1, len(pairs), sharey=True, squeeze=False)[0]
    ticks = sorted(set(numbers["groups"]) - {"mean"}, key=int)
    places = {g: place for place, g in enumerate(ticks)} | {"mean": len(ticks) + 1}
    for axes, (method, baseline) in zip(panels, pairs, strict=True):
        cells = numbers[(numbers["method"] == method) & (numbers["baseline"] == baseline)]
        cells = cells.assign(place=cells["groups"].map(places))
        axes.axhline(0, color="0.5", linewidth=1)
        axes.axvline(len(ticks), color="0.8", linewidth=1)
        _errorbar(axes, cells, "place", "difference", **(STYLES[method] | {"linestyle": "none"}))
        axes.set_xticks(list(places.values()), list(places), fontsize="small")
        axes.set_xlim(-0.75, len(ticks) + 1.75)
        axes.set_title(f"{method}\n− {baseline}", fontsize="small")
    canvas.supxlabel("number of groups G", fontsize="medium")
    panels[0].set_ylabel("difference in test accuracy\n(percentage points)")


def draw_rule_choices(numbers: pd.DataFrame, canvas: Canvas) -> None:
    """Accuracy (above) and copies (below) against k; a line for each score and time of copying, a column for each G."""
    groups = sorted(numbers["groups"].unique())
    panels = canvas.subplots(2, len(groups), sharex=True, sharey="row", squeeze=False)
    choices = list(numbers.groupby(["score", "copy_time"]))
    for column, g in zip(panels.T, groups, strict=True):
        for order, ((score, when), cells) in enumerate(choices):
            cells = cells[cells["groups"] == g]
            cells = cells.assign(top_k=cells["top_k"] + 0.15 * (order - (len(choices) - 1) / 2))
            style = {"label": f"{score}, {when}"} | look(order)
            _errorbar(column[0], cells, "top_k", "accuracy", **style)
            column[1].plot(cells["top_k"], cells["copies"], **style)
        column[0].set_title(f"G = {g}", fontsize="small")
        column[1].set_xticks(sorted(numbers["top_k"].unique()))
        column[1].set_xlabel("k of the rule")
    panels[0, 0].set_ylabel("test accuracy (%)")
    panels[1, 0].set_ylabel("copies, all layers")
    panels[1, 0].legend(frameon=False, fontsize="small", loc="upper left")  # fewer groups, fewer copies: room


def draw_ways_to_learn(numbers: pd.DataFrame, canvas: Canvas) -> None:
    """A line for each way to get groups: accuracy on held-out images with its interval, and its cost in words."""
    axes = canvas.subplots()
    labels = []
    for place, row in enumerate(numbers.to_dict("records")):
        start = f"soft start {row['soft_start']:g}" if row["soft_start"] else "hard from the start"
        labels.append(f"{row['method']}, {start}\n{row['mega_macs']:.3f} MMAC, {row['channels_moved']:.0f} % moved")
        spread = [[row["accuracy"] - row["low"]], [row["high"] - row["accuracy"]]]
        style = {"color": STYLES[row["method"]]["color"], "marker": STYLES[row["method"]]["marker"]}
        axes.errorbar(row["accuracy"], place, xerr=spread if row["seeds"] > 1 else None, capsize=3, **style)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("accuracy on held-out training images (%)")


def draw_copies_by_layer(numbers: pd.DataFrame, canvas: Canvas) -> None:
    """Copies in % of a layer's channels, from the first layer to the last; one line a number of groups."""
    axes = canvas.subplots()
    for label, cells, style in _series(numbers):
        axes.plot(cells["place"], 100 * cells["copies"] / cells["channels"], label=label, markersize=4, **style)
    layers = numbers.drop_duplicates("place").set_index("place")["layer"]
    stage = layers.str.split(".").str[0]
    first = stage[~stage.duplicated()]  # of each stage
    axes.set_xticks(first.index, first.tolist())
    axes.set_xlabel("layer, in the network's order; the mark is where a stage begins")
    axes.set_ylabel("copies (% of the layer's channels)")
    axes.legend(frameon=False, fontsize="small")


def draw_moves_by_epoch(numbers: pd.DataFrame, canvas: Canvas) -> None:
    """Share of channels in another group than at the start (left) and than an epoch before (right)."""
    panels = canvas.subplots(1, 2)
    columns = {"channels_moved": "than at the start", "channels_moved_last": "than an epoch before"}
    for axes, (column, words) in zip(panels, columns.items(), strict=True):
        for label, cells, style in _series(numbers):
            axes.plot(cells["epoch"], cells[column], label=label, markersize=4, **style)
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"channels in another group\n{words} (%, log above 1)")
        axes.set_yscale("symlog", linthresh=1)  # shares of 2 % and of 90 %
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylim(0, 100)
        axes.xaxis.get_major_locator().set_params(integer=True)
    _legend_beside(panels[1])


def draw_group_sizes(numbers: pd.DataFrame, canvas: Canvas) -> None:
    """Sizes of the groups over the equal size: median, 10 to 90 % (thick) and smallest to largest (thin)."""
    panels = canvas.subplots(1, 2, sharey=True)
    groups = sorted(numbers["groups"].unique())
    series = list(dict.fromkeys(zip(numbers["method"], numbers["moment"], strict=True)))
    for axes, kind in zip(panels, ("channels", "filters"), strict=True):
        axes.axhline(1, color="0.5", linewidth=1, linestyle="--")
        for order, (method, moment) in enumerate(series):
            of = (numbers["kind"] == kind) & (numbers["method"] == method) & (numbers["moment"] == moment)
            cells = numbers[of]
            offset = 0.7 * ((order + 0.5) / len(series) - 0.5)
            places = np.array([groups.index(g) + offset for g in cells["groups"]])
            colour = STYLES[method]["color"]
            axes.vlines(places, cells["smallest"], cells["largest"], color=colour, linewidth=1)
            axes.vlines(places, cells["low"], cells["high"], color=colour, linewidth=5, alpha=0.5)
            filled = {"start": "white", "end": colour}[moment]
            style = {"color": colour, "marker": STYLES[method]["marker"], "markerfacecolor": filled}
            axes.plot(places, cells["median"], linestyle="none", label=f"{method}, {moment}", **style)
        axes.set_xticks(range(len(groups)), [str(g) for g in groups])
        axes.set_xlim(-0.6, len(groups) - 0.4)
        axes.set_xlabel("number of groups G")
        axes.set_title(f"{kind} of a group", fontsize="small")
    panels[0].set_ylabel("size over the equal size (no unit)")
    _legend_beside(panels[1])


def _errorbar(axes: Axes, cells: pd.DataFrame, x: str, y: str, **style: Any) -> None:  # noqa: ANN401
    """Points with their intervals; a single seed has none, and gets no bar."""
    spread = [(cells[y] - cells["low"]).clip(lower=0), (cells["high"] - cells[y]).clip(lower=0)]
    axes.errorbar(cells[x], cells[y], yerr=spread if (cells["seeds"] > 1).any() else None, capsize=3, **style)


def _legend_beside(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize="small", bbox_to_anchor=(1, 1), loc="upper left")


def _group_axis(axes: Axes, groups: "pd.Series[int]") -> None:
    ticks = sorted(groups.unique())
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    axes.set_xlabel("number of groups G")


def _by_method(numbers: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    for method in METHODS:
        cells = numbers[numbers["method"] == method]
        if len(cells):
            yield method, cells


def _series(numbers: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame, dict[str, Any]]]:
    """One line a method and number of groups: light to dark with G, marker for G, line for the method."""
    groups = sorted(numbers["groups"].unique())
    colours = sns.color_palette("flare", len(groups)) if len(groups) > 1 else [COLOURS[0]]
    for order, (method, cells) in enumerate(_by_method(numbers)):
        for g, colour, marker in zip(groups, colours, MARKERS, strict=False):
            line = cells[cells["groups"] == g]
            if len(line):
                filled = colour if order % 2 == 0 else "white"
                style = {"color": colour, "marker": marker, "markerfacecolor": filled}
                yield f"{method}, G = {g}", line, style | {"linestyle": LINES[order % len(LINES)]}
