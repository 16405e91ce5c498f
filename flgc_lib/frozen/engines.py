"""A frozen network as a file for another inference engine, in fp32, bf16 or int8, and running such a file.

Quantisation is onnxruntime's own (static, per channel, Jacob et al. 2018); OpenVINO runs the same quantised network.
What an engine takes for moving channels, compared with multiplying, differs from one to the next, so that the file is
written for several prices of it (`portable`), and the fastest on this machine stays.
"""

import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterator
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

GATHER_COSTS = (0.0, 50.0, 150.0, 500.0)
"""Multiply-accumulates in the time of which one value is moved: those to try, for fast gathers and for slow ones."""
_ENDINGS: dict[str, str] = {"onnx": ".onnx", "openvino": ".xml"}
_NOTE = ["flgc", "precision"]  # where OpenVINO's file says how it is to be run


def write(
    frozen: FrozenNetwork,
    example_input: Tensor,
    path: str | Path,
    *,
    engine: str,
    precision: str = "fp32",
    calibration: Tensor | None = None,
    tune: bool = True,
) -> float:
    """Writes the frozen network for an engine; it takes batches of any size.

    Args:
        frozen: from `freeze`; it is not changed.
        example_input: a batch like those to come, (B, C, H, W).
        path: of the file, ending in .onnx, or in .xml for OpenVINO, which puts the weights beside it into a .bin.
        engine: that will run it, see `Engine`.
        precision: see `Precision`; bf16 is OpenVINO's alone, and quick where the processor has it.
        calibration: images of the training set, (n, C, H, W), normalised as they are for the network; for int8.
        tune: whether to time several forms of the network on this machine, with the present number of threads;
            without, the one for cheap gathers is taken.

    Returns:
        The gather cost of what was written, see `portable`.

    Raises:
        ValueError: for an engine, ending or precision that do not go together, for int8 without calibration, and
            without the packages of the extra: pip install 'flgc-lib[engines]'.
    """
    path = Path(path)
    _check(path, engine, precision, calibration)
    networks = dict(_candidates(frozen, example_input, GATHER_COSTS if tune else GATHER_COSTS[:1]))
    with tempfile.TemporaryDirectory() as scratch:
        runs: dict[str, Callable[[], object]] = {}
        for name, network in networks.items() if len(networks) > 1 else ():
            trial = Path(scratch) / f"{name}{path.suffix}"
            few = None if calibration is None else calibration[: len(example_input)]
            _write(network, example_input, trial, precision, few)
            runs[name] = partial(load(trial, example_input.shape), example_input)
        times = medians(runs)
        best = min(times, key=times.__getitem__) if times else next(iter(networks))
        written = Path(scratch) / path.name
        _write(networks[best], example_input, written, precision, calibration)
        for file in [written.with_suffix(".bin"), written] if engine == "openvino" else [written]:
            write_whole(path.with_suffix(file.suffix), partial(shutil.copyfile, file))
    return float(best)


def load(path: str | Path, shape: torch.Size) -> Callable[[Tensor], Tensor]:
    """What runs a file of `write`, with as many threads as PyTorch has now.

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

    model = openvino.Core().read_model(path)
    model.reshape(list(shape))
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": model.get_rt_info(_NOTE).value,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
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
        raise ValueError(f"engine={engine!r} needs {', '.join(missing)}: pip install 'flgc-lib[engines]'")
    if precision == "int8" and calibration is None:
        raise ValueError("int8 needs images to find the ranges of all maps from: give calibration")


def _candidates(
    frozen: FrozenNetwork, example_input: Tensor, costs: tuple[float, ...]
) -> Iterator[tuple[str, nn.Module]]:
    """The network for each gather cost that changes it, by that cost."""
    seen = set()
    for cost in costs:
        network = portable(frozen, example_input, gather_cost=cost)
        form = str([m for m in network.modules() if isinstance(m, PortableConv2d)])
        if form not in seen:
            seen.add(form)
            yield str(cost), network


def _write(network: nn.Module, example_input: Tensor, path: Path, precision: str, calibration: Tensor | None) -> None:
    onnx_file = path.with_suffix(".onnx")
    # torch.export makes a constant of a batch of 1.
    write_onnx(network, example_input if len(example_input) > 1 else example_input.repeat(2, 1, 1, 1), onnx_file)
    if precision == "int8":
        assert calibration is not None
        _quantise(onnx_file, calibration, len(example_input))
    if path.suffix != onnx_file.suffix:
        import openvino

        model = openvino.convert_model(onnx_file)
        model.set_rt_info("bf16" if precision == "bf16" else "f32", _NOTE)  # int8 is in the network itself
        openvino.save_model(model, path, compress_to_fp16=False)


def _quantise(onnx_file: Path, calibration: Tensor, batch: int) -> None:
    """Replaces an ONNX file by its quantised twin: uint8 maps, int8 weights with a scale for each filter."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = onnx_file.with_suffix(".prepared.onnx")
    quant_pre_process(onnx_file, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        onnx_file,
        _Reader(calibration, batch),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


class _Reader:
    """Hands calibration images to onnxruntime."""

    def __init__(self, images: Tensor, batch: int) -> None:
        self._batches = iter(images.split(batch))

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"input": batch.numpy()}
