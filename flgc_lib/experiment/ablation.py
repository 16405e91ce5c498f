"""What a trained network's copies are worth: its accuracy without them, and without as many other connections.

`ablation.csv` in the folder of the records has a row for every network that was tested so.
"""

from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from flgc_lib.data import Batches, load
from flgc_lib.experiment import measurements
from flgc_lib.experiment.assignments import learned_layers
from flgc_lib.experiment.checkpoint import trained_network
from flgc_lib.experiment.deploy import TEST_BATCH, accuracy
from flgc_lib.experiment.records import code_version, processor_name
from flgc_lib.files import RESULTS, ROOT
from flgc_lib.layers import FLGConv2d

TABLE = "ablation.csv"
DRAWS = 5
"""Random choices of connections to remove, over which accuracy is averaged."""
BATCHES = 20
"""Batches of TEST_BATCH training images, drawn from all, that the norms' statistics are taken from."""


def ablate_checkpoint(checkpoint: Path, *, root: Path = ROOT, results: Path = RESULTS) -> dict[str, object]:
    """Tests a run's network as it is, without its copies, and without as many memberships drawn at random.

    A membership is a channel in a group; without it, the group's filters do not read the channel. A layer loses as many
    at random as it has copies. The images are those that the run was tested on. All three times the norms' statistics
    are first taken anew, from training images: with those of another network, any loss leaves little but chance.

    Args:
        checkpoint: `last.ckpt` of a run.
        root: folder of the datasets.
        results: folder of the records, whose `ablation.csv` gets a row.

    Returns:
        The row.

    Raises:
        ValueError: if the file is no checkpoint of this library, or its network has no copies.
        OSError: if the row cannot be written.
    """
    saved, model = trained_network(checkpoint)
    settings = saved.settings
    layers = list(learned_layers(model).values())
    copied = [copies(layer) for layer in layers]
    number = sum(int(c.sum()) for c in copied)
    if number == 0:
        raise ValueError(f"{checkpoint}: no channel of {settings.id} is copied, so there is nothing to remove")
    dataset = settings.part_of(load(settings.data, root))
    generator = torch.Generator().manual_seed(settings.seed)
    random = [[_drawn(layer, int(c.sum()), generator) for layer, c in zip(layers, copied, strict=True)]
             for _ in range(DRAWS)]  # fmt: skip
    weights = [layer.weight.detach().clone() for layer in layers]
    size = min(TEST_BATCH, len(dataset.train_images))
    batches = Batches(dataset.train_images, dataset.train_labels, size, shuffle_seed=settings.seed)

    def accuracy_without(lost: list[Tensor]) -> float:
        with torch.no_grad():
            for layer, weight, memberships in zip(layers, weights, lost, strict=True):
                layer.weight.copy_(weight.masked_fill(_connections(layer, memberships)[:, :, None, None], 0))
            update_bn(islice(batches, BATCHES), model)
        return accuracy(model.eval(), dataset)

    row: dict[str, object] = {
        "run": settings.id,
        "method": settings.method,
        "groups": settings.groups,
        "share": settings.share,
        "seed": settings.seed,
        "copies": number,
        "accuracy": accuracy_without([torch.zeros_like(c) for c in copied]),
        "without_copies": accuracy_without(copied),
        "without_random": float(np.mean([accuracy_without(lost) for lost in random])),
        "processor": processor_name(torch.device("cpu")),
        "code": code_version(),
    }
    measurements.add(pd.DataFrame([row]), results / TABLE, ["run", "processor"])
    return row


@torch.no_grad()
def copies(layer: FLGConv2d) -> Tensor:
    """Memberships that are copies, BoolTensor (C, G): all of a channel but the one with its largest logit."""
    inputs = layer.input_membership()
    own = layer.input_logits.masked_fill(~inputs, -torch.inf).argmax(dim=1)
    copied = inputs.clone()
    copied[torch.arange(len(own)), own] = False
    return copied


@torch.no_grad()
def _drawn(layer: FLGConv2d, number: int, generator: torch.Generator) -> Tensor:
    """So many memberships of a layer, drawn from all that it has, BoolTensor (C, G)."""
    inputs = layer.input_membership()
    there = inputs.nonzero()
    lost = torch.zeros_like(inputs)
    rows, columns = there[torch.randperm(len(there), generator=generator)[:number]].T
    lost[rows, columns] = True
    return lost


@torch.no_grad()
def _connections(layer: FLGConv2d, memberships: Tensor) -> Tensor:
    """The weights, BoolTensor (N, C), by which filters read channels through these memberships."""
    return (layer.filter_membership().float() @ memberships.float().T).bool()
