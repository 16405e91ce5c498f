"""Runs and sweeps: records of real (tiny) runs, failures, SIGKILL at awkward moments, and runs made again."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from filelock import FileLock

from flgc_lib.cost import count
from flgc_lib.data import load
from flgc_lib.experiment.assignments import learned_layers
from flgc_lib.experiment.grids import Grid, grid
from flgc_lib.experiment.records import OF_LAST_EPOCH, read_epochs, read_groups, read_runs, write_record
from flgc_lib.experiment.runs import _costs, rerun, run
from flgc_lib.experiment.sweep import sweep
from flgc_lib.experiment.training import Classifier, fit
from flgc_lib.experiment.workers import each


@pytest.fixture
def steps(monkeypatch):
    """Counts the training steps of this process."""
    counted, step = [], Classifier.training_step

    def counting(module, batch):
        counted.append(module.settings.id)
        step(module, batch)

    monkeypatch.setattr(Classifier, "training_step", counting)
    return counted


# Grids


def test_the_first_grid_is_the_paper_s_network_once_a_method():
    runs = grid("first")
    assert [s.method for s in runs] == ["dense", "grouped", "random", "flgc", "flgc-dup"]
    assert {(s.data, s.depths, s.width, s.stem, s.epochs, s.batch, s.precision, s.seed) for s in runs} == {
        ("cifar10", (3, 4, 6, 3), 1.0, "paper", 4, 128, "bf16", 0)
    }
    assert {s.groups for s in runs[1:]} == {8}


@pytest.mark.parametrize("name", get_args(Grid))
def test_grids_have_no_run_twice_and_go_to_other_data(name):
    runs = grid(name)
    assert len({s.id for s in runs}) == len(runs)
    assert [replace(s, data="other") for s in runs] == grid(name, "other")
    for s in runs[:1]:
        s.network()


def test_every_run_of_the_quick_grid_can_be_built():
    for s in grid("quick"):
        s.network()


# One run


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "flgc-dup", "copy_time": "post-hoc"},
        {"method": "random", "soft_start": 0.5},
        {"method": "cluster-dup", "soft_start": 0.5, "assign_every": 2},
    ],
    ids=str,
)
def test_every_kind_of_run_ends_with_its_record_in_mixed_precision_too(changes, tiny, root, tmp_path):
    """Its costs are counted beside those of the dense network, which takes no such settings."""
    settings = tiny(**changes, epochs=2, precision="bf16")
    run(settings, results=tmp_path / "results", root=root, device="cpu", threads=1)
    (recorded,) = read_runs(tmp_path / "results").to_dict("records")
    assert recorded["run"] == settings.id
    assert recorded["macs"] >= recorded["macs_grouped"]
    assert recorded["macs_dense"] > recorded["macs_grouped"]


def test_the_record_of_a_run(tiny, root, tmp_path):
    settings = tiny(epochs=2)
    row = run(settings, results=tmp_path / "results", root=root, device="cpu", threads=1)
    recorded = read_runs(tmp_path / "results").iloc[0].to_dict()
    assert recorded == row

    dataset = load("tiny", root)
    module = fit(settings, dataset, tmp_path / "again", device="cpu", progress=False)
    last = module.outcome
    assert {"test_accuracy", "train_loss", "copies", "channels_moved"} < set(OF_LAST_EPOCH)
    for name in OF_LAST_EPOCH:
        assert row[name] == last[name], name
    assert row["fingerprint"] == dataset.fingerprint
    assert row["threads"] == 1
    assert row["torch"] == torch.__version__
    epochs = read_epochs(tmp_path / "results")
    assert row["seconds"] == pytest.approx(epochs["seconds"].sum())

    # MACs: of the dense net, of the trained groups without their copies, and with them.
    size = (3, 32, 32)
    assert row["macs_dense"] == count(tiny(method="dense").network(), size).macs
    assert (row["parameters"], row["macs"]) == count(module.model, size)
    copies = saved = 0
    for layer in module.layers.values():
        extra = layer.input_membership().sum(dim=0)  # (G,)
        layer.duplicate_top_k = None
        extra -= layer.input_membership().sum(dim=0)
        copies += int(extra.sum())
        connections = int((layer.filter_membership().sum(dim=0) * extra).sum())
        saved += connections * layer.kernel_size[0] * layer.kernel_size[1] * 8 * 8  # positions of the first stage
    assert row["copies"] == copies > 0
    assert row["macs"] - row["macs_grouped"] == saved > 0

    arrays = read_groups(tmp_path / "results", settings.id)
    assert np.unpackbits(arrays.pop("correct"), count=40).astype(bool).tolist() == module.correct.tolist()
    assert {key: value.tolist() for key, value in arrays.items()} == {
        key: torch.stack(values).tolist() for key, values in module.assignments.items()
    }


def test_a_run_has_its_threads_to_itself(tiny, root, tmp_path, monkeypatch):
    """They are put back, also when it fails, and when a sweep has no worker but this process."""
    used, real = [], Classifier.training_step

    def step(module, batch):
        used.append(torch.get_num_threads())
        real(module, batch)

    monkeypatch.setattr(Classifier, "training_step", step)
    options = {"results": tmp_path / "results", "root": root, "device": "cpu", "threads": 1}
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert run(tiny(epochs=1), **options)["threads"] == 1
        assert torch.get_num_threads() == 2
        failures = sweep([tiny(seed=1, epochs=1), tiny(data="nowhere")], workers=1, **options)
        assert list(failures) == [tiny(data="nowhere").id]
        assert torch.get_num_threads() == 2
        assert run(tiny(seed=2, epochs=1), **options | {"threads": None})["threads"] == 2
    finally:
        torch.set_num_threads(before)
    assert used == [1] * 10 + [2] * 5


def test_counting_costs_leaves_the_network_as_it_is(tiny):
    model = tiny().network()
    costs = _costs(model, tiny(), torch.Size((3, 32, 32)))
    assert costs["macs"] > costs["macs_grouped"]
    assert [layer.duplicate_top_k for layer in learned_layers(model).values()] == [1, 1, 1]


def test_a_finished_run_is_left_alone(tiny, root, tmp_path, steps):
    options = {"results": tmp_path / "results", "root": root, "device": "cpu"}
    first = run(tiny(epochs=1), **options)
    before = (tmp_path / "results" / "runs.csv").read_bytes()
    assert len(steps) == 5
    assert run(tiny(epochs=1), **options) == first
    assert len(steps) == 5
    assert (tmp_path / "results" / "runs.csv").read_bytes() == before


def test_post_hoc_runs_share_one_training(tiny, root, tmp_path, steps):
    """They differ in what is copied after it, and each has its own record."""
    options = {"results": tmp_path / "results", "root": root, "device": "cpu"}
    plain = run(tiny(method="flgc", top_k=3, groups=4, epochs=1), **options)
    choices = [(1, "logit"), (3, "logit"), (3, "softmax")]
    rows = [run(tiny(epochs=1, groups=4, copy_time="post-hoc", top_k=k, score=s), **options) for k, s in choices]
    assert len(steps) == 5
    assert [(row["method"], row["top_k"], row["score"]) for row in rows] == [("flgc-dup", *c) for c in choices]
    assert {row["train_loss"] for row in rows} == {plain["train_loss"]}
    highest, mean, confident = (row["copies"] for row in rows)
    assert plain["copies"] == 0 < highest <= mean > confident
    assert [row["macs"] > plain["macs"] for row in rows] == [row["copies"] > 0 for row in rows]
    assert len(read_runs(tmp_path / "results")) == 4


def test_the_code_s_version_is_that_of_the_start(tiny, root, tmp_path, monkeypatch):
    """A long run must not be ascribed to what was committed while it ran."""
    version = ["before"]

    def train_and_commit(module):
        version[0] = "after"

    monkeypatch.setattr("flgc_lib.experiment.training.Classifier.on_train_start", train_and_commit)
    monkeypatch.setattr("flgc_lib.experiment.training.code_version", lambda: version[0])
    assert run(tiny(epochs=1), results=tmp_path, root=root, device="cpu")["code"] == "before"


def test_a_run_resumed_with_other_code_names_both(tiny, root, tmp_path, monkeypatch):
    version = ["old"]
    monkeypatch.setattr("flgc_lib.experiment.training.code_version", lambda: version[0])
    options = {"results": tmp_path / "results", "root": root, "device": "cpu"}
    with monkeypatch.context() as patch:
        patch.setattr("flgc_lib.experiment.runs.write_record", lambda *_: pytest.fail("killed"))
        for _ in range(2):  # again with the same code: nothing to say
            with pytest.raises(pytest.fail.Exception):
                run(tiny(), **options)
    version[0] = "new"
    row = run(tiny(), **options)
    assert (row["code"], row["torch"]) == ("old, then new", torch.__version__)
    (recorded,) = read_runs(tmp_path / "results")["code"]
    assert recorded == row["code"]


def test_costs_are_those_of_the_data_set_s_images(tiny, images, root, tmp_path, monkeypatch):
    wide = replace(
        images, train_images=images.train_images.repeat(1, 1, 1, 2), test_images=images.test_images.repeat(1, 1, 1, 2)
    )
    monkeypatch.setattr("flgc_lib.experiment.runs.load", lambda name, root: wide)
    settings = tiny(method="grouped", epochs=1)
    row = run(settings, results=tmp_path / "results", root=root, device="cpu")
    assert row["macs"] == count(settings.network(), (3, 32, 64)).macs


def test_a_run_made_again_has_the_same_accuracy(tiny, root, tmp_path, steps):
    results = tmp_path / "results"
    run(tiny(), results=results, root=root, device="cpu", threads=1)
    before = {file: file.read_bytes() for file in results.rglob("*.csv")}
    steps.clear()
    recorded, again = rerun(tiny().id, results=results, root=root, device="cpu")
    assert len(steps) == 15  # it was really run
    for name in ("run", "test_accuracy", "test_loss", "train_loss", "macs", "copies", "channels_moved"):
        assert recorded[name] == again[name], name
    assert {file: file.read_bytes() for file in results.rglob("*.csv")} == before


def test_a_run_is_made_again_with_as_many_threads(tiny, root, tmp_path, record, monkeypatch):
    row, epochs = record(tiny(), threads=3)
    write_record(tmp_path / "results", row, epochs, {})
    asked = {}
    monkeypatch.setattr(
        "flgc_lib.experiment.runs.run", lambda settings, **options: asked.update(options, settings=settings)
    )
    rerun(tiny().id, results=tmp_path / "results", root=root)
    assert asked["threads"] == 3
    assert asked["settings"] == tiny()
    assert tmp_path not in asked["results"].parents


@pytest.mark.parametrize(("device", "differs"), [("auto", False), ("cuda", False), ("cpu", True)])
def test_a_run_made_on_a_gpu_is_made_again_there(device, differs, tiny, tmp_path, record, monkeypatch, capsys):
    row, history = record(tiny())
    write_record(tmp_path, row | {"processor": "cuda", "torch": torch.__version__}, history, {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("flgc_lib.experiment.runs.processor_name", lambda place: place.type)
    monkeypatch.setattr("flgc_lib.experiment.runs.run", lambda *arguments, **options: {})
    rerun(row["run"], results=tmp_path, device=device)
    assert ("recorded with processor cuda, here cpu" in capsys.readouterr().out) is differs


def test_an_unknown_run_cannot_be_made_again(tmp_path):
    with pytest.raises(ValueError, match=r"there is no run 'nothing' in .*runs\.csv; its column `run` has the names"):
        rerun("nothing", results=tmp_path)


# Sweeps


def test_a_sweep_skips_what_is_done_and_goes_on_after_a_failure(tiny, root, tmp_path, capsys):
    results = tmp_path / "results"
    done, impossible, absent = tiny(epochs=1), tiny(groups=64, epochs=1), tiny(data="nowhere", epochs=1)
    run(done, results=results, root=root, device="cpu", threads=1)
    earlier = read_runs(results).to_dict("records")
    new = [tiny(method=method, epochs=1) for method in ("dense", "flgc")]

    grid = [impossible, new[0], done, absent, new[1]]
    failures = sweep(grid, results=results, root=root, device="cpu", workers=2, threads=1)

    assert set(failures) == {impossible.id, absent.id}
    assert "groups=64 must be at most in_channels=4" in failures[impossible.id]
    assert "There is no dataset 'nowhere'" in failures[absent.id]
    runs = read_runs(results)
    assert sorted(runs["run"]) == sorted(s.id for s in (done, *new))
    assert runs[runs["run"] == done.id].to_dict("records") == earlier
    assert set(runs["threads"]) == {1}
    out = capsys.readouterr().out
    assert "5 runs, 1 of them done" in out
    assert f"{new[0].id}: done" in out
    assert out.count("/4] ") == 4
    assert f"{impossible.id}: ValueError: groups=64" in out


def test_two_workers_and_one_process_record_the_same(tiny, root, tmp_path, everything):
    grid = [tiny(method=method, epochs=2) for method in ("flgc", "random")]
    sweep(grid, results=tmp_path / "two", root=root, device="cpu", workers=2)
    sweep(grid, results=tmp_path / "one", root=_fresh(root, tmp_path), device="cpu", workers=1)
    assert everything(tmp_path / "two") == everything(tmp_path / "one")


FALLING = """
import os, signal
from pathlib import Path

def work(task, folder, times):
    tries = len(list(Path(folder).iterdir()))
    if task == "victim" and tries < times:
        (Path(folder) / str(tries)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return task, ""
"""


@pytest.mark.posix
@pytest.mark.parametrize("times", [1, 2])
def test_a_killed_worker_takes_only_its_own_task_with_it(tmp_path, monkeypatch, capsys, times):
    """It is tried once more, and then reported; the others are all done."""
    (tmp_path / "falling.py").write_text(FALLING, encoding="utf-8")
    (tmp_path / "tries").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    tasks = {name: name for name in ("victim", "one", "other")}
    outcomes = dict(each(import_module("falling").work, tasks, 2, folder=tmp_path / "tries", times=times))
    killed = "its worker was killed twice; with fewer workers there is more memory for each"
    assert outcomes == {"one": "", "other": "", "victim": killed if times == 2 else ""}
    out = capsys.readouterr().out
    assert out == "victim: its worker was killed, for example because memory ran out; once more\n"


SIDE_BY_SIDE = """
import os, time
from flgc_lib.experiment.workers import each

def work(task):
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(600)

if __name__ == "__main__":
    list(each(work, {"one": 1, "other": 2}, 2))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux who is alive")
def test_no_worker_outlives_a_killed_sweep(tmp_path):
    """Killed without a chance to tidy up."""
    (tmp_path / "sweeping.py").write_text(SIDE_BY_SIDE, encoding="utf-8")
    sweeping = subprocess.Popen([sys.executable, "sweeping.py"], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    workers = [int(sweeping.stdout.readline()) for _ in range(2)]
    assert all(_alive(worker) for worker in workers)
    sweeping.kill()
    sweeping.wait()
    deadline = time.monotonic() + 20
    while any(_alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [worker for worker in workers if _alive(worker)]


def _alive(process):
    state = Path(f"/proc/{process}/stat")
    return state.exists() and state.read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.parametrize("damage", ["epochs.csv", "runs.csv", "folder"])
def test_records_that_cannot_be_written_are_noticed_before_the_training(tiny, root, tmp_path, steps, damage):
    results = tmp_path / "results"
    if damage == "folder":
        results.write_text("a file", encoding="utf-8")
    else:
        results.mkdir()
        (results / damage).write_text("run\n1\n", encoding="utf-8")
    for start in (run, lambda settings, **options: sweep([settings], **options)):
        with pytest.raises((ValueError, OSError), match=damage if damage != "folder" else "results"):
            start(tiny(), results=results, root=root, device="cpu")
    assert steps == []


def test_a_run_that_is_under_way_elsewhere_is_waited_for_with_a_word(tiny, root, tmp_path, capsys):
    folder = root / "runs" / tiny(epochs=1).id
    folder.mkdir(parents=True)
    held, out = threading.Event(), []

    def hold():
        with FileLock(folder / ".lock"):
            held.set()
            while "another process" not in "".join(out) and time.monotonic() < deadline:
                time.sleep(0.05)
                out.append(capsys.readouterr().out)

    deadline = time.monotonic() + 60
    holding = threading.Thread(target=hold)
    holding.start()
    held.wait()
    run(tiny(epochs=1), results=tmp_path / "results", root=root, device="cpu")
    holding.join()
    assert "another process is at this run; waiting for it to end" in "".join(out)


def test_a_resumed_run_says_so(tiny, root, tmp_path, capsys, monkeypatch):
    settings = tiny()
    with monkeypatch.context() as patch:
        patch.setattr("flgc_lib.experiment.runs.write_record", lambda *arguments: pytest.fail("stop here"))
        with pytest.raises(pytest.fail.Exception):
            run(settings, results=tmp_path / "results", root=root, device="cpu")
    run(settings, results=tmp_path / "results", root=root, device="cpu")
    out = capsys.readouterr().out
    assert f"{settings.id}: resuming after epoch 3 of 3 from " in out
    assert f"{settings.id}: recorded in {tmp_path / 'results'}; checkpoint " in out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device": "mps"}, "device='mps' must be one of auto, cpu, cuda"),
        ({"threads": 0}, "threads=0 must be from 1 to 256; there are"),
        ({"threads": 10**6}, "threads=1000000 must be from 1 to 256"),
    ],
)
def test_what_this_computer_does_not_have_is_refused(tiny, root, tmp_path, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(tiny(), results=tmp_path / "results", root=root, **({"device": "cpu"} | options))
    with pytest.raises(ValueError, match="workers=0 must be from 1 to 256"):
        sweep([tiny()], results=tmp_path / "results", root=root, workers=0)
    assert not (tmp_path / "results").exists()


def _fresh(root, tmp_path):
    """Another data folder with the same datasets, but no checkpoints."""
    other = tmp_path / "fresh"
    other.mkdir()
    shutil.copytree(root / "cache", other / "cache")
    return other


# SIGKILL

CHILD = """
import os, signal
from pathlib import Path
from flgc_lib.experiment.sweep import attempt, sweep
from flgc_lib.experiment.settings import Settings
from flgc_lib.experiment.training import Classifier

settings = {settings}
victim = settings[1].id
step, real, seen = Classifier.training_step, os.replace, dict()

def reached(moment):
    seen[moment] = seen.get(moment, 0) + 1
    if (moment, seen[moment]) == {moment}:
        os.killpg(0, signal.SIGKILL)

def training_step(module, batch):
    step(module, batch)
    if module.settings.id == victim:
        reached("step")

def replace(source, target):
    name = Path(target).name
    if name == "last.ckpt" and victim not in str(target):
        return real(source, target)
    reached("before " + name)
    real(source, target)
    reached("after " + name)

Classifier.training_step, os.replace = training_step, replace
sweep(settings, results=Path({results!r}), root=Path({root!r}), device="cpu", workers=1, threads=1)
"""

# The second run of a sweep of two is killed; 15 steps in 3 epochs. How many steps are left to the second start?
MOMENTS = {
    "mid-epoch": (("step", 8), 10),
    "between epochs": (("after last.ckpt", 2), 5),
    "writing epochs.csv": (("before epochs.csv", 2), 0),
    "writing runs.csv": (("before runs.csv", 2), 0),
}


@pytest.fixture(scope="module")
def undisturbed(tiny, prepared, tmp_path_factory, everything):
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "cache").symlink_to(prepared / "cache")
    grid = [tiny(method="grouped", epochs=1), tiny()]
    assert sweep(grid, results=folder / "results", root=folder, device="cpu") == {}
    return grid, everything(folder / "results")


@pytest.fixture(scope="module")
def killed(undisturbed, prepared, tmp_path_factory):
    """Starts all sweeps at once, each to be killed at its moment: (process, folder) by name of the moment."""
    grid, _ = undisturbed
    started = {}
    for name, (moment, _) in MOMENTS.items():
        folder = tmp_path_factory.mktemp("killed")
        (folder / "cache").symlink_to(prepared / "cache")
        code = CHILD.format(settings=grid, moment=moment, results=str(folder / "results"), root=str(folder))
        process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.DEVNULL)
        started[name] = (process, folder)
    yield started
    for process, _ in started.values():
        process.kill()
        process.wait()


@pytest.mark.posix
@pytest.mark.parametrize("name", list(MOMENTS))
def test_a_killed_sweep_started_again_ends_with_the_same_records(killed, undisturbed, steps, everything, name):
    grid, expected = undisturbed
    process, folder = killed[name]
    assert process.wait() == -signal.SIGKILL
    assert read_runs(folder / "results")["run"].tolist() == [grid[0].id]  # whole, and without the killed run

    assert sweep(grid, results=folder / "results", root=folder, device="cpu", workers=1, threads=1) == {}
    assert steps == [grid[1].id] * MOMENTS[name][1]
    assert everything(folder / "results") == expected
