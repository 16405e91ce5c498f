"""Every figure of the project: what it shows, what it is computed from and what draws it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure as Canvas

from flgc_lib.experiment import analysis, arms, contrasts, frontier
from flgc_lib.experiment.analysis import Records, accuracy_by_groups
from flgc_lib.experiment.grids import Grid
from flgc_lib.figures import plots, worked_example
from flgc_lib.figures.blocks import draw_blocks
from flgc_lib.figures.groups import draw_example_groups, draw_example_masks, draw_example_rule
from flgc_lib.figures.speed import draw_engine_speed, draw_speed, engine_speed, speed


@dataclass(frozen=True)
class OfGrid:
    """Numbers that are computed from the records of an experiment.

    Attributes:
        grid: the experiment.
        table: from its records, what is plotted; without rows there is no figure yet.
    """

    grid: Grid
    table: Callable[[Records], pd.DataFrame]


@dataclass(frozen=True)
class Figure:
    """An entry of the manifest.

    Attributes:
        id: name of the files in `figures/`.
        caption: what it shows; that of an experiment goes on with the data (see `draw.computed`).
        draw: the picture, from the numbers.
        numbers: what it is drawn from: the records of an experiment or, by a function, the folder of all records,
            which gives no rows as long as there is nothing to draw. None for a scheme without numbers.
    """

    id: str
    caption: str
    draw: Callable[[pd.DataFrame, Canvas], None]
    numbers: OfGrid | Callable[[Path], pd.DataFrame] | None = None


def _worked_example(_: Path) -> pd.DataFrame:
    return worked_example.table()


def _of_experiment(grid: Grid, network: str) -> tuple[Figure, ...]:
    """All figures that show an experiment with several methods and numbers of groups."""
    kinds = (
        ("accuracy-against-groups", "Accuracy against the number of groups",
         plots.draw_accuracy_by_groups, accuracy_by_groups),
        ("accuracy-against-macs", "Accuracy against actual MACs",
         plots.draw_accuracy_by_macs, accuracy_by_groups),
        ("paired-differences", "Paired differences in accuracy",
         plots.draw_paired_differences, contrasts.paired_differences),
        ("copies-by-layer", "Copies that the rule makes, by layer, at the end",
         plots.draw_copies_by_layer, analysis.copies_by_layer),
        ("moves-by-epoch", "Moves of channels between groups",
         plots.draw_moves_by_epoch, analysis.moves_by_epoch),
        ("group-sizes", "Sizes of the groups at the start (random) and at the end of training",
         plots.draw_group_sizes, analysis.group_sizes),
    )  # fmt: skip
    return tuple(
        Figure(f"{grid}-{name}", f"{caption}, {network}", draw, OfGrid(grid, table))
        for name, caption, draw, table in kinds
    )


_COSTS = (
    "What each arm reaches, and its million multiply-accumulates for one image with copies (bold: on the frontier, "
    "nothing that costs the same or less is more accurate)"
)
_SMALL_NET = "a bottleneck net with one block a stage and 16 channels in the stem"
FIGURES = (
    Figure("residual-blocks", "The two residual blocks (the paper's Fig. 1, redrawn).", draw_blocks),
    Figure(
        "groups-fixed-and-learned",
        "Channels, groups and filters, (a) fixed and (b) learned (the paper's Fig. 2, redrawn; the worked example).",
        draw_example_groups,
        _worked_example,
    ),
    Figure(
        "duplication-rule",
        "The duplication rule, k = 3, on the worked example: one channel is copied.",
        draw_example_rule,
        _worked_example,
    ),
    Figure(
        "masks",
        "Masks M of the worked example; numbers: the group, dashed: through a copy.",
        draw_example_masks,
        _worked_example,
    ),
    Figure(
        "frozen-speed",
        "ResNet-50, all convolutions of all blocks in groups: how many times faster than the dense network in eager "
        "PyTorch with folded norms (`flgc bench`, data/results/bench.csv).",
        draw_speed,
        speed,
    ),
    Figure(
        "engine-speed",
        "ResNet-50 in other engines and precisions, and by the kernel (frozen), for fixed groups, and for groups "
        "placed at random, of equal and of unequal size: how many times faster than the dense network in eager PyTorch "
        "with folded norms (`flgc bench`, data/results/bench.csv).",
        draw_engine_speed,
        engine_speed,
    ),
    *_of_experiment("quick", "a three-block net"),
    Figure(
        "learn-ways",
        f"Ways to get the groups, G = 8, {_SMALL_NET}",
        plots.draw_ways_to_learn,
        OfGrid("learn", partial(analysis.accuracy_by, by=("method", "soft_start"))),
    ),
    *_of_experiment("small", _SMALL_NET),
    Figure(
        "rule-choices",
        f"The rule's open choices, {_SMALL_NET}",
        plots.draw_rule_choices,
        OfGrid("rule", partial(analysis.accuracy_by, by=("method", "groups", "top_k", "score", "copy_time"))),
    ),
    Figure(
        "power-frontier",
        f"{_COSTS}, a bottleneck net with one block in each of two stages",
        plots.draw_frontier,
        OfGrid("power", frontier.costs),
    ),
    Figure(
        "resnet20-frontier",
        f"{_COSTS}, ResNet-20",
        plots.draw_frontier,
        OfGrid("resnet20", partial(frontier.costs, plan=arms.RESNET20)),
    ),
    *_of_experiment("paper", "ResNet-50"),
    *_of_experiment("gpu", "ResNet-50 with a 3×3 stem at full resolution"),
)
