"""Freezing in bf16: allowed only where the processor has it, and compared with fp32."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from flgc_lib.frozen.check import call, largest_difference
from flgc_lib.frozen.forms import FORMS, Precision
from flgc_lib.frozen.layer import frozen_convolutions
from flgc_lib.frozen.network import FrozenNetwork
from flgc_lib.grouping import check_choice


def check_precision(precision: str) -> None:
    """Refuses a precision that does not exist, or not here, and one that `torch.autocast` would change.

    Raises:
        ValueError: with a sentence.
    """
    check_choice("precision", precision, Precision)
    if precision not in ("fp32", *FORMS):
        raise ValueError(
            f"precision={precision!r} needs Numba (pip install -e '.[fast]') and a processor with AVX512-BF16, and "
            "one of them is missing here; use precision='fp32'"
        )
    for device in ("cpu", "cuda"):
        if torch.is_autocast_enabled(device):
            raise ValueError(
                "inside torch.autocast the trained network rounds as a frozen one does not, so that they differ: "
                f"freeze outside of it, or in `with torch.autocast({device!r}, enabled=False):`"
            )


def use_likely_forms(network: nn.Module, precision: Precision = "fp32") -> None:
    """Lets every frozen layer compute in the form that is likely to be the fastest in this precision."""
    for _, layer in frozen_convolutions(network):
        layer.use(layer.available_forms(precision)[0])


def back_to_fp32(frozen: FrozenNetwork) -> None:
    """Takes back what freezing in bf16 has chosen, and reported."""
    for _, layer in frozen_convolutions(frozen):
        if layer.form == "bf16":
            layer.use(layer.available_forms()[0])
    if frozen.facts is not None:
        frozen.facts = replace(frozen.facts, bf16=())


def in_bf16(frozen: FrozenNetwork, exact: Any, example: tuple[Any, ...]) -> tuple[float, float]:
    """How many layers compute in bf16, and by how much that changes the outputs for the example: see `Report.bf16`.

    Args:
        frozen: is called, so that it should be a copy if it counts its calls.
        exact: the outputs in fp32.
        example: what it is called with.

    Raises:
        ValueError: if an output is finite in one precision only, or has another size.
    """
    difference = largest_difference(call(frozen, example), exact)
    if difference == float("inf"):
        raise ValueError(
            "in bf16 the network's outputs for the example are not finite where they are in fp32, or of another size; "
            "use precision='fp32'"
        )
    return sum(layer.form == "bf16" for _, layer in frozen_convolutions(frozen)), difference
