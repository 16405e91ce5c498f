"""S and T through a training: recorded after every epoch, measured, and read back.

The arrays stand in `groups/<run>.npz` and in data/results/README.md under the names that `array_name` gives them.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from flgc_lib.grouping import membership
from flgc_lib.layers import FLGConv2d

Arrays = Mapping[str, np.ndarray]
"""Of one run: those of its npz, or of a network that was trained just now."""
Kind = Literal["channel_group", "filter_group", "copies", "inputs", "S", "T"]
SNAPSHOTS = "snapshots"
"""The epochs at which `inputs`, `S` and `T` were kept."""
CORRECT = "correct"
"""Beside the assignments: which test images the final network gets right, a bit an image."""


def array_name(layer: str, kind: Kind) -> str:
    """Name of an array of a layer."""
    return f"{layer}.{kind}"


def learned_layers(model: nn.Module) -> dict[str, FLGConv2d]:
    """The convolutions with learned (or frozen) assignment, by qualified name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, FLGConv2d)}


class Recorder:
    """Records the assignments of a network while it is trained, and measures how they change.

    Args:
        layers: see `learned_layers`.
        epochs: of the whole training.

    Attributes:
        arrays: what is recorded so far, by `array_name`: a tensor for each epoch, or for each snapshot of what is kept
            at snapshots only. Empty for a network without learned layers.
    """

    def __init__(self, layers: Mapping[str, FLGConv2d], epochs: int) -> None:
        self.layers, self.epochs = layers, epochs
        self.arrays: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def record(self, epoch: int) -> None:
        """Every epoch the group of each channel and filter; at the start, half-way and at the end S, T and copies.

        S and T of a whole ResNet-50 would pass what can be committed, so they are kept for each stage's first block.
        """
        snapshot = epoch in (0, (self.epochs + 1) // 2, self.epochs)
        if snapshot and self.layers:
            self._add(SNAPSHOTS, torch.tensor(epoch))
        for name, layer in self.layers.items():
            inputs = layer.input_membership()
            self._add(array_name(name, "channel_group"), _group_of(layer.input_logits))
            self._add(array_name(name, "filter_group"), _group_of(layer.filter_logits))
            self._add(array_name(name, "copies"), (inputs.sum(dim=1) - 1).clamp(min=0).sum())
            if snapshot:
                self._add(array_name(name, "inputs"), inputs)
            if snapshot and name.split(".")[1] == "0":
                self._add(array_name(name, "S"), layer.input_logits.half())
                self._add(array_name(name, "T"), layer.filter_logits.half())

    def record_end_again(self) -> None:
        """Replaces what was recorded at the end, because copies were made after it."""
        for values in self.arrays.values():
            values.pop()
        self.record(self.epochs)

    def statistics(self) -> dict[str, float]:
        """Copies, empty groups, moves and saturation over all learned layers; zeros for a net without any."""
        layers = self.layers.values()
        with_members = sum(len(self.arrays[array_name(name, "channel_group")][-1].unique()) for name in self.layers)
        return {
            "copies": sum(int(self.arrays[array_name(name, "copies")][-1]) for name in self.layers),
            "empty_groups": sum(layer.groups for layer in layers) - with_members,
            "channels_moved": self._share_changed("channel_group", since=0),
            "channels_moved_last": self._share_changed("channel_group", since=-2),
            "filters_moved": self._share_changed("filter_group", since=0),
            "largest_logit": max((float(layer.input_logits.detach().abs().max()) for layer in layers), default=0.0),
        }

    def _share_changed(self, kind: Kind, since: int) -> float:
        """Share of all channels (or filters) whose group is another one than `since` epochs ago (0: at the start)."""
        if not self.layers:
            return 0.0
        before, now = (torch.cat([self.arrays[array_name(n, kind)][i] for n in self.layers]) for i in (since, -1))
        return float((before != now).float().mean())

    def _add(self, name: str, value: Tensor) -> None:
        self.arrays.setdefault(name, []).append(value.cpu().clone())


def _group_of(logits: Tensor) -> Tensor:
    return membership(logits).int().argmax(dim=1).to(torch.uint8)


def layers(arrays: Arrays) -> pd.DataFrame:
    """The layers of a run in the network's order, with what became of them.

    Returns:
        Columns layer, place (0, 1, …), channels (C), filters (N), copies at the end, and the share of channels and
        filters in % whose group at the end is not that of the start.
    """
    ending = array_name("", "channel_group")
    names = [name.removesuffix(ending) for name in arrays if name.endswith(ending)]
    rows = []
    for place, name in enumerate(names):
        channels, filters = arrays[array_name(name, "channel_group")], arrays[array_name(name, "filter_group")]
        rows.append(
            {
                "layer": name,
                "place": place,
                "channels": channels.shape[1],
                "filters": filters.shape[1],
                "copies": int(arrays[array_name(name, "copies")][-1]),
                "channels_moved": 100 * float((channels[0] != channels[-1]).mean()),
                "filters_moved": 100 * float((filters[0] != filters[-1]).mean()),
            }
        )
    return pd.DataFrame(rows)


def transitions(before: np.ndarray, after: np.ndarray, groups: int) -> np.ndarray:
    """Flow between groups, (G, G): how many channels were in group i (row) before and are in group j (column) after."""
    flow = np.zeros((groups, groups), dtype=int)
    np.add.at(flow, (before, after), 1)
    return flow


def copied(arrays: Arrays, snapshot: int = -1) -> pd.DataFrame:
    """Who is copied where: a row for each copy, with layer, channel, its own group and the group it is copied into.

    Args:
        arrays: of a run.
        snapshot: position in `SNAPSHOTS`: 0 start, 1 half-way, -1 end.
    """
    epoch = arrays[SNAPSHOTS][snapshot]
    rows = []
    for name in layers(arrays)["layer"]:
        inputs, own = arrays[array_name(name, "inputs")][snapshot], arrays[array_name(name, "channel_group")][epoch]
        for channel, group in np.argwhere(inputs).tolist():
            if group != own[channel]:
                rows.append({"layer": name, "channel": channel, "own": int(own[channel]), "into": group})
    return pd.DataFrame(rows, columns=["layer", "channel", "own", "into"])
