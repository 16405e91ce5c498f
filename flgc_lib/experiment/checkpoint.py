"""From a training checkpoint to a frozen file: what `flgc freeze` does."""

from pathlib import Path

import torch

from flgc_lib.experiment.training import Settings
from flgc_lib.frozen import FrozenNetwork, freeze, save

PREFIX = "model."  # of the network's entries in a checkpoint of training


def freeze_checkpoint(
    checkpoint: Path, output: Path, *, batch: int = 1, size: int = 32, tune: bool = True
) -> FrozenNetwork:
    """Freezes the network of a checkpoint, writes it, and returns it.

    Args:
        checkpoint: `last.ckpt` of a run.
        output: file to write; read it with `flgc_lib.frozen.load`.
        batch: images at once that the layers are tuned for.
        size: their height and width.
        tune: whether to time the forms of every layer on this machine; without, the likely fastest are taken.

    Raises:
        ValueError: if the file is no checkpoint of this library.
    """
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        saved, state = content["flgc"]["settings"], content["state_dict"]
    except Exception as error:  # a missing file, a foreign or truncated one raise many kinds
        raise ValueError(
            f"{checkpoint} is not a checkpoint written by `flgc train`; give the path of a run's last.ckpt"
        ) from error
    model = Settings(**saved | {"depths": tuple(saved["depths"])}).network()
    model.load_state_dict({key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)})
    frozen = freeze(model, torch.randn(batch, 3, size, size) if tune else None)
    save(frozen, output)
    return frozen
