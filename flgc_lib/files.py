"""Files: where they are kept, and how they are there whole or not at all.

A kill or a full disk leaves what was there before, never half a file.
"""

import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path("data")
"""Folder of datasets and checkpoints, in the working directory; a default that every caller can change."""
RESULTS = ROOT / "results"
"""Folder of the records, likewise."""


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file beside its place and moves it there when it is complete.

    Args:
        path: of the file, in a folder that exists; what is there now is replaced.
        write: writes the content to the path that it is given, whose name is that of `path`.

    Raises:
        OSError: if the file cannot be written, with a sentence; what was there before is still there, whole. What else
            `write` raises passes through, and leaves nothing behind either.
    """
    try:
        with tempfile.TemporaryDirectory(
            prefix=f".{path.name}.", suffix=".part", dir=path.parent, ignore_cleanup_errors=True
        ) as folder:
            part = Path(folder) / path.name
            write(part)
            _replace(part, path)
    except OSError as error:
        raise OSError(
            f"{path} could not be written ({error}); what was there before is untouched: make room, or choose a folder "
            f"that exists and that you may write to, instead of {path.parent}"
        ) from error


def _replace(part: Path, path: Path) -> None:
    """Puts a file in the place of another; Windows refuses while somebody reads that, which takes no long time."""
    for _ in range(20):
        try:
            return os.replace(part, path)
        except PermissionError:
            time.sleep(0.05)
    return os.replace(part, path)


def write_text(path: Path, text: str) -> None:
    """Writes a text as `write_whole`, in UTF-8 and with the same line ends on every system."""
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8", newline="\n"))


def write_table(path: Path, table: Any) -> None:  # noqa: ANN401 - a pandas.DataFrame, which the layer does without
    """Writes a table as `write_whole`, in UTF-8 and with the same line ends on every system."""
    write_whole(path, lambda part: table.to_csv(part, index=False, encoding="utf-8", lineterminator="\n"))


def print_whatever() -> None:
    """A terminal without a ✓ shows a ?, where Python would stop."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def check_folder(folder: Path) -> None:
    """Refuses, before a long work rather than after it, a folder that its results could not be written to.

    Raises:
        OSError: if it cannot be made or written to.
    """
    there = folder
    while not there.exists() and there != there.parent:  # what does not exist yet is made when there is what to write
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(f"{folder} cannot be written to ({error}): make the folder writable, or give another") from error


def first_line(error: Exception) -> str:
    """What an error says, short enough for a sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(":. ")
