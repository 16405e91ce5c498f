"""A network's part of a training step as two CUDA graphs, launched as a whole.

A small network is a thousand short operations, which a processor takes longer to launch than a GPU to compute.

Source: `torch.cuda.make_graphed_callables`.
"""

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn


def record(model: nn.Module, images: Tensor, autocast: AbstractContextManager[None]) -> None:
    """Lets a network in training mode compute by graphs, forward and backward, with the numbers that it had without.

    What decides its operations is recorded with them; what may change by step is a tensor that is overwritten.

    Args:
        model: on a GPU.
        images: on that GPU, of the shape of all batches to come, which have the layout channels_last.
        autocast: in which the network computes.
    """
    before = [buffer.clone() for buffer in model.buffers()]  # recording runs the network
    with autocast:
        torch.cuda.make_graphed_callables(model, (images.contiguous(memory_format=torch.channels_last),))
    for buffer, value in zip(model.buffers(), before, strict=True):
        buffer.copy_(value)


def release(model: nn.Module) -> None:
    """Lets it launch its operations one by one again."""
    vars(model).pop("forward", None)
