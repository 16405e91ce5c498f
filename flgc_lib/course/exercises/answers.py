"""What every check does with a student's answer: calls it, compares its value, and says what differs.

A sentence says what was called with what, what came out and what should have; it never claims more than that was seen.
"""

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flgc_lib.course.exercises.values import MOST_SHOWN, NotYet, agree, filled, first_apart, read, show, size
from flgc_lib.files import first_line

REMEDIES = {
    "name '": " Run the cells above that define it.",
    "a leaf Variable that requires grad": " Make a new value; or, if it is a module's parameter, change it inside "
    "`with torch.no_grad():` or with nn.init.",
}
"""What to do about errors that are not about the exercise, by words of their message."""

Case = tuple[Sequence[Any], object, str, Mapping[str, object]]
"""Arguments of a call; what is wanted: number, nested list or tensor, None where nothing is right; an explanation of
that; and sentences for what usual mistakes give there, the same mistakes in the same order in every case."""


class Student:
    """A student's function, called only through here.

    Args:
        answer: the function.
        name: what the notebook calls it.
        hint: what to do first; said while the stub is untouched, that is returns `...` or nothing. By default, that an
            expression goes in its place.
    """

    def __init__(self, answer: object, name: str, hint: str | None = None) -> None:
        self.name, self.answer = name, answer
        self.hint = f"`{name}` returns nothing yet: put an expression in place of `...`." if hint is None else hint
        filled(answer, self.hint)
        if not callable(answer):
            raise NotYet(f"`{name}` is {show(answer)} and no function; keep its `def` line and write below it.")

    def called(self, *arguments: object) -> str:
        """The call as text."""
        return f"`{self.name}({', '.join(map(show, arguments))})`"

    def __call__(self, *arguments: Any, wanted: object = ..., nothing: bool = False) -> Any:  # noqa: ANN401
        """The function's value for copies of the arguments, but for modules and tensors with a gradient themselves.

        Args:
            arguments: of the call.
            wanted: what should come out, for the sentence.
            nothing: whether None is a possible answer.

        Raises:
            NotYet: if it stops, changes an argument that is no module, or returns what the stub does.
        """
        before = [a if isinstance(a, nn.Module) else _copy(a) for a in arguments]
        given = [a if _is_itself(a) else _copy(a) for a in arguments]
        should = "" if wanted is ... else f" It should give {show(wanted)}."
        try:
            value = _kept(self.answer(*given))  # type: ignore[operator]
        except NotYet:
            raise
        except Exception as error:
            reason = (str(error).splitlines() or ["no further message"])[0].rstrip(".")
            remedy = "".join(what for words, what in REMEDIES.items() if words in reason)
            raise NotYet(
                f"{self.called(*before)} stops with {type(error).__name__}: {reason}.{remedy}{should}"
            ) from error
        self._leaves_alone(given, before)
        if value is None and should and not nothing:
            raise NotYet(f"{self.called(*before)} returns nothing.{should}")
        return value if nothing and value is None else filled(value, self.hint)

    def _leaves_alone(self, given: Sequence[Any], before: Sequence[Any]) -> None:
        """Refuses if an argument is no longer what it was."""
        for place, (now, then) in enumerate(zip(given, before, strict=True)):
            if not isinstance(now, (Tensor, np.ndarray, list, dict)) or _same(now, then):
                continue
            name = _parameter(self.answer, place)
            how = "clone" if isinstance(now, Tensor) else "copy"
            raise NotYet(
                f"{self.called(*before)} overwrites {name}, which whoever calls it goes on using: compute a new value, "
                f"or work on a copy, `{name}.{how}()`."
            )

    def solves(self, cases: Iterable[Case], *, nothing: bool = False) -> None:
        """Refuses, with a sentence about the first case that fails, unless the function gives what is wanted in all.

        A usual mistake is named only if it explains every case that fails; a single one may be like it by chance.

        Args:
            cases: see `Case`.
            nothing: whether the function may answer None also where it is wrong.
        """
        first: tuple[str, object, Case] | None = None
        explain: set[int] = set()
        for case in cases:
            arguments, wanted, _, mistakes = case
            called = self.called(*arguments)
            try:
                value = self(*arguments, wanted=wanted, nothing=nothing or wanted is None)
                given = None if value is None else read(value, called)
            except NotYet:
                if first is None:
                    raise
                continue
            if not _matches(given, wanted):
                fitting = {place for place, wrong in enumerate(mistakes.values()) if _matches(given, wrong)}
                first, explain = (first, explain & fitting) if first else ((called, value, case), fitting)
        if first is not None:
            called, value, (_, wanted, why, mistakes) = first
            named = {sentence: wrong for place, (sentence, wrong) in enumerate(mistakes.items()) if place in explain}
            expect(called, value, wanted, why, named)


def expect(called: str, value: object, wanted: object, why: str, mistakes: Mapping[str, object] | None = None) -> None:
    """Refuses a value that is not the wanted one: with the mistake's sentence if it is a usual one, else with `why`."""
    given = None if value is None else read(value, called)
    if _matches(given, wanted):
        return
    for sentence, wrong in (mistakes or {}).items():
        if _matches(given, wrong):
            raise NotYet(f"{called} gives {show(value)}: {sentence}")
    if given is None or wanted is None:
        raise NotYet(f"{called} gives {show(value)}, but should give {show(wanted)}: {why}")
    target = read(wanted, called)
    if given.shape != target.shape and (target.ndim or given.numel() != 1):
        raise NotYet(f"{called} gives {size(given.shape)}, but should give {size(target.shape)}: {why}")
    if show(value) == show(wanted) or given.numel() > MOST_SHOWN:
        raise NotYet(f"{called} has the right shape, but {first_apart(given.reshape(target.shape), target)}: {why}")
    raise NotYet(f"{called} gives {show(value)}, but should give {show(wanted)}: {why}")


def _matches(given: Tensor | None, wanted: object) -> bool:
    return wanted is None if given is None else wanted is not None and agree(given, wanted)


def _is_itself(argument: object) -> bool:
    """Whether a function is given the argument itself: a module, which it may change, or a tensor with a gradient."""
    return isinstance(argument, nn.Module) or (isinstance(argument, Tensor) and argument.requires_grad)


def _copy(argument: Any) -> Any:  # noqa: ANN401
    return argument.detach().clone() if isinstance(argument, Tensor) else copy.deepcopy(argument)


def _kept(value: Any) -> Any:  # noqa: ANN401
    """The value, but iterators, which can be read only once, as lists: a check reads more than once."""
    if not isinstance(value, (list, tuple, Iterator)):
        return value
    parts = map(_kept, value)
    return tuple(parts) if isinstance(value, tuple) else list(parts)


def _same(now: object, then: object) -> bool:
    try:
        torch.testing.assert_close(now, then, rtol=0, atol=0, equal_nan=True)
    except Exception:  # also what can't be compared: it was put there
        return False
    return True


def _parameter(function: Any, place: int) -> str:  # noqa: ANN401
    """What a function calls the argument at some place."""
    function = function.forward if isinstance(function, nn.Module) else function
    try:
        names = [p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_POSITIONAL]
    except (TypeError, ValueError):  # some functions of C have no signature
        names = []
    return names[place] if place < len(names) else f"its argument {place + 1}"


def logits(rows: int, groups: int, generator: torch.Generator) -> Tensor:
    """S or T of a hidden case, shape (rows, groups), N(0, 1), in hundredths so that a sentence can show it."""
    return (100 * torch.randn(rows, groups, generator=generator)).round() / 100


def draw(low: int, high: int, generator: torch.Generator) -> int:
    """A whole number from low … high, for a hidden case."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def gradients(function: Callable[..., Tensor], inputs: list[Tensor], upstream: Tensor) -> list[Tensor]:
    """∂(Σ upstream · function) / ∂ inputs."""
    leaves = [value.clone().requires_grad_() for value in inputs]
    return list(torch.autograd.grad((function(*leaves) * upstream).sum(), leaves))


def gradients_of(student: Student, inputs: Mapping[str, Tensor], upstream: Tensor) -> list[Tensor]:
    """The same for a student's function, with a sentence if no gradient comes.

    Args:
        student: the function.
        inputs: to differentiate by, with their names.
        upstream: gradient of the function's value.
    """
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    return pulled_back(student, student(*leaves.values()), leaves, upstream)


def pulled_back(student: Student, value: object, leaves: Mapping[str, Tensor], upstream: Tensor) -> list[Tensor]:
    """∂(Σ upstream · value) / ∂ leaves for a value that a student's function gave."""
    if not isinstance(value, Tensor) or not value.requires_grad:
        raise NotYet(f"`{student.name}`: no gradient comes back through it; argmax, comparisons and NumPy have none.")
    try:
        total = (value.reshape(upstream.shape) * upstream).sum()
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    except RuntimeError as error:
        raise NotYet(f"`{student.name}`: its gradient stops with: {first_line(error)}") from error
    for name, gradient in zip(leaves, found, strict=True):
        if gradient is None:
            raise NotYet(f"`{student.name}`: no gradient reaches {name}.")
    return list(found)
