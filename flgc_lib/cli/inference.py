"""Commands for trained networks: made small and fast, and measured."""

from pathlib import Path

import tyro

from flgc_lib.bench.settings import BenchSettings


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


def bench(settings: tyro.conf.OmitArgPrefixes[BenchSettings]) -> None:
    """Measure dense, grouped, masked and frozen networks side by side on this machine.

    Args:
        settings: what to measure.
    """
    from flgc_lib.bench.measure import bench as measure

    measure(settings)
