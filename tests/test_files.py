"""A file is written whole or not at all."""

import os

import pytest

from flgc_lib.files import first_line, write_whole


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


@pytest.mark.parametrize("text", ["no room", "no room:\n here", "\n  no room. \nat all"])
def test_an_error_in_a_line(text):
    assert first_line(OSError(text)) == "no room"
    assert first_line(OSError()) == first_line(OSError("\n")) == "OSError"
