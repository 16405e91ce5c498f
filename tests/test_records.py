"""Records: written whole or not at all, refused when broken, read back to the last digit; and the committed ones."""

import errno
import multiprocessing
import os
import re
import shutil
import subprocess
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from flgc_lib.experiment import records
from flgc_lib.experiment.assignments import learned_layers
from flgc_lib.experiment.records import (
    OF_LAST_EPOCH,
    RUN_COLUMNS,
    SETTINGS,
    read_epochs,
    read_groups,
    read_runs,
    settings_of,
    write_record,
)
from flgc_lib.experiment.runs import run
from flgc_lib.experiment.training import Classifier
from flgc_lib.methods import METHODS

REPOSITORY = Path(__file__).parents[1]
COMMITTED = REPOSITORY / "data" / "results"


def bytes_of(results):
    return {
        str(f.relative_to(results)): f.read_bytes() for f in results.rglob("*") if f.is_file() and f.name != ".lock"
    }


@pytest.fixture
def results(tiny, record, tmp_path):
    """Three finished runs of two epochs, lines 2 to 4 of runs.csv."""
    for groups in (1, 2, 4):
        row, epochs = record(tiny(groups=groups, epochs=2))
        write_record(tmp_path / "results", row, epochs, {"layer.copies": np.array([groups, 0])})
    return tmp_path / "results"


# Reading and writing


def test_what_was_written_is_read_to_the_last_digit(tiny, record, results):
    for groups in (1, 2, 4):
        settings = tiny(groups=groups, epochs=2)
        row, epochs = record(settings)
        runs, rows = read_runs(results), read_epochs(results)
        read = runs[runs["run"] == settings.id].iloc[0].to_dict()
        assert read == row
        assert {key: type(value) for key, value in read.items()} == {key: type(value) for key, value in row.items()}
        assert rows[rows["run"] == settings.id].drop(columns="run").to_dict("records") == epochs
        assert settings_of(read) == settings
        assert read_groups(results, settings.id)["layer.copies"].tolist() == [groups, 0]


@pytest.mark.parametrize("value", [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, 1e22, 123456789.123456789, 2.0])
def test_floats_survive(tiny, record, tmp_path, value):
    row, epochs = record(tiny(epochs=1), test_loss=value)
    write_record(tmp_path, row, epochs, {})
    assert read_runs(tmp_path)["test_loss"].item() == value
    assert read_epochs(tmp_path)["test_loss"].item() == value


def test_no_records_yet(tmp_path):
    assert read_runs(tmp_path).empty
    assert tuple(read_runs(tmp_path).columns) == RUN_COLUMNS
    assert read_epochs(tmp_path).empty


def test_files_do_not_depend_on_the_order_of_writing(tiny, record, tmp_path):
    runs = [
        record(tiny(method=method, seed=seed, epochs=11)) for seed in (0, 1) for method in ("ring", "flgc", "dense")
    ]
    for name, order in (("one", runs), ("other", runs[::-1])):
        for row, epochs in order:
            write_record(tmp_path / name, row, epochs, {})
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "other")
    epochs = read_epochs(tmp_path / "one")
    assert epochs[epochs["run"] == runs[0][0]["run"]]["epoch"].tolist() == list(range(1, 12))


def test_a_run_written_again_is_replaced(tiny, record, results):
    before = read_runs(results)
    row, epochs = record(tiny(groups=2, epochs=2), test_accuracy=0.75)
    write_record(results, row, epochs[:1], {})
    runs = read_runs(results).set_index("run")
    assert len(runs) == 3
    assert runs.loc[row["run"], "test_accuracy"] == 0.75
    assert read_epochs(results)["run"].value_counts().to_dict() == {
        name: 1 if name == row["run"] else 2 for name in before["run"]
    }


def test_two_processes_writing_at_once_lose_nothing(tiny, record, tmp_path):
    runs = [record(tiny(seed=seed)) for seed in range(24)]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for written in [pool.submit(write_record, tmp_path, row, epochs, {}) for row, epochs in runs]:
            written.result()
    assert sorted(read_runs(tmp_path)["run"]) == sorted(row["run"] for row, _ in runs)
    assert len(read_epochs(tmp_path)) == 24 * 3


def test_groups_that_are_missing_or_damaged_are_named(tiny, record, tmp_path):
    row, epochs = record(tiny(method="flgc"))
    write_record(tmp_path, row, epochs, {"layer.copies": np.array([1])})
    file = tmp_path / "groups" / f"{row['run']}.npz"
    whole = file.read_bytes()
    for damage in (lambda: file.write_bytes(whole[: len(whole) // 2]), lambda: file.write_bytes(b""), file.unlink):
        damage()
        with pytest.raises(
            ValueError, match=rf"{file.name} is missing or damaged .*: restore it, for example with git"
        ):
            read_groups(tmp_path, row["run"])


# A full disk, a folder that cannot be written


def full_disk(monkeypatch, name):
    """os.replace fails for the file of that name, as it may on a full disk."""
    real = os.replace

    def replace_file(source, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace_file)


@pytest.mark.parametrize("name", ["epochs.csv", "runs.csv"])
def test_a_full_disk_leaves_the_earlier_records_as_they_were(tiny, record, results, monkeypatch, name):
    before = bytes_of(results)
    row, epochs = record(tiny(seed=9))
    full_disk(monkeypatch, name)
    sentence = (
        rf"record of {row['run']} could not be written to .*No space left.*make room.*start the same command again"
    )
    with pytest.raises(OSError, match=sentence):
        write_record(results, row, epochs, {})
    after = bytes_of(results)
    assert after["runs.csv"] == before["runs.csv"]
    if name == "epochs.csv":
        assert after == before  # nothing half-written lies about either
    assert len(read_runs(results)) == 3


def test_a_write_that_stops_half_way_leaves_the_file_as_it_was(tiny, record, results, monkeypatch):
    before = bytes_of(results)
    row, epochs = record(tiny(seed=9))
    assert set(before) >= {"runs.csv", "epochs.csv"}
    write = records.pd.DataFrame.to_csv

    def half(table, path, **options):
        write(table, path, **options)
        Path(path).write_bytes(Path(path).read_bytes()[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(records.pd.DataFrame, "to_csv", half)
    with pytest.raises(OSError, match="earlier records are whole"):
        write_record(results, row, epochs, {})
    assert bytes_of(results) == before


def test_a_results_folder_that_cannot_be_made(tiny, record, tmp_path):
    (tmp_path / "results").write_text("a file in its place", encoding="utf-8")
    row, epochs = record(tiny())
    with pytest.raises(OSError, match=r"could not be written to .*make the folder writable"):
        write_record(tmp_path / "results", row, epochs, {})
    assert (tmp_path / "results").read_text(encoding="utf-8") == "a file in its place"


def test_a_read_only_results_folder(tiny, record, results, monkeypatch):
    before = bytes_of(results)
    row, epochs = record(tiny(seed=9))

    def refuse(path, *arguments, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(records.pd.DataFrame, "to_csv", lambda table, path, **options: refuse(path))
    with pytest.raises(OSError, match=r"Permission denied.*make the folder writable"):
        write_record(results, row, epochs, {})
    assert bytes_of(results) == before


@pytest.mark.parametrize("name", ["NAME.npz", "epochs.csv", "runs.csv"])
def test_a_run_whose_record_failed_is_recorded_without_training_again(
    tiny, root, tmp_path, monkeypatch, everything, name
):
    results, settings = tmp_path / "results", tiny(epochs=1)
    with monkeypatch.context() as patch:
        full_disk(patch, name.replace("NAME", settings.id))
        with pytest.raises(OSError, match="kept in its checkpoint"):
            run(settings, results=results, root=root, device="cpu")
    assert read_runs(results).empty

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", lambda module, batch: pytest.fail("it was trained again"))
        row = run(settings, results=results, root=root, device="cpu")
    assert read_runs(results).to_dict("records") == [row]

    shutil.rmtree(root / "runs")
    run(settings, results=tmp_path / "undisturbed", root=root, device="cpu")
    assert everything(results) == everything(tmp_path / "undisturbed")


# Broken rows


def edit(path, line, change):
    lines = path.read_text(encoding="utf-8").splitlines()
    cells = lines[line - 1].split(",")
    change(cells)
    lines[line - 1] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def put(column, value):
    def change(cells):
        cells[RUN_COLUMNS.index(column)] = value

    return change


BROKEN = "broken row: {}; remove the row, or restore the file with git"


@pytest.mark.parametrize(
    ("line", "change", "sentence"),
    [
        (3, put("test_accuracy", ""), BROKEN.format("test_accuracy is missing")),
        (4, put("groups", ""), BROKEN.format("groups is missing")),
        (
            3,
            lambda cells: cells.__delitem__(slice(-2, None)),
            BROKEN.format("channels_moved, filters_moved is missing"),
        ),
        (3, put("groups", "3"), BROKEN.format("its settings are those of flgc-dup-g3-s0-.*, not flgc-dup-g2-s0-.*")),
        (2, put("width", "0.5"), BROKEN.format("its settings are those of flgc-dup-g1-s0-.*")),
        (3, put("method", "glfc"), BROKEN.format("method='glfc' must be one of .*")),
        (4, put("batch", "0"), BROKEN.format("batch=0 must be at least 1")),
        (4, put("epochs", "two"), BROKEN.format("epochs is 'two', not of kind int")),
        (3, put("depths", "1-x"), BROKEN.format(".*'x'.*")),
        (3, put("depthwise", "no"), BROKEN.format("depthwise is 'no', not of kind bool")),
        (3, put("test_accuracy", "91 %"), BROKEN.format("test_accuracy is '91 %', not of kind float")),
        (4, put("copies", "1.5"), BROKEN.format("copies is '1.5', not of kind int")),
        (3, put("test_accuracy", "nan"), BROKEN.format("test_accuracy is nan, not from 0 to 1")),
        (3, put("test_accuracy", "7.5"), BROKEN.format("test_accuracy is 7.5, not from 0 to 1")),
        (3, put("train_loss", "inf"), BROKEN.format("train_loss is inf, not from 0 to 1.79769e\\+308")),
        (3, put("macs", "-3"), BROKEN.format("macs is -3, not from 0 to 1.79769e\\+308")),
    ],
)
def test_a_broken_row_is_refused_with_its_line(results, line, change, sentence):
    edit(results / "runs.csv", line, change)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(results / 'runs.csv'))}, line {line}: {sentence}$"):
        read_runs(results)


def test_a_duplicated_row_is_refused_with_its_line(tiny, results):
    for name, line in (("runs.csv", 5), ("epochs.csv", 8)):
        path = results / name
        path.write_text(
            path.read_text(encoding="utf-8") + path.read_text(encoding="utf-8").splitlines()[1] + "\n", encoding="utf-8"
        )
        read = {"runs.csv": read_runs, "epochs.csv": read_epochs}[name]
        with pytest.raises(ValueError, match=rf"{name}, line {line}: " + BROKEN.format("it is there twice")):
            read(results)


def test_a_broken_epoch_is_refused_with_its_line(results):
    edit(results / "epochs.csv", 5, lambda cells: cells.__setitem__(3, ""))
    with pytest.raises(ValueError, match=r"epochs\.csv, line 5: " + BROKEN.format("test_loss is missing")):
        read_epochs(results)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (lambda text: b"\x89PNG\r\n\x1a\n\xff\xfe" + bytes(range(256)), "is not a readable table .*restore it"),
        (lambda text: b"", "is not a readable table .*restore it"),
        (lambda text: text.replace(b"seconds", b"minutes"), r"other columns .*\(see minutes, seconds\): restore it"),
        (lambda text: b"\n".join(line + b",1" for line in text.splitlines()), "other columns .*restore it"),
        (lambda text: text + b",".join([b"1"] * 60) + b"\n", "is not a readable table .*line 5.*restore it"),
        (lambda text: b"<html>\n", "other columns .*restore it"),
    ],
    ids=["binary", "empty", "renamed column", "extra column", "extra cells", "html"],
)
def test_what_is_not_a_table_of_runs_is_refused(results, content, sentence):
    path = results / "runs.csv"
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"runs\.csv.* {sentence}"):
        read_runs(results)


def test_nothing_is_added_to_a_broken_file(tiny, record, results):
    edit(results / "runs.csv", 3, put("seconds", ""))
    before = bytes_of(results)["runs.csv"]
    row, epochs = record(tiny(seed=9))
    with pytest.raises(ValueError, match="line 3"):
        write_record(results, row, epochs, {})
    assert bytes_of(results)["runs.csv"] == before


CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
stepping\t: 1
"""


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (CPUINFO, "AMD EPYC (family 25, model 17, stepping 1)"),
        (CPUINFO.replace("stepping", "something"), "AMD EPYC"),
        ("Processor : ARM\n", "a machine"),
    ],
)
def test_a_processor_is_named_so_that_two_kinds_have_two_names(monkeypatch, text, name):
    monkeypatch.setattr(records.Path, "exists", lambda path: True)
    monkeypatch.setattr(records.Path, "read_text", lambda path, encoding: text)
    monkeypatch.setattr(records.platform, "processor", lambda: "")
    monkeypatch.setattr(records.platform, "machine", lambda: "a machine")
    assert records.processor_name(torch.device("cpu")) == name


# The code's version


def test_code_version_is_the_last_commit_of_the_library(tmp_path, monkeypatch):
    package = tmp_path / "flgc_lib"
    package.mkdir()
    module = package / "experiment" / "records.py"
    module.parent.mkdir()
    monkeypatch.setattr(records, "__file__", str(module))

    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout.strip()

    assert records.code_version() == "unknown"
    git("init")
    module.write_text("one\n", encoding="utf-8")
    git("add", ".")
    git("commit", "-m", "one")
    first = git("rev-parse", "HEAD")
    (tmp_path / "README.md").write_text("not code\n", encoding="utf-8")
    git("add", ".")
    git("commit", "-m", "two")
    assert records.code_version() == first[:12]
    module.write_text("two\n", encoding="utf-8")
    assert records.code_version() == f"{first[:12]}+changed"
    nobodys = tmp_path / "site-packages"  # of an environment inside somebody else's repository
    nobodys.mkdir()
    monkeypatch.setattr(records, "__file__", str(nobodys / "experiment" / "records.py"))
    assert records.code_version() == "unknown"


# The committed records


@pytest.fixture(scope="module")
def runs():
    if not (COMMITTED / "runs.csv").exists():
        pytest.skip("no run is recorded yet")
    return read_runs(COMMITTED)  # refuses incomplete, repeated and edited rows


@cache
def layers_of(settings):
    return set(learned_layers(replace(settings, method="flgc", groups=1, width=1 / 16).network()))


def test_committed_runs_have_all_their_epochs(runs):
    epochs = read_epochs(COMMITTED)
    assert set(epochs["run"]) == set(runs["run"])
    for row in runs.to_dict("records"):
        own = epochs[epochs["run"] == row["run"]].sort_values("epoch")
        assert own["epoch"].tolist() == list(range(1, row["epochs"] + 1)), row["run"]
        last = own.iloc[-1].to_dict()
        same = set(OF_LAST_EPOCH)
        if row["copy_time"] == "post-hoc":
            same -= {"test_accuracy", "test_loss", "copies"}
            assert last["copies"] == 0 < row["copies"], row["run"]
        assert {name: row[name] for name in same} == {name: last[name] for name in same}, row["run"]
        assert row["seconds"] == pytest.approx(own["seconds"].sum())


def test_committed_runs_have_their_groups(runs):
    for row in runs.to_dict("records"):
        settings = settings_of(row)
        there = (COMMITTED / "groups" / f"{row['run']}.npz").exists()
        arrays = read_groups(COMMITTED, row["run"]) if there else {}
        correct = arrays.pop("correct", None)  # the first runs lack it
        if correct is not None:
            images = settings.hold_out or 10_000
            assert np.unpackbits(correct, count=images).mean() == pytest.approx(row["test_accuracy"])
        if not METHODS[settings.method].masked:
            assert not arrays
            continue
        assert arrays["snapshots"].tolist() == [0, (row["epochs"] + 1) // 2, row["epochs"]]
        shape = replace(settings, method="flgc", seed=0, groups=1, epochs=1, batch=1, share=1.0, copy_time="training")
        names = layers_of(shape)
        assert {key.rpartition(".")[0] for key in arrays if key != "snapshots"} == names, row["run"]
        for name in names:
            assert len(arrays[f"{name}.channel_group"]) == row["epochs"] + 1
        assert sum(int(arrays[f"{name}.copies"][-1]) for name in names) == row["copies"]
        before, now = (np.concatenate([arrays[f"{name}.channel_group"][i] for name in names]) for i in (0, -1))
        assert (before != now).mean() == pytest.approx(row["channels_moved"])
    recorded = {f"{name}.npz" for name in runs["run"]}
    assert {file.name for file in (COMMITTED / "groups").glob("*")} <= recorded


def test_committed_runs_come_from_commits_of_this_repository(runs):
    def git(*arguments):
        return subprocess.run(["git", "-C", str(REPOSITORY), *arguments], capture_output=True, encoding="utf-8")

    assert not runs["code"].str.contains("changed|unknown").any()
    if git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("there is no git history here")
    for code in runs["code"].str.split(", then ").explode().unique():  # a resumed run may name two
        assert git("merge-base", "--is-ancestor", code, "HEAD").returncode == 0, code


def test_settings_stand_in_the_records_under_their_names(tiny, record):
    row, _ = record(tiny())
    assert tuple(row) == RUN_COLUMNS
    assert set(SETTINGS) < set(RUN_COLUMNS)
