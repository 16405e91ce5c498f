"""Commands for the experiment: data, one run, many runs."""

import sys
from dataclasses import fields
from pathlib import Path

import tyro

from flgc_lib.experiment import grids
from flgc_lib.experiment.settings import Device, Settings
from flgc_lib.files import RESULTS, ROOT


def data(source: str, *, name: str | None = None, root: Path = ROOT) -> None:
    """Decode a dataset once and keep it for training.

    Args:
        source: torchvision (CIFAR-10's official archive, 170 MB) or huggingface (its copy there); both go on where
            they were interrupted. Or the path of a folder or archive that you have: cifar-10-batches-py, or
            train/<class>/*.png and test/<class>/*.png.
        name: what `--data` of train and sweep calls it; by default cifar10, or the folder's or archive's name.
        root: folder for datasets.
    """
    from flgc_lib.data import prepare

    dataset = prepare(source, name, root)
    print(
        f"{dataset.name}: {len(dataset.train_labels)} training and {len(dataset.test_labels)} test images, "
        f"fingerprint {dataset.fingerprint}; use it with --data {dataset.name}"
    )


def train(
    settings: tyro.conf.OmitArgPrefixes[Settings],
    *,
    run: str | None = None,
    results: Path = RESULTS,
    root: Path = ROOT,
    device: Device = "auto",
    threads: int | None = None,
) -> None:
    """Train one network and add it to the records; started again after an interruption, it resumes.

    Args:
        settings: what to run.
        run: id of a recorded run (column `run` of runs.csv) to run again and compare; its settings and threads are the
            recorded ones, so no others may be given.
        results: folder of the records.
        root: folder of datasets and checkpoints.
        device: auto takes an NVIDIA GPU if there is one.
        threads: of PyTorch on the processor; all cores by default.
    """
    from flgc_lib.experiment import runs

    if run is None:
        row = runs.run(
            settings,
            results=results,
            root=root,
            device=device,
            threads=threads,
            progress=True,
        )
        print(f"{row['run']}: test accuracy {row['test_accuracy']:.2%}, {row['macs'] / 1e6:.1f} MMAC")
        return
    given = [f.name for f in fields(settings) if getattr(settings, f.name) != f.default]
    given += ["threads"] * (threads is not None)
    if given:
        raise ValueError(
            f"--run {run} has its recorded settings, so {', '.join(given)} cannot be given with it: leave that out"
        )
    recorded, again = runs.rerun(run, results=results, root=root, device=device)
    same = recorded["test_accuracy"] == again["test_accuracy"]
    print(
        f"{run}: test accuracy {again['test_accuracy']!r}, recorded {recorded['test_accuracy']!r}: "
        + ("the same" if same else f"not the same; it was recorded by commit {recorded['code']} of the library")
    )


def sweep(
    grid: grids.Grid,
    *,
    data: str | None = None,
    results: Path = RESULTS,
    root: Path = ROOT,
    device: Device = "auto",
    workers: int = 1,
    threads: int = 1,
    on: str = "local",
    gpus: float = 1.0,
) -> None:
    """Run an experiment: whatever its grid has and the records lack. Killed and started again, it goes on.

    Args:
        grid: quick (minutes, embedded data), first (ResNet-50 at G = 8, one seed, 4 epochs), tune (learning rates, on
            held-out images), learn (ways to learn groups against drawn ones, on held-out images), small (the paper's
            question on a small net), rule (its open choices), rates (the rate of power, on held-out images),
            premise (ways to copy channels that have become important, on held-out images), power (many seeds of few
            arms, on a wider small net), resnet20 (those arms on ResNet-20), paper (ResNet-50, the paper's stem), gpu
            (ResNet-50, 3×3 stem).
        data: another dataset than the grid's own, by name.
        results: folder of the records.
        root: folder of datasets and checkpoints.
        device: auto takes an NVIDIA GPU if there is one.
        workers: runs side by side on this computer.
        threads: of each worker.
        on: local, or the address of a Ray cluster (docs/cluster.md), whose machines then do the runs.
        gpus: of a machine of the cluster that a run takes with --device cuda; 0.25 for four runs on one.
    """
    from flgc_lib.experiment.sweep import sweep as run_missing

    failures = run_missing(
        grids.grid(grid, data),
        results=results,
        root=root,
        device=device,
        workers=workers,
        threads=threads,
        on=on,
        gpus=gpus,
    )
    if failures:
        sys.exit(f"flgc: {len(failures)} runs failed; mended and started again, the same command runs only those")
