"""A frozen network as a file for another inference engine, in fp32, bf16 or int8, and running such a file.

Quantisation is onnxruntime's own (static, per channel, Jacob et al. 2018); OpenVINO runs the same quantised network.
What an engine takes for moving channels, compared with multiplying, differs from one to the next, so that the file is
written for several prices of it (`portable`), and the fastest on this machine stays.
"""

import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flgc_lib.files import write_whole
from flgc_lib.frozen.autotune import medians
from flgc_lib.frozen.export import write_onnx
from flgc_lib.frozen.network import FrozenNetwork
from flgc_lib.frozen.portable import PortableConv2d, portable
from flgc_lib.grouping import check_choice

Engine = Literal["onnx", "openvino"]
"""onnx is what onnxruntime runs, and others."""
Precision = Literal["fp32", "bf16", "int8"]

GATHER_COSTS = (0.0, 50.0, 200.0)
"""Multiply-accumulates in the time of which one value is moved: those to try, for fast gathers and for slow ones."""
_ENDINGS: dict[str, str] = {"onnx": ".onnx", "openvino": ".xml"}
_NOTE = ["flgc", "precision"]  # where OpenVINO's file says how it is to be run


class Exporter:
    """Writes a frozen network for engines; ONNX, which all start from, is made once.

    Args:
        frozen: from `freeze`; it is not changed.
        example_input: a batch like those to come, (B, C, H, W); the files take batches of any size.
        calibration: images of the training set, (n, C, H, W), normalised as they are for the network; for int8.
        tune: whether to time several forms of the network on this machine, with the present number of threads;
            without, the one for cheap gathers is taken.
    """

    def __init__(
        self, frozen: FrozenNetwork, example_input: Tensor, *, calibration: Tensor | None = None, tune: bool = True
    ) -> None:
        self._scratch = tempfile.TemporaryDirectory()
        self._example_input = example_input
        self._calibration = calibration
        self._networks = dict(_forms(frozen, example_input, GATHER_COSTS if tune else GATHER_COSTS[:1]))

    def write(self, path: str | Path, engine: str, precision: str = "fp32") -> float:
        """Writes the form of the network that is fastest in this engine and precision.

        Args:
            path: of the file, ending in .onnx, or in .xml for OpenVINO, which puts the weights beside it into a .bin.
            engine: that will run it, see `Engine`.
            precision: see `Precision`; bf16 is OpenVINO's alone, and quick where the processor has it.

        Returns:
            The gather cost of what was written, see `portable`.

        Raises:
            ValueError: for an engine, ending or precision that do not go together, for int8 without calibration, and
                without the packages of the extra: pip install -e '.[engines]'.
            OSError: if the file cannot be written.
        """
        path = Path(path)
        _check(path, engine, precision, self._calibration)
        runs: dict[str, Callable[[], object]] = {}
        for name in self._networks if len(self._networks) > 1 else ():
            trial = self._file(name, path.suffix, precision, images=len(self._example_input))
            runs[name] = partial(load(trial, self._example_input.shape), self._example_input)
        times = medians(runs)
        best = min(times, key=times.__getitem__) if times else next(iter(self._networks))
        images = 0 if self._calibration is None else len(self._calibration)
        written = self._file(best, path.suffix, precision, images=images)
        for file in [written.with_suffix(".bin"), written] if engine == "openvino" else [written]:
            write_whole(path.with_suffix(file.suffix), partial(shutil.copyfile, file))
        return float(best)

    def _file(self, name: str, ending: str, precision: str, *, images: int) -> Path:
        """A form of the network as a file, with so many calibration images."""
        folder = Path(self._scratch.name)
        source = folder / f"{name}-fp32.onnx"
        if not source.exists():
            x = self._example_input  # torch.export makes a constant of a batch of 1
            write_onnx(self._networks[name], x if len(x) > 1 else x.repeat(2, 1, 1, 1), source)
        if precision == "int8":
            assert self._calibration is not None
            floats, source = source, folder / f"{name}-int8-{images}.onnx"
            if not source.exists():
                _quantise(floats, source, self._calibration[:images].split(len(self._example_input)))
        if ending == source.suffix:
            return source
        import openvino

        written = folder / f"{name}-{precision}-{images}{ending}"
        model = openvino.convert_model(source)
        model.set_rt_info("bf16" if precision == "bf16" else "f32", _NOTE)  # int8 is in the network itself
        openvino.save_model(model, written, compress_to_fp16=False)
        return written


def load(path: str | Path, shape: torch.Size) -> Callable[[Tensor], Tensor]:
    """What runs a file of `Exporter`, with as many threads as PyTorch has now.

    Args:
        path: of the file.
        shape: of the batches that it will be given, (B, C, H, W).
    """
    path = Path(path)
    if path.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda x: torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
    import openvino

    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # or the file could not be deleted on Windows
    model = core.read_model(path)
    model.reshape(list(shape))
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": model.get_rt_info(_NOTE).value,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda x: torch.from_numpy(next(iter(request.infer([x.numpy()]).values())).copy())


def _check(path: Path, engine: str, precision: str, calibration: Tensor | None) -> None:
    check_choice("engine", engine, Engine)
    check_choice("precision", precision, Precision)
    if path.suffix != _ENDINGS[engine]:
        raise ValueError(f"{path} must end in {_ENDINGS[engine]} for engine={engine!r}")
    if precision == "bf16" and engine == "onnx":
        raise ValueError("onnxruntime has no convolutions in bf16 for a CPU: take engine='openvino', or fp32 or int8")
    missing = [
        name
        for name in ("onnxscript", "onnxruntime", "openvino")[: 2 if engine == "onnx" else 3]
        if not importlib.util.find_spec(name)
    ]
    if missing:
        raise ValueError(f"engine={engine!r} needs {', '.join(missing)}: pip install -e '.[engines]'")
    if precision == "int8" and calibration is None:
        raise ValueError("int8 needs images to find the ranges of all maps from: give calibration (--calibrate DATA)")


def _forms(frozen: FrozenNetwork, example_input: Tensor, costs: tuple[float, ...]) -> Iterator[tuple[str, nn.Module]]:
    """The network for each gather cost that changes it, by that cost."""
    seen = set()
    for cost in costs:
        network = portable(frozen, example_input, gather_cost=cost)
        form = str([m for m in network.modules() if isinstance(m, PortableConv2d)])
        if form not in seen:
            seen.add(form)
            yield str(cost), network


def _quantise(floats: Path, written: Path, batches: Iterable[Tensor]) -> None:
    """Writes the quantised twin of an ONNX file: uint8 maps, int8 weights with a scale for each filter."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = written.with_suffix(".prepared.onnx")
    quant_pre_process(floats, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        written,
        _Reader(batches),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


class _Reader:
    """Hands calibration images to onnxruntime, which asks for no more than this."""

    def __init__(self, batches: Iterable[Tensor]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"input": batch.numpy()}
