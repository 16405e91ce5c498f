"""How a network is stepped: SGD for the weights, Adam for S and T, both on one cycle over the whole training.

Source: protocol in data/results/README.md; Smith and Topin 2017 (the one-cycle schedule).
"""

from typing import Any

import torch
from torch import nn

from flgc_lib.experiment.assignments import learned_layers
from flgc_lib.experiment.settings import Settings


def parameter_groups(model: nn.Module, weight_decay: float) -> tuple[list[dict[str, Any]], list[nn.Parameter]]:
    """Splits what is trained into SGD's groups, decayed and not, and the logits S and T, which get their own optimiser.

    Norms and biases, the parameters with one axis, are not decayed.
    """
    logits = [p for m in learned_layers(model).values() for p in (m.input_logits, m.filter_logits) if p.requires_grad]
    taken = {id(p) for p in logits}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    decayed = {"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay}
    return [decayed, {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0}], logits


def optimisers(
    model: nn.Module, settings: Settings, steps: int
) -> tuple[list[torch.optim.Optimizer], list[torch.optim.lr_scheduler.LRScheduler]]:
    """The weights' optimiser and, if S and T learn, theirs; and the schedule of each, over `steps` steps."""
    weights, logits = parameter_groups(model, settings.weight_decay)
    found: list[torch.optim.Optimizer] = [
        torch.optim.SGD(weights, lr=settings.learning_rate, momentum=settings.momentum, nesterov=True, fused=True)
    ]
    if logits:
        found.append(torch.optim.Adam(logits, lr=settings.logit_learning_rate, fused=True))
    schedules: list[torch.optim.lr_scheduler.LRScheduler] = [
        torch.optim.lr_scheduler.OneCycleLR(
            o, [g["lr"] for g in o.param_groups], total_steps=steps, cycle_momentum=False
        )
        for o in found
    ]
    return found, schedules
