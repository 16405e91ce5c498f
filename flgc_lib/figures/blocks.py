"""The paper's Fig. 1, redrawn by code: the basic and the bottleneck residual block as vector drawings.

Source: Motohashi and Yamauchi, Fig. 1 (a) and (b); He et al. 2016, Fig. 5.
"""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Circle, FancyBboxPatch

_INK = "#222222"
_CONV = "#cfe2f3"  # light enough that black text reads on it, and told from white in grey
_OTHER = "#f2f2f2"
_BOX = (2.7, 0.62)  # width and height of a layer's box, in the units of the drawing
_STEP = 1.12  # from the middle of a layer to the middle of the next


def draw_blocks(_: pd.DataFrame, canvas: Canvas) -> None:
    """Fig. 1: both blocks side by side; a scheme, drawn from no numbers."""
    canvas.set_figheight(5.0)
    left, right = canvas.subplots(1, 2)
    draw_basic_block(left)
    draw_bottleneck_block(right)


def draw_basic_block(axes: Axes) -> None:
    """Fig. 1 (a): two 3×3 convolutions and a shortcut, H(x) = F(x) + x."""
    layers = ["3×3 conv, 64 → 64", "batch norm, ReLU", "3×3 conv, 64 → 64", "batch norm"]
    _draw_block(axes, "(a) basic block", layers, channels=64)


def draw_bottleneck_block(axes: Axes) -> None:
    """Fig. 1 (b): 1×1 down, 3×3, 1×1 up and a shortcut, H(x) = F(x) + x."""
    narrow = ["1×1 conv, 256 → 64", "batch norm, ReLU", "3×3 conv, 64 → 64", "batch norm, ReLU"]
    _draw_block(axes, "(b) bottleneck block", [*narrow, "1×1 conv, 64 → 256", "batch norm"], channels=256)


def _draw_block(axes: Axes, title: str, layers: Sequence[str], channels: int) -> None:
    """Layers from top to bottom, the shortcut as a line around them on the right, then ⊕ and ReLU; without a frame."""
    top = 0.95  # of the arrow that brings x
    fork = 0.62  # where the shortcut leaves
    for place, text in enumerate(layers):
        y = -place * _STEP
        _arrow(axes, (0, top if place == 0 else y + _STEP - _BOX[1] / 2), (0, y + _BOX[1] / 2))
        _box(axes, y, text, _CONV if "conv" in text else _OTHER)
    last = -(len(layers) - 1) * _STEP
    plus = last - _STEP
    _arrow(axes, (0, last - _BOX[1] / 2), (0, plus + 0.2))
    axes.add_patch(Circle((0, plus), 0.2, facecolor="white", edgecolor=_INK, linewidth=1.2))
    axes.text(0, plus, "+", ha="center", va="center", color=_INK, fontsize=13)
    relu = plus - 0.9
    _arrow(axes, (0, plus - 0.2), (0, relu + _BOX[1] / 2))
    _box(axes, relu, "ReLU", _OTHER)
    _arrow(axes, (0, relu - _BOX[1] / 2), (0, relu - 0.85))

    right = _BOX[0] / 2 + 0.55
    axes.plot([0, right, right], [fork, fork, plus], color=_INK, linewidth=1.2, solid_joinstyle="round")
    _arrow(axes, (right, plus), (0.2, plus))
    axes.plot([0], [fork], marker="o", markersize=3.5, color=_INK)
    axes.text(right + 0.12, (fork + plus) / 2, "shortcut\n(identity)\n$x$", ha="left", va="center", fontsize=7.5)

    left = -_BOX[0] / 2 - 0.2
    axes.plot(  # a bracket around F
        [left + 0.1, left, left, left + 0.1],
        [_BOX[1] / 2, _BOX[1] / 2, last - _BOX[1] / 2, last - _BOX[1] / 2],
        color=_INK,
        linewidth=1,
    )
    axes.text(left - 0.12, last / 2, "$F(x)$", ha="right", va="center", fontsize=11)
    axes.text(0, top + 0.08, f"$x$, {channels} channels", ha="center", va="bottom", fontsize=10)
    axes.text(-0.3, plus, "$H(x) = F(x) + x$", ha="right", va="center", fontsize=8.5)
    axes.set_title(title, fontsize=11)
    axes.set_xlim(-2.6, 3.2)
    axes.set_ylim(relu - 0.95, top + 0.6)
    axes.set_aspect("equal", anchor="N")
    axes.axis("off")


def _box(axes: Axes, y: float, text: str, colour: str) -> None:
    width, height = _BOX
    axes.add_patch(
        FancyBboxPatch(
            (-width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.12",
            facecolor=colour,
            edgecolor=_INK,
            linewidth=1.2,
        )
    )
    axes.text(0, y, text, ha="center", va="center", fontsize=7.5, color=_INK)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "color": _INK, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 10}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)
