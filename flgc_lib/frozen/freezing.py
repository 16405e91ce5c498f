"""Freezing: a trained network with learned groups becomes one that is really fast.

A learned convolution multiplies a dense weight by a mask and saves nothing. `freeze` keeps only the connections, in
small weights by group, with batch norm, ReLU and residual sums fused in: the same outputs, in about the time that the
multiply-accumulates promise.
"""

import copy
import re
from dataclasses import replace
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from flgc_lib.controls import ShuffledConv2d
from flgc_lib.frozen.autotune import autotune, medians
from flgc_lib.frozen.capture import CannotCaptureError, capture
from flgc_lib.frozen.check import Probe, call, difference, draws_outside_torch, probes
from flgc_lib.frozen.convert import Members, dense_weight, is_convertible, own_members
from flgc_lib.frozen.forms import Precision
from flgc_lib.frozen.fuse import fuse
from flgc_lib.frozen.layer import FrozenConv2d, frozen_convolutions
from flgc_lib.frozen.modules import replace_convolutions
from flgc_lib.frozen.network import FrozenNetwork, Report
from flgc_lib.frozen.precision import back_to_fp32, check_precision, in_bf16, use_likely_forms
from flgc_lib.frozen.prepare import inference_copy, settle_weights
from flgc_lib.frozen.signature import Signature, describe_size, holds
from flgc_lib.layers import FLGConv2d

SIZES_TO_TRY = (32, 64, 224)
"""Heights and widths of a made-up example, pixels."""


class CannotFreezeError(ValueError):
    """Why a network cannot be frozen, and what to do about it."""


def freeze(
    model: nn.Module,
    example_input: Tensor | tuple[Any, ...] | None = None,
    *,
    tune: bool = True,
    precision: Precision = "fp32",
) -> FrozenNetwork:
    """Turns a trained network into its fast twin for inference.

    The outputs of the two are compared before the twin is returned: for the example, for other values, and for the
    other batches and sizes that the network takes. Unequal outputs are never returned.

    Args:
        model: any network with `FLGConv2d` layers, or without: ordinary convolutions are fused just the same. It is
            copied, not changed; the copy is in eval mode.
        example_input: a batch like those to come, or a tuple of what the network is called with. With it, the fastest
            exact form of each layer is found by timing on this machine, for this size and the present number of
            threads; without, the form that is likely to be, and the outputs are compared for a made-up batch of
            images with as many channels as the first convolution takes.
        tune: whether to time the forms, if there is an example.
        precision: "bf16" adds a form in which inputs and weights of a convolution are rounded to bf16, and sums are
            float32: every layer has it that can, or, where forms are timed, that is faster with it. All comparisons
            are made before, in fp32; `report()` says how much the outputs for the example change.

    Returns:
        A module with the same outputs as `model.eval()` up to rounding; `report()` says for which sizes of input.

    Raises:
        ValueError: if no way of freezing gives the network's outputs, with the differences; if no example was given and
            none could be made up; if the network cannot be copied; inside `torch.autocast`; for "bf16" without a
            processor that has it, or if outputs are no longer finite.
    """
    check_precision(precision)
    given = example_input is not None
    reference: nn.Module
    if isinstance(model, FrozenNetwork):
        if precision == "bf16" and not given:
            raise ValueError(
                "a frozen network's outputs in bf16 are compared for an example: freeze(frozen, example, …)"
            )
        frozen, reference = copy.deepcopy(model), model
        back_to_fp32(frozen)
        example = _copied(example_input if given else ())
    else:
        reference = inference_copy(model)
        example = _copied(example_input) if given else _made_up(reference)
        frozen = _freeze(model, example)
    exact = call(_for_trial(frozen), example) if precision == "bf16" else None
    if precision == "bf16":
        use_likely_forms(frozen, precision)
    if given and tune:
        _tune(frozen, reference, example, precision)
    if precision == "bf16" and frozen.facts is not None:
        frozen.facts = replace(frozen.facts, bf16=in_bf16(_for_trial(frozen), exact, example))
    return frozen


def _freeze(model: nn.Module, example: tuple[Any, ...]) -> FrozenNetwork:
    """The network frozen as a whole if that is possible, else its convolutions; its outputs are compared."""
    expected = probes(inference_copy(model), example)
    frozen = _captured(model, example, expected)
    if isinstance(frozen, str):
        frozen = _in_modules(model, expected, why=frozen)
    assert frozen.facts is not None
    frozen.facts = replace(frozen.facts, macs=_macs(_for_trial(frozen), example))
    return frozen


@torch.no_grad()
def _tune(frozen: FrozenNetwork, reference: nn.Module, example: tuple[Any, ...], precision: Precision) -> None:
    """Finds the fastest forms for the example, and times the network with them."""
    trial = _for_trial(frozen)
    images, frozen.timings = autotune(trial.network, example, precision)
    if trial is frozen:
        frozen.images_at_once = images
    for name, layer in frozen_convolutions(trial.network):
        own = frozen.network.get_submodule(name)
        assert isinstance(own, FrozenConv2d)
        own.use(layer.form)
    times = medians({"frozen": partial(trial, *example), "trained": partial(reference, *example)})
    if frozen.facts is not None:
        frozen.facts = replace(frozen.facts, seconds=(times["frozen"], times["trained"]))


def _for_trial(frozen: FrozenNetwork) -> FrozenNetwork:
    """The network itself if it is a function of its inputs; else a copy, for it may count its calls."""
    return copy.deepcopy(frozen) if frozen.signature is None else frozen


def _copied(example: Any) -> tuple[Any, ...]:
    """The example as a tuple, of tensors that may be overwritten."""
    inputs = example if isinstance(example, tuple) else (example,)
    return pytree.tree_map_only(Tensor, lambda x: x.detach().clone(), inputs)


def _made_up(model: nn.Module) -> tuple[Tensor]:
    """Two images that the network takes.

    Raises:
        CannotFreezeError: if none was found.
    """
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d | FLGConv2d | FrozenConv2d)]
    for size in SIZES_TO_TRY if convolutions else ():
        first = convolutions[0]
        channels = first.plan.in_channels if isinstance(first, FrozenConv2d) else first.in_channels
        x = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))
        x = x.to(next(first.parameters()))
        try:
            call(model, (x,))
        except Exception:  # the network's own way to say that it takes something else
            continue
        return (x,)
    raise CannotFreezeError(
        f"{type(model).__name__} does not take images of {', '.join(map(str, SIZES_TO_TRY))} pixels, so its outputs "
        "cannot be compared; give an example of what it takes: freeze(model, example_input)"
    )


def _captured(model: nn.Module, example: tuple[Any, ...], expected: list[Probe]) -> FrozenNetwork | str:
    """The network frozen as a whole; or why that is not possible."""
    if draws_outside_torch(inference_copy(model), example):
        return "it draws random numbers from Python or NumPy"
    frozen: FrozenNetwork | str = ""
    for inputs in _to_follow(example, expected):
        frozen = _captured_with(inputs, model, example, expected)
        if isinstance(frozen, FrozenNetwork):
            break
    return frozen


def _captured_with(
    inputs: tuple[Any, ...], model: nn.Module, example: tuple[Any, ...], expected: list[Probe]
) -> FrozenNetwork | str:
    network = inference_copy(model)
    settle_weights(network)
    if any(isinstance(m, FrozenConv2d) for m in network.modules()):
        return "parts of it are frozen already"
    learned = _as_ordinary(network)
    try:
        captured = capture(network, inputs)
    except CannotCaptureError as reason:
        return str(reason)
    fused = fuse(captured.graph, learned)
    use_likely_forms(captured.graph)
    frozen = FrozenNetwork(captured.graph)
    signature, checked = captured.signature, []
    for probe in expected:
        loose, broken = _without_inequalities(signature, probe.inputs)
        complaint = loose.complaint(probe.inputs)
        if complaint and probe.name == "the example":
            return complaint
        if complaint:
            continue
        problem = difference(frozen, probe)
        if problem is None:
            checked.append(probe.name)
            signature = loose
        elif probe.name in ("the example", "other values"):
            return problem
        elif not broken:
            signature = _narrower(signature, probe, example)
    takes = tuple(describe_size(size) for size in signature.sizes) + tuple(
        f"sizes such that {g}" for g in signature.guards
    )
    frozen.signature = signature
    frozen.facts = Report("captured as a whole by torch.export", *fused, takes=takes, checked=tuple(checked))
    return frozen


def _to_follow(example: tuple[Any, ...], expected: list[Probe]) -> list[tuple[Any, ...]]:
    """What the network may be captured with: several images, not one, which torch.export takes for a constant."""
    one_image = all(isinstance(x, Tensor) and x.ndim and len(x) == 1 for x in example)
    several = [probe.inputs for probe in expected if probe.name == "a batch of three"]
    return [*several, example] if one_image else [example]


def _as_ordinary(network: nn.Module) -> dict[str, Members]:
    """Lets each learned convolution compute as an ordinary one, with a masked weight; returns the groups by weight."""
    learned = {}
    for name, layer in network.named_modules(remove_duplicate=False):  # torch.export may choose any of its names
        if isinstance(layer, FLGConv2d | ShuffledConv2d) and (hasattr(layer, "dense_weight") or is_convertible(layer)):
            if not hasattr(layer, "dense_weight"):
                layer.register_buffer("dense_weight", dense_weight(layer))
            layer.forward = MethodType(_convolve, layer)  # type: ignore[method-assign]
            learned[f"{name}.dense_weight".removeprefix(".")] = own_members(layer)
    return learned


def _convolve(layer: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, layer.dense_weight, layer.bias, layer.stride, layer.padding, layer.dilation)


def _without_inequalities(signature: Signature, inputs: tuple[Any, ...]) -> tuple[Signature, bool]:
    """The signature without what torch.export assumes of sizes 0 and 1 and these inputs are an exception to."""
    kept = tuple(g for g in signature.guards if not _is_about_one(g) or holds(g, inputs))
    return replace(signature, guards=kept), kept != signature.guards


def _is_about_one(guard: str) -> bool:
    """Whether a guard says no more than that a size, or a product of sizes, is not 0 or 1."""
    return re.fullmatch(r"1 (!=|<) [\w*()]+|[\w*()]+ (!=|>) 1", guard) is not None


def _narrower(signature: Signature, probe: Probe, example: tuple[Any, ...]) -> Signature:
    """The signature without sizes for which the frozen network differs, or fails."""
    if probe.name == "a larger image":
        return signature.with_fixed_maps(example)
    sizes = tuple(tuple(x.shape) for x in example)
    return replace(signature, sizes=sizes, guards=())


def _in_modules(model: nn.Module, expected: list[Probe], why: str) -> FrozenNetwork:
    """The network with its convolutions frozen one by one.

    Raises:
        CannotFreezeError: if that changes the outputs too, or there is no convolution.
    """
    problem: str | None = None
    for settle in (True, False):
        network = inference_copy(model)
        if settle:
            settle_weights(network)
        network, fused = replace_convolutions(network)
        use_likely_forms(network)
        if not fused.convolutions:
            problem = (
                problem or f"it has no convolution that could be frozen ({'; '.join(fused.left_alone[:3]) or 'none'})"
            )
            continue
        trial = inference_copy(network)
        problem = next((p for p in (difference(trial, probe) for probe in expected) if p), None)
        if problem is None:
            facts = Report(f"in its own modules, because it cannot be captured as a whole: {why}", *fused)
            return FrozenNetwork(network, report=replace(facts, checked=tuple(p.name for p in expected)))
    raise CannotFreezeError(
        f"{type(model).__name__} cannot be frozen with the same outputs: captured as a whole, {why}; with only its "
        f"convolutions replaced, {problem}. Use the trained network, or freeze the parts of it that are plain networks"
    )


def _macs(frozen: FrozenNetwork, example: tuple[Any, ...]) -> tuple[int, int]:
    """Multiply-accumulates of the frozen convolutions for the example, and of dense ones in their place."""
    sums = [0, 0]

    def add(layer: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(layer, FrozenConv2d)
        positions = output.numel() // output.shape[-3]
        area = layer.plan.kernel_size[0] * layer.plan.kernel_size[1]
        sums[0] += layer.weight.numel() * positions
        sums[1] += layer.plan.in_channels * layer.plan.out_channels * area * positions

    handles = [layer.register_forward_hook(add) for _, layer in frozen_convolutions(frozen)]
    try:
        call(frozen, example)
    finally:
        for handle in handles:
            handle.remove()
    return sums[0], sums[1]
