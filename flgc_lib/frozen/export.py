"""Taking a frozen network elsewhere: torch.export and ONNX, with constant indices.

The exported network is made of ordinary operations: gathers, grouped convolutions, sums. Groups of different sizes are
padded to the largest of their layer.
"""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from flgc_lib.frozen.layer import frozen_convolutions
from flgc_lib.frozen.network import FrozenNetwork


@torch.no_grad()
def export(frozen: FrozenNetwork, example_input: Tensor) -> torch.export.ExportedProgram:
    """The frozen network as a `torch.export` program.

    Args:
        frozen: from `freeze`; it is not changed.
        example_input: a batch; of more than one image if the program is to take any number of them, because
            torch.export makes a constant of a 1.
    """
    return torch.export.export(_portable(frozen, example_input), (example_input,), dynamic_shapes=_batch(example_input))


@torch.no_grad()
def export_onnx(frozen: FrozenNetwork, example_input: Tensor, path: str | Path) -> None:
    """Writes the frozen network as ONNX, with the input "input" and the output "output".

    Args:
        frozen: as in `export`.
        example_input: as in `export`.
        path: of the file, by custom ending in .onnx.

    Raises:
        ModuleNotFoundError: without the packages of the extra: pip install 'flgc-lib[export]'.
    """
    program = torch.onnx.export(
        _portable(frozen, example_input),
        (example_input,),
        dynamo=True,
        dynamic_shapes=_batch(example_input),
        input_names=["input"],
        output_names=["output"],
        verbose=False,
    )
    assert program is not None
    program.save(path)


def _portable(frozen: FrozenNetwork, example_input: Tensor) -> nn.Module:
    """A copy that computes in forms which can be exported, with their constants at hand."""
    network = copy.deepcopy(frozen.network)
    for _, layer in frozen_convolutions(network):
        if layer.form == "indirect":
            layer.use("equal")
    network(example_input)
    return network


def _batch(example_input: Tensor) -> tuple[dict[int, object]] | None:
    return ({0: torch.export.Dim("batch")},) if len(example_input) > 1 else None
