"""Runs settings and writes their records; a sweep runs what is missing from them.

Source: Motohashi and Yamauchi, section 4; the protocol stands in data/results/README.md.
"""

import os
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import joblib
import torch
from filelock import FileLock
from torch import nn

from flgc_lib.cost import count
from flgc_lib.data import load
from flgc_lib.records import OF_LAST_EPOCH, code_version, processor_name, read_runs, settings_of, write_record
from flgc_lib.training import Device, Settings, fit, learned_layers


def run(
    settings: Settings,
    *,
    results: Path = Path("data/results"),
    root: Path = Path("data"),
    device: Device = "auto",
    devices: int = 1,
    threads: int | None = None,
    progress: bool = False,
) -> dict[Any, Any]:
    """Runs one setting, from its last checkpoint if there is one, and writes its record; does nothing if it is done.

    Args:
        settings: what to run.
        results: folder of the records.
        root: folder of the datasets (`cache/`) and of checkpoints (`runs/<settings.trained.id>/`).
        device: where to train.
        devices: how many of them.
        threads: of PyTorch on the processor; the numbers of a run depend on it in the last digits.
        progress: whether to show a progress bar.

    Returns:
        The row of `runs.csv`.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    folder = root / "runs" / settings.trained.id
    folder.mkdir(parents=True, exist_ok=True)
    # A second sweep, or a worker that outlived a killed one, may be at it. Of several devices, the first one's process
    # holds the lock for all: Lightning starts the others from inside `fit`.
    with FileLock(folder / ".lock") if os.environ.get("LOCAL_RANK", "0") == "0" else nullcontext():
        done = read_runs(results)
        if settings.id in set(done["run"]):
            return done[done["run"] == settings.id].iloc[0].to_dict()
        code = code_version()  # of what is being run, whatever is committed meanwhile
        dataset = load(settings.data, root)
        module = fit(settings, dataset, folder, device=device, devices=devices, progress=progress)
        last = module.outcome
        row = {
            "run": settings.id,
            **asdict(settings),
            "depths": "-".join(map(str, settings.depths)),
            "fingerprint": dataset.fingerprint,
            "code": code,
            "torch": torch.__version__,
            "processor": processor_name(module.trainer.strategy.root_device),
            "threads": torch.get_num_threads(),
            **_costs(module.model, settings),
            **{name: last[name] for name in OF_LAST_EPOCH},
            "seconds": sum(epoch["seconds"] for epoch in module.history),
        }
        if module.trainer.is_global_zero:
            write_record(results, row, module.history, module.assignments, module.correct)
    return row


def sweep(
    settings: Sequence[Settings],
    *,
    results: Path = Path("data/results"),
    root: Path = Path("data"),
    device: Device = "auto",
    workers: int = 1,
    threads: int = 1,
) -> dict[str, str]:
    """Runs whatever of `settings` the records lack, in that order, several side by side.

    Killed at any moment and started again, it skips what is done, resumes what was running, and ends with the same
    records. A run that fails does not stop the others.

    Args:
        settings: for example `grids.small()`.
        results: folder of the records.
        root: folder of datasets and checkpoints.
        device: where to train.
        workers: runs side by side.
        threads: of each worker.

    Returns:
        For each run that failed, by id, why.
    """
    done = set(read_runs(results)["run"])
    missing = [s for s in settings if s.id not in done]
    print(f"{len(settings)} runs, {len(settings) - len(missing)} of them done", flush=True)
    failures: dict[str, str] = {}
    parallel = joblib.Parallel(n_jobs=workers, backend="loky", return_as="generator_unordered")
    tasks = (joblib.delayed(_attempt)(s, results=results, root=root, device=device, threads=threads) for s in missing)
    for finished, (name, failure) in enumerate(parallel(tasks), start=1):
        if failure:
            failures[name] = failure
        print(f"[{finished}/{len(missing)}] {name}: {failure or 'done'}", flush=True)
    return failures


def rerun(
    name: str,
    *,
    results: Path = Path("data/results"),
    root: Path = Path("data"),
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
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch) / "cache"
        cache.symlink_to((root / "cache").resolve())
        again = run(
            settings_of(recorded),
            results=Path(scratch) / "results",
            root=Path(scratch),
            device=device,
            threads=int(recorded["threads"]),
            progress=True,
        )
    return recorded, again


def _attempt(settings: Settings, **options: Any) -> tuple[str, str]:  # noqa: ANN401 - passed on to `run`
    try:
        run(settings, **options)
    except Exception as error:  # one failing run must not take the rest of a long sweep with it
        return settings.id, f"{type(error).__name__}: {error}"
    return settings.id, ""


def _costs(model: nn.Module, settings: Settings) -> dict[str, int]:
    """Parameters and MACs of the trained network, without its copies, and of the dense network."""
    input_size = (3, 32, 32)
    dense = replace(settings, method="dense", soft_start=0.0, copy_time="training")
    cost = count(model, input_size)
    layers = learned_layers(model).values()
    top_k = [layer.duplicate_top_k for layer in layers]
    for layer in layers:
        layer.duplicate_top_k = None
    without_copies = count(model, input_size)
    for layer, k in zip(layers, top_k, strict=True):
        layer.duplicate_top_k = k
    return {
        "parameters": cost.parameters,
        "macs_dense": count(dense.network(), input_size).macs,
        "macs_grouped": without_copies.macs,
        "macs": cost.macs,
    }
