"""Pictures of groups, each drawn on one Axes: channels flowing into groups, masks as matrices, scores against τ.

Groups are told apart by colour and by their number, so that the pictures read in grey and for the colour-blind.
Source: Motohashi and Yamauchi, Fig. 2 (a, b) and section 3.
"""

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from torch import Tensor
from torch.nn import functional as F

from flgc_lib.figures import worked_example
from flgc_lib.figures.styles import group_colour
from flgc_lib.grouping import duplicates, membership, thresholds


def draw_groups(inputs: Tensor, filters: Tensor, axes: Axes) -> None:
    """Channels on the left flow into groups, which feed filters on the right (Fig. 2, redrawn).

    Args:
        inputs: A without copies, (C, G), bool.
        filters: B, (N, G), bool.
        axes: to draw on.
    """
    (C, G), N = inputs.shape, len(filters)
    channel_y, filter_y, group_y = (_spread(n) for n in (C, N, G))
    for c, g in inputs.nonzero().tolist():
        _line(axes, 0.04, channel_y[c], 0.42, group_y[g], group_colour(g), "-")
    for n, g in filters.nonzero().tolist():
        _line(axes, 0.58, group_y[g], 0.96, filter_y[n], group_colour(g), "-")
    for c in range(C):
        own = int(inputs[c].int().argmax())
        _node(axes, 0.02, channel_y[c], str(c), group_colour(own))
    for n in range(N):
        _node(axes, 0.98, filter_y[n], str(n), group_colour(int(filters[n].int().argmax())))
    sizes = zip(inputs.sum(dim=0).tolist(), filters.sum(dim=0).tolist(), strict=True)
    for g, (channels, outputs) in enumerate(sizes):
        _box(axes, 0.5, group_y[g], f"group {g}\n{channels} → {outputs}", group_colour(g))
    for x, text in ((0.02, f"{C} channels"), (0.5, f"{G} groups"), (0.98, f"{N} filters")):
        axes.text(x, 1.16, text, ha="center", va="bottom", fontsize=8)
    _frameless(axes)


def draw_duplication(S: Tensor, axes: Axes) -> None:
    """The rule, k = 3, as channels flowing into groups: own channels as lines, copies as dashed arrows with S."""
    members = membership(S)
    copies, tau = duplicates(S, members), thresholds(S, members)
    channel_y, group_y = _spread(len(S)), _spread(S.shape[1])
    for c, g in members.nonzero().tolist():
        _line(axes, 0.25, channel_y[c], 0.76, group_y[g], group_colour(g), "-")
        axes.text(0.19, channel_y[c], f"{S[c, g]:.2f}", fontsize=8, ha="center", va="center")
    for c, g in copies.nonzero().tolist():
        _line(axes, 0.25, channel_y[c], 0.76, group_y[g], group_colour(g), (0, (4, 2)), width=2.4)
        x, y = 0.25 + 0.51 * 0.65, channel_y[c] + (group_y[g] - channel_y[c]) * 0.65
        text = f"copy: {S[c, g]:.2f} > {tau[g]:.2f}"
        axes.text(x, y, text, fontsize=7, ha="center", va="center", bbox={"fc": "w", "ec": group_colour(g), "ls": "--"})
    for c in range(len(S)):
        _node(axes, 0.06, channel_y[c], str(c), group_colour(int(members[c].int().argmax())))
    for g, level in enumerate(tau.tolist()):
        _box(axes, 0.84, group_y[g], f"group {g}\nτ = {level:.2f}", group_colour(g))
    axes.text(0.06, 1.09, "channel", ha="center", va="bottom", fontsize=8)
    axes.text(0.19, 1.09, "own score", ha="center", va="bottom", fontsize=8)
    axes.text(0.84, 1.09, "group", ha="center", va="bottom", fontsize=8)
    _frameless(axes)


def draw_mask(
    inputs: Tensor, filters: Tensor, axes: Axes, *, own: Tensor | None = None, copies: Tensor | None = None
) -> None:
    """M as a matrix: a cell is filled, in its group's colour and number, where the filter of its row sees the channel.

    Args:
        inputs: A, copies included, (C, G).
        filters: B, (N, G).
        axes: to draw on.
        own: A without copies, (C, G): orders channels by their own group and filters by theirs, so that the groups
            show as blocks, and copies outside them.
        copies: (C, G), bool: cells that are open through a copy get a dashed frame; by default those beyond `own`.
    """
    if copies is None:
        copies = torch.zeros_like(inputs) if own is None else inputs & ~own
    C, N = len(inputs), len(filters)
    columns = torch.arange(C) if own is None else own.int().argmax(dim=1).argsort(stable=True)
    rows = torch.arange(N) if own is None else filters.int().argmax(dim=1).argsort(stable=True)
    picture = np.ones((N, C, 3))
    for y, n in enumerate(rows.tolist()):
        group = int(filters[n].int().argmax())
        for x, c in enumerate(columns.tolist()):
            if inputs[c, group]:
                picture[y, x] = group_colour(group)
                if copies[c, group]:
                    _frame(axes, x, y, "--")
                if max(C, N) <= 16:
                    axes.text(x, y, str(group), ha="center", va="center", fontsize=7, color="w", fontweight="bold")
    axes.imshow(picture, interpolation="none")
    for places, minor, size in ((axes.xaxis, columns, C), (axes.yaxis, rows, N)):
        places.set_ticks(range(size), [str(int(i)) for i in minor] if size <= 16 else [""] * size)
        places.set_ticks(np.arange(-0.5, size), minor=True)
    axes.grid(which="minor", color="0.85", linewidth=0.5)
    axes.tick_params(which="both", length=0)
    suffix = "" if own is None else " (sorted by group)"
    axes.set_xlabel("input channel c" + suffix)
    axes.set_ylabel("filter n" + suffix)


def draw_scores(S: Tensor, axes: Axes, *, top_k: int = 3) -> None:
    """S as a heat map: members have a solid frame, copies a dashed one, and τ stands under each group.

    Args:
        S: (C, G).
        axes: to draw on.
        top_k: k of the rule.
    """
    members = membership(S)
    (C, G), span = S.shape, float(S.abs().max())
    axes.imshow(S.numpy(), cmap="PuOr", aspect="auto", vmin=-span, vmax=span)
    if C <= 16:
        for c in range(C):
            for g in range(G):
                bright = abs(float(S[c, g])) > 0.65 * span
                text = f"{S[c, g]:.2f}"
                axes.text(
                    g, c, text, ha="center", va="center", color="w" if bright else "k", fontsize=8 if C <= 8 else 7
                )
    for where, style in ((members, "-"), (duplicates(S, members, top_k), "--")):
        for c, g in where.nonzero().tolist():
            _frame(axes, g, c, style)
    tau = thresholds(S, members, top_k).tolist()
    axes.set_xticks(range(G), [f"{g}\nτ = {level:.2f}" for g, level in enumerate(tau)])
    axes.set_yticks(range(C), [str(c) for c in range(C)] if C <= 16 else [""] * C)
    axes.tick_params(length=0)
    axes.set_xlabel("group g")
    axes.set_ylabel("channel c")


def draw_example_groups(_: pd.DataFrame, canvas: Canvas) -> None:
    """Fig. 2, redrawn with the worked example: (a) fixed groups, (b) learned ones."""
    canvas.set_figheight(6.8)
    S, T = worked_example.S, worked_example.T
    fixed = [F.one_hot(torch.arange(n) * 2 // n, 2).bool() for n in (len(S), len(T))]
    titles = {"(a) fixed when the network is built": fixed, "(b) learned": [membership(S), membership(T)]}
    for axes, (title, (inputs, filters)) in zip(canvas.subplots(2, 1), titles.items(), strict=True):
        draw_groups(inputs, filters, axes)
        axes.set_title(title, fontsize=9)


def draw_example_rule(_: pd.DataFrame, canvas: Canvas) -> None:
    """The rule on the worked example."""
    draw_duplication(worked_example.S, canvas.subplots())


def draw_example_masks(_: pd.DataFrame, canvas: Canvas) -> None:
    """M of the worked example, without the rule and with it."""
    canvas.set_figheight(2.1)
    members, filters = membership(worked_example.S), membership(worked_example.T)
    copies = duplicates(worked_example.S, members)
    titles = {"FLGC": members, "with the rule": members | copies}
    for axes, (title, inputs) in zip(canvas.subplots(1, 2), titles.items(), strict=True):
        draw_mask(inputs, filters, axes, copies=copies)
        axes.set_title(title, fontsize=9)


def _frame(axes: Axes, x: float, y: float, style: str) -> None:
    box = mpl.patches.Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, fill=False, ls=style, lw=1.8, ec="k", zorder=3)
    axes.add_patch(box)


def _spread(count: int) -> np.ndarray:
    """Heights of `count` nodes, the first at the top."""
    return np.linspace(1, 0, count) if count > 1 else np.array([0.5])


def _line(axes: Axes, x: float, y: float, to_x: float, to_y: float, colour: object, style: object,
          width: float = 1.3) -> None:  # fmt: skip
    arrow = mpl.patches.FancyArrowPatch(
        (x, y), (to_x, to_y), arrowstyle="-|>", mutation_scale=8, color=colour, linestyle=style, linewidth=width
    )
    axes.add_patch(arrow)


def _node(axes: Axes, x: float, y: float, text: str, colour: object) -> None:
    axes.text(x, y, text, ha="center", va="center", fontsize=7, color="w", fontweight="bold", zorder=3,
              bbox={"boxstyle": "circle,pad=0.25", "fc": colour, "ec": "k", "lw": 0.6})  # fmt: skip


def _box(axes: Axes, x: float, y: float, text: str, colour: object) -> None:
    axes.text(x, y, text, ha="center", va="center", fontsize=8, zorder=3,
              bbox={"boxstyle": "round,pad=0.35", "fc": "w", "ec": colour, "lw": 2.2})  # fmt: skip


def _frameless(axes: Axes) -> None:
    axes.set_xlim(-0.04, 1.04)
    axes.set_ylim(-0.12, 1.26)
    axes.axis("off")
