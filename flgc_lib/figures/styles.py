"""How everything is drawn: one look for each method, for each group, and for each number of groups of a method.

Colour, line and marker always differ together, so that the figures read in grey and for the colour-blind.
"""

from typing import Any

from matplotlib.colors import to_rgb

from flgc_lib.methods import METHODS

STYLES: dict[str, dict[str, Any]] = {name: facts.style for name, facts in METHODS.items()}
"""Keyword arguments of matplotlib for each method: the same in every figure."""
MARKERS = "osD^vP*Xhd"
LINES = ("-", "--", "-.", ":")
# Seaborn's `colorblind`, but for its pale ones: each is told from white paper, and white numbers are read on it.
_GROUPS = [
    "#0173B2", "#C77700", "#029E73", "#D55E00", "#CC78BC", "#8C510A", "#882255", "#6E6E6E", "#7A6A00", "#332288",
]  # fmt: skip


def of_method(method: str, order: int = 0, of: int = 1) -> dict[str, Any]:
    """Keyword arguments of matplotlib for one of several series of a method: its colour, darker from one to the next.

    Args:
        method: whose.
        order: place of the series, from 0: lines repeat after four, markers after ten.
        of: how many there are.
    """
    light = 1 - 0.65 * order / max(of - 1, 1)
    red, green, blue = to_rgb(STYLES[method]["color"])
    return {
        "color": (light * red, light * green, light * blue),
        "marker": MARKERS[order % len(MARKERS)],
        "linestyle": LINES[order % len(LINES)],
    }


def group_colour(group: int) -> tuple[float, float, float]:
    """Colour of a group, the same in all pictures; they repeat after ten."""
    return to_rgb(_GROUPS[group % len(_GROUPS)])
