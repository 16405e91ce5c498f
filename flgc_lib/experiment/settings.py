"""Settings: everything that decides the numbers of a run, its id, and the network that it starts from.

Source: Motohashi and Yamauchi, section 4; the protocol stands in data/results/README.md.
"""

import hashlib
import json
import os
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import TYPE_CHECKING, Literal, SupportsInt

import torch
from torch import nn

from flgc_lib.clustered import BudgetConv2d
from flgc_lib.grouping import check_choice
from flgc_lib.layers import Score
from flgc_lib.methods import METHODS, Method, method_layer
from flgc_lib.resnet import Block, Stem, Where, resnet

if TYPE_CHECKING:  # `flgc train --help` is to be quick, and reading images is not
    from flgc_lib.data import Dataset

Precision = Literal["bf16", "fp32"]
CopyTime = Literal["training", "post-hoc"]
Device = Literal["auto", "cpu", "cuda"]
"""Where a run is computed; not part of `Settings`, because it should not decide more than the last digits."""
MOST_AT_ONCE = 256
"""Threads or workers; more than there are cores can be meant, since a run is made again with as many threads."""


_RANGES = (
    ("width", 1 / 64, 16, "; 1.0 is 64 channels in the stem"),
    ("learning_rate", 0, 1e30, ""),
    ("logit_learning_rate", 0, 1e30, ""),
    ("momentum", 0, 0.999, ", the share of the last step that goes on"),
    ("weight_decay", 0, 1, ""),
    ("seed", 0, 10**12, ""),  # times a million, an epoch's share of it, it is still an integer of 64 bits
)
"""Name, least, most and what helps. Infinity and NaN lie outside."""
MOST_GROUPS = 256
"""Of a layer whose groups are recorded: a group's number is kept in a byte."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides the numbers of a run. A default, once records exist, never changes: ids build on it."""

    method: Method = "flgc"
    """Which convolutions: dense, grouped and so on; `flgc_lib.methods.METHODS` says what each is."""
    groups: int = 8
    """G, the number of groups of every replaced convolution (dense has one)."""
    seed: int = 0
    """Fixes initialisation, order of the images and augmentation, the same for all methods."""
    data: str = "synthetic"
    """Name of the dataset; others than synthetic come from `flgc data`."""
    hold_out: int = 0
    """Images taken out of the training set and tested on instead of the test set, for tuning."""
    block: Block = "bottleneck"
    """Of the network: bottleneck, or basic, of two 3×3 convolutions."""
    depths: tuple[int, ...] = (3, 4, 6, 3)
    """Blocks a stage; 3 4 6 3 is ResNet-50."""
    width: float = 1.0
    """Multiplies all channel counts; 1.0 is 64 channels in the stem."""
    stem: Stem = "paper"
    """paper: 3×3 stride 2 and max pool; cifar: 3×3 stride 1; imagenet: 7×7 stride 2 and max pool."""
    where: Where = "block"
    """Which convolutions are replaced: block, 3x3, 1x1 or all (block and projection shortcuts)."""
    depthwise: bool = False
    """Make the 3×3 convolutions depthwise."""
    top_k: int = 3
    """k of the duplication rule."""
    score: Score = "logit"
    """What the duplication rule compares: logit (S) or softmax."""
    copy_time: CopyTime = "training"
    """When the rule copies: in every forward pass of training, or post-hoc, into the network trained without copies."""
    epochs: int = 10
    """Passes over the training images."""
    batch: int = 128
    """Images a step."""
    learning_rate: float = 0.1
    """Peak of the one-cycle schedule of SGD for the weights."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 5e-4
    """Of convolutions and classifier; norms, biases, S and T have none."""
    logit_learning_rate: float = 0.01
    """Peak of the one-cycle schedule of Adam for S and T."""
    assign_every: int = 1
    """Steps from one update of the groups (S and T) to the next; in between they stay, and a step is cheaper."""
    soft_start: float = 0.0
    """Share of the training in which the weights outside the groups fade out; after it the groups stay. 0 for none."""
    scout: float = 0.0
    """Share of the training before the fading of a soft start begins: all weights count in full, and show what is
    important. Groups found from the weights are then chosen once, at its end; 0 for choosing again while they fade."""
    share: float = 1.0
    """Channels of a group over C/G, for select and budget: 1.5 takes half as many more, at the cost of half as much."""
    precision: Precision = "bf16"
    """bf16 is mixed precision: products in bf16, weights, S and T in fp32."""

    def __post_init__(self) -> None:
        """Refuses settings that cannot be run; the network's own are checked by `resnet`."""
        self._spell_alike()
        check_choice("method", self.method, Method)
        check_choice("score", self.score, Score)
        for name in ("groups", "epochs", "batch", "top_k", "assign_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.hold_out < 0:
            raise ValueError(f"hold_out={self.hold_out} must not be negative")
        for name, low, high, hint in _RANGES:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}={getattr(self, name)} must be from {low:g} to {high:g}{hint}")
        if not self.depths or min(self.depths) < 1:
            raise ValueError(f"depths={self.depths} must be at least one block in each of one or more stages")
        check_choice("precision", self.precision, Precision)
        check_choice("copy_time", self.copy_time, CopyTime)
        if not 0 <= self.soft_start < 1:
            raise ValueError(f"soft_start={self.soft_start} must be a share of the training: at least 0, less than 1")
        facts = METHODS[self.method]
        if facts.masked and self.groups > MOST_GROUPS:
            raise ValueError(
                f"groups={self.groups} must be at most {MOST_GROUPS}, what the records of method={self.method!r} hold"
            )
        if facts.copies not in ("rule", "drawn", "fixed"):  # nothing reads them, so they make no other run
            object.__setattr__(self, "top_k", Settings.top_k)
            object.__setattr__(self, "score", Settings.score)
        if self.soft_start and not facts.masked:
            raise ValueError(f"soft_start={self.soft_start} needs a method with a mask, not method={self.method!r}")
        if not self.soft_start and facts.groups_from == "weights":
            raise ValueError(
                f"method={self.method!r} finds its groups in a soft start: give soft_start, for example 0.5"
            )
        if self.scout and not 0 < self.scout < self.soft_start:
            raise ValueError(
                f"scout={self.scout} must be 0, or less than soft_start={self.soft_start}, whose first part it is"
            )
        sized = [name for name, others in METHODS.items() if others.copies == "share"]
        if self.share != 1 and self.method not in sized:
            raise ValueError(f"share={self.share} is for {', '.join(sized)}, not for method={self.method!r}")
        if self.share == 1 and issubclass(facts.layer, BudgetConv2d):
            raise ValueError(f"share=1.0 imports nothing: give method={self.method!r} more, for example 1.5")
        method_layer(self.method, self.groups, share=self.share)  # refuses what no layer could have
        if self.copy_time == "post-hoc" and facts.without_copies is None:
            raise ValueError(
                f"copy_time='post-hoc' makes copies in a trained flgc or cluster: it needs method='flgc-dup' or "
                f"'cluster-dup', not {self.method!r}"
            )

    def _spell_alike(self) -> None:
        """One network, one id: a dense network has one group, and 1 and 1.0 are one setting."""
        if self.method == "dense":
            object.__setattr__(self, "groups", 1)
        object.__setattr__(self, "depths", tuple(_whole("depths", d) for d in self.depths))
        for f in fields(self):
            value = getattr(self, f.name)
            if type(f.default) is float:
                object.__setattr__(self, f.name, float(value))
            if type(f.default) is int:
                object.__setattr__(self, f.name, _whole(f.name, value))

    @property
    def id(self) -> str:
        """Name of the run: what a reader looks for, and a hash of every setting that is not the default.

        Leaving defaults out keeps the ids of old records valid when a setting is added.
        """
        changed = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]
        groups = "" if self.method == "dense" else f"-g{self.groups}"
        return f"{self.method}{groups}-s{self.seed}-{digest}"

    def part_of(self, dataset: "Dataset") -> "Dataset":
        """The images that the run is trained and tested on: all of a dataset, or those that tuning may see."""
        return dataset.hold_out(self.hold_out) if self.hold_out else dataset

    @property
    def trained(self) -> "Settings":
        """The run whose training and checkpoint are this one's: post-hoc copies come after a training without any."""
        plain = METHODS[self.method].without_copies
        if self.copy_time == "training" or plain is None:
            return self
        return replace(self, method=plain, top_k=Settings.top_k, score=Settings.score, copy_time="training")

    def network(self, num_classes: int = 10) -> nn.Module:
        """The network at its start, drawn from the seed alone; the global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            return resnet(
                self.depths,
                num_classes=num_classes,
                block=self.block,
                stem=self.stem,
                method=self.method,
                groups=self.groups,
                where=self.where,
                depthwise=self.depthwise,
                width=self.width,
                top_k=self.top_k,
                score=self.score,
                share=self.share,
            )


def _whole(name: str, value: SupportsInt) -> int:
    if not isinstance(value, Real) or value % 1 != 0:
        raise ValueError(f"{name}={value!r} must be a whole number")
    return int(value)


def place_of(device: Device) -> Literal["cpu", "cuda"]:
    """What a run is computed on; "auto" is an NVIDIA GPU if there is one. Apple's lack float64, which losses need."""
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def check_place(device: Device, threads: int | None = None, workers: int = 1) -> None:
    """Refuses a device, or a number of threads or of workers, that this computer does not have.

    Raises:
        ValueError: saying what there is.
    """
    cores = os.cpu_count() or 1
    there = {"auto": True, "cpu": True, "cuda": torch.cuda.is_available()}
    check_choice("device", device, Device)
    if not there[device]:
        raise ValueError(f"device={device!r} is not there: give {', '.join(name for name in there if there[name])}")
    for name, number in (("threads", 1 if threads is None else threads), ("workers", workers)):
        if not 1 <= number <= MOST_AT_ONCE:
            raise ValueError(f"{name}={number} must be from 1 to {MOST_AT_ONCE}; there are {cores} cores")
