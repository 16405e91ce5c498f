"""Trains one network: settings, Lightning module, and what is measured after every epoch.

Source: Motohashi and Yamauchi, section 4.
"""

import hashlib
import json
import logging
import math
import os
import sys
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional as F

from flgc_lib.data import Batches, Dataset
from flgc_lib.grouping import check_choice, membership
from flgc_lib.layers import CLUSTERED, UNMASKED, ClusteredConv2d, FLGConv2d, Method, Score
from flgc_lib.resnet import Stem, Where, resnet

Precision = Literal["bf16", "fp32"]
CopyTime = Literal["training", "post-hoc"]
Device = Literal["auto", "cpu", "cuda", "mps"]
EVALUATION_BATCH = 500
_WITHOUT_COPIES: dict[Method, Method] = {"flgc-dup": "flgc", "cluster-dup": "cluster"}


@dataclass(frozen=True)
class Settings:
    """Everything that decides the numbers of a run. A default, once records exist, never changes: ids build on it."""

    method: Method = "flgc"
    """Which convolutions: dense, grouped, shuffle, random, equal, flgc, flgc-dup, ring, flgc-randdup, cluster,
    cluster-dup."""
    groups: int = 8
    """G, the number of groups of every replaced convolution (dense has one)."""
    seed: int = 0
    """Fixes initialisation, order of the images and augmentation, the same for all methods."""
    data: str = "synthetic"
    """Name of the dataset; others than synthetic come from `flgc data`."""
    hold_out: int = 0
    """Images taken out of the training set and tested on instead of the test set, for tuning."""
    depths: tuple[int, ...] = (3, 4, 6, 3)
    """Bottleneck blocks a stage; 3 4 6 3 is ResNet-50."""
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
    """Images a step, over all devices together."""
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
    precision: Precision = "bf16"
    """bf16 is mixed precision: products in bf16, weights, S and T in fp32."""

    def __post_init__(self) -> None:
        """Refuses settings that cannot be run; the network's own are checked by `resnet`."""
        if self.method == "dense":  # one network, one id
            object.__setattr__(self, "groups", 1)
        object.__setattr__(self, "depths", tuple(self.depths))
        for f in fields(self):  # 1 and 1.0 are one setting, and have one id
            if isinstance(f.default, float):
                object.__setattr__(self, f.name, float(getattr(self, f.name)))
        for name in ("groups", "epochs", "batch", "top_k", "assign_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("seed", "hold_out"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if not self.width > 0:
            raise ValueError(f"width={self.width} must be positive; 1.0 is 64 channels in the stem")
        if not self.depths or min(self.depths) < 1:
            raise ValueError(f"depths={self.depths} must be at least one block in each of one or more stages")
        check_choice("method", self.method, Method)
        check_choice("precision", self.precision, Precision)
        check_choice("copy_time", self.copy_time, CopyTime)
        if not 0 <= self.soft_start < 1:
            raise ValueError(f"soft_start={self.soft_start} must be a share of the training: at least 0, less than 1")
        if self.soft_start and self.method in UNMASKED:
            raise ValueError(f"soft_start={self.soft_start} needs a method with a mask, not method={self.method!r}")
        if not self.soft_start and self.method in CLUSTERED:
            raise ValueError(
                f"method={self.method!r} finds its groups in a soft start: give soft_start, for example 0.5"
            )
        if self.copy_time == "post-hoc" and self.method not in _WITHOUT_COPIES:
            raise ValueError(
                f"copy_time='post-hoc' makes copies in a trained flgc or cluster: it needs method='flgc-dup' or "
                f"'cluster-dup', not {self.method!r}"
            )

    @property
    def id(self) -> str:
        """Name of the run: what a reader looks for, and a hash of every setting that is not the default.

        Leaving defaults out keeps the ids of old records valid when a setting is added.
        """
        changed = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]
        groups = "" if self.method == "dense" else f"-g{self.groups}"
        return f"{self.method}{groups}-s{self.seed}-{digest}"

    @property
    def trained(self) -> "Settings":
        """The run whose training and checkpoint are this one's: post-hoc copies come after a training without any."""
        if self.copy_time == "training":
            return self
        plain = _WITHOUT_COPIES[self.method]
        return replace(self, method=plain, top_k=Settings.top_k, score=Settings.score, copy_time="training")

    def network(self) -> nn.Module:
        """The network at its start, drawn from the seed; 10 classes."""
        torch.manual_seed(self.seed)
        return resnet(
            self.depths,
            stem=self.stem,
            method=self.method,
            groups=self.groups,
            where=self.where,
            depthwise=self.depthwise,
            width=self.width,
            top_k=self.top_k,
            score=self.score,
        )


def learned_layers(model: nn.Module) -> dict[str, FLGConv2d]:
    """The convolutions with learned (or frozen) assignment, by qualified name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, FLGConv2d)}


def parameter_groups(model: nn.Module, weight_decay: float) -> tuple[list[dict[str, Any]], list[nn.Parameter]]:
    """Splits what is trained into SGD's groups, decayed and not, and the logits S and T, which get their own optimiser.

    Norms and biases, the parameters with one axis, are not decayed.
    """
    logits = [p for m in learned_layers(model).values() for p in (m.input_logits, m.filter_logits) if p.requires_grad]
    taken = {id(p) for p in logits}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    decayed = {"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay}
    return [decayed, {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0}], logits


class Classifier(lightning.LightningModule):
    """Trains `settings.network()` on a dataset and keeps a row of measurements for every epoch.

    Attributes:
        history: one dict an epoch, the columns of `epochs.csv`.
        assignments: the arrays of `groups/<run>.npz`, see `data/results/README.md`.
        correct: BoolTensor (m,), which test images the network of the last test gets right.
    """

    correct: Tensor

    def __init__(self, settings: Settings, dataset: Dataset) -> None:
        super().__init__()
        # Two optimisers of different kinds, SGD for the weights and Adam for S and T, need manual optimisation.
        self.automatic_optimization = False
        self.settings = settings
        self.dataset = dataset.hold_out(settings.hold_out) if settings.hold_out else dataset
        self.model = settings.network().to(memory_format=torch.channels_last)
        self.layers = learned_layers(self.model)
        self.history: list[dict[str, float]] = []
        self._with_copies: dict[str, float] = {}
        self.assignments: dict[str, list[Tensor]] = {}
        self._record_assignments(epoch=0)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> logits of the classes (B, 10)."""
        return self.model(images.contiguous(memory_format=torch.channels_last))

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's type for it is a union of ten
        """SGD for the weights, Adam for S and T, both on one cycle over the whole training."""
        s = self.settings
        weights, logits = parameter_groups(self.model, s.weight_decay)
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.SGD(weights, lr=s.learning_rate, momentum=s.momentum, nesterov=True, fused=True)
        ]
        if logits:
            optimizers.append(torch.optim.Adam(logits, lr=s.logit_learning_rate, fused=True))
        steps = s.epochs * len(self.train_dataloader())
        schedulers = [
            torch.optim.lr_scheduler.OneCycleLR(
                o, [g["lr"] for g in o.param_groups], total_steps=steps, cycle_momentum=False
            )
            for o in optimizers
        ]
        return optimizers, schedulers

    def train_dataloader(self) -> Batches:
        """This epoch's batches. They depend on seed and epoch alone, so that a resumed run sees the same ones."""
        return Batches(
            self.dataset.train_images,
            self.dataset.train_labels,
            self.settings.batch,
            augment=True,
            shuffle_seed=self.settings.seed * 1_000_003 + self.current_epoch,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )

    def val_dataloader(self) -> Batches:
        """The test images (or the held-out ones), in order."""
        return Batches(
            self.dataset.test_images,
            self.dataset.test_labels,
            EVALUATION_BATCH * self.trainer.world_size,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )

    def on_train_epoch_start(self) -> None:
        """Starts the sums of the epoch."""
        self._step = self.current_epoch * self.trainer.num_training_batches
        self._started = time.perf_counter()
        self._train = torch.zeros(2, dtype=torch.float64, device=self.device)  # loss, images

    def training_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """One step of the weights' optimiser and, every `assign_every` steps, of the one for S and T."""
        images, labels = batch
        learns = self._set_groups()
        self._step += 1
        loss = F.cross_entropy(self(images), labels)
        optimizers, schedulers = _as_list(self.optimizers()), _as_list(self.lr_schedulers())
        if not learns:
            optimizers = optimizers[:1]
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
        self._train += torch.stack([loss.detach() * len(labels), loss.new_tensor(len(labels))])

    def _set_groups(self) -> bool:
        """Brings the layers to where this step of the training is; whether the groups may change in it."""
        s = self.settings
        closing = s.soft_start * s.epochs * self.trainer.num_training_batches  # the step in which the groups close
        softness = max(0.0, 1 - self._step / closing) if closing else 0.0
        learns = self._step % s.assign_every == 0 and (softness > 0 or not closing)
        for layer in self.layers.values():
            layer.softness, layer.learns = softness, learns
            if learns and isinstance(layer, ClusteredConv2d):
                layer.regroup()
        return learns

    def on_validation_epoch_start(self) -> None:
        """Starts the sum and the list of hits of the test."""
        self._test_loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self._hits = torch.zeros(len(self.dataset.test_labels), dtype=torch.int32, device=self.device)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Adds up the loss and notes the hits, each device those of its own images."""
        images, labels = batch
        logits = self(images)
        self._test_loss += F.cross_entropy(logits.float(), labels, reduction="sum")
        rank, devices = self.trainer.global_rank, self.trainer.world_size
        of_batch = self._hits[batch_idx * EVALUATION_BATCH * devices :][: EVALUATION_BATCH * devices]
        of_batch[rank::devices] = (logits.argmax(dim=1) == labels).int()

    def on_train_epoch_end(self) -> None:
        """Measures: runs after this epoch's test and before its checkpoint is written."""
        epoch = self.current_epoch + 1
        loss, images = self.trainer.strategy.reduce(self._train, reduce_op="sum").tolist()
        losses = {"train_loss": loss / images, **self._test_statistics()}
        if not math.isfinite(losses["train_loss"]) or not math.isfinite(losses["test_loss"]):
            raise ValueError(
                f"{self.settings.id} diverged: in epoch {epoch} the train loss is {losses['train_loss']} and the test "
                f"loss {losses['test_loss']}; lower learning_rate={self.settings.learning_rate}"
            )
        self._record_assignments(epoch)
        row = {
            "epoch": epoch,
            **losses,
            **self._group_statistics(),
            "seconds": time.perf_counter() - self._started,
        }
        self.history.append(row)
        self.log_dict({k: float(v) for k, v in row.items()}, sync_dist=True)
        self.print(
            f"{self.settings.id}: epoch {epoch}/{self.settings.epochs}, train loss {row['train_loss']:.3f}, "
            f"accuracy {row['test_accuracy']:.2%}, {row['seconds']:.0f} s"
        )
        sys.stdout.flush()  # the progress bar's own print, which `self.print` uses if there is one, has no flush=

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what the records need, so that a resumed run writes the same ones."""
        checkpoint["flgc"] = {
            "settings": asdict(self.settings),
            "fingerprint": self.dataset.fingerprint,
            "history": self.history,
            "assignments": self.assignments,
            "correct": self.correct,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes it back."""
        self.history = checkpoint["flgc"]["history"]
        self.assignments = checkpoint["flgc"]["assignments"]
        self.correct = checkpoint["flgc"]["correct"]

    def copy_post_hoc(self, top_k: int, score: Score) -> None:
        """Makes the rule's copies in the trained network, then tests and measures it once more, for `outcome`."""
        for layer in self.layers.values():
            layer.duplicate_top_k, layer.score = top_k, score
        self.trainer.validate(self, verbose=False)
        for values in self.assignments.values():
            values.pop()
        self._record_assignments(self.settings.epochs)
        self._with_copies = self._test_statistics() | self._group_statistics()

    @property
    def outcome(self) -> dict[str, float]:
        """The last epoch's row of `history`, but for what post-hoc copies changed after it."""
        return self.history[-1] | self._with_copies

    def _test_statistics(self) -> dict[str, float]:
        """Mean loss and accuracy of the last test; keeps which images are right."""
        loss, hits = (self.trainer.strategy.reduce(t, reduce_op="sum") for t in (self._test_loss, self._hits))
        self.correct = hits.bool().cpu()
        images = len(self.correct)
        return {"test_loss": float(loss) / images, "test_accuracy": int(self.correct.sum()) / images}

    @torch.no_grad()
    def _record_assignments(self, epoch: int) -> None:
        """Every epoch the group of each channel and filter; at the start, half-way and at the end S, T and copies.

        S and T of a whole ResNet-50 would pass what can be committed, so they are kept for each stage's first block.
        """

        def add(key: str, value: Tensor) -> None:
            self.assignments.setdefault(key, []).append(value.cpu().clone())

        snapshot = epoch in (0, (self.settings.epochs + 1) // 2, self.settings.epochs)
        if snapshot and self.layers:
            add("snapshots", torch.tensor(epoch))
        for name, layer in self.layers.items():
            add(f"{name}.channel_group", membership(layer.input_logits).int().argmax(dim=1).to(torch.uint8))
            add(f"{name}.filter_group", membership(layer.filter_logits).int().argmax(dim=1).to(torch.uint8))
            inputs = layer.input_membership()
            add(f"{name}.copies", inputs.sum() - layer.in_channels)
            if snapshot:
                add(f"{name}.inputs", inputs)
            if snapshot and name.split(".")[1] == "0":
                add(f"{name}.S", layer.input_logits.half())
                add(f"{name}.T", layer.filter_logits.half())

    def _group_statistics(self) -> dict[str, float]:
        """Copies, empty groups, moves and saturation over all learned layers; zeros for a net without any."""
        layers = self.layers.values()
        with_members = sum(len(self.assignments[f"{name}.channel_group"][-1].unique()) for name in self.layers)
        return {
            "copies": sum(int(self.assignments[f"{name}.copies"][-1]) for name in self.layers),
            "empty_groups": sum(layer.groups for layer in layers) - with_members,
            "channels_moved": self._share_changed("channel_group", since=0),
            "channels_moved_last": self._share_changed("channel_group", since=-2),
            "filters_moved": self._share_changed("filter_group", since=0),
            "largest_logit": max((float(layer.input_logits.detach().abs().max()) for layer in layers), default=0.0),
        }

    def _share_changed(self, kind: str, since: int) -> float:
        """Share of all channels (or filters) whose group is another one than `since` epochs ago (0: at the start)."""
        if not self.layers:
            return 0.0
        before, now = (torch.cat([self.assignments[f"{n}.{kind}"][i] for n in self.layers]) for i in (since, -1))
        return float((before != now).float().mean())


def _as_list(one_or_more: Any) -> list[Any]:  # noqa: ANN401 - Lightning hands out one optimiser bare, two as a list
    return one_or_more if isinstance(one_or_more, list) else [one_or_more]


class _WholeCheckpoint(Checkpoint):
    """Writes the checkpoint of every epoch whole or not at all, so that a killed run finds the last one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        part = self.path.with_suffix(".part")
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            os.replace(part, self.path)


def fit(
    settings: Settings,
    dataset: Dataset,
    folder: Path,
    *,
    device: Device = "auto",
    devices: int = 1,
    progress: bool = True,
) -> Classifier:
    """Trains a run to its end, from its last checkpoint if `folder` holds one, and makes post-hoc copies.

    Args:
        settings: what to run.
        dataset: what on.
        folder: of this training alone (`settings.trained`), for `last.ckpt` and Lightning's CSV log.
        device: "auto" takes an accelerator if there is one.
        devices: how many; more than one share each batch.
        progress: whether to show Lightning's progress bar.

    Returns:
        The module after the last epoch.

    Raises:
        ValueError: if the checkpoint in `folder` is not one of this library, or of other settings or data; if the
            loss is no longer a number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module = Classifier(settings.trained, dataset)
    checkpoint = folder / "last.ckpt"
    if checkpoint.exists():
        check_checkpoint(checkpoint, settings.trained, module.dataset.fingerprint)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no advertisements between the epochs
    # Deterministic algorithms would write NaN into all new memory first; no number depends on it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    trainer = lightning.Trainer(
        max_epochs=settings.epochs,
        accelerator=device,
        devices=devices,
        precision="bf16-mixed" if settings.precision == "bf16" else "32-true",
        logger=CSVLogger(folder, name="log"),
        callbacks=[_WholeCheckpoint(checkpoint), *([TQDMProgressBar()] if progress else [])],
        enable_progress_bar=progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,  # each epoch's batches are made for it
        use_distributed_sampler=False,  # Batches splits them itself
        deterministic="warn",
        log_every_n_steps=1,  # the log has one line an epoch; a larger number than there are steps is warned of
    )
    trainer.fit(module, ckpt_path=checkpoint if checkpoint.exists() else None, weights_only=True)
    if settings.copy_time == "post-hoc":
        module.copy_post_hoc(settings.top_k, settings.score)
    return module


def check_checkpoint(path: Path, settings: Settings, fingerprint: str) -> None:
    """Refuses a checkpoint that these settings on this dataset did not write.

    Raises:
        ValueError: saying what differs and what to do.
    """
    advice = f"move {path} away to start this run afresh, or give another folder"
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)["flgc"]
    except Exception as error:  # unpickling, a truncated archive and a foreign content raise many kinds
        raise ValueError(f"{path} is not a checkpoint written by this library, or it is damaged: {advice}") from error
    wanted = asdict(settings)
    differing = [
        f"{name} was {saved['settings'].get(name)!r}, not {value!r}"
        for name, value in wanted.items()
        if saved["settings"].get(name) != value
    ]
    if saved["fingerprint"] != fingerprint:
        differing.append(f"the data had fingerprint {saved['fingerprint']}, not {fingerprint}")
    if differing:
        raise ValueError(f"{path} belongs to another run ({'; '.join(differing)}): {advice}")
