"""How fast is a frozen network? All candidates alternate in one process; what is reported is median and quartiles.

The record says what ran, on what, and three costs side by side: what the group count promises (dense / G), what the
connections really are, and the milliseconds.
"""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from flgc_lib.bench import candidates, report
from flgc_lib.bench.candidates import Candidate
from flgc_lib.cost import count
from flgc_lib.experiment.records import code_version, processor_name
from flgc_lib.grouping import check_choice
from flgc_lib.resnet import Stem, resnet50

SETTLE = 0.05
"""Seconds between candidates: threads that wait for their next work by spinning hold a core, and give it up by then."""


@dataclass(frozen=True)
class BenchSettings:
    """What is measured: every combination of stems, batches and threads, with all numbers of groups in each."""

    stems: tuple[Stem, ...] = ("cifar", "imagenet")
    """cifar is measured at 32 × 32 pixels, imagenet at 224 × 224, paper at 32 × 32."""
    groups: tuple[int, ...] = (2, 4, 8, 16)
    """Numbers of groups; each must divide 64, because fixed groups of equal size are measured too."""
    batches: tuple[int, ...] = (1, 32)
    """Images at once."""
    threads: tuple[int, ...] = (1, 0)
    """Threads; 0 for all cores. With 1 the process is pinned to one core where the system can."""
    repetitions: int = 15
    """Rounds in which every candidate runs twice; the second run is timed."""
    only: tuple[str, ...] = ()
    """Names of candidates, or beginnings of names, to measure besides the dense eager model; all by default."""
    trained_run: str | None = None
    """Id of a recorded run whose learned groups are measured too (column `run` of runs.csv)."""
    results: Path = Path("data/results")
    """Folder of the records; the measurements go into bench.csv there."""

    def __post_init__(self) -> None:
        """Refuses what cannot be measured."""
        for stem in self.stems:
            check_choice("stem", stem, Stem)
        for name in ("groups", "batches"):
            if min(getattr(self, name), default=0) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be one or more numbers of at least 1")
        wrong = [g for g in self.groups if 64 % g]
        if wrong:
            raise ValueError(
                f"groups={wrong[0]} must divide 64, the channels of ResNet-50's first stage: 2, 4, 8, 16 …"
            )
        if not self.threads or min(self.threads) < 0:
            raise ValueError(f"threads={self.threads} must be one or more numbers; 0 is for all cores")
        if self.repetitions < 1:
            raise ValueError(f"repetitions={self.repetitions} must be at least 1")


def bench(settings: BenchSettings) -> pd.DataFrame:
    """Measures, prints a table after every combination, and adds it to `bench.csv` in the results folder.

    A combination that is measured again, on the same processor, replaces its old rows.

    Returns:
        The rows of this call; columns as described in docs/performance.md.
    """
    frames = []
    for stem in settings.stems:
        for batch in settings.batches:
            for threads in settings.threads:
                with _threads(threads) as number:
                    frame = _measure(settings, stem, batch, number)
                print(f"\n{stem}, {report.load(batch, number)}\n{report.summary(frame)}")
                report.store(frame, settings.results)
                frames.append(frame)
    return pd.concat(frames, ignore_index=True)


@torch.no_grad()
def _measure(settings: BenchSettings, stem: Stem, batch: int, threads: int) -> pd.DataFrame:
    size = 224 if stem == "imagenet" else 32
    x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    dense_macs = count(resnet50(stem=stem), (3, size, size)).macs
    chosen: list[Candidate] = []
    for candidate in candidates.build(stem, settings.groups, x, settings.results, settings.trained_run):
        wanted = not settings.only or candidate.name == candidates.BASELINE or candidate.name.startswith(settings.only)
        if wanted and candidate.prepare():
            chosen.append(candidate)
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
    return pd.DataFrame(rows).assign(**_versions())


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


def _versions() -> dict[str, str]:
    found = {
        "processor": processor_name(torch.device("cpu")),
        "system": platform.system(),
        "torch": torch.__version__,
    }
    for package in ("numba", "onnxruntime"):
        try:
            found[package] = __import__(package).__version__
        except ImportError:
            found[package] = ""
    return found | {"code": code_version()}
