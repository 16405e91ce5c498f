"""How fast is a frozen network? All candidates alternate in one process; what is reported is median and quartiles.

The record says what ran, on what, and three costs side by side: what the group count promises (dense / G), what the
connections really are, and the milliseconds.
"""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from flgc_lib.bench import candidates
from flgc_lib.bench import report as bench_report
from flgc_lib.bench.candidates import Candidate
from flgc_lib.bench.settings import BenchSettings
from flgc_lib.cost import count
from flgc_lib.experiment.records import code_version, processor_name
from flgc_lib.resnet import Stem, resnet50

SETTLE = 0.05
"""Seconds between candidates: threads that wait for their next work by spinning hold a core, and give it up by then."""


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
                print(f"\n{stem}, batch {batch}, {number} threads\n{summary(frame)}")
                _store(frame, settings.results)
                frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def summary(frame: pd.DataFrame) -> str:
    """The table of one combination, the fastest last."""
    columns = ["candidate", "groups", "mmacs", "milliseconds", "quartile_1", "quartile_3", "times_faster"]
    return frame.sort_values("milliseconds", ascending=False)[columns].to_string(index=False, float_format="%.2f")


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
    samples: dict[int, list[float]] = {i: [] for i in range(len(chosen))}
    for _ in range(settings.repetitions):
        for i, candidate in enumerate(chosen):
            time.sleep(SETTLE)
            candidate.run()  # so that in the caches is what it needs itself
            start = time.perf_counter()
            candidate.run()
            samples[i].append((time.perf_counter() - start) * 1e3)
    rows = []
    baseline = float(np.median(samples[0]))
    for i, candidate in enumerate(chosen):
        first, median, third = np.percentile(samples[i], [25, 50, 75])
        macs = count(candidate.counted, (3, size, size)).macs
        rows.append(
            {
                "stem": stem,
                "size": size,
                "batch": batch,
                "threads": threads,
                "candidate": candidate.name,
                "groups": candidate.groups,
                "assignment": candidate.assignment,
                "nominal_mmacs": dense_macs / candidate.groups / 1e6,
                "mmacs": macs / 1e6,
                "milliseconds": median,
                "quartile_1": first,
                "quartile_3": third,
                "times_faster": baseline / median,
                "repetitions": settings.repetitions,
            }
        )
    return pd.DataFrame(rows).assign(**_versions())


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


def _store(frame: pd.DataFrame, results: Path) -> None:
    same = ["stem", "batch", "threads", "candidate", "groups", "processor"]
    old = bench_report.read(results)
    if not old.empty:
        replaced = pd.MultiIndex.from_frame(old[same]).isin(pd.MultiIndex.from_frame(frame[same]))
        frame = pd.concat([old[~replaced], frame], ignore_index=True)
    results.mkdir(parents=True, exist_ok=True)
    frame.to_csv(results / "bench.csv", index=False, float_format="%.4f")
