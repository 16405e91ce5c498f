"""The progress bar of one training: epochs counted from 1, and the loss."""

from typing import Any

import lightning
from lightning.pytorch.callbacks import TQDMProgressBar


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
