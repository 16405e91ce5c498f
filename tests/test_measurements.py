"""Tables of measurements: nothing is lost, nothing old changes, and what is damaged is refused."""

import time
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest

from flgc_lib.experiment import measurements

KEY = ["run", "processor"]


@pytest.fixture
def table(tmp_path):
    """A table of cells that a reader could take for other numbers, or none."""
    path = tmp_path / "ablation.csv"
    cells = [("a-1", "EPYC (family 25, model 17)", "0.10", "001234567890"), ("b-1", "NA", "", "1234567e8901")]
    text = "".join(f'{a},"{b}",{c},{d}\n' for a, b, c, d in cells)
    path.write_text("run,processor,accuracy,code\n" + text, encoding="utf-8")
    measurements.add(row("a-1", "EPYC (family 25, model 17)", 0.1, "001234567890"), path, KEY)
    return path


def row(run, processor="x", accuracy=1 / 3, code="0e2673a78d9d"):
    return pd.DataFrame([{"run": run, "processor": processor, "accuracy": accuracy, "code": code}])


def test_older_rows_stay_as_they_are_written(table):
    before = table.read_text(encoding="utf-8").splitlines()
    assert "b-1,NA,,1234567e8901" in before
    assert 'a-1,"EPYC (family 25, model 17)",0.1,001234567890' in before
    measurements.add(row("c-1", accuracy=0.1 + 0.2), table, KEY)
    assert table.read_text(encoding="utf-8").splitlines() == [*before, "c-1,x,0.30000000000000004,0e2673a78d9d"]


def test_what_is_measured_again_replaces_its_row(table):
    measurements.add(row("b-1", "NA"), table, KEY)
    measurements.add(row("b-1", "other"), table, KEY)
    stored = measurements.read(table)
    assert stored["run"].tolist() == ["a-1", "b-1", "b-1"]
    assert stored["accuracy"].tolist() == [0.1, 1 / 3, 1 / 3]


def test_two_writers_at_once_lose_nothing(tmp_path, monkeypatch):
    real = measurements._read
    monkeypatch.setattr(measurements, "_read", lambda *a, **o: (real(*a, **o), time.sleep(0.01))[0])
    with ThreadPoolExecutor(2) as pool:
        for written in [pool.submit(measurements.add, row(f"r-{i}"), tmp_path / "t.csv", KEY) for i in range(8)]:
            written.result()
    assert sorted(measurements.read(tmp_path / "t.csv")["run"]) == [f"r-{i}" for i in range(8)]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", r"t\.csv is not a readable table \(No columns to parse from file\): move it away, or restore it"),
        ("run,processor,accuracy,code\na,b\n1,2,3,4,5,6\n", r"t\.csv is not a readable table \(Error tokenizing data"),
        ("run,processor,accuracy\n", r"t\.csv has other columns than what is measured \(see code\)"),
        ("run,processor,accuracy,code,more\n", r"t\.csv has other columns than what is measured \(see more\)"),
        (b"\xff\xfe", r"t\.csv is not a readable table \('utf-8' codec"),
    ],
)
def test_a_damaged_table_is_refused_and_left_alone(tmp_path, content, sentence):
    table = tmp_path / "t.csv"
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=sentence):
        measurements.add(row("a"), table, KEY)
    assert table.read_bytes() == (content if isinstance(content, bytes) else content.encode())
