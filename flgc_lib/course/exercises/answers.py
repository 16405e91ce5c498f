"""What every check does with a student's answer: calls it, reads its value in any form, and says what differs.

A right value counts in whatever form it comes: list, NumPy array, tensor of any type, Python number. A sentence says
what was called with what, what came out and what should have; it never claims more than that was seen.
"""

import copy
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MOST_SHOWN = 24
"""Numbers that a sentence shows; of more it gives the shape."""


class NotYet(Exception):  # noqa: N818 - it is an answer to a student, not a fault
    """An answer that is not right yet; the message teaches."""


class Student:
    """A student's function, called only through here.

    Args:
        answer: the function.
        name: what the notebook calls it.
        hint: what to do first; said while the stub is untouched, that is returns `...` or nothing.
    """

    def __init__(self, answer: object, name: str, hint: str) -> None:
        self.name, self.hint, self.answer = name, hint, answer
        filled(answer, hint)
        if not callable(answer):
            raise NotYet(f"`{name}` is {show(answer)} and no function; keep its `def` line and write below it.")

    def called(self, *arguments: object) -> str:
        """The call as text."""
        return f"`{self.name}({', '.join(map(show, arguments))})`"

    def __call__(self, *arguments: Any, wanted: object = ..., nothing: bool = False) -> Any:  # noqa: ANN401
        """The function's value for copies of the arguments; of a tensor that takes a gradient, for the tensor itself.

        Args:
            arguments: of the call.
            wanted: what should come out, for the sentence.
            nothing: whether None is a possible answer.

        Raises:
            NotYet: if it stops, or returns what the stub does.
        """
        given = [a if isinstance(a, Tensor) and a.requires_grad else copy.deepcopy(a) for a in arguments]
        try:
            value = self.answer(*given)  # type: ignore[operator]
        except NotYet:
            raise
        except Exception as error:
            reason = (str(error).splitlines() or ["no further message"])[0].rstrip(".")
            remedy = " Run the cells above that define it." if isinstance(error, NameError) else ""
            should = "" if wanted is ... else f" It should give {show(wanted)}."
            raise NotYet(
                f"{self.called(*arguments)} stops with {type(error).__name__}: {reason}.{remedy}{should}"
            ) from error
        return value if nothing and value is None else filled(value, self.hint)

    def gives(
        self,
        arguments: Sequence[Any],
        wanted: object,
        why: str,
        mistakes: Mapping[str, object] | None = None,
        *,
        nothing: bool = False,
    ) -> None:
        """Refuses, with a sentence, unless the function gives what is wanted.

        Args:
            arguments: of the call.
            wanted: number, nested list or tensor; None where nothing is the right answer.
            why: explains what is wanted.
            mistakes: sentences for values that a usual mistake gives, sentence to value.
            nothing: whether the function may answer None.
        """
        value = self(*arguments, wanted=wanted, nothing=nothing or wanted is None)
        expect(self.called(*arguments), value, wanted, why, mistakes)


def expect(
    called: str, value: object, wanted: object, why: str, mistakes: Mapping[str, object] | None = None
) -> None:
    """Refuses a value that is not the wanted one: with the mistake's sentence if it is a usual one, else with `why`."""
    if (value is None) == (wanted is None) and (wanted is None or agree(given := read(value, called), wanted)):
        return
    for sentence, wrong in (mistakes or {}).items():
        if (value is None and wrong is None) or (
            value is not None and wrong is not None and agree(given, wrong) and not _same(wrong, wanted)
        ):
            raise NotYet(f"{called} gives {show(value)}: {sentence}")
    given_shape = None if value is None else tuple(given.shape)
    if value is not None and wanted is not None and given_shape != tuple(read(wanted, called).shape):
        shape = tuple(read(wanted, called).shape)
        what = f"one number, and not {_size(given_shape)}" if not shape else f"{_size(shape)}, not {_size(given_shape)}"
        raise NotYet(f"{called} should give {what}: {why}")
    apart = ""
    if show(value) == show(wanted):
        difference = (given.double() - read(wanted, called).double()).abs()
        apart = f" (they differ by up to {float(difference.max()):.2g})"
    if show(value) == show(wanted) and show(wanted).startswith("a tensor"):
        raise NotYet(f"{called} has the right shape, but values differ by up to {float(difference.max()):.2g}: {why}")
    raise NotYet(f"{called} gives {show(value)}, but should give {show(wanted)}{apart}: {why}")


def filled(answer: Any, hint: str) -> Any:  # noqa: ANN401
    """The answer; or `hint` to the student if it, or a part of it, is what the stub left: `...` or nothing."""
    parts = answer if isinstance(answer, (tuple, list)) else (answer,)
    if answer is None or any(part is ... for part in parts):
        raise NotYet(hint)
    return answer


def read(value: object, what: str) -> Tensor:
    """Numbers in any form as a tensor, without gradient: float as it is, everything else as float64.

    Raises:
        NotYet: if there is something else than numbers in it, or rows are not equally long.
    """
    if isinstance(value, Tensor):
        found = value.detach().cpu()
        found = found if found.layout == torch.strided else found.to_dense()
        if not found.is_complex():
            return found if found.is_floating_point() else found.double()
    elif isinstance(value, (numbers.Real, np.bool_)):
        return torch.tensor(float(value), dtype=torch.float64)
    elif hasattr(value, "__array__") and np.asarray(value).dtype.kind in "biuf":
        array = np.asarray(value)
        return torch.from_numpy(array.astype(array.dtype if array.dtype.kind == "f" else np.float64))
    elif isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping, set, frozenset, nn.Module)):
        parts = [read(part, what) for part in value]
        shapes = {tuple(part.shape) for part in parts}
        if len(shapes) > 1:
            raise NotYet(f"{what}: its rows are not equally long, {' and '.join(map(str, sorted(shapes)))}.")
        return torch.stack([part.double() for part in parts]) if parts else torch.zeros(0, dtype=torch.float64)
    if value is ...:
        raise NotYet(f"{what}: there is still a `...` in it.")
    raise NotYet(f"{what}: {show(value)} is there, where numbers are wanted.")


def number(value: object, what: str) -> float:
    """One number in any form.

    Raises:
        NotYet: if it is none, or several.
    """
    found = read(value, what)
    if found.numel() != 1:
        raise NotYet(f"{what} should give one number, and not {_size(tuple(found.shape))}.")
    return float(found)


def agree(given: Tensor, wanted: object) -> bool:
    """Whether two values are equal, up to the rounding of the given one's type; a single number may have axes."""
    target = read(wanted, "")
    given = given.reshape(()) if target.ndim == 0 and given.numel() == 1 else given
    if given.shape != target.shape:
        return False
    whole = bool((target == target.round()).all())  # counts and memberships are right or wrong
    epsilon = torch.finfo(given.dtype).eps
    tolerance = max(1e-9, 2 * epsilon) if whole else max(1e-5, 8 * epsilon)
    finite = target[target.isfinite()].abs()
    scale = 1.0 if whole or not len(finite) else max(1.0, float(finite.max()))
    return torch.allclose(given.double(), target.double(), rtol=10 * tolerance, atol=tolerance * scale)


def show(value: object) -> str:
    """A value as it stands in a sentence."""
    if isinstance(value, (Tensor, np.ndarray)):
        kind = "a tensor" if isinstance(value, Tensor) else "an array"
        many = value.numel() if isinstance(value, Tensor) else value.size
        return f"{kind} of shape {tuple(value.shape)}" if many > MOST_SHOWN else show(value.tolist())
    if isinstance(value, (float, np.floating)):
        return f"{value:.5g}"
    if value is ... or value is None or isinstance(value, (str, numbers.Number, np.bool_)):
        return "`...`" if value is ... else repr(value.item() if isinstance(value, np.generic) else value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{show(k)}: {show(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple, set, frozenset)):
        left, right = {list: "[]", tuple: "()"}.get(type(value), "{}")
        text = left + ", ".join(map(show, value)) + right
        return text if len(text) <= 8 * MOST_SHOWN else f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, type) or callable(value):
        kind = "module" if isinstance(value, nn.Module) else "class" if isinstance(value, type) else "function"
        return f"the {kind} {getattr(value, '__name__', type(value).__name__)}"
    return f"a value of type {type(value).__name__}"


def _size(shape: tuple[int, ...] | None) -> str:
    if not shape:
        return "a single number" if shape == () else "None"
    return f"{shape[0]} numbers" if len(shape) == 1 else f"numbers of shape {shape}"


def _same(one: object, other: object) -> bool:
    return one is None if other is None else agree(read(one, "").double(), other)


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
        raise NotYet(f"`{student.name}`: its gradient stops with: {str(error).splitlines()[0]}") from error
    for name, gradient in zip(leaves, found, strict=True):
        if gradient is None:
            raise NotYet(f"`{student.name}`: no gradient reaches {name}.")
    return list(found)
