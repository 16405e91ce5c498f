"""A run's checkpoint, `last.ckpt`: what the library puts into it, and its one reader.

The rest of the file is Lightning's: the network's state under "state_dict", those of optimisers and loops.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flgc_lib.experiment.settings import Settings

_ENTRY = "flgc"  # what the library adds to Lightning's content
_PREFIX = "model."  # of the network's entries in "state_dict": the attribute of `Classifier`


@dataclass(frozen=True)
class Saved:
    """What a resumed run needs besides Lightning's state, so that it writes the same records.

    Attributes:
        settings: of the training.
        fingerprint: of the dataset.
        history: see `Classifier`.
        assignments: see `Classifier`.
        correct: see `Classifier`.
        made_by: see `Classifier`.
    """

    settings: Settings
    fingerprint: str
    history: list[dict[str, float]]
    assignments: dict[str, list[Tensor]]
    correct: Tensor
    made_by: dict[str, str] = field(default_factory=dict)  # older checkpoints don't tell

    def put_into(self, content: dict[str, Any]) -> None:
        """Adds it to the content of a checkpoint; plain types only, so that nothing in the file needs to be run."""
        content[_ENTRY] = vars(self) | {"settings": asdict(self.settings)}

    @staticmethod
    def of(content: dict[str, Any]) -> "Saved":
        """Takes it out again."""
        entry = content[_ENTRY]
        return Saved(**entry | {"settings": Settings(**entry["settings"])})


def read_checkpoint(path: Path, *, advice: str) -> tuple[Saved, dict[str, Tensor]]:
    """Reads a checkpoint and runs no code from it.

    Args:
        path: of the file.
        advice: what to do if it is none of this library's, for the error.

    Returns:
        What the library saved, and the state dict of `settings.network()` after the last epoch.

    Raises:
        ValueError: if the file is missing, damaged, or not a checkpoint of this library.
    """
    try:
        with zipfile.ZipFile(path) as file:  # torch.load does not compare the checksums
            if damaged := file.testzip():
                raise ValueError(f"{damaged} is not what was written")
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = {k.removeprefix(_PREFIX): v for k, v in content["state_dict"].items() if k.startswith(_PREFIX)}
        return Saved.of(content), state
    except Exception as error:  # a missing file, unpickling, a truncated archive, a foreign content: many kinds
        raise ValueError(f"{path} is not a checkpoint written by `flgc train`, or it is damaged: {advice}") from error


def check_checkpoint(path: Path, settings: Settings, fingerprint: str, network: Mapping[str, Tensor]) -> int:
    """Refuses a checkpoint that these settings on this dataset did not write.

    Args:
        path: of the file.
        settings: of the training.
        fingerprint: of the dataset.
        network: state dict of `settings.network()`, whose names and shapes the checkpoint must have.

    Returns:
        How many epochs it has behind it.

    Raises:
        ValueError: saying what differs and what to do.
    """
    advice = f"move {path} away to start this run afresh, or give another folder"
    saved, state = read_checkpoint(path, advice=advice)
    found = asdict(saved.settings)
    differing = [
        f"{name} was {found[name]!r}, not {value!r}" for name, value in asdict(settings).items() if found[name] != value
    ]
    if saved.fingerprint != fingerprint:
        differing.append(f"the data had fingerprint {saved.fingerprint}, not {fingerprint}")
    if not differing and _kinds(state) != _kinds(network):
        differing.append("its network has other parameters")
    if differing:
        raise ValueError(f"{path} belongs to another run ({'; '.join(differing)}): {advice}")
    return len(saved.history)


def trained_network(path: Path) -> tuple[Saved, nn.Module]:
    """The network of a run's checkpoint, with what the library saved beside it.

    Raises:
        ValueError: as `read_checkpoint`; if the parameters are not those of the settings' network; or if the run's
            groups have not closed yet.
    """
    saved, state = read_checkpoint(path, advice="give the path of a run's last.ckpt")
    closing = saved.settings.soft_start * saved.settings.epochs
    if len(saved.history) < closing:
        raise ValueError(
            f"the run of {path} is in its soft start: after {len(saved.history)} epochs its groups are still "
            f"open, they close after {closing:g}; resume it with the command that started it, then freeze"
        )
    model = saved.settings.network(len(state.get("fc.bias", torch.empty(1))))
    if _kinds(state) != _kinds(model.state_dict()):
        raise ValueError(
            f"{path} has other parameters than the network of its settings: it was altered; train it again"
        )
    model.load_state_dict(state)
    return saved, model


def _kinds(state: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (value.shape, value.dtype) for name, value in state.items()}
