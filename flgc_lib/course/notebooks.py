"""How the notebooks are executed, and the frame that all of them share.

The opening and closing cells of every notebook are rendered from `lessons.COURSE`, so that titles, links, prerequisites
and measured times are said once. The outputs are stored: CI runs every cell again and compares (see run.py and
tests/test_notebooks.py).
"""

import json
import os
import time
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from flgc_lib.course.lessons import COURSE, FOLDER, REFERENCES, Lesson, find_lesson
from flgc_lib.course.session import Mode
from flgc_lib.experiment.settings import MOST_AT_ONCE
from flgc_lib.experiment.workers import each
from flgc_lib.files import write_text

TIMES = FOLDER / "times.json"
WIDGET = "application/vnd.jupyter.widget-view+json"


class Notebook(Protocol):
    """What is read and written here of nbformat's notebook; nbformat itself comes with the extra `notebooks`."""

    cells: list[Any]
    metadata: dict[str, Any]


def header(lesson: Lesson) -> str:
    """The opening markdown cell."""
    measured = _times().get(lesson.number, {})
    minutes = ", ".join(f"{m} {measured[m]:.1f} min" for m in ("smoke", "standard") if m in measured)
    need = ", ".join(_link(find_lesson(n)) for n in lesson.need) or "nothing but school mathematics and some Python"
    return "\n\n".join(
        [
            f"# {lesson.number} · {lesson.title}",
            _navigation(lesson),
            f"**You will** {lesson.do}.",
            f"**You will learn to** {lesson.learn}.",
            f"**You need** {need}.",
            f"**Study time** about {_hours(lesson.study)}. **Run time** on two cores: {minutes or 'not measured yet'}.",
            f"**In the paper:** {lesson.paper}.",
        ]
    )


def footer(lesson: Lesson) -> str:
    """The closing markdown cell."""
    works = "\n".join(f"- {REFERENCES[r]}" for r in lesson.references)
    return f"## References\n\n{works}\n\n{_navigation(lesson)}"


def render_frame(notebook: Notebook, lesson: Lesson) -> None:
    """Writes the opening and closing cells, which carry the tags `header` and `footer`, into a notebook."""
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "header" in tags:
            cell.source = header(lesson)
        if "footer" in tags:
            cell.source = footer(lesson)


def execute(
    lesson: Lesson,
    mode: Mode,
    into: Path,
    *,
    solutions: bool = False,
    measure: bool = False,
    folder: Path = FOLDER,
) -> Notebook:
    """Runs a notebook from top to bottom in a fresh kernel and writes it, with its outputs, to the folder `into`.

    Args:
        lesson: which.
        mode: see `session.mode`.
        into: folder of the result; `folder` itself executes in place.
        solutions: replaces every exercise's stub by the solution folded away below it.
        measure: notes the time in `TIMES` for the opening cell; without it only in place and where none is noted yet,
            so that executing a notebook again changes nothing.
        folder: of the notebooks.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    import nbformat  # here, because the command line must start without the extra `notebooks`
    from nbclient import NotebookClient

    notebook = nbformat.read(folder / lesson.file, as_version=4)
    if solutions:
        insert_solutions(notebook)
    started = time.perf_counter()
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--IPKernelApp.log_level=40"],  # errors only
    )
    # A client that answers widgets while it waits for a cell can miss the cell's end (nbclient, issue 312).
    client.comm_open_handlers.clear()
    client.execute(env={**os.environ, "FLGC_MODE": mode})
    if measure or into == folder:
        _remember_time(lesson, mode, (time.perf_counter() - started) / 60, replace=measure)
    render_frame(notebook, lesson)
    _forget_what_differs(notebook)
    into.mkdir(parents=True, exist_ok=True)
    write_text(into / lesson.file, nbformat.writes(notebook) + "\n")  # whole: a student's work may be in it
    return notebook


def execute_all(
    mode: Mode,
    into: Path,
    *,
    only: tuple[str, ...] = (),
    workers: int = 1,
    solutions: bool = False,
    measure: bool = False,
) -> dict[str, str]:
    """Executes the notebooks, several side by side; one that fails does not stop the others.

    Args:
        mode: see `session.mode`.
        into: folder of the results.
        only: numbers of the notebooks; all by default.
        workers: notebooks side by side.
        solutions: see `execute`.
        measure: see `execute`.

    Returns:
        For each notebook that failed, by number, why.

    Raises:
        ValueError: for a number that no notebook has, or if there are no notebooks here.
    """
    lessons = [find_lesson(number) for number in only] or COURSE
    here = [lesson for lesson in lessons if (FOLDER / lesson.file).exists()]
    if not here:
        raise ValueError(f"there are no notebooks in {FOLDER.resolve()}: type this in the folder of the clone")
    if not 1 <= workers <= MOST_AT_ONCE:
        raise ValueError(f"workers={workers} must be from 1 to {MOST_AT_ONCE}")
    options = {"mode": mode, "into": into, "solutions": solutions, "measure": measure}
    return {
        number: failure
        for number, failure in each(_attempt, {lesson.number: lesson for lesson in here}, workers, **options)
        if failure
    }


def _attempt(lesson: Lesson, *, mode: Mode, into: Path, solutions: bool, measure: bool) -> tuple[str, str]:
    started, failure = time.perf_counter(), ""
    try:
        execute(lesson, mode, into, solutions=solutions, measure=measure)
    except Exception as error:  # a dead kernel, a time-out and a failing cell are all the notebook's failure
        failure = f"{getattr(error, 'ename', type(error).__name__)}: {getattr(error, 'evalue', error)}"
    print(f"{into / lesson.file}: {failure or 'executed'}, {time.perf_counter() - started:.0f} s", flush=True)
    return lesson.number, failure


def insert_solutions(notebook: Notebook) -> int:
    """Puts the code of each folded solution (markdown, tagged `solution`) into the stub (tagged `exercise`) above it.

    Returns:
        How many there were.

    Raises:
        ValueError: if an exercise has no solution or a solution no exercise.
    """
    stub, inserted = None, 0
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "exercise" in tags:
            if stub is not None:
                raise ValueError(f"an exercise has no solution: {stub.source[:60]!r}")
            stub = cell
        if "solution" in tags:
            if stub is None or "```python\n" not in cell.source:
                raise ValueError(f"a solution without exercise or code: {cell.source[:60]!r}")
            stub.source = cell.source.split("```python\n")[1].split("\n```")[0]
            stub, inserted = None, inserted + 1
    if stub is not None:
        raise ValueError(f"an exercise has no solution: {stub.source[:60]!r}")
    return inserted


def _forget_what_differs(notebook: Notebook) -> None:
    """Leaves out what would be another one at the next run: Python's version, and widgets, dead without a kernel.

    With a widget goes what it shows; the cell below it has a picture for readers without a kernel.
    """
    notebook.metadata.pop("widgets", None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for cell in notebook.cells:
        if cell.cell_type == "code" and any(WIDGET in o.get("data", {}) for o in cell.outputs):
            cell.outputs = []


def _times() -> dict[str, dict[str, float]]:
    """Measured minutes, by number of the notebook and mode."""
    return json.loads(TIMES.read_text(encoding="utf-8")) if TIMES.exists() else {}


def _remember_time(lesson: Lesson, mode: Mode, minutes: float, *, replace: bool) -> None:
    with FileLock(TIMES.with_name(".times.lock")):
        times = _times()
        if replace or mode not in times.get(lesson.number, {}):
            times.setdefault(lesson.number, {})[mode] = max(0.1, round(minutes, 1))
            write_text(TIMES, json.dumps(times, indent=1, sort_keys=True) + "\n")


def _hours(minutes: int) -> str:
    return f"{minutes} minutes" if minutes < 60 else f"{minutes / 60:g} hours"


def _link(lesson: Lesson) -> str:
    return f"[{lesson.number} {lesson.title}]({lesson.file})"


def _navigation(lesson: Lesson) -> str:
    place = COURSE.index(lesson)
    links = [f"← {_link(COURSE[place - 1])}"] if place else []
    links += [f"{_link(COURSE[place + 1])} →"] if place + 1 < len(COURSE) else []
    return " · ".join(links)
