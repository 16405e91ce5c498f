"""How everything is drawn: one look for each method, for each group, and for series that are neither.

Colour, line and marker always differ together, so that the figures read in grey and for the colour-blind.
"""

from collections.abc import Sequence
from typing import Any

import seaborn as sns

from flgc_lib.methods import METHODS

STYLES: dict[str, dict[str, Any]] = {name: facts.style for name, facts in METHODS.items()}
"""Keyword arguments of matplotlib for each method: the same in every figure."""
COLOURS = sns.color_palette("colorblind")
MARKERS = "osD^vP*Xhd"
LINES = ("-", "--", "-.", ":")


def look(order: int, lines: Sequence[str] = LINES) -> dict[str, Any]:
    """Keyword arguments of matplotlib for the series at a place of the legend; colours and markers repeat after ten."""
    return {
        "color": COLOURS[order % len(COLOURS)],
        "marker": MARKERS[order % len(MARKERS)],
        "linestyle": lines[order % len(lines)],
    }


def group_colour(group: int) -> tuple[float, float, float]:
    """Colour of a group, the same in all pictures; they repeat after ten."""
    return COLOURS[group % len(COLOURS)]
