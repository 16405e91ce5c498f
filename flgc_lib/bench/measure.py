"""How fast is a frozen network? All candidates alternate in one process; what is reported is median and quartiles.

The record says what ran, on what, and three costs side by side: what the group count promises (dense / G), what the
connections really are, and the milliseconds.
"""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch

from flgc_lib.bench import candidates, gpu, report
from flgc_lib.bench.candidates import Candidate
from flgc_lib.bench.settings import BenchSettings
from flgc_lib.cost import count
from flgc_lib.experiment import measurements
from flgc_lib.experiment.records import code_version, processor_name, read_runs
from flgc_lib.files import check_folder
from flgc_lib.methods import METHODS
from flgc_lib.resnet import Stem, resnet50

SETTLE = 0.05
"""Seconds between candidates: threads that wait for their next work by spinning hold a core, and give it up by then."""


def bench(settings: BenchSettings) -> pd.DataFrame:
    """Measures, prints a table after every combination, and adds it to `bench.csv` in the results folder.

    A combination that is measured again, on the same processor, replaces its old rows.

    Returns:
        The rows of this call; columns as described in docs/performance.md.
    """
    _check(settings)
    frames = []
    for stem in settings.stems:
        for batch in settings.batches:
            for threads in settings.threads if settings.device == "cpu" else settings.threads[:1]:
                with _threads(threads) as number:
                    frame = _measure(settings, stem, batch, number)
                print(f"\n{stem}, {report.load(batch, number)}\n{report.summary(frame)}")
                measurements.add(frame.round(4), settings.results / report.TABLE, report.KEY)
                frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _check(settings: BenchSettings) -> None:
    """Refuses, before anything is measured, what could not be measured or kept."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device='cuda' needs an NVIDIA GPU that PyTorch sees; leave it out to measure on the processor"
        )
    check_folder(settings.results)
    measurements.check(settings.results / report.TABLE, report.COLUMNS)
    cores = os.cpu_count() or 1
    if max(settings.threads) > cores:
        raise ValueError(f"threads={max(settings.threads)} must be at most {cores}, the cores of this computer, or 0")
    if settings.trained_run is not None:
        runs = read_runs(settings.results)
        row = runs[runs["run"] == settings.trained_run]
        if row.empty or not METHODS[row["method"].iloc[0]].masked or row["groups"].iloc[0] not in settings.groups:
            raise ValueError(
                f"trained_run={settings.trained_run!r} must be a run of {settings.results / 'runs.csv'} with learned "
                f"or drawn groups, as many as one of groups={settings.groups}"
            )


@torch.no_grad()
def _measure(settings: BenchSettings, stem: Stem, batch: int, threads: int) -> pd.DataFrame:
    size = 224 if stem == "imagenet" else 32
    x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    dense_macs = count(resnet50(stem=stem), (3, size, size)).macs
    chosen: list[Candidate] = []
    if settings.device == "cuda":
        found = gpu.build(stem, settings.groups, x.cuda())
    else:
        found = candidates.build(stem, settings.groups, x, settings.results, settings.trained_run)
    names = []
    for candidate in found:
        names.append(candidate.name)
        wanted = not settings.only or candidate.name == candidates.BASELINE or candidate.name.startswith(settings.only)
        if wanted and candidate.prepare():
            chosen.append(candidate)
        elif candidate.name == candidates.BASELINE:
            raise ValueError(f"{candidate.name}, with which all others are compared, cannot be measured here")
    if len(chosen) < 2:
        raise ValueError(f"there is nothing to compare: only={settings.only} must begin some of {', '.join(names)}")
    milliseconds = _alternate(chosen, settings.repetitions)
    quartiles = np.percentile(milliseconds, [25, 50, 75], axis=0).T  # (candidates, 3)
    rows = [
        {
            "stem": stem,
            "size": size,
            "batch": batch,
            "threads": threads,
            "candidate": candidate.name,
            "groups": candidate.groups,
            "assignment": candidate.assignment,
            "nominal_mmacs": dense_macs / candidate.groups / 1e6,
            "mmacs": count(candidate.counted, (3, size, size)).macs / 1e6,
            "milliseconds": median,
            "quartile_1": first,
            "quartile_3": third,
            "times_faster": quartiles[0, 1] / median,
            "repetitions": settings.repetitions,
        }
        for candidate, (first, median, third) in zip(chosen, quartiles, strict=True)
    ]
    return pd.DataFrame(rows).assign(**_versions(torch.device(settings.device)))


def _alternate(chosen: list[Candidate], repetitions: int) -> np.ndarray:
    """Milliseconds of every candidate in every round, (repetitions, candidates)."""
    milliseconds = np.empty((repetitions, len(chosen)))
    for row in milliseconds:
        for i, candidate in enumerate(chosen):
            time.sleep(SETTLE)
            candidate.run()  # so that in the caches is what it needs itself
            start = time.perf_counter()
            candidate.run()
            row[i] = (time.perf_counter() - start) * 1e3
    return milliseconds


@contextmanager
def _threads(number: int) -> Iterator[int]:
    """Fixes the threads, and pins a single one to a core where the system can; puts everything back."""
    before = torch.get_num_threads()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    number = number or len(cores)
    torch.set_num_threads(number)
    if number == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(cores)})
    try:
        yield number
    finally:
        torch.set_num_threads(before)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)


def _versions(device: torch.device) -> dict[str, str]:
    found = {
        "processor": processor_name(device),
        "system": platform.system(),
        "torch": torch.__version__,
    }
    for package in ("numba", "onnxruntime", "openvino"):
        try:
            found[package] = __import__(package).__version__
        except ImportError:
            found[package] = ""
    return found | {"code": code_version()}
