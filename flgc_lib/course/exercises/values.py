"""A student's value in any form: reads its numbers, compares them, and says in a few words what it is.

A right value counts in whatever form it comes: list, NumPy array, tensor of any type, Python number.
"""

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MOST_SHOWN, LONGEST = 8, 120
"""Numbers of an array, and letters of anything else, that a sentence shows; of a larger one it gives the shape."""


class NotYet(Exception):  # noqa: N818 - it is an answer to a student, not a fault
    """An answer that is not right yet; the message teaches."""


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
        raise NotYet(f"{what} should give one number, and not {size(found.shape)}.")
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
    return given.shape == target.shape and bool(_close(given, target).all())


def _close(given: Tensor, target: Tensor) -> Tensor:
    """Entry by entry, for values of one shape."""
    epsilon = torch.finfo(given.dtype).eps
    if torch.equal(target, target.round()):  # counts and memberships are right or wrong
        relative, absolute = max(1e-12, 4 * epsilon), max(1e-9, 4 * epsilon)
    else:
        relative = max(1e-4, 80 * epsilon)
        absolute = relative / 10 * max(1.0, float(target[target.isfinite()].abs().max()))
    return torch.isclose(given.double(), target.double(), rtol=relative, atol=absolute, equal_nan=True)


def first_apart(given: Tensor, target: Tensor) -> str:
    """How many entries differ of two values of one shape, which is the first, and what it is and should be."""
    apart = ~_close(given, target)
    if given.ndim == 0:
        return f"{float(given):.9g} is not {float(target):.9g}"
    place = tuple(apart.nonzero()[0].tolist())
    is_, should = (f"{float(values[place]):.5g}" for values in (given, target))
    if is_ == should:
        is_, should = (f"{float(values[place]):.9g}" for values in (given, target))
    return (
        f"{int(apart.sum())} of {apart.numel()} numbers are wrong; the first is at {list(place)}, {is_}, and should "
        f"be {should}"
    )


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


def size(shape: Sequence[int]) -> str:
    """A shape in words."""
    if len(shape) == 0:
        return "one number"
    return f"{shape[0]} numbers in a row" if len(shape) == 1 else f"numbers of shape {tuple(shape)}"
