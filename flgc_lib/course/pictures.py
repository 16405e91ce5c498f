"""Pictures that a student turns knobs on, and a film: the rule, the straight-through gradient, groups in training.

Source: Motohashi and Yamauchi, sections 2-3 and 3.
"""

import base64
import tempfile
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import HTML
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from torch import Tensor

from flgc_lib.figures.styles import group_colour
from flgc_lib.grouping import Estimator, connection_mask, duplicates, membership, straight_through, thresholds
from flgc_lib.layers import Score

SCORES = mpl.colormaps["PuOr"]


def show_rule(S: Tensor, T: Tensor, channel: int, *, top_k: int = 3, score: Score = "logit") -> None:
    """S → A → M and the copies: all of S, one channel's row against τ, and the mask.

    Args:
        S: (C, G).
        T: (N, G).
        channel: whose row is shown against τ.
        top_k: k of the rule.
        score: what the rule compares, S itself or its row softmax.

    Raises:
        ValueError: for a channel that S has not.
    """
    if not 0 <= channel < len(S):
        raise ValueError(f"channel={channel} must be from 0 to {len(S) - 1}, the rows of S")
    scores = S if score == "logit" else S.softmax(dim=1)
    A, B = membership(S), membership(T)
    copied = duplicates(scores, A, top_k)
    canvas, (left, middle, right) = plt.subplots(
        1, 3, figsize=(11, 4.4), width_ratios=(1, 1, 1.1), layout="constrained"
    )
    _draw_scores(scores, A, copied, channel, left)
    _draw_row(scores[channel], thresholds(scores, A, top_k), A[channel], copied[channel], middle)
    middle.set_title(f"channel {channel}'s row: a line is τ(g), the bar to beat", fontsize=9)
    middle.set_ylabel("logit S (no unit)" if score == "logit" else "softmax of S (share of the row)")
    _draw_connections(A, copied, B, right)
    sizes = B.sum(dim=0)  # (G,): every member and every copy is seen by so many filters
    plain, more = int((A.sum(dim=0) * sizes).sum()), int((copied.sum(dim=0) * sizes).sum())
    what = f"C = {len(S)}, N = {len(T)}, G = {S.shape[1]}, k = {top_k}, score = {score}"
    canvas.suptitle(f"{what}: {int(copied.sum())} copies, {plain} + {more} connections", fontsize=10)
    plt.show()


def show_gradient(s0: float, s1: float, u0: float, u1: float) -> None:
    """What one channel's two logits feel from the loss: through the full estimator, and through the masked one.

    Args:
        s0: S of the channel for group 0.
        s1: the same for group 1.
        u0: ∂L/∂A, what being in group 0 costs.
        u1: what being in group 1 would cost.
    """
    u = torch.tensor([[u0, u1]])
    own = int(membership(torch.tensor([[s0, s1]])).int().argmax())
    canvas, (left, right) = plt.subplots(1, 2, figsize=(9, 3), width_ratios=(1, 1.5), layout="constrained")
    left.bar((0, 1), torch.tensor([s0, s1]).softmax(dim=0), color=[group_colour(0), group_colour(1)], width=0.6)
    left.set(xticks=(0, 1), xlabel="group g", ylabel="share p (softmax of S)", ylim=(0, 1))
    left.set_title(f"argmax: the channel is in group {own}", fontsize=9)
    estimators: tuple[Estimator, ...] = ("full", "masked")
    for place, estimator in enumerate(estimators):
        S = torch.tensor([[s0, s1]], requires_grad=True)
        (straight_through(S, membership(S), estimator=estimator) * u).sum().backward()
        push = -S.grad[0] if S.grad is not None else torch.zeros(2)  # descent goes against the gradient
        for g in (0, 1):
            label = f"S of group {g}" if estimator == "full" else None
            right.barh(place - 0.2 + 0.4 * g, float(push[g]), 0.36, color=group_colour(g), label=label)
    right.set_yticks((0, 1), ["full", "masked"])
    right.invert_yaxis()
    right.axvline(0, color="k", linewidth=0.8)
    right.set(xlim=(-0.6, 0.6), xlabel="where descent pushes the logit, -∂L/∂S")
    right.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    better = "equally good" if u0 == u1 else f"group {int(u1 < u0)} is better"
    right.set_title(f"u = ({u0:.1f}, {u1:.1f}): {better}", fontsize=9)
    canvas.suptitle(f"One channel, two groups, S = ({s0:.1f}, {s1:.1f})", fontsize=10)
    plt.show()


def film(steps: Sequence[float], S: Tensor, T: Tensor, rows: Tensor, columns: Tensor) -> HTML:
    """Training as a moving picture: S and the mask that follows from S and T, moment by moment.

    Args:
        steps: of training, a number for each moment.
        S: (moments, C, G).
        T: (moments, N, G).
        rows: order in which filters are shown, (N,).
        columns: order in which channels are shown, (C,).
    """
    span = float(S.abs().max())
    canvas, (left, right) = plt.subplots(1, 2, figsize=(7, 3.6), width_ratios=(1, 1.9), dpi=80)
    scores = left.imshow(S[0, columns], cmap=SCORES, vmin=-span, vmax=span, aspect="auto", interpolation="none")
    left.set(xlabel="group g", ylabel="channel c, sorted by planted group", xticks=range(S.shape[2]), yticks=[])
    mask = right.imshow(np.zeros((len(rows), len(columns))), cmap="Greys", vmin=0, vmax=1.3, interpolation="none")
    right.set(xlabel="channel c", ylabel="filter n, sorted", xticks=[], yticks=[])
    left.set_title("S (purple: large)", fontsize=9)

    def draw(moment: int) -> None:
        scores.set_data(S[moment, columns])
        mask.set_data(connection_mask(membership(S[moment]), membership(T[moment]))[rows][:, columns])
        right.set_title(f"M at step {steps[moment]:.0f}", fontsize=9)

    canvas.subplots_adjust(bottom=0.14, top=0.9, wspace=0.25)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "film.gif"
        FuncAnimation(canvas, draw, frames=len(steps), init_func=lambda: None).save(file, PillowWriter(fps=5))
        picture = base64.b64encode(file.read_bytes()).decode("ascii")
    plt.close(canvas)
    return HTML(f'<img alt="S and M over training" src="data:image/gif;base64,{picture}">')


def _draw_scores(scores: Tensor, A: Tensor, copied: Tensor, channel: int, axes: Axes) -> None:
    """All of S (C, G): a solid frame is a member, a dotted one a copy."""
    (C, G), span = scores.shape, float(scores.abs().max())
    axes.imshow(scores, cmap=SCORES, vmin=-span, vmax=span, aspect="auto", interpolation="none")
    for where, style in ((A, "-"), (copied, ":")):
        for c, g in where.nonzero().tolist():
            frame = mpl.patches.Rectangle((g - 0.45, c - 0.43), 0.9, 0.86, fill=False, ls=style, lw=1.6, ec="k")
            axes.add_patch(frame)
    axes.set(xlabel="group g", ylabel="channel c", yticks=range(C))
    axes.set_xticks(range(G), [str(g) for g in range(G)])
    axes.get_yticklabels()[channel].set_fontweight("bold")
    axes.annotate("", (-0.55, channel), (-1.1 * G / 8, channel), annotation_clip=False, arrowprops={"arrowstyle": "->"})
    axes.tick_params(length=0, labelsize=7)
    axes.set_title("scores: solid frame A, dotted frame a copy", fontsize=9)


def _draw_row(row: Tensor, tau: Tensor, own: Tensor, copied: Tensor, axes: Axes) -> None:
    """One channel's scores (G,) against τ (G,), with a word on what each means."""
    groups = range(len(row))
    colours = [group_colour(g) for g in groups]
    bars = axes.bar(groups, row, color=colours, edgecolor="k", linewidth=0.6, width=0.7)
    finite = tau[tau.isfinite()]
    low, high = min(0.0, float(row.min())), float(torch.cat([row, finite]).max())
    top = high + 0.3 * (high - low)
    for g, bar in zip(groups, bars, strict=True):
        if tau[g].isfinite():
            axes.hlines(float(tau[g]), g - 0.45, g + 0.45, color="k", linewidth=2)
        words = "own group" if own[g] else "copied there" if copied[g] else "empty" if not tau[g].isfinite() else ""
        bar.set_hatch("//" if own[g] else "xx" if copied[g] else "")
        level = max(0.0, float(row[g]), float(tau[g]) if tau[g].isfinite() else 0.0)
        axes.text(g, level + 0.03 * (top - low), words, ha="center", va="bottom", fontsize=8, rotation=90)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set(xlabel="group g", ylim=(low - 0.05 * (top - low), top + 0.1 * (top - low)))
    axes.set_xticks(groups, [str(g) for g in groups])
    axes.tick_params(axis="x", length=0, labelsize=7)


def _draw_connections(A: Tensor, copied: Tensor, B: Tensor, axes: Axes) -> None:
    """M (N, C), copies included: a cell has its group's colour and number; one that a copy opens, a dotted frame."""
    picture = np.ones((len(B), len(A), 3))
    for n, g in enumerate(B.int().argmax(dim=1).tolist()):
        for c in (A | copied)[:, g].nonzero()[:, 0].tolist():
            picture[n, c] = group_colour(g)
            ink = "w" if picture[n, c] @ (0.3, 0.6, 0.1) < 0.6 else "k"  # dark on pale colours
            axes.text(c, n, str(g), ha="center", va="center", fontsize=6, color=ink)
            if copied[c, g]:
                axes.add_patch(mpl.patches.Rectangle((c - 0.4, n - 0.4), 0.8, 0.8, fill=False, ls=":", lw=1.4, ec="k"))
    axes.imshow(picture, interpolation="none", aspect="auto")
    axes.set(xlabel="input channel c", ylabel="filter n", xticks=range(len(A)), yticks=range(len(B)))
    axes.tick_params(length=0, labelsize=7)
    axes.set_title("mask M; numbers: groups, dotted frame: by a copy", fontsize=9)
