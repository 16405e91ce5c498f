"""What a trained network's copies are worth: its accuracy without them, and without as many random connections.

`ablation.csv` in the folder of the records has a row for every network that was tested so.
"""

from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from flgc_lib.data import Batches
from flgc_lib.experiment import measurements
from flgc_lib.experiment.assignments import learned_layers
from flgc_lib.experiment.checkpoint import trained_network
from flgc_lib.experiment.deploy import TEST_BATCH, accuracy, dataset_of
from flgc_lib.experiment.records import code_version, processor_name
from flgc_lib.files import RESULTS, ROOT
from flgc_lib.layers import FLGConv2d

TABLE = "ablation.csv"
DRAWS = 5
"""Random choices of connections to remove, over which accuracy is averaged."""
BATCHES = 20
"""Batches of TEST_BATCH training images, drawn from all, that the norms' statistics are taken from."""


def ablate_checkpoint(checkpoint: Path, *, root: Path = ROOT, results: Path = RESULTS) -> dict[str, object]:
    """Tests a run's network as it is, without its copies, and without as many connections drawn at random.

    A connection is a channel that a filter reads. Groups are what is drawn, from all that a channel is in, copies too,
    until a layer has lost as many connections as with its copies: exactly as many where groups have one size, else
    as near as they come. The images are those that the run was tested on. All three times the norms' statistics are
    first taken anew, from training images: with those of another network, any loss leaves little but chance.

    Args:
        checkpoint: `last.ckpt` of a run.
        root: folder of the datasets.
        results: folder of the records, whose `ablation.csv` gets a row.

    Returns:
        The row.

    Raises:
        ValueError: if the file is no checkpoint of this library, or its network has no copies; and as `dataset_of`.
        OSError: if the row cannot be written.
    """
    saved, model = trained_network(checkpoint)
    settings = saved.settings
    layers = list(learned_layers(model).values())
    copied = [copies(layer) for layer in layers]
    number = sum(int(c.sum()) for c in copied)
    if number == 0:
        raise ValueError(f"{checkpoint}: no channel of {settings.id} is copied, so there is nothing to remove")
    dataset = settings.part_of(dataset_of(saved, settings.data, root))
    generator = torch.Generator().manual_seed(settings.seed)
    random = [[_as_many(layer, c, generator) for layer, c in zip(layers, copied, strict=True)] for _ in range(DRAWS)]
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
def _as_many(layer: FLGConv2d, copied: Tensor, generator: torch.Generator) -> Tensor:
    """Memberships drawn from all of a layer, BoolTensor (C, G), with as many connections as the copies."""
    inputs, filters = layer.input_membership(), layer.filter_membership().sum(dim=0)  # (C, G), (G,)
    there = inputs.nonzero()
    there = there[torch.randperm(len(there), generator=generator)]
    connections = torch.cat([filters.new_zeros(1), filters[there[:, 1]].cumsum(dim=0)])  # of the first 0, 1, … of them
    number = int((connections - (copied.sum(dim=0) * filters).sum()).abs().argmin())
    lost = torch.zeros_like(inputs)
    lost[tuple(there[:number].T)] = True
    return lost


@torch.no_grad()
def _connections(layer: FLGConv2d, memberships: Tensor) -> Tensor:
    """The weights, BoolTensor (N, C), by which filters read channels through these memberships."""
    return (layer.filter_membership().float() @ memberships.float().T).bool()
