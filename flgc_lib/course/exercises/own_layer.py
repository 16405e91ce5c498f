"""Whether a layer that the student built is the library's: how it starts, what it computes, and its gradients."""

import math
from collections.abc import Mapping

import torch
from scipy.stats import kstest
from torch import Tensor, nn

from flgc_lib.course.exercises.answers import Student, pulled_back
from flgc_lib.course.exercises.values import NotYet, agree, first_apart, show
from flgc_lib.layers import FLGConv2d


def same_layers(answer: object, more: tuple[int, ...]) -> None:
    """Refuses a class whose layers differ from FLGConv2d in their start, a value or a gradient.

    Args:
        answer: class, called with (C, N, kernel_size, groups, *more).
        more: for a layer that copies, k.
    """
    arguments = "(C, N, kernel_size, groups" + (", top_k)" if more else ")")
    hint = f"your layer returns nothing yet: a class, made by `MyLayer{arguments}`, whose `forward` returns the output."
    build, generator = Student(answer, getattr(answer, "__name__", "MyLayer"), hint), torch.Generator().manual_seed(0)
    for C, N, k, G in ((12, 7, 3, 4), (9, 16, 1, 3), (16, 10, 3, 8)):
        made = build.called(C, N, k, G, *more)
        layer, twin = (build(C, N, k, G, *more) for _ in "ab")
        library = FLGConv2d(C, N, k, groups=G, padding=k // 2, duplicate_top_k=more[0] if more else None)
        mine, others = (_parameters(one, made, C, N, k, G) for one in (layer, twin))
        theirs = dict(zip(mine, library.parameters(), strict=True))
        for name, parameter in mine.items():
            if torch.equal(parameter, others[name]):
                raise NotYet(
                    f"{made}: two new layers have the same {name}; draw it at random, else all groups start alike."
                )
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
                theirs[name].copy_(parameter)
        _same_layer(Student(layer, f"{build.name}(…)", hint), mine, library, theirs, (C, N, k, G, *more), generator)
    _starts_alike(build, more)


def _same_layer(
    student: Student,
    mine: Mapping[str, Tensor],
    library: FLGConv2d,
    theirs: Mapping[str, Tensor],
    sizes: tuple[int, ...],
    generator: torch.Generator,
) -> None:
    """Refuses a layer that with the same W, S and T computes something else than the library's."""
    C, N, k, G, *more = sizes
    x = torch.randn(2, C, 6, 5, generator=generator)
    before = {name: parameter.detach().clone() for name, parameter in mine.items()}
    wanted, rule = library(x), "".join(f", duplicate_top_k={k}" for k in more)
    why = f"C = {C}, N = {N}, kernel {k}×{k}, G = {G}{rule}: FLGConv2d with the same W, S and T, padding k // 2."
    for mode in (True, False):
        student.answer.train(mode)  # type: ignore[attr-defined]
        student.solves([((x,), wanted, why if mode else f"in eval mode too, {why}", {})])
    for name, parameter in mine.items():
        if not torch.equal(parameter, before[name]):
            raise NotYet(f"{student.name}: `forward` changes {name}; that is for the optimiser, between two passes.")
    student.answer.train()  # type: ignore[attr-defined]
    u = torch.randn(wanted.shape, generator=generator)
    found = pulled_back(student, student(x), mine, u)
    for name, given, right in zip(mine, found, pulled_back(student, wanted, theirs, u), strict=True):
        if not agree(given, right):
            raise NotYet(
                f"`{student.name}`: the outputs are right, but the gradient of {name} is not that of FLGConv2d: "
                f"{first_apart(given, right)}."
            )


def _starts_alike(build: Student, more: tuple[int, ...]) -> None:
    """Refuses a class whose W does not start uniform in ±r, or S and T not normal: large layers show it."""
    for C, N, k, G in ((256, 320, 3, 16), (512, 640, 1, 8)):
        made, r = build.called(C, N, k, G, *more), 1 / math.sqrt(C / G * k**2)
        W, S, T = (
            p.detach().flatten().double() for p in _parameters(build(C, N, k, G, *more), made, C, N, k, G).values()
        )
        if not 0.99 * r < W.abs().max() < 1.0001 * r or _distance(W[:40_000], "uniform", -r, 2 * r) > 0.03:
            raise NotYet(
                f"{made}: W starts between {W.min():.3g} and {W.max():.3g}, with the standard deviation {W.std():.3g}; "
                f"it should be uniform between -r and r, r = 1/√(C/G · k²) = {r:.3g}."
            )
        for name, drawn in (("S", S), ("T", T)):
            if not 0.93 < drawn.std() < 1.07 or _distance(drawn, "norm") > 0.05:
                raise NotYet(
                    f"{made}: {name} starts between {drawn.min():.2g} and {drawn.max():.2g}, with the mean "
                    f"{drawn.mean():.2g} and the standard deviation {drawn.std():.2g}; it should be drawn from N(0, 1)."
                )


def _distance(drawn: Tensor, distribution: str, *parameters: float) -> float:
    """Largest difference of the two distribution functions (Kolmogorov-Smirnov)."""
    return float(kstest(drawn.numpy(), distribution, args=parameters).statistic)


def _parameters(layer: object, made: str, C: int, N: int, k: int, G: int) -> dict[str, nn.Parameter]:
    """W, S and T of a student's layer, known by their shapes."""
    if not isinstance(layer, nn.Module):
        raise NotYet(f"{made} is {show(layer)}; a layer must be an nn.Module: `class MyLayer(nn.Module)`.")
    shapes, order = {"W": (N, C, k, k), "S": (C, G), "T": (N, G)}, [tuple(p.shape) for p in layer.parameters()]
    for name, shape in shapes.items():
        if order.count(shape) != 1:
            raise NotYet(
                f"{made} has {order.count(shape)} parameters of shape {shape}; it needs one, {name}: an attribute that "
                "is an `nn.Parameter`, so that an optimiser finds it."
            )
    if order != list(shapes.values()):
        raise NotYet(f"{made} has parameters {order}; they must be W, S and T, in this order, and no others.")
    return dict(zip(shapes, layer.parameters(), strict=True))
