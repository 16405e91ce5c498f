"""Pictures of a run's groups, from its record: S and T, masks, sizes, moves and copies of a layer or of all layers.

They show `assignments.Arrays`, those of `groups/<run>.npz` or of a network that was trained just now, at the three
moments of the record: the start, half-way and the end.

Source: Motohashi and Yamauchi, sections 2-3 and 3; the names of the arrays stand in data/results/README.md.
"""

import numpy as np
from matplotlib.figure import Figure as Canvas

from flgc_lib.experiment.assignments import SNAPSHOTS, Arrays, Kind, array_name, layers, transitions
from flgc_lib.figures.styles import group_colour

_KINDS: dict[str, tuple[Kind, Kind]] = {"channel": ("S", "channel_group"), "filter": ("T", "filter_group")}


def order(groups_of: np.ndarray) -> np.ndarray:
    """Places sorted by group, in their own order within one: so that groups show as steps and blocks."""
    return groups_of.argsort(kind="stable")


def mask_at(arrays: Arrays, layer: str, moment: int) -> np.ndarray:
    """M = B Aᵀ, (N, C), 0/1, built again from the record at one of its three moments."""
    A = arrays[array_name(layer, "inputs")][moment]  # (C, G), copies included
    filters = arrays[array_name(layer, "filter_group")][arrays[SNAPSHOTS][moment]]  # (N,)
    return np.eye(A.shape[1], dtype=int)[filters] @ A.T.astype(int)


def draw_logits(arrays: Arrays, layer: str, canvas: Canvas) -> None:
    """S, below it T, at the three moments; a column a channel or filter, sorted by group at the end; dots: argmax."""
    moments = arrays[SNAPSHOTS]
    panels = canvas.subplots(2 * len(moments), 1)
    for what, place in (("channel", 0), ("filter", len(moments))):
        logits, groups = _KINDS[what]
        groups_of = arrays[array_name(layer, groups)]
        values = arrays[array_name(layer, logits)].astype(float)  # (3, rows, G)
        places, span = order(groups_of[-1]), np.abs(values).max()
        for axes, value, epoch in zip(panels[place:], values, moments, strict=False):
            picture = axes.imshow(value[places].T, aspect="auto", cmap="PuOr", vmin=-span, vmax=span)
            if len(places) <= 256:
                axes.plot(groups_of[epoch][places], ".", color="black", markersize=3)
            for axis in (axes.xaxis, axes.yaxis):
                axis.get_major_locator().set_params(integer=True)
            axes.set_ylabel("group g")
            axes.set_title(f"{logits}, {_when(epoch)}", fontsize="small")
        axes.set_xlabel(f"{what}, sorted by its group at the end")
        canvas.colorbar(picture, ax=panels[place : place + len(moments)], label=f"logit {logits} (no unit)")


def draw_masks(arrays: Arrays, layer: str, canvas: Canvas) -> None:
    """M at the three moments, sorted by the groups of each; in the filter's colour, dark where through a copy."""
    moments = arrays[SNAPSHOTS]
    for place, (axes, epoch) in enumerate(zip(canvas.subplots(len(moments), 1), moments, strict=True)):
        channels, filters = (arrays[array_name(layer, groups)][epoch] for _, groups in _KINDS.values())
        rows, columns = order(filters), order(channels)
        M = mask_at(arrays, layer, place)[rows][:, columns]
        picture = np.where(M[:, :, None] == 1, np.array([group_colour(g) for g in filters[rows]])[:, None], 1.0)
        picture[(M == 1) & (filters[rows][:, None] != channels[columns])] *= 0.45
        axes.imshow(picture, aspect="auto", interpolation="none")
        axes.set_title(f"{_when(epoch)}: {M.mean():.3f} of all connections", fontsize="small")
        axes.set_ylabel("filter, sorted")
    axes.set_xlabel("channel, sorted by group")


def draw_sizes(arrays: Arrays, layer: str, canvas: Canvas) -> None:
    """Channels and filters of each group, at the start and at the end; the line is the equal size."""
    groups = arrays[array_name(layer, "inputs")].shape[2]
    for axes, (what, (_, key)) in zip(canvas.subplots(2, 1, sharex=True), _KINDS.items(), strict=True):
        groups_of = arrays[array_name(layer, key)]
        for shift, moment, look in ((-0.2, 0, {"color": "white", "hatch": "//"}), (0.2, -1, {"color": "0.45"})):
            sizes = np.bincount(groups_of[moment], minlength=groups)
            label = "end" if moment else "start"
            axes.bar(np.arange(groups) + shift, sizes, 0.4, edgecolor="black", label=label, **look)
        axes.axhline(groups_of.shape[1] / groups, color="black", linestyle="--", label="equal size")
        axes.set_ylabel(f"{what}s in the group")
    axes.set_xlabel("group g")
    axes.set_xticks(range(groups))
    canvas.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)


def draw_flow(arrays: Arrays, layer: str, canvas: Canvas) -> None:
    """Who went where from the start (row) to the end (column): channels and filters in numbers; the diagonal stayed."""
    groups = arrays[array_name(layer, "inputs")].shape[2]
    for axes, (what, (_, key)) in zip(canvas.subplots(2, 1), _KINDS.items(), strict=True):
        groups_of = arrays[array_name(layer, key)]
        flow = transitions(groups_of[0], groups_of[-1], groups)
        axes.imshow(flow, cmap="Greys", vmin=0, vmax=1.4 * flow.max())
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_major_locator().set_params(integer=True)
        for i, j in np.argwhere(flow) if groups <= 16 else ():
            bright = "white" if 2 * flow[i, j] > flow.max() else "black"
            size = 8 if groups <= 8 else 6
            axes.text(j, i, str(flow[i, j]), ha="center", va="center", color=bright, fontsize=size)
        axes.set_title(f"{what}s: {np.trace(flow)} of {flow.sum()} stayed", fontsize="small")
        axes.set_ylabel("group at the start")
    axes.set_xlabel("group at the end")


def draw_moved(arrays: Arrays, canvas: Canvas) -> None:
    """Every layer (column) and epoch (row): the share of channels in another group than at the start."""
    table = layers(arrays)
    moved = []
    for name in table["layer"]:
        groups_of = arrays[array_name(name, "channel_group")]
        moved.append(100 * (groups_of != groups_of[0]).mean(axis=1)[1:])
    axes = canvas.subplots()
    picture = axes.imshow(np.array(moved).T, aspect="auto", cmap="Greys", vmin=0, origin="lower")
    axes.set_yticks(range(len(moved[0])), [str(epoch) for epoch in range(1, len(moved[0]) + 1)], fontsize="x-small")
    stage = table["layer"].str.split(".").str[0]
    axes.set_xticks(table["place"][~stage.duplicated()], stage[~stage.duplicated()])
    axes.set_xlabel("layer, in the network's order")
    axes.set_ylabel("after epoch")
    canvas.colorbar(picture, label="channels in another group\nthan at the start (%)")


def draw_copies(arrays: Arrays, canvas: Canvas) -> None:
    """Copies that the rule makes in every layer, at the start (open) and at the end."""
    table = layers(arrays)
    start = [int(arrays[array_name(name, "copies")][0]) for name in table["layer"]]
    axes = canvas.subplots()
    axes.plot(table["place"], start, "o", markerfacecolor="white", color="0.4", label="start")
    axes.vlines(table["place"], 0, table["copies"], color="black", linewidth=1)
    axes.plot(table["place"], table["copies"], "^", color="black", markersize=5, label="end")
    first = table[~table["layer"].str.split(".").str[0].duplicated()].to_dict("records")
    axes.set_xticks([row["place"] for row in first], [f"{row['layer']}\nC = {row['channels']}" for row in first],
                    fontsize="x-small")  # fmt: skip
    axes.set_xlabel("layer, in the network's order")
    axes.set_ylabel("copies")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def _when(epoch: int) -> str:
    return "start" if epoch == 0 else f"epoch {epoch}"
