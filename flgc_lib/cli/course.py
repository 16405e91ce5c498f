"""Commands for the course: is everything here, and do the notebooks run?"""

import sys
from pathlib import Path

from flgc_lib import environment
from flgc_lib.course.lessons import FOLDER
from flgc_lib.course.session import Mode


def check() -> None:
    """Say whether everything that the notebooks need is here, and if not, what to type."""
    sys.exit(environment.main())


def notebooks(
    *,
    mode: Mode = "standard",
    into: Path = FOLDER,
    only: tuple[str, ...] = (),
    workers: int = 2,
    measure: bool = False,
) -> None:
    """Execute the course's notebooks from top to bottom; by default in place, as their stored outputs were made.

    Args:
        mode: how much they compute: smoke (seconds each), standard (up to minutes) or full (the real experiment).
        into: folder of the executed notebooks.
        only: numbers of notebooks, for example 00 05; all by default.
        workers: notebooks side by side.
        measure: note the run times for the opening cells; do it on a computer that does nothing else.
    """
    from flgc_lib.course.notebooks import execute_all

    failures = execute_all(mode, into, only=only, workers=workers, measure=measure)
    if failures:
        sys.exit(f"flgc: {len(failures)} notebooks failed: {', '.join(failures)}")
