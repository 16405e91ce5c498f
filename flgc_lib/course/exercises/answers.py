"""What every check does with a student's answer: calls it, reads its value in any form, and says what differs.

A right value counts in whatever form it comes: list, NumPy array, tensor of any type, Python number. A sentence says
what was called with what, what came out and what should have; it never claims more than that was seen.
"""

import copy
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MOST_SHOWN, LONGEST = 24, 220
"""Numbers and letters of a value that a sentence shows; of a larger one it gives the shape."""
REMEDIES = {
    "name '": " Run the cells above that define it.",
    "a leaf Variable that requires grad": " Change parameters inside `with torch.no_grad():`, or with nn.init.",
}
"""What to do about errors that are not about the exercise, by words of their message."""


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
        """The function's value for copies of the arguments, but for modules and tensors with a gradient themselves.

        Args:
            arguments: of the call.
            wanted: what should come out, for the sentence.
            nothing: whether None is a possible answer.

        Raises:
            NotYet: if it stops, or returns what the stub does.
        """
        itself = [isinstance(a, nn.Module) or (isinstance(a, Tensor) and a.requires_grad) for a in arguments]
        given = [a if keep else copy.deepcopy(a) for a, keep in zip(arguments, itself, strict=True)]
        try:
            value = self.answer(*given)  # type: ignore[operator]
        except NotYet:
            raise
        except Exception as error:
            reason = (str(error).splitlines() or ["no further message"])[0].rstrip(".")
            remedy = "".join(what for words, what in REMEDIES.items() if words in reason)
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
        raise NotYet(f"{called} gives {_size(given.shape)}, but should give {_size(target.shape)}: {why}")
    if show(value) == show(wanted) or given.numel() > MOST_SHOWN:
        apart = float((given.double() - target.double()).abs().max())
        raise NotYet(f"{called} has the right shape, but values differ by up to {apart:.2g}: {why}")
    raise NotYet(f"{called} gives {show(value)}, but should give {show(wanted)}: {why}")


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
        raise NotYet(f"{what} should give one number, and not {_size(found.shape)}.")
    return float(found)


def whole(value: object, what: str) -> Tensor:
    """Whole numbers in any form, int64.

    Raises:
        NotYet: if one has a fraction, or is infinite or no number.
    """
    found = read(value, what)
    if not bool(found.isfinite().all()) or not torch.equal(found, found.round()):
        raise NotYet(f"{what} gives {show(value)}, where whole numbers are wanted.")
    return found.long()


def agree(given: Tensor, wanted: object) -> bool:
    """Whether two values are equal, up to the rounding of the given one's type; a single number may have axes."""
    target = read(wanted, "")
    given = given.reshape(()) if target.ndim == 0 and given.numel() == 1 else given
    if given.shape != target.shape:
        return False
    epsilon = torch.finfo(given.dtype).eps
    if torch.equal(target, target.round()):  # counts and memberships are right or wrong
        relative, absolute = max(1e-12, 4 * epsilon), max(1e-9, 4 * epsilon)
    else:
        relative = max(1e-4, 80 * epsilon)
        absolute = relative / 10 * max(1.0, float(target[target.isfinite()].abs().max()))
    return torch.allclose(given.double(), target.double(), rtol=relative, atol=absolute)


def show(value: object) -> str:
    """A value as it stands in a sentence, or what it is if it is long."""
    if isinstance(value, (Tensor, np.ndarray)):
        kind = "a tensor" if isinstance(value, Tensor) else "an array"
        listed = (value + 0 if str(value.dtype).endswith("bool") else value).tolist()  # 0 and 1 take less room
        few = math.prod(value.shape) <= MOST_SHOWN and len(_text(listed)) <= LONGEST
        return _text(listed) if few else f"{kind} of shape {tuple(value.shape)}"
    text = _text(value)
    long = isinstance(value, Sized) and len(text) > LONGEST
    return f"a {type(value).__name__} of {len(value)}" if long else text  # type: ignore[arg-type]


def _text(value: object) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        return show(value)
    if isinstance(value, (float, np.floating)):
        return f"{value:.5g}"
    if value is ... or value is None or isinstance(value, (str, numbers.Number, np.bool_)):
        return "`...`" if value is ... else repr(value.item() if isinstance(value, np.generic) else value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(k)}: {_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple, set, frozenset)):
        frame = "[{}]" if isinstance(value, list) else "({})" if isinstance(value, tuple) else "{{{}}}"
        return frame.format(", ".join(map(_text, value)))
    if isinstance(value, type) or callable(value):
        kind = "module" if isinstance(value, nn.Module) else "class" if isinstance(value, type) else "function"
        return f"the {kind} {getattr(value, '__name__', type(value).__name__)}"
    return f"a value of type {type(value).__name__}"


def _size(shape: Sequence[int]) -> str:
    if len(shape) == 0:
        return "one number"
    return f"{shape[0]} numbers in a row" if len(shape) == 1 else f"numbers of shape {tuple(shape)}"


def _matches(given: Tensor | None, wanted: object) -> bool:
    return wanted is None if given is None else wanted is not None and agree(given, wanted)


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
        raise NotYet(f"`{student.name}`: its gradient stops with: {str(error).splitlines()[0]}") from error
    for name, gradient in zip(leaves, found, strict=True):
        if gradient is None:
            raise NotYet(f"`{student.name}`: no gradient reaches {name}.")
    return list(found)
