"""A trained network for another engine: calibrated on training images, and tested before and after.

`engines.csv` in the folder of the records has a row for every network, engine and precision that was tested.
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from flgc_lib.data import Batches, Dataset, load
from flgc_lib.experiment import measurements
from flgc_lib.experiment.checkpoint import check_images, trained_network
from flgc_lib.experiment.records import code_version, processor_name
from flgc_lib.files import ROOT
from flgc_lib.frozen import engines, freeze

CALIBRATION_IMAGES = 512
TEST_BATCH = 100
TABLE = "engines.csv"


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
        calibrate: name of the dataset whose first training images int8 finds its ranges from, and on whose test
            images the network is tested before and after.
        batch: images at once that it is tuned for.
        size: their height and width.
        root: folder of the datasets.
        results: folder of the records, whose `engines.csv` gets a row.

    Returns:
        What came of it, as a sentence.

    Raises:
        ValueError: if the file is no checkpoint of this library, and as `engines.Exporter`.
    """
    check_images(batch, size)
    saved, model = trained_network(checkpoint)
    if results is not None and calibrate is None:
        raise ValueError(f"results={results} gets a row about accuracy: give calibrate, the dataset to test on")
    frozen = freeze(model)
    data = None if calibrate is None else load(calibrate, root)
    images = None if data is None else next(iter(Batches(data.train_images, data.train_labels, CALIBRATION_IMAGES)))[0]
    example = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    cost = engines.Exporter(frozen, example, calibration=images).write(output, engine, precision)
    found = f"{output}: {saved.settings.id} for {engine} in {precision}, a gather at {cost:g} multiply-accumulates"
    if data is None:
        return found
    run = engines.load(output, torch.Size((TEST_BATCH, 3, size, size)))
    before, after = accuracy(frozen, data), accuracy(run, data)
    if results is not None:
        row = {
            "run": saved.settings.id,
            "method": saved.settings.method,
            "groups": saved.settings.groups,
            "epochs": saved.settings.epochs,
            "engine": engine,
            "precision": precision,
            "data": data.name,
            "calibration_images": CALIBRATION_IMAGES,
            "gather_cost": cost,
            "accuracy_frozen": before,
            "accuracy": after,
            "processor": processor_name(torch.device("cpu")),
            "code": code_version(),
        }
        measurements.add(pd.DataFrame([row]), results / TABLE, ["run", "engine", "precision", "processor"])
    return f"{found}; accuracy {after:.2%}, of the frozen network {before:.2%}"


@torch.no_grad()
def accuracy(run: Callable[[Tensor], Tensor], data: Dataset) -> float:
    """Share of the test images that `run`, which takes batches of one size, gets right."""
    right = 0
    for images, labels in Batches(data.test_images, data.test_labels, TEST_BATCH):
        whole = torch.cat([images, images.new_zeros(TEST_BATCH - len(images), *images.shape[1:])])
        right += int((run(whole)[: len(images)].argmax(dim=1) == labels).sum())
    return right / len(data.test_labels)
