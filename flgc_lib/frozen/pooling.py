"""Max pooling that does not spoil what the convolutions gained."""

from typing import Any

import torch
from torch import fx

WORTHWHILE = 8
"""Channels from which on moving them side by side pays: PyTorch then compares as many at a time."""


def max_pool2d(x: Any, *window: Any, **options: Any) -> Any:
    """As aten.max_pool2d, to the last bit; several times faster on a CPU.

    PyTorch pools a map whose rows lie side by side number by number, and one whose channels do by whole vectors.
    """
    if isinstance(x, fx.Proxy):  # a graph that is copied by tracing it
        return x.tracer.create_proxy("call_function", max_pool2d, (x, *window), options)
    if torch.compiler.is_compiling() or x.ndim != 4 or x.device.type != "cpu" or x.shape[1] < WORTHWHILE:
        return torch.ops.aten.max_pool2d.default(x, *window, **options)
    pooled = torch.ops.aten.max_pool2d.default(x.contiguous(memory_format=torch.channels_last), *window, **options)
    return pooled.contiguous() if x.is_contiguous() else pooled
