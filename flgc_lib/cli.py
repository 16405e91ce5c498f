"""The command line: `flgc data | train | sweep | figures`, or `python -m flgc_lib …`."""

import sys
from pathlib import Path

import tyro
from tyro.extras import SubcommandApp

from flgc_lib import data as datasets
from flgc_lib import experiments
from flgc_lib import figures as drawings
from flgc_lib.training import Device, Settings

app = SubcommandApp()
RESULTS = Path("data/results")
ROOT = Path("data")


@app.command
def data(source: str, *, name: str | None = None, root: Path = ROOT) -> None:
    """Decode a dataset once and keep it for training.

    Args:
        source: torchvision (CIFAR-10's official archive, 170 MB) or huggingface (its copy there); both go on where
            they were interrupted. Or the path of a folder or archive that you have: cifar-10-batches-py, or
            train/<class>/*.png and test/<class>/*.png.
        name: what `--data` of train and sweep calls it; by default cifar10, or the folder's or archive's name.
        root: folder for datasets.
    """
    dataset = datasets.prepare(source, name, root)
    print(
        f"{dataset.name}: {len(dataset.train_labels)} training and {len(dataset.test_labels)} test images, "
        f"fingerprint {dataset.fingerprint}; use it with --data {dataset.name}"
    )


@app.command
def train(
    settings: tyro.conf.OmitArgPrefixes[Settings],
    *,
    run: str | None = None,
    results: Path = RESULTS,
    root: Path = ROOT,
    device: Device = "auto",
    devices: int = 1,
    threads: int | None = None,
) -> None:
    """Train one network and add it to the records; started again after an interruption, it resumes.

    Args:
        settings: what to run.
        run: id of a recorded run (column `run` of runs.csv) to run again and compare; the other settings are then
            the recorded ones.
        results: folder of the records.
        root: folder of datasets and checkpoints.
        device: auto takes an accelerator if there is one.
        devices: how many of them; they share each batch.
        threads: of PyTorch on the processor; all cores by default.
    """
    if run is None:
        row = experiments.run(
            settings,
            results=results,
            root=root,
            device=device,
            devices=devices,
            threads=threads,
            progress=True,
        )
        print(f"{row['run']}: test accuracy {row['test_accuracy']:.2%}, {row['macs'] / 1e6:.1f} MMAC")
        return
    recorded, again = experiments.rerun(run, results=results, root=root, device=device)
    same = recorded["test_accuracy"] == again["test_accuracy"]
    print(
        f"{run}: test accuracy {again['test_accuracy']!r}, recorded {recorded['test_accuracy']!r}: "
        + ("the same" if same else "not the same; the last digits depend on processor, threads and versions")
    )


@app.command
def sweep(
    grid: experiments.Grid,
    *,
    data: str | None = None,
    results: Path = RESULTS,
    root: Path = ROOT,
    device: Device = "auto",
    workers: int = 1,
    threads: int = 1,
) -> None:
    """Run an experiment: whatever its grid has and the records lack. Killed and started again, it goes on.

    Args:
        grid: quick (minutes, embedded data) or first (ResNet-50 at G = 8, one seed, 4 epochs).
        data: another dataset than the grid's own, by name.
        results: folder of the records.
        root: folder of datasets and checkpoints.
        device: auto takes an accelerator if there is one.
        workers: runs side by side.
        threads: of each worker.
    """
    failures = experiments.sweep(
        experiments.GRIDS[grid](data), results=results, root=root, device=device, workers=workers, threads=threads
    )
    if failures:
        sys.exit(f"flgc: {len(failures)} runs failed; mended and started again, the same command runs only those")


@app.command
def figures(*, results: Path = RESULTS, folder: Path = Path("figures"), check: bool = False) -> None:
    """Draw every figure from the records.

    Args:
        results: folder of the records.
        folder: where the figures go.
        check: draw nothing; compare the numbers stored beside the figures with the records.
    """
    if check:
        problems = drawings.check(results, folder)
        if problems:
            sys.exit("\n".join(problems))
        print("every figure's numbers are those of the records")
        return
    for path in drawings.regenerate(results, folder):
        print(path)


def main() -> None:
    """Runs the command line; a mistake is answered with a sentence, not a traceback."""
    try:
        app.cli(prog="flgc", description="Learned group convolution: data, training, experiments, figures.")
    except (ValueError, OSError) as error:
        sys.exit(f"flgc: {error}")
