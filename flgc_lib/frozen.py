"""Freezing: a trained network with learned groups becomes one that is really fast.

A learned convolution multiplies a dense weight by a mask and saves nothing. `freeze` keeps only the connections, in
small weights by group, with batch norm, ReLU and residual sums fused in: the same outputs, in the time that the
multiply-accumulates promise.
"""

import copy

import torch
from torch import Tensor, nn

from flgc_lib.fuse import fuse, split_fused_norms


def freeze(model: nn.Module, example_input: Tensor | None = None) -> nn.Module:
    """Turns a trained network into its fast twin for inference.

    Args:
        model: any network with `FLGConv2d` layers, or without: ordinary convolutions are fused just the same. It is
            copied, not changed; the copy is in eval mode.
        example_input: a batch like those to come. With it, the fastest exact form of each layer is found by timing
            on this machine, for this size and the present number of threads.

    Returns:
        A module with the same outputs as `model.eval()` up to rounding, for inputs of any batch size.
    """
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    split_fused_norms(frozen)
    return fuse(frozen).eval()
