"""One run: trained, recorded, and made again from its record.

Source: Motohashi and Yamauchi, section 4; the protocol stands in data/results/README.md.
"""

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import nn

from flgc_lib.clustered import BudgetConv2d
from flgc_lib.cost import count
from flgc_lib.data import load
from flgc_lib.experiment.assignments import learned_layers
from flgc_lib.experiment.records import (
    OF_LAST_EPOCH,
    check_writable,
    processor_name,
    read_runs,
    settings_of,
    stored,
    write_record,
)
from flgc_lib.experiment.settings import Device, Settings, check_place, place_of
from flgc_lib.experiment.training import Classifier, check_fits, fit
from flgc_lib.files import RESULTS, ROOT


def run(
    settings: Settings,
    *,
    results: Path = RESULTS,
    root: Path = ROOT,
    device: Device = "auto",
    threads: int | None = None,
    progress: bool = False,
    checkpoints: Path | None = None,
) -> dict[Any, Any]:
    """Runs one setting, from its last checkpoint if there is one, and writes its record; does nothing if it is done.

    Args:
        settings: what to run.
        results: folder of the records.
        root: folder of the datasets (`cache/`) and of checkpoints (`runs/`).
        device: where to train.
        threads: of PyTorch on the processor; the numbers of a run depend on it in the last digits.
        progress: whether to show a progress bar.
        checkpoints: folder of checkpoints (`<settings.trained.id>/`), if not `runs/` in `root`.

    Returns:
        The row of `runs.csv`.

    Raises:
        ValueError: if the device is not there, or the records are damaged; before the training, not after it.
        OSError: if the records cannot be written, likewise.
    """
    check_place(device, threads)
    check_writable(results)
    dataset = load(settings.data, root)
    check_fits(settings.trained, dataset)
    folder = (checkpoints or root / "runs") / settings.trained.id
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder), _threads(threads):
        done = read_runs(results)
        if settings.id in set(done["run"]):
            print(f"{settings.id}: already in {results / 'runs.csv'}", flush=True)
            return done[done["run"] == settings.id].iloc[0].to_dict()
        module = fit(settings, dataset, folder, device=device, progress=progress)
        row = _row(module, settings)
        write_record(results, row, module.history, stored(module.assignments, module.correct))
        print(f"{settings.id}: recorded in {results}; checkpoint {folder / 'last.ckpt'}", flush=True)
    return row


def rerun(
    name: str,
    *,
    results: Path = RESULTS,
    root: Path = ROOT,
    device: Device = "auto",
) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Runs a recorded run once more, from its start and with as many threads, and leaves the records alone.

    Returns:
        The recorded row and the new one. On the same machine with the same versions their accuracies are equal.

    Raises:
        ValueError: if there is no such run.
    """
    runs = read_runs(results).set_index("run", drop=False)
    if name not in runs.index:
        raise ValueError(f"there is no run {name!r} in {results / 'runs.csv'}; its column `run` has the names")
    recorded = runs.loc[name].to_dict()
    here = {"torch": torch.__version__, "processor": processor_name(torch.device(place_of(device)))}
    if other := [f"{key} {recorded[key]}, here {value}" for key, value in here.items() if recorded[key] != value]:
        print(f"{name}: recorded with {'; '.join(other)}: the last digits, and so the accuracy, may differ", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        again = run(
            settings_of(recorded),
            results=Path(scratch) / "results",
            root=root,
            device=device,
            threads=int(recorded["threads"]),
            progress=True,
            checkpoints=Path(scratch),
        )
    return recorded, again


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds a run for this process: a second sweep, or a worker that outlived a killed one, may be at it."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{folder.name}: another process is at this run; waiting for it to end", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """So many threads of PyTorch, None for as many as there are, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _row(module: Classifier, settings: Settings) -> dict[str, Any]:
    """The columns of `runs.csv` of a run that has just ended."""
    last = module.outcome
    return {
        "run": settings.id,
        **asdict(settings),
        "depths": "-".join(map(str, settings.depths)),
        "fingerprint": module.dataset.fingerprint,
        **module.made_by,
        "threads": torch.get_num_threads(),
        **_costs(module.model, settings, module.dataset.train_images.shape[1:]),
        **{name: last[name] for name in OF_LAST_EPOCH},
        "seconds": sum(epoch["seconds"] for epoch in module.history),
    }


def _costs(model: nn.Module, settings: Settings, image: torch.Size) -> dict[str, int]:
    """Parameters, and MACs for an image (3, H, W): of the network as trained, without its copies, and dense."""
    input_size = (image[0], image[1], image[2])
    dense = replace(settings, method="dense", soft_start=0.0, scout=0.0, share=1.0, copy_time="training")
    cost = count(model, input_size)
    plain = copy.deepcopy(model)  # the trained one keeps its rule
    for layer in learned_layers(plain).values():
        layer.duplicate_top_k = None
        if isinstance(layer, BudgetConv2d):
            layer.share = 1.0
    return {
        "parameters": cost.parameters,
        "macs_dense": count(dense.network(len(model.get_parameter("fc.bias"))), input_size).macs,
        "macs_grouped": count(plain, input_size).macs,
        "macs": cost.macs,
    }
