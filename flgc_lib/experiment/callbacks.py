"""What Lightning calls in a training: the progress bar, and the checkpoint of every epoch."""

from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Checkpoint, TQDMProgressBar

from flgc_lib.files import write_whole


class LossBar(TQDMProgressBar):
    """Lightning's bar with the mean training loss of the epoch so far, in nats, instead of a version number."""

    def on_train_epoch_start(self, trainer: lightning.Trainer, *arguments: Any) -> None:  # noqa: ANN401 - Lightning's
        """Counts the epoch from 1."""
        super().on_train_epoch_start(trainer, *arguments)
        self.train_progress_bar.set_description(f"Epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        """What stands at the end of the bar."""
        total: Any = pl_module.train_total  # (loss, images) of the epoch, see `Classifier`
        return {"loss": f"{float(total[0] / total[1]):.3f}"} if total[1] > 0 else {}


class WholeCheckpoint(Checkpoint):
    """Writes the checkpoint of every epoch whole or not at all, so that a killed run finds the last one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Writes it."""
        write_whole(self.path, trainer.save_checkpoint)
