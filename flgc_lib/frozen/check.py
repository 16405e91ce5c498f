"""Whether two networks compute the same: the example, other values, other batches and other sizes are compared."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from flgc_lib.files import first_line
from flgc_lib.frozen.exact import without_tf32

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference of an output by its type, as a share of the output's largest number of the same order."""
SEVERAL = 10.0
"""Differences up to so many times what the network makes of a rounding error in its input are rounding errors too."""
MOST_ROUNDING = 1e-2
"""But no larger than this share of the output's largest number."""
FAR = 10
"""Numbers are of another order if they lie above the rest, and no number lies in so many powers of 2 between."""
REST = 0.1
"""Share of an output's numbers that the rest has at least."""

Call = Callable[..., Any]


@dataclass
class Probe:
    """Inputs, and what the trained network returns for them.

    Attributes:
        name: what is special about them.
        inputs: as the network is called.
        expected: what it returns.
        model: the trained network.
    """

    name: str
    inputs: tuple[Any, ...]
    expected: Any
    model: Call

    def rounding(self, position: int) -> Tensor:
        """What rounding errors in the inputs change in an output, by number."""
        expected = pytree.tree_leaves(self.expected)[position]
        try:
            nearby = call(self.model, pytree.tree_map_only(Tensor, _round_otherwise, self.inputs))
            return pytree.tree_leaves(nearby)[position] - expected
        except Exception:  # a network whose outputs change their sizes
            return torch.zeros_like(expected)


@contextmanager
def _same_chance() -> Iterator[None]:
    """Random numbers are the same in every block, and go on outside as if there had been none."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            random.seed(0)
            np.random.seed(0)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@torch.no_grad()
def call(network: Call, inputs: Sequence[Any]) -> Any:
    """What a network returns, for inputs of its own and with random numbers that are the same in every call."""
    with _same_chance(), without_tf32():
        copies = pytree.tree_map_only(Tensor, torch.clone, tuple(inputs))
        return pytree.tree_map_only(Tensor, torch.clone, network(*copies))


def draws_outside_torch(model: Call, inputs: Sequence[Any]) -> bool:
    """Whether a network draws random numbers from Python or NumPy, of which a captured one would keep the first."""

    def then_draw(*inputs: Any) -> tuple[float, float]:
        model(*inputs)
        return random.random(), np.random.random()

    with _same_chance():
        return call(then_draw, inputs) != (random.random(), np.random.random())


def probes(model: Call, example: tuple[Any, ...]) -> list[Probe]:
    """The example, and what else is like it and is taken by the network: each with what the network returns.

    Raises:
        Exception: whatever the network raises for the example itself.
    """
    found = [probe(model, "the example", example)]
    for name, change in (
        ("other values", other_values),
        ("a batch of one", lambda x: other_values(x)[:1]),
        ("a batch of three", lambda x: other_values(torch.cat([x] * 3)[:3])),
        ("a larger image", _larger),
    ):
        try:
            inputs = pytree.tree_map_only(Tensor, change, example)
            if _shapes(inputs) != _shapes(example) or name == "other values":
                found.append(probe(model, name, inputs))
        except Exception:  # not every network takes every size, and says so in its own way
            continue
    return found


def difference(network: Call, probe: Probe) -> str | None:
    """What differs between a network's outputs and those that are expected, as a phrase; None if nothing does."""
    try:
        found = call(network, probe.inputs)
    except Exception as error:
        return f"for {probe.name} it raises {type(error).__name__}: {first_line(error)[:150]}"
    leaves, structure = pytree.tree_flatten(found)
    expected, other_structure = pytree.tree_flatten(probe.expected)
    if structure != other_structure:
        return f"for {probe.name} the outputs are arranged differently"
    for position, (a, b) in enumerate(zip(leaves, expected, strict=True)):
        problem = _leaf_difference(a, b, partial(probe.rounding, position))
        if problem:
            return f"for {probe.name} output {position} {problem}"
    return None


def _leaf_difference(a: Any, b: Any, rounding: Callable[[], Tensor]) -> str | None:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return None if type(a) is type(b) and (a == b or a != a) else "is not the same"
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"is {tuple(a.shape)} of {a.dtype} instead of {tuple(b.shape)} of {b.dtype}"
    if not b.is_floating_point() or not b.numel():
        return None if torch.equal(a, b) else "is not the same"
    if not _same_exceptions(a, b):
        return "is not finite where it should be, or the other way round"
    for order in _orders(b):
        off, scale = _largest((a - b)[order]), _largest(b[order])
        exact = off <= TOLERANCE.get(b.dtype, 1e-4) * scale
        if not exact and off > min(SEVERAL * _largest(rounding()[order]), MOST_ROUNDING * _largest(b)):
            return f"differs by {_share(off, scale):.1e} of its largest number of the same order"
    return None


def _same_exceptions(a: Tensor, b: Tensor) -> bool:
    """Whether NaN and both infinities are in the same places."""
    return all(torch.equal(which(a), which(b)) for which in (torch.isnan, torch.isposinf, torch.isneginf))


def _orders(x: Tensor) -> list[Tensor]:
    """Where the numbers of one order are: nearly always everywhere, else where the rest is, and what lies far above.

    A network that masks returns -1e9 beside its scores, and any difference of these is a small share of that.
    """
    normal = x.isfinite() & (x.abs() >= torch.finfo(x.dtype).tiny)
    exponents = torch.where(normal, x.double(), 1.0).frexp().exponent.long()
    if normal.any():
        lowest = exponents[normal].min()
        counts = (exponents[normal] - lowest).bincount()
        found = counts.nonzero().flatten()
        share = counts[found].cumsum(0) / counts.sum()
        above = found[1:][(found.diff() > FAR) & (share[:-1] >= REST)]
        if len(above):
            far = normal & (exponents >= lowest + above[0])
            return [~far, far]
    return [torch.ones_like(normal)]


def largest_difference(found: Any, expected: Any) -> float:
    """The largest difference of two networks' outputs as a share of an output's largest number of the same order.

    Infinite if they are arranged or sized differently, or not finite in the same places. What is no floating-point
    number does not count.
    """
    leaves, structure = pytree.tree_flatten(found)
    others, other_structure = pytree.tree_flatten(expected)
    if structure != other_structure:
        return float("inf")
    shares = [0.0]
    for a, b in zip(leaves, others, strict=True):
        if isinstance(a, Tensor) and isinstance(b, Tensor) and b.is_floating_point():
            if a.shape != b.shape or not _same_exceptions(a, b):
                return float("inf")
            shares += [_share(_largest((a - b)[order]), _largest(b[order])) for order in _orders(b)]
    return max(shares)


def _share(off: float, scale: float) -> float:
    return off / scale if scale else off


def _largest(x: Tensor) -> float:
    finite = x[x.isfinite()]
    return float(finite.double().abs().max()) if finite.numel() else 0.0


def probe(model: Call, name: str, inputs: tuple[Any, ...]) -> Probe:
    """Inputs with what the network returns for them."""
    return Probe(name, inputs, call(model, inputs), model)


def _round_otherwise(x: Tensor) -> Tensor:
    if not x.is_floating_point():
        return x
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)
    return x * (1 + noise * torch.finfo(x.dtype).eps)


def _shapes(inputs: Any) -> list[tuple[int, ...]]:
    return [tuple(x.shape) for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor)]


def other_values(x: Tensor) -> Tensor:
    """Other numbers with the same mean and spread; of whole numbers the same ones in another order."""
    generator = torch.Generator(x.device).manual_seed(x.numel())
    if x.is_floating_point():
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=torch.float32)
        spread = x.float().std() if x.numel() > 1 and x.float().std() > 0 else 1.0
        return (noise * spread + x.float().mean()).to(x.dtype)
    order = torch.randperm(x.numel(), generator=generator, device=x.device)
    return x.flatten()[order].view_as(x)


def unlike(x: Tensor) -> Tensor:
    """A batch of other values in which no image is like the next: of floating-point numbers, a thousand times apart."""
    if not x.is_floating_point():
        return other_values(x)
    scale = 1000.0 ** (1 - torch.arange(len(x), device=x.device) % 3)
    return (other_values(x) * scale.view(-1, *[1] * (x.ndim - 1))).to(x.dtype)


def _larger(x: Tensor) -> Tensor:
    if x.ndim != 4 or not x.is_floating_point():
        return x
    return F.interpolate(x, size=(x.shape[2] + 32, x.shape[3] + 64))
