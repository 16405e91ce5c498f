"""A file is written whole or not at all."""

import io
import os
import sys
from pathlib import Path

import pandas as pd
import pytest

from flgc_lib.files import check_folder, first_line, print_whatever, write_table, write_whole


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "numbers.txt"
    for text in ("1", "2"):
        write_whole(path, lambda part, text=text: part.write_text(text, encoding="utf-8"))
        assert path.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_there_stays_until_the_new_file_is_complete(tmp_path):
    path = tmp_path / "numbers.txt"
    path.write_text("old", encoding="utf-8")

    def write(part):
        part.write_text("half", encoding="utf-8")
        assert part.name == path.name  # the name's ending tells many writers the format
        assert path.read_text(encoding="utf-8") == "old"

    write_whole(path, write)
    assert path.read_text(encoding="utf-8") == "half"


@pytest.mark.parametrize("error", [OSError("No space left on device"), ValueError("not a number"), KeyboardInterrupt()])
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path, error):
    path = tmp_path / "numbers.txt"
    path.write_text("old", encoding="utf-8")

    def fail(part):
        part.write_text("half", encoding="utf-8")
        raise error

    with pytest.raises(type(error), match=str(error)):
        write_whole(path, fail)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_and_a_bad_folder_get_a_sentence(tmp_path, monkeypatch):
    def full(part):
        raise OSError("No space left on device")

    with pytest.raises(OSError, match=r"numbers\.txt could not be written \(No space left.*make room"):
        write_whole(tmp_path / "numbers.txt", full)
    with pytest.raises(OSError, match=r"could not be written.*choose a folder that exists"):
        write_whole(tmp_path / "missing" / "numbers.txt", lambda part: part.touch())
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(OSError, match="could not be written"):
        write_whole(tmp_path / "taken", lambda part: part.touch())

    def forbidden(*_):
        raise PermissionError("Permission denied")

    monkeypatch.setattr(os, "mkdir", forbidden)
    with pytest.raises(OSError, match=r"could not be written.*Permission denied.*you may write to"):
        write_whole(tmp_path / "numbers.txt", lambda part: part.touch())
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("refusals", [2, 1000])
def test_a_file_that_somebody_reads_is_replaced_when_he_is_done(tmp_path, monkeypatch, refusals):
    """As on Windows, which refuses until then."""
    path, replace, tries = tmp_path / "numbers.txt", os.replace, []

    def refuse(*names):
        tries.append(names)
        if len(tries) <= refusals:
            raise PermissionError("The process cannot access the file")
        replace(*names)

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr("flgc_lib.files.time.sleep", lambda seconds: None)
    if refusals == 2:
        write_whole(path, lambda part: part.touch())
        assert path.exists()
    else:
        with pytest.raises(OSError, match="could not be written"):
            write_whole(path, lambda part: part.touch())


def test_a_table_has_the_same_line_ends_everywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "linesep", "\r\n")
    write_table(tmp_path / "table.csv", pd.DataFrame({"a": ["é"]}))
    assert (tmp_path / "table.csv").read_bytes() == "a\né\n".encode()


def test_a_folder_on_a_drive_that_is_not_there_is_looked_for_once(monkeypatch):
    looks = []

    def exists(path):
        looks.append(path)
        assert len(looks) < 10
        return False

    monkeypatch.setattr(Path, "exists", exists)
    check_folder(Path("x"))  # its parent is ".", whose parent is "." again


def test_what_a_terminal_cannot_show_is_a_question_mark(monkeypatch):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="cp1252"))
    print_whatever()
    print("1 ≥ 0", flush=True)
    assert shown.getvalue().startswith(b"1 ? 0")


@pytest.mark.parametrize("text", ["no room", "no room:\n here", "\n  no room. \nat all"])
def test_an_error_in_a_line(text):
    assert first_line(OSError(text)) == "no room"
    assert first_line(OSError()) == first_line(OSError("\n")) == "OSError"
