"""Products of float32 as such: a GPU may round them to TF32, by which networks that are equal differ."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def without_tf32() -> Iterator[None]:
    """Switches TF32 off, whichever of PyTorch's ways to allow it is in use, and afterwards on again where it was."""
    if not torch.cuda.is_available():
        yield
        return
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    by_precision = hasattr(matmul, "fp32_precision")  # a newer way; where it is in use, the older one is an error
    kinds = [matmul, cudnn.conv, cudnn.rnn] if by_precision else [matmul, cudnn]
    name = "fp32_precision" if by_precision else "allow_tf32"
    before = [getattr(kind, name) for kind in kinds]
    for kind in kinds:
        setattr(kind, name, "ieee" if by_precision else False)
    try:
        yield
    finally:
        for kind, value in zip(kinds, before, strict=True):
            setattr(kind, name, value)
