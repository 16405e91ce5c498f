"""A frozen network as a file, which holds plain data: tensors, and a plan in JSON.

The file is one of safetensors: a header that says what lies where, and the tensors' bytes. Nothing in it is code, and
nothing in it is believed: see `plan` and `bounds`. Python's pickle, and with it `torch.load`, takes no part.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor, fx

from flgc_lib.files import write_whole
from flgc_lib.frozen.autotune import Timing
from flgc_lib.frozen.forms import FORMS
from flgc_lib.frozen.layer import frozen_convolutions
from flgc_lib.frozen.network import FrozenNetwork, Report
from flgc_lib.frozen.plan import describe, rebuild
from flgc_lib.frozen.precision import back_to_fp32
from flgc_lib.frozen.signature import Signature

FORMAT = "flgc-frozen-2"
KEY = "flgc"
_INSTEAD = "save the trained network's state dict and freeze again after loading it"


def save(frozen: FrozenNetwork, path: str | Path) -> None:
    """Writes a frozen network: its tensors, a plan, and the autotuner's table.

    Raises:
        ValueError: if the network was not captured as a whole, or holds what a plan cannot hold; what could not be read
            again is not written.
        OSError: if the file cannot be written; what was there before is still there, whole.
    """
    network, signature = frozen.network, frozen.signature
    if not isinstance(network, fx.GraphModule) or signature is None:
        raise ValueError(
            "this network was frozen in its own modules, which are code and cannot be in a file "
            f"(its report() says why); {_INSTEAD}"
        )
    content = {
        "format": FORMAT,
        "plan": describe(network),
        "inputs": [
            [str(dtype).removeprefix("torch."), list(size)]
            for dtype, size in zip(signature.dtypes, signature.sizes, strict=True)
        ],
        "guards": list(signature.guards),
        "images_at_once": frozen.images_at_once,
        "timings": [asdict(timing) for timing in frozen.timings],
        "report": None if frozen.facts is None else asdict(frozen.facts),
    }
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in network.state_dict().items()}
    try:
        data = safetensors.save(tensors, {KEY: json.dumps(content)})
        _read(data)
    except _WRONG as error:
        raise ValueError(f"this network cannot be in a file ({_reason(error)}); {_INSTEAD}") from error
    write_whole(Path(path), lambda part: part.write_bytes(data))


def load(path: str | Path) -> FrozenNetwork:
    """Reads what `save` wrote. A file from a stranger can do no harm: it holds numbers, each of which is checked.

    Forms that are not installed here are replaced by ones that are.

    Raises:
        ValueError: if the file is something else, or was changed to something that cannot be.
        OSError: if it cannot be read.
    """
    data = Path(path).read_bytes()
    try:
        return _read(data)
    except _WRONG as error:
        raise ValueError(
            f"{path} is not a frozen network, or not as it was saved ({_reason(error)}); "
            "write one with flgc_lib.frozen.save(freeze(model, example), path)"
        ) from error


def _read(data: bytes) -> FrozenNetwork:
    tensors = safetensors.load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    content = json.loads(header["__metadata__"][KEY])
    if content["format"] != FORMAT:
        raise ValueError(f"its format is {str(content['format'])[:40]!r}, this version reads {FORMAT!r}")
    return _rebuild(content, tensors)


_WRONG = (
    ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError, RuntimeError, SyntaxError,
    SafetensorError,
)  # fmt: skip
"""What Python, PyTorch and safetensors raise for contents that are not of the form that is read."""


def _reason(error: Exception) -> str:
    return (str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}")[:200]


def _rebuild(content: dict[str, Any], tensors: dict[str, Tensor]) -> FrozenNetwork:
    dtypes, sizes = zip(*content["inputs"], strict=True) if content["inputs"] else ((), ())
    signature = Signature(
        tuple(_one_of(torch.dtype, name) for name in dtypes),
        tuple(tuple(_checked(n, _is_dim) for n in size) for size in sizes),
        tuple(_checked(guard, _is_text) for guard in content["guards"]),
    )
    network = rebuild(content["plan"], tensors, len(signature.sizes))
    for _, layer in frozen_convolutions(network):
        if layer.form not in layer.available_forms("bf16"):
            layer.use(layer.available_forms()[0])
    timings = [
        Timing(
            _checked(t["name"], _is_text),
            _checked(t["chosen"], _is_text),
            {_checked(key, _is_text): float(value) for key, value in t["milliseconds"].items()},
        )
        for t in content["timings"]
    ]
    images = _checked(content["images_at_once"], _is_dim)
    report = _report(content["report"])
    frozen = FrozenNetwork(network, signature=signature, images_at_once=images, timings=timings, report=report)
    if "bf16" not in FORMS:
        back_to_fp32(frozen)
    return frozen


def _report(content: dict[str, Any] | None) -> Report | None:
    if content is None:
        return None
    lists = {key: tuple(value) for key, value in content.items() if isinstance(value, list)}
    for value in (*content.values(), *(v for part in lists.values() for v in part)):
        if type(value) not in (str, int, float, list):
            raise ValueError(f"{str(value)[:80]} is no part of a report")
    report = Report(**content | lists)
    report.text()  # raises if a number is none
    return report


def _one_of(kind: type[Any], name: Any) -> Any:
    return _checked(getattr(torch, name, None), lambda value: isinstance(value, kind))


def _is_dim(value: object) -> bool:
    return value is None or (type(value) is int and 0 < value < 2**31)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _checked(value: Any, fits: Callable[[object], bool]) -> Any:
    if not fits(value):
        raise ValueError(f"{str(value)[:80]!r} is not what belongs there")
    return value
