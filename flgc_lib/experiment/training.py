"""Trains one network: Lightning module, `fit`, and what is measured after every epoch.

Source: Motohashi and Yamauchi, section 4.
"""

import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.utils.deterministic
from torch import Tensor
from torch.nn import functional as F

from flgc_lib.clustered import ClusteredConv2d
from flgc_lib.data import Batches, Dataset
from flgc_lib.experiment import graphs
from flgc_lib.experiment.assignments import Recorder, learned_layers
from flgc_lib.experiment.callbacks import LossBar, WholeCheckpoint
from flgc_lib.experiment.checkpoint import Saved, check_checkpoint
from flgc_lib.experiment.optimisers import optimisers
from flgc_lib.experiment.records import code_version, processor_name
from flgc_lib.experiment.schedule import phase
from flgc_lib.experiment.settings import Device, Settings, place_of
from flgc_lib.layers import Score

EVALUATION_BATCH = 500


class Classifier(lightning.LightningModule):
    """Trains `settings.network()` on a dataset and keeps a row of measurements for every epoch.

    Attributes:
        history: one dict an epoch, the columns of `epochs.csv`.
        layers: the convolutions with groups, by name; see `learned_layers`.
        train_total: float64 (2,), sum of the losses and number of images of the epoch so far.
        correct: BoolTensor (m,), which test images the network of the last test gets right.
        made_by: code, torch and processor, the columns of `runs.csv`; of a training that was resumed with others, one
            after the other.
    """

    def __init__(self, settings: Settings, dataset: Dataset) -> None:
        super().__init__()
        # Two optimisers of different kinds, SGD for the weights and Adam for S and T, need manual optimisation.
        self.automatic_optimization = False
        self.settings = settings
        self.dataset = settings.part_of(dataset)
        self.model = settings.network(len(dataset.classes)).to(memory_format=torch.channels_last)
        self.layers = learned_layers(self.model)
        self.history: list[dict[str, float]] = []
        self.train_total = torch.zeros(2, dtype=torch.float64)
        self.correct = torch.zeros(0, dtype=torch.bool)
        self.made_by: dict[str, str] = {}
        self._softness: Tensor | None = None
        self._with_copies: dict[str, float] = {}
        self._recorder = Recorder(self.layers, settings.epochs)
        self._recorder.record(epoch=0)

    @property
    def assignments(self) -> dict[str, list[Tensor]]:
        """The arrays of `groups/<run>.npz` so far, see `Recorder` and data/results/README.md."""
        return self._recorder.arrays

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> logits of the classes (B, number of classes)."""
        return self.model(images.contiguous(memory_format=torch.channels_last))

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's type for it is a union of ten
        """SGD for the weights, Adam for S and T, both on one cycle over the whole training."""
        return optimisers(self.model, self.settings, self.settings.epochs * len(self.train_dataloader()))

    def train_dataloader(self) -> Batches:
        """This epoch's batches. They depend on seed and epoch alone, so that a resumed run sees the same ones."""
        images, labels = self.dataset.train_images.to(self.device), self.dataset.train_labels.to(self.device)
        seed = self.settings.seed * 1_000_003 + self.current_epoch
        return Batches(images, labels, self.settings.batch, augment=True, shuffle_seed=seed)

    def val_dataloader(self) -> Batches:
        """The test images (or the held-out ones), in order."""
        images, labels = self.dataset.test_images.to(self.device), self.dataset.test_labels.to(self.device)
        return Batches(images, labels, EVALUATION_BATCH)

    def on_fit_start(self) -> None:
        """Notes what computes from now on: the code as it is at the start, whatever is committed meanwhile."""
        here = {"code": code_version(), "torch": str(torch.__version__), "processor": processor_name(self.device)}
        for name, now in here.items():
            before = self.made_by.get(name, now)
            self.made_by[name] = before if before.endswith(now) else f"{before}, then {now}"

    def on_train_start(self) -> None:
        """On an NVIDIA GPU, records the network's part of a step."""
        if self.device.type == "cuda":
            if self.settings.soft_start:
                self._softness = torch.ones((), device=self.device)
                for layer in self.layers.values():
                    layer.softness = self._softness
            images = self.dataset.train_images[: self.settings.batch].to(self.device, torch.float32)
            graphs.record(self.model, images, self.trainer.precision_plugin.forward_context())

    def on_train_end(self) -> None:
        """Takes it back."""
        self._softness = None
        graphs.release(self.model)
        for layer in self.layers.values():
            layer.softness = float(layer.softness)

    def on_train_epoch_start(self) -> None:
        """Starts the sums of the epoch."""
        self._step = self.current_epoch * int(self.trainer.num_training_batches)
        self._started = time.perf_counter()
        self.train_total = torch.zeros(2, dtype=torch.float64, device=self.device)

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
        self.train_total += torch.stack([loss.detach() * len(labels), loss.new_tensor(len(labels))])

    def _set_groups(self) -> bool:
        """Brings the layers to where this step of the training is; whether the groups may change in it."""
        steps = self.settings.epochs * int(self.trainer.num_training_batches)
        now = phase(self.settings, self._step, steps)
        # A CUDA graph reads a number where it was when the graph was recorded.
        softness = now.softness if self._softness is None else self._softness.fill_(now.softness)
        for layer in self.layers.values():
            layer.softness, layer.learns = softness, now.learns
            if now.regroups and isinstance(layer, ClusteredConv2d):
                layer.regroup()
        return now.learns

    def on_validation_epoch_start(self) -> None:
        """Starts the sum and the list of hits of the test."""
        self._test_loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self._hits = torch.zeros(len(self.dataset.test_labels), dtype=torch.bool, device=self.device)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Adds up the loss and notes the hits."""
        images, labels = batch
        logits = self(images)
        self._test_loss += F.cross_entropy(logits.float(), labels, reduction="sum")
        first = batch_idx * EVALUATION_BATCH
        self._hits[first : first + len(labels)] = logits.argmax(dim=1) == labels

    def on_train_epoch_end(self) -> None:
        """Measures: runs after this epoch's test and before its checkpoint is written."""
        epoch = self.current_epoch + 1
        loss, images = self.train_total.tolist()
        losses = {"train_loss": loss / images, **self._test_statistics()}
        if not math.isfinite(losses["train_loss"]) or not math.isfinite(losses["test_loss"]):
            raise ValueError(
                f"{self.settings.id} diverged: in epoch {epoch} the train loss is {losses['train_loss']} and the test "
                f"loss {losses['test_loss']}; lower learning_rate={self.settings.learning_rate}"
            )
        self._recorder.record(epoch)
        row = {
            "epoch": epoch,
            **losses,
            **self._recorder.statistics(),
            "seconds": time.perf_counter() - self._started,
        }
        self.history.append(row)
        self.print(
            f"{self.settings.id}: epoch {epoch}/{self.settings.epochs}, train loss {row['train_loss']:.3f}, "
            f"accuracy {row['test_accuracy']:.2%}, {row['seconds']:.0f} s"
        )
        sys.stdout.flush()  # the progress bar's own print, which `self.print` uses if there is one, has no flush=

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what the records need, so that a resumed run writes the same ones."""
        fingerprint = self.dataset.fingerprint
        Saved(self.settings, fingerprint, self.history, self.assignments, self.correct, self.made_by).put_into(
            checkpoint
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes it back."""
        saved = Saved.of(checkpoint)
        self.history, self._recorder.arrays, self.correct = saved.history, saved.assignments, saved.correct
        self.made_by = saved.made_by

    def copy_post_hoc(self, top_k: int, score: Score) -> None:
        """Makes the rule's copies in the trained network, then tests and measures it once more, for `outcome`."""
        for layer in self.layers.values():
            layer.duplicate_top_k, layer.score = top_k, score
        self.trainer.validate(self, verbose=False)
        self._recorder.record_end_again()
        self._with_copies = self._test_statistics() | self._recorder.statistics()

    @property
    def outcome(self) -> dict[str, float]:
        """The last epoch's row of `history`, but for what post-hoc copies changed after it."""
        return self.history[-1] | self._with_copies

    def _test_statistics(self) -> dict[str, float]:
        """Mean loss and accuracy of the last test; keeps which images are right."""
        self.correct = self._hits.cpu()
        images = len(self.correct)
        return {"test_loss": float(self._test_loss) / images, "test_accuracy": int(self.correct.sum()) / images}


def _as_list(one_or_more: Any) -> list[Any]:  # noqa: ANN401 - Lightning hands out one optimiser bare, two as a list
    return one_or_more if isinstance(one_or_more, list) else [one_or_more]


@contextmanager
def _algorithms_put_back() -> Iterator[None]:
    """A Trainer that is deterministic switches how PyTorch chooses algorithms, for the whole process and for good."""
    mode, benchmark = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    new_memory: Any = torch.utils.deterministic  # a module with a property, which mypy does not see
    filled = new_memory.fill_uninitialized_memory
    new_memory.fill_uninitialized_memory = False  # NaN would cost time, and no number depends on it
    try:
        yield
    finally:
        new_memory.fill_uninitialized_memory = filled
        torch.set_deterministic_debug_mode(mode)
        torch.backends.cudnn.benchmark = benchmark


def check_fits(settings: Settings, dataset: Dataset) -> None:
    """Refuses settings that their network, or the dataset, does not allow.

    Raises:
        ValueError: for example for too many groups, or a batch of more images than there are.
    """
    settings.network(len(dataset.classes))
    held = settings.part_of(dataset)
    Batches(held.train_images, held.train_labels, settings.batch, shuffle_seed=settings.seed)


def fit(
    settings: Settings,
    dataset: Dataset,
    folder: Path,
    *,
    device: Device = "auto",
    progress: bool = True,
) -> Classifier:
    """Trains a run to its end, from its last checkpoint if `folder` holds one, and makes post-hoc copies.

    Args:
        settings: what to run.
        dataset: what on.
        folder: of this training alone (`settings.trained`), for `last.ckpt`.
        device: "auto" takes an NVIDIA GPU if there is one.
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
        state = module.model.state_dict()
        done = check_checkpoint(checkpoint, settings.trained, module.dataset.fingerprint, state)
        print(f"{settings.trained.id}: resuming after epoch {done} of {settings.epochs} from {checkpoint}", flush=True)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no advertisements between the epochs
    with _algorithms_put_back():
        trainer = lightning.Trainer(
            max_epochs=settings.epochs,
            accelerator=place_of(device),
            devices=1,
            precision="bf16-mixed" if settings.precision == "bf16" else "32-true",
            logger=False,
            callbacks=[WholeCheckpoint(checkpoint), *([LossBar()] if progress else [])],
            enable_progress_bar=progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1,  # each epoch's batches are made for it
            deterministic="warn",
        )
        trainer.fit(module, ckpt_path=checkpoint if checkpoint.exists() else None, weights_only=True)
        if settings.copy_time == "post-hoc":
            module.copy_post_hoc(settings.top_k, settings.score)
    return module
