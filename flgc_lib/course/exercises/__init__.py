"""Checks of the notebooks' exercises: a right answer is confirmed, a wrong one is told what to look at."""

import importlib

from flgc_lib.course.exercises.values import NotYet

CHAPTERS = tuple("012345678")
"""Notebooks with exercises."""


def check(exercise: str, answer: object) -> None:
    """Prints whether `answer` solves an exercise, and if not, what to look at.

    Args:
        exercise: chapter and number, for example "3.2"; checked by `exercise_2` in `chapter03.py`, which returns a
            sentence of praise or raises `NotYet`. "3.step1" is checked by `step_3_1` in `building.py`.
        answer: the student's function or value; `...` is an untouched stub.

    Raises:
        ValueError: for an exercise that there isn't.
    """
    chapter, _, number = exercise.partition(".")
    step = number.removeprefix("step")
    file, name = (
        (f"chapter0{chapter}", f"exercise_{number}") if step == number else ("building", f"step_{chapter}_{step}")
    )
    module = importlib.import_module(f"{__name__}.{file}") if chapter in CHAPTERS else None
    solve = getattr(module, name, None)
    if solve is None:
        raise ValueError(f"there is no exercise {exercise!r}; the first of notebook 03 is '3.1'")
    try:
        print(f"✓ {solve(answer)}")
    except NotYet as hint:
        print(f"Not yet: {hint}")
