"""Taking a frozen network elsewhere: torch.export and ONNX, with constant indices.

The exported network is made of ordinary operations, as `portable` makes them where gathers cost nothing. `engines`
writes the file that is fastest in one engine, and quantises.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from flgc_lib.frozen.network import FrozenNetwork
from flgc_lib.frozen.portable import portable


@torch.no_grad()
def export(frozen: FrozenNetwork, example_input: Tensor) -> torch.export.ExportedProgram:
    """The frozen network as a `torch.export` program.

    Args:
        frozen: from `freeze`; it is not changed.
        example_input: a batch; of more than one image if the program is to take any number of them, because
            torch.export makes a constant of a 1.

    Raises:
        ValueError: as `portable`.
    """
    network = portable(frozen, example_input, gather_cost=0)
    return torch.export.export(network, (example_input,), dynamic_shapes=_batch(example_input))


@torch.no_grad()
def export_onnx(frozen: FrozenNetwork, example_input: Tensor, path: str | Path) -> None:
    """Writes the frozen network as ONNX, with the input "input" and the output "output".

    Args:
        frozen: as in `export`.
        example_input: as in `export`.
        path: of the file, by custom ending in .onnx.

    Raises:
        ValueError: as `portable`.
        ModuleNotFoundError: without the packages of the extra: pip install -e '.[engines]'.
    """
    write_onnx(portable(frozen, example_input, gather_cost=0), example_input, path)


def write_onnx(network: nn.Module, example_input: Tensor, path: str | Path) -> None:
    """Writes what `portable` made as ONNX; see `export_onnx`."""
    program = torch.onnx.export(
        network,
        (example_input,),
        dynamo=True,
        dynamic_shapes=_batch(example_input),
        input_names=["input"],
        output_names=["output"],
        verbose=False,
    )
    assert program is not None
    program.save(path)


def _batch(example_input: Tensor) -> tuple[dict[int, object]] | None:
    return ({0: torch.export.Dim("batch")},) if len(example_input) > 1 else None
