"""Finding the fastest form of every layer by timing, on the machine and for the input at hand."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from flgc_lib.frozen.chain import Chained
from flgc_lib.frozen.check import difference, other_values, probe, unlike
from flgc_lib.frozen.forms import Form, Precision
from flgc_lib.frozen.layer import FrozenConv2d, frozen_convolutions

Network = Callable[..., Any]
Layers = Sequence[tuple[str, FrozenConv2d]]

REPETITIONS = 7
LEAST_REPETITIONS = 3
PATIENCE = 2.0
"""Seconds after which no more than the least repetitions are made."""
SHORTEST = 2e-4
"""Seconds that one timing should at least take: shorter calls are repeated within it."""


@dataclass(frozen=True)
class Timing:
    """What the candidates for one layer, or for the whole network, took."""

    name: str
    chosen: str
    milliseconds: dict[str, float]


def medians(candidates: Mapping[str, Callable[[], object]], repetitions: int = REPETITIONS) -> dict[str, float]:
    """Seconds that each candidate takes: the median of alternating runs, so that a busy moment hits all alike."""
    calls = {}
    for name, run in candidates.items():
        run()
        start = _now()
        run()
        calls[name] = max(1, int(SHORTEST / (_now() - start)))
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    begin = _now()
    for repetition in range(repetitions):
        if repetition >= LEAST_REPETITIONS and _now() - begin > PATIENCE:
            break
        for name, run in candidates.items():
            start = _now()
            for _ in range(calls[name]):
                run()
            samples[name].append((_now() - start) / calls[name])
    return {name: statistics.median(times) for name, times in samples.items()}


def _now() -> float:
    """The time in seconds at which all that was asked for is done: a GPU works while Python goes on."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


@torch.no_grad()
def autotune(
    network: nn.Module, example: tuple[Any, ...], precision: Precision = "fp32"
) -> tuple[int | None, list[Timing]]:
    """Sets every frozen layer of `network` to its fastest form for what it is given when `example` comes in.

    The choices are then tried together, because forms side by side may do worse than each alone (the kernel's threads
    and PyTorch's wait for each other). They compete with the form that is likely to be the fastest in every layer, and
    with all masks burnt into dense convolutions: the network is never slower than its dense form.

    Args:
        network: a frozen network.
        example: what it is called with, a batch like those to come.
        precision: which forms there are to choose from.

    Returns:
        How many images of a batch should go through the network together, None for all of them; and the timings, one
        for that number ("batch"), one a layer, and one of all choices together ("network").
    """
    layers = frozen_convolutions(network)
    run = Chained(network) if isinstance(network, fx.GraphModule) else network
    images, timings = _images_at_once(run, example)
    small = example if images is None else (example[0][:images],)
    for name, inputs in _inputs_of(layers, network, small):
        layer = network.get_submodule(name)
        assert isinstance(layer, FrozenConv2d)
        candidates = layer.available_forms(precision)
        seconds = medians({form: partial(_run_layer, layer, form, inputs) for form in candidates})
        layer.use(min(candidates, key=seconds.__getitem__))
        timings.append(Timing(name, layer.form, _in_milliseconds(seconds)))
    forms: dict[str, dict[str, Form]] = {
        "fastest forms": {name: layer.form for name, layer in layers},
        "likely forms": {name: layer.available_forms(precision)[0] for name, layer in layers},
        "dense forms": {name: layer.available_forms()[-1] for name, layer in layers},
    }
    at_once = {choice: None if choice == "dense forms" else images for choice in forms}
    seconds = medians(
        {choice: partial(_run_network, run, layers, forms[choice], example, at_once[choice]) for choice in forms}
    )
    best = min(seconds, key=seconds.__getitem__)
    timings.append(Timing("network", best, _in_milliseconds(seconds)))
    for name, layer in layers:
        layer.use(forms[best][name]).forget()
    return at_once[best], timings


def _run_layer(layer: FrozenConv2d, form: Form, inputs: tuple[Tensor, ...]) -> None:
    layer.use(form)(*inputs)


def _run_network(
    network: Network, layers: Layers, forms: dict[str, Form], example: tuple[Any, ...], images: int | None
) -> None:
    for name, layer in layers:
        layer.use(forms[name])
    in_parts(network, example, images)


def _images_at_once(network: Network, example: tuple[Any, ...]) -> tuple[int | None, list[Timing]]:
    """A few images' maps stay in the cache from layer to layer, those of a large batch do not."""
    if len(example) != 1 or not isinstance(example[0], Tensor) or not example[0].ndim:
        return None, []
    threads = torch.get_num_threads()
    sizes = [n for n in sorted({1, threads, 4 * threads}) if n < len(example[0])]
    if not sizes or not is_image_by_image(network, example[0]):
        return None, []
    candidates = {f"{n} images": partial(in_parts, network, example, n) for n in sizes}
    candidates["all images"] = partial(in_parts, network, example, None)
    seconds = medians(candidates)
    best = min(seconds, key=seconds.__getitem__)
    chosen = None if best == "all images" else int(best.split()[0])
    return chosen, [Timing("batch", best, _in_milliseconds(seconds))]


def is_image_by_image(network: Network, batch: Tensor) -> bool:
    """Whether a batch is no more than its images, of which one output each comes out.

    Compared are this batch, other values, and images so unlike each other that what one does to another shows; each
    image's output by itself, for it would be small beside another's.
    """

    def outputs(images: int | None, x: Tensor) -> list[Tensor]:
        return list(in_parts(network, (x,), images))

    different = unlike(batch)
    if torch.equal(different, different[:1].expand_as(different)):  # whole numbers, all the same
        return False
    for x in (batch, other_values(batch), different):
        try:
            whole = probe(partial(outputs, None), "a batch", (x,))
        except Exception:  # it does not take them, or its output has no batch
            return False
        if difference(partial(outputs, 1), whole):
            return False
    return True


def in_parts(network: Network, inputs: tuple[Any, ...], images: int | None) -> Any:
    """The network's results, `images` of the batch of its one input at a time; None for all."""
    if images is None or len(inputs[0]) <= images:
        return network(*inputs)
    return torch.cat([network(part) for part in inputs[0].split(images)])


def table(timings: Iterable[Timing]) -> str:
    """The timings as text, one layer a line."""
    lines = [f"{'layer':32} {'chosen':14} milliseconds"]
    for timing in timings:
        fastest_first = sorted(timing.milliseconds.items(), key=itemgetter(1))
        others = "  ".join(f"{name} {value:.3f}" for name, value in fastest_first)
        lines.append(f"{timing.name:32} {timing.chosen:14} {others}")
    return "\n".join(lines)


def _in_milliseconds(seconds: dict[str, float]) -> dict[str, float]:
    return {name: value * 1e3 for name, value in seconds.items()}


def _inputs_of(layers: Layers, network: nn.Module, example: tuple[Any, ...]) -> list[tuple[str, tuple[Tensor, ...]]]:
    seen: dict[str, tuple[Tensor, ...]] = {}

    def remember(name: str, _: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        seen[name] = (*inputs, *named.values())

    handles = [layer.register_forward_pre_hook(partial(remember, name), with_kwargs=True) for name, layer in layers]
    try:
        network(*example)
    finally:
        for handle in handles:
            handle.remove()
    return list(seen.items())
