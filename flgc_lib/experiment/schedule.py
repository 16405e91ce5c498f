"""What the groups do in each step of a training: learn, close, or be chosen from the weights."""

import math
from typing import NamedTuple

from flgc_lib.experiment.settings import Settings


class Phase(NamedTuple):
    """Where the groups are in one step.

    Attributes:
        softness: the share of a weight outside its group that counts all the same, see `FLGConv2d`.
        learns: whether S and T may change in this step.
        regroups: whether groups that are found from the weights are chosen in this step.
    """

    softness: float
    learns: bool
    regroups: bool


def phase(settings: Settings, step: int, steps: int) -> Phase:
    """The phase of a step.

    Without a soft start groups are hard from the beginning and learn to the end. With one, all weights count in full
    while the scout lasts, those outside the groups then fade, and when they are gone the groups stay.

    Args:
        settings: of the run.
        step: from 0.
        steps: of the whole training.
    """
    closing = settings.soft_start * steps  # the step in which weights outside the groups are gone
    opening = min(round(settings.scout * steps), math.ceil(closing) - 1)  # the one in which they begin to fade
    softness = min(1.0, max(0.0, 1 - (step - opening) / (closing - opening))) if closing else 0.0
    learns = step % settings.assign_every == 0 and (softness > 0 or not closing)
    return Phase(softness, learns, regroups=step == opening if settings.scout else learns)
