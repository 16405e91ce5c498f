"""Many runs: a sweep does what is missing from the records, on this computer or on a cluster."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flgc_lib.experiment import cluster
from flgc_lib.experiment.records import (
    check_writable,
    read_epochs,
    read_groups,
    read_runs,
    write_record,
)
from flgc_lib.experiment.runs import run
from flgc_lib.experiment.settings import Device, Settings, check_place
from flgc_lib.experiment.workers import each
from flgc_lib.files import RESULTS, ROOT, first_line


def sweep(
    settings: Sequence[Settings],
    *,
    results: Path = RESULTS,
    root: Path = ROOT,
    device: Device = "auto",
    workers: int = 1,
    threads: int = 1,
    on: str = "local",
    gpus: float = 1.0,
) -> dict[str, str]:
    """Runs whatever of `settings` the records lack, in that order, several side by side.

    Killed at any moment and started again, it skips what is done, resumes what was running, and ends with the same
    records. A run that fails does not stop the others, nor does a worker that is killed: its run is tried once more.

    Args:
        settings: for example `grids.small()`.
        results: folder of the records.
        root: folder of datasets and checkpoints.
        device: where to train.
        workers: runs side by side, each in a process of its own; with one, in this process.
        threads: of each worker.
        on: "local", or the address of a Ray cluster, see `cluster.each`: this process then only writes the records, and
            every machine needs the library, and the dataset and a place for checkpoints in `root`.
        gpus: of a machine of the cluster that a run takes, if `device` is "cuda".

    Returns:
        For each run that failed, by id, why.

    Raises:
        ValueError: if the device is not there, an option would have no effect, or the records are damaged; before any
            run.
        OSError: if the records cannot be written, likewise.
    """
    check_place("auto" if on != "local" else device, threads=threads, workers=workers)
    if on != "local" and workers != 1:
        raise ValueError(f"workers={workers} are of this computer, not of {on}: its machines do as many runs as fit")
    if gpus != 1 and (on == "local" or device != "cuda"):
        raise ValueError(f"gpus={gpus} are of a cluster's machines: give device='cuda' and on, its address, with them")
    if not gpus > 0:
        raise ValueError(f"gpus={gpus} must be more than 0: 0.25 puts four runs on one")
    check_writable(results)
    done = set(read_runs(results)["run"])
    missing = [s for s in settings if s.id not in done]
    print(f"{len(settings)} runs, {len(settings) - len(missing)} of them done", flush=True)
    options: dict[str, Any] = {"root": root, "device": device, "threads": threads}
    if on == "local":
        outcomes = each(attempt, {s.id: s for s in missing}, workers, results=results, **options)
    else:
        outcomes = _on_cluster(missing, on, results, gpus if device == "cuda" else 0, **options)
    failures: dict[str, str] = {}
    started = time.monotonic()
    for finished, (name, failure) in enumerate(outcomes, start=1):
        if failure:
            failures[name] = failure
        left = (time.monotonic() - started) / finished * (len(missing) - finished)
        to_go = f", about {left / 3600:.1f} h to go" if left >= 360 else f", about {left / 60:.0f} min to go"
        print(f"[{finished}/{len(missing)}] {name}: {failure or 'done'}{to_go * (left > 0)}", flush=True)
    return failures


def attempt(settings: Settings, **options: Any) -> tuple[str, str]:  # noqa: ANN401 - passed on to `run`
    """Runs one setting; gives its id and, if it failed, why: one run must not take the rest of a long sweep with it."""
    try:
        run(settings, **options)
    except Exception as error:
        return settings.id, f"{type(error).__name__}: {error}"
    return settings.id, ""


Record = tuple[dict[Any, Any], list[dict[Any, Any]], dict[str, np.ndarray]]
"""What a run leaves behind, on its way to the process that writes it."""


def _on_cluster(
    settings: Sequence[Settings],
    address: str,
    results: Path,
    gpus: float,
    *,
    threads: int,
    **options: Any,  # noqa: ANN401
) -> Iterator[tuple[str, str]]:
    """Runs settings on a Ray cluster and writes the records that come back; gives ids, with why a run failed."""
    print(
        f"runs on {address}: checkpoints are in {options['root']} of each machine. If that is one folder for all, a "
        "machine that dies costs its runs their last epoch; if not, these runs start again.",
        flush=True,
    )
    tasks = {s.id: s for s in settings}
    for name, outcome in cluster.each(train_away, tasks, address, cores=threads, gpus=gpus, threads=threads, **options):
        if isinstance(outcome, Exception):
            yield name, f"{type(outcome).__name__}: {first_line(outcome)}"
            continue
        failure, record = outcome
        if record is not None:
            try:
                write_record(results, *record)
            except (OSError, ValueError) as error:  # the next record may find room
                failure = f"{type(error).__name__}: {error}"
        yield name, failure


def train_away(settings: Settings, **options: Any) -> tuple[str, Record | None]:  # noqa: ANN401 - of `attempt`
    """Runs one setting on a machine that does not write the records; why it failed, or what it would have written."""
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch)
        name, failure = attempt(settings, results=results, **options)
        if failure:
            return failure, None
        row = read_runs(results).iloc[0].to_dict()
        epochs = read_epochs(results).drop(columns="run").to_dict("records")
        return "", (row, epochs, read_groups(results, name))
