"""The command line: `flgc check | notebooks | data | train | sweep | figures | explore | freeze | bench`.

A command imports what it needs when it runs: help, and a mistyped option, should be answered at once.
"""

import sys
from dataclasses import fields
from pathlib import Path

import tyro
from tyro.extras import SubcommandApp

from flgc_lib import environment
from flgc_lib.bench.settings import BenchSettings
from flgc_lib.course.session import Mode
from flgc_lib.experiment import grids
from flgc_lib.experiment.settings import Device, Settings
from flgc_lib.files import RESULTS, ROOT, write_whole

app = SubcommandApp()
NOTEBOOKS = Path("notebooks")


@app.command
def check() -> None:
    """Say whether everything that the notebooks need is here, and if not, what to type."""
    sys.exit(environment.main())


@app.command
def notebooks(
    *,
    mode: Mode = "standard",
    into: Path = NOTEBOOKS,
    only: tuple[str, ...] = (),
    workers: int = 2,
    measure: bool = False,
) -> None:
    """Execute the course's notebooks from top to bottom; by default in place, as their stored outputs were made.

    Args:
        mode: how much they compute: smoke (seconds each), standard (up to minutes) or full (the real experiment).
        into: folder of the executed notebooks.
        only: numbers of notebooks, for example 00 05; all by default.
        workers: notebooks side by side.
        measure: note the run times for the opening cells; do it on a computer that does nothing else.
    """
    from flgc_lib.course.notebooks import execute_all

    failures = execute_all(mode, into, only=only, workers=workers, measure=measure)
    if failures:
        sys.exit(f"flgc: {len(failures)} notebooks failed: {', '.join(failures)}")


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
    from flgc_lib.data import prepare

    dataset = prepare(source, name, root)
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
        run: id of a recorded run (column `run` of runs.csv) to run again and compare; its settings and threads are the
            recorded ones, so no others may be given.
        results: folder of the records.
        root: folder of datasets and checkpoints.
        device: auto takes an accelerator if there is one.
        devices: how many of them; they share each batch.
        threads: of PyTorch on the processor; all cores by default.
    """
    from flgc_lib.experiment import runs

    if run is None:
        row = runs.run(
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
    given = [f.name for f in fields(settings) if getattr(settings, f.name) != f.default]
    given += [name for name, changed in (("devices", devices != 1), ("threads", threads is not None)) if changed]
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


@app.command
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
            arms, on a wider small net), paper (ResNet-50, the paper's stem), gpu (ResNet-50, 3×3 stem).
        data: another dataset than the grid's own, by name.
        results: folder of the records.
        root: folder of datasets and checkpoints.
        device: auto takes an accelerator if there is one.
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


@app.command
def figures(
    *,
    results: Path = RESULTS,
    folder: Path = Path("figures"),
    documents: tuple[Path, ...] = (Path("README.md"), Path("docs/performance.md")),
    check: bool = False,
) -> None:
    """Draw every figure, and fill in every table, from the records.

    Args:
        results: folder of the records.
        folder: where the figures go.
        documents: whose tables, between `<!-- table: GRID -->` and `<!-- /table -->`, are filled in, if they exist.
        check: change nothing; compare the stored figures' numbers, and the tables, with the records.
    """
    from flgc_lib.figures import draw, tables

    texts = {path: tables.filled(path, results) for path in documents if path.exists()}
    if check:
        if not (results / "runs.csv").exists():
            raise ValueError(f"there are no records in {results}, so there is nothing to compare with: give --results")
        problems = draw.check(results, folder)
        problems += [
            f"the tables of {path} are not what the records say: type `flgc figures`"
            for path, text in texts.items()
            if text != path.read_text(encoding="utf-8")
        ]
        if problems:
            sys.exit("\n".join(problems))
        print("all figures and tables are those of the records")
        return
    for path in draw.regenerate(results, folder):
        print(path)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")


@app.command
def explore(run: str, *, output: Path = Path("explorer.html"), results: Path = RESULTS) -> None:
    """Write a page that opens alone, to play with a run's groups: S, copies, sizes, the mask, and what k does.

    Args:
        run: id of a recorded run whose groups were learned or drawn (column `run` of runs.csv).
        output: file to write; open it in a browser.
        results: folder of the records.
    """
    from flgc_lib.figures import explorer

    page = explorer.page([explorer.recorded(results, run), explorer.worked_example()])

    def write(path: Path) -> None:
        path.write_text(page, encoding="utf-8")

    write_whole(output, write)
    print(f"{output}: {len(page) / 1e6:.1f} MB; open it in a browser")


@app.command
def freeze(checkpoint: Path, output: Path, *, batch: int = 1, size: int = 32, tune: bool = True) -> None:
    """Turn a trained network into a small, fast one for inference; read it with flgc_lib.frozen.load.

    Args:
        checkpoint: last.ckpt of a run, in data/runs/<run>/.
        output: file to write.
        batch: images at once that it is tuned for.
        size: their height and width, pixels.
        tune: time several exact forms of every layer on this machine and keep the fastest.
    """
    from flgc_lib.experiment.checkpoint import freeze_checkpoint

    freeze_checkpoint(checkpoint, output, batch=batch, size=size, tune=tune)
    print(f"{output}: {output.stat().st_size / 1e6:.2f} MB, from {checkpoint.stat().st_size / 1e6:.2f} MB")


@app.command
def bench(settings: tyro.conf.OmitArgPrefixes[BenchSettings]) -> None:
    """Measure dense, grouped, masked and frozen networks side by side on this machine.

    Args:
        settings: what to measure.
    """
    from flgc_lib.bench.measure import bench as measure

    measure(settings)


def main() -> None:
    """Runs the command line; a mistake is answered with a sentence, not a traceback."""
    try:
        app.cli(prog="flgc", description="Learned group convolution: notebooks, data, training, experiments, figures.")
    except (ValueError, OSError) as error:
        print(f"flgc: {error}", file=sys.stderr)
        sys.exit(2)  # as for an option that does not exist
