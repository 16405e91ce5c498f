"""A trained network made fast: frozen, or written for another engine or precision, and tested before and after.

`engines.csv` in the folder of the records has a row for every network, engine and precision that was tested; the engine
of a frozen network as it is is called "kernel".
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from flgc_lib.data import Batches, Dataset, load
from flgc_lib.experiment import measurements
from flgc_lib.experiment.checkpoint import Saved, trained_network
from flgc_lib.experiment.records import code_version, processor_name
from flgc_lib.experiment.settings import Settings
from flgc_lib.files import ROOT
from flgc_lib.frozen import FrozenNetwork, engines, freeze, save
from flgc_lib.frozen.forms import Precision
from flgc_lib.frozen.precision import check_precision

CALIBRATION_IMAGES = 512
TEST_BATCH = 100
TABLE = "engines.csv"
MOST_PIXELS = 2**24
"""Of a batch that something is tuned for: 16 images of 1024 × 1024."""


def freeze_checkpoint(
    checkpoint: Path,
    output: Path,
    *,
    precision: Precision = "fp32",
    batch: int = 1,
    size: int = 32,
    tune: bool = True,
) -> FrozenNetwork:
    """Freezes the network of a checkpoint, writes it, and returns it: what `flgc freeze` does.

    Args:
        checkpoint: `last.ckpt` of a run.
        output: file to write; read it with `flgc_lib.frozen.load`.
        precision: see `freeze`.
        batch: images at once that the layers are tuned for.
        size: their height and width.
        tune: whether to time the forms of every layer on this machine; without, the likely fastest are taken.

    Raises:
        ValueError: if the file is no checkpoint of this library, or the one to write; if the run's groups have not
            closed yet; or for a precision that this processor does not have.
    """
    if output.exists() and output.samefile(checkpoint):
        raise ValueError(
            f"{output} is the checkpoint itself, which would be lost; give another path for what is frozen"
        )
    _check_images(batch, size)
    check_precision(precision)
    _, model = trained_network(checkpoint)
    example = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    frozen = freeze(model, example, tune=tune, precision=precision)
    save(frozen, output)
    return frozen


def export_checkpoint(
    checkpoint: Path,
    output: Path,
    *,
    engine: engines.Engine,
    precision: engines.Precision = "fp32",
    calibrate: str | None = None,
    batch: int = 1,
    size: int = 32,
    root: Path = ROOT,
    results: Path | None = None,
) -> str:
    """Writes the network of a checkpoint for an engine: what `flgc export` does.

    Args:
        checkpoint: `last.ckpt` of a run.
        output: file to write, see `engines.Exporter`.
        engine: that will run it.
        precision: in which.
        calibrate: name of the dataset from whose training images int8 finds its ranges, and on whose test images the
            network is tested before and after; the run's own.
        batch: images at once that it is tuned for.
        size: their height and width.
        root: folder of the datasets.
        results: folder of the records, whose `engines.csv` gets a row.

    Returns:
        What came of it, as a sentence.

    Raises:
        ValueError: if the file is no checkpoint of this library, and as `dataset_of` and `engines.Exporter`.
    """
    _check_images(batch, size)
    saved, model = trained_network(checkpoint)
    check_records(results, calibrate, "calibrate")
    data = None if calibrate is None else dataset_of(saved, calibrate, root)
    frozen = freeze(model)
    images = None if data is None else calibration_images(data)
    if images is not None and images.shape[2:] != (size, size):
        raise ValueError(f"size={size} is not that of the images of {calibrate}, {images.shape[2]} × {images.shape[3]}")
    example = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    cost = engines.Exporter(frozen, example, calibration=images).write(output, engine, precision)
    found = f"{output}: {saved.settings.id} for {engine} in {precision}, a gather at {cost:g} multiply-accumulates"
    if data is None:
        return found
    run = engines.load(output, torch.Size((TEST_BATCH, 3, size, size)))
    calibrated = len(images) if images is not None and precision == "int8" else 0
    columns = {"engine": engine, "precision": precision, "calibration_images": calibrated, "gather_cost": cost}
    return f"{found}; {_tested(saved.settings, frozen, run, data, results, columns)}"


def _check_images(batch: int, size: int) -> None:
    """Refuses a batch of images that no network takes, or no memory holds.

    Raises:
        ValueError: saying what is allowed.
    """
    for name, number, most in (("batch", batch, 4096), ("size", size, 4096)):
        if not 1 <= number <= most:
            raise ValueError(f"{name}={number} must be from 1 to {most}")
    if batch * size * size > MOST_PIXELS:
        raise ValueError(
            f"batch={batch} of size={size} is more than {MOST_PIXELS:,} pixels: give a smaller batch or size"
        )


def calibration_images(data: Dataset) -> Tensor:
    """Training images drawn from all, float32 (B, 3, H, W): some sources give one class after the other."""
    size = min(CALIBRATION_IMAGES, len(data.train_images))
    images, _ = next(iter(Batches(data.train_images, data.train_labels, size, shuffle_seed=0)))
    return images


def frozen_accuracy(
    checkpoint: Path,
    frozen: FrozenNetwork,
    *,
    precision: Precision,
    data: str,
    root: Path = ROOT,
    results: Path | None = None,
) -> str:
    """Tests a checkpoint's network as it was frozen: what `flgc freeze --data` does.

    Args:
        checkpoint: `last.ckpt` of a run.
        frozen: what became of it, in this precision.
        precision: "fp32" or "bf16".
        data: name of the dataset on whose test images it is tested, in fp32 and as it is; the run's own.
        root: folder of the datasets.
        results: folder of the records, whose `engines.csv` gets a row.

    Returns:
        The accuracies, as a sentence.

    Raises:
        ValueError: as `dataset_of`.
    """
    saved, model = trained_network(checkpoint)
    columns = {"engine": "kernel", "precision": precision, "calibration_images": 0, "gather_cost": 0.0}
    return _tested(saved.settings, freeze(model), frozen, dataset_of(saved, data, root), results, columns)


def dataset_of(saved: Saved, name: str, root: Path) -> Dataset:
    """The dataset of a run, by name: all its images, also if the run was trained on a part of them.

    Raises:
        ValueError: if they are other images: what the network makes of them is no result of the run.
    """
    settings, found = saved.settings, load(name, root)
    fingerprint = settings.part_of(found).fingerprint
    if fingerprint != saved.fingerprint:
        raise ValueError(
            f"{settings.id} was trained on {settings.data!r} with fingerprint {saved.fingerprint}, and {name!r} has "
            f"{fingerprint}: give the name of its own dataset, prepared from the same images"
        )
    return found


def check_records(results: Path | None, data: str | None, option: str) -> None:
    """Refuses to record the accuracy of a network that is not tested.

    Raises:
        ValueError: if there is a folder of records, but no dataset, which the option names.
    """
    if results is not None and data is None:
        raise ValueError(f"results={results} gets a row about accuracy: give {option}, the dataset to test on")


def _tested(
    settings: Settings,
    frozen: Callable[[Tensor], Tensor],
    run: Callable[[Tensor], Tensor],
    data: Dataset,
    results: Path | None,
    columns: Mapping[str, object],
) -> str:
    """Accuracy of what `run` computes, and of the network frozen in fp32, in words; and as a row of the records."""
    before, after = accuracy(frozen, data), accuracy(run, data)
    if results is not None:
        row = {
            "run": settings.id,
            "method": settings.method,
            "groups": settings.groups,
            "epochs": settings.epochs,
            "engine": columns["engine"],
            "precision": columns["precision"],
            "data": data.name,
            "calibration_images": columns["calibration_images"],
            "gather_cost": columns["gather_cost"],
            "accuracy_frozen": before,
            "accuracy": after,
            "processor": processor_name(torch.device("cpu")),
            "code": code_version(),
        }
        measurements.add(pd.DataFrame([row]), results / TABLE, ["run", "engine", "precision", "processor"])
    return f"accuracy {after:.2%}, of the frozen network in fp32 {before:.2%}"


@torch.no_grad()
def accuracy(run: Callable[[Tensor], Tensor], data: Dataset) -> float:
    """Share of the test images that `run`, which takes batches of one size, gets right."""
    right = 0
    for images, labels in Batches(data.test_images, data.test_labels, TEST_BATCH):
        whole = torch.cat([images, images.new_zeros(TEST_BATCH - len(images), *images.shape[1:])])
        right += int((run(whole)[: len(images)].argmax(dim=1) == labels).sum())
    return right / len(data.test_labels)
