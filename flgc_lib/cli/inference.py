"""Commands for trained networks: made small and fast, and measured."""

from pathlib import Path

import tyro

from flgc_lib.bench.settings import BenchSettings
from flgc_lib.files import ROOT
from flgc_lib.frozen import forms
from flgc_lib.frozen.engines import Engine, Precision


def freeze(
    checkpoint: Path,
    output: Path,
    *,
    precision: forms.Precision = "fp32",
    batch: int = 1,
    size: int = 32,
    tune: bool = True,
    data: str | None = None,
    root: Path = ROOT,
    results: Path | None = None,
) -> None:
    """Turn a trained network into a small, fast one for inference; read it with flgc_lib.frozen.load.

    Args:
        checkpoint: last.ckpt of a run, in data/runs/<run>/.
        output: file to write.
        precision: bf16 rounds inputs and weights of convolutions where that is faster; the processor must have it.
        batch: images at once that it is tuned for.
        size: their height and width, pixels.
        tune: time several forms of every layer on this machine and keep the fastest.
        data: name of a dataset, on whose test images the network is tested, in fp32 and as it is.
        root: folder of datasets.
        results: folder of records, whose engines.csv gets a row about the test.
    """
    from flgc_lib.experiment.deploy import check_records, freeze_checkpoint, frozen_accuracy

    check_records(results, data, "data")
    frozen = freeze_checkpoint(checkpoint, output, precision=precision, batch=batch, size=size, tune=tune)
    print(frozen.report())
    print(f"{output}: {output.stat().st_size / 1e6:.2f} MB, from {checkpoint.stat().st_size / 1e6:.2f} MB")
    if data is not None:
        print(frozen_accuracy(checkpoint, frozen, precision=precision, data=data, root=root, results=results))


def export(
    checkpoint: Path,
    output: Path,
    *,
    engine: Engine,
    precision: Precision = "fp32",
    calibrate: str | None = None,
    batch: int = 1,
    size: int = 32,
    root: Path = ROOT,
    results: Path | None = None,
) -> None:
    """Write a trained network for another inference engine, in the form that is fastest there on this machine.

    Args:
        checkpoint: last.ckpt of a run, in data/runs/<run>/.
        output: file to write, ending in .onnx, or in .xml for openvino, which puts the weights beside it.
        engine: onnx is what onnxruntime runs and others read.
        precision: int8 is quantised by onnxruntime's tools and needs --calibrate; bf16 is openvino's.
        calibrate: name of a dataset: int8 finds the ranges of its maps from 512 training images, and the
            network is tested on its test images, before and after.
        batch: images at once that it is tuned for.
        size: their height and width, pixels.
        root: folder of datasets.
        results: folder of records, whose engines.csv gets a row about the test.
    """
    from flgc_lib.experiment.deploy import export_checkpoint

    print(
        export_checkpoint(
            checkpoint,
            output,
            engine=engine,
            precision=precision,
            calibrate=calibrate,
            batch=batch,
            size=size,
            root=root,
            results=results,
        )
    )


def bench(settings: tyro.conf.OmitArgPrefixes[BenchSettings]) -> None:
    """Measure dense, grouped, masked and frozen networks side by side on this machine.

    Args:
        settings: what to measure.
    """
    from flgc_lib.bench.measure import bench as measure

    measure(settings)
