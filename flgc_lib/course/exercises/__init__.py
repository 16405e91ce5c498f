"""Checks of the notebooks' exercises: a right answer is confirmed, a wrong one is told what to look at."""

import importlib
from collections.abc import Callable
from typing import Any, TypeVar, cast

T = TypeVar("T")


class NotYet(Exception):  # noqa: N818 - it is an answer to a student, not a fault
    """An answer that is not right yet; the message teaches."""


def check(exercise: str, answer: object) -> None:
    """Prints whether `answer` solves an exercise, and if not, what to look at.

    Args:
        exercise: chapter and number, for example "3.2"; checked by `exercise_2` in `chapter03.py`, which returns a
            sentence of praise or raises `NotYet`.
        answer: the student's function or value; `...` is an untouched stub.
    """
    chapter, number = exercise.split(".")
    module = importlib.import_module(f"{__name__}.chapter{int(chapter):02d}")
    try:
        print(f"✓ {getattr(module, f'exercise_{number}')(answer)}")
    except NotYet as hint:
        print(f"Not yet: {hint}")


def filled(answer: T | None, hint: str) -> T:
    """The answer; or `hint` to the student if it, or a number of a pair, is what the stub left: `...` or nothing."""
    if answer is None or any(part is ... for part in (answer if isinstance(answer, tuple) else (answer,))):
        raise NotYet(hint)
    return answer


def call(answer: object, name: str, *arguments: Any) -> Any:  # noqa: ANN401 - whatever a student's function takes
    """The function's value for a small case; a sentence if it fails, or returns nothing yet."""
    if not callable(answer):
        raise NotYet(f"`{name}` is not a function; keep its `def` line and write below it.")
    try:
        value = cast(Callable[..., Any], answer)(*arguments)
    except Exception as error:
        raise NotYet(f"`{name}` stops with {type(error).__name__}: {error}.") from error
    return filled(value, f"`{name}` returns nothing yet: put an expression in place of `...`.")
