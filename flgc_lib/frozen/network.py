"""Freezing: a trained network with learned groups becomes one that is really fast.

A learned convolution multiplies a dense weight by a mask and saves nothing. `freeze` keeps only the connections, in
small weights by group, with batch norm, ReLU and residual sums fused in: the same outputs, in about the time that the
multiply-accumulates promise.
"""

import copy
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from flgc_lib.files import write_whole
from flgc_lib.frozen.autotune import Timing, autotune, in_parts, table
from flgc_lib.frozen.fuse import fuse, split_fused_norms
from flgc_lib.frozen.layer import frozen_convolutions
from flgc_lib.frozen.saving import describe, rebuild


class FrozenNetwork(nn.Module):
    """A network for inference: fast, small, and without a gradient for its weights.

    Args:
        network: the rewritten network.
        images_at_once: how many images of a batch go through it together, None for all.
        timings: what the autotuner measured, empty if it did not run.

    Attributes:
        network: as above.
        images_at_once: as above.
        timings: as above.
    """

    def __init__(
        self, network: nn.Module, *, images_at_once: int | None = None, timings: list[Timing] | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.images_at_once = images_at_once
        self.timings = timings or []

    def forward(self, *inputs: Tensor) -> Tensor:
        """What the trained network computes in eval mode."""
        if len(inputs) == 1:
            return in_parts(self.network, inputs[0], self.images_at_once)
        return self.network(*inputs)

    def table(self) -> str:
        """The autotuner's timings as text."""
        return table(self.timings)


def freeze(model: nn.Module, example_input: Tensor | None = None) -> FrozenNetwork:
    """Turns a trained network into its fast twin for inference.

    Args:
        model: any network with `FLGConv2d` layers, or without: ordinary convolutions are fused just the same. It is
            copied, not changed; the copy is in eval mode.
        example_input: a batch like those to come. With it, the fastest exact form of each layer is found by timing
            on this machine, for this size and the present number of threads; else the form that is likely to be.

    Returns:
        A module with the same outputs as `model.eval()` up to rounding, for inputs of any size.
    """
    network = copy.deepcopy(model).eval().requires_grad_(False)
    split_fused_norms(network)
    network = fuse(network).eval()
    for _, layer in frozen_convolutions(network):
        layer.use(layer.available_forms()[0])
    if example_input is None:
        return FrozenNetwork(network)
    images, timings = autotune(network, example_input)
    return FrozenNetwork(network, images_at_once=images, timings=timings)


def save(frozen: FrozenNetwork, path: str | Path) -> None:
    """Writes a frozen network: its state dict, a small plan and the autotuner's table.

    Raises:
        ValueError: if the network could not be traced, or holds a layer or step that a plan cannot hold.
        OSError: if the file cannot be written; what was there before is still there, whole.
    """
    if not isinstance(frozen.network, fx.GraphModule):
        raise ValueError(
            f"torch.fx cannot trace this {type(frozen.network).__name__}, so there is no plan to save; "
            "save the trained network's state dict and freeze again after loading it"
        )
    plan = describe(frozen.network)
    content = {"plan": plan, "images_at_once": frozen.images_at_once, "timings": [asdict(t) for t in frozen.timings]}
    content |= {"state": frozen.network.state_dict()}
    write_whole(Path(path), lambda part: torch.save(content, part))


def load(path: str | Path) -> FrozenNetwork:
    """Reads what `save` wrote; runs no code from the file.

    Forms that are not installed here are replaced by ones that are.

    Raises:
        ValueError: if the file is something else, or its plan is not one of tensor computations.
    """
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or not {"plan", "state"} <= content.keys():
        raise ValueError(f"{path} is not a frozen network; write one with flgc_lib.frozen.save(freeze(model), path)")
    network = rebuild(content["plan"], content["state"])
    for _, layer in frozen_convolutions(network):
        if layer.form not in layer.available_forms():
            layer.use(layer.available_forms()[0])
    timings = [Timing(**t) for t in content["timings"]]
    return FrozenNetwork(network, images_at_once=content["images_at_once"], timings=timings)
