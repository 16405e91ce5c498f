"""Runs and sweeps: records of real (tiny) runs, failures, SIGKILL at awkward moments, and runs made again."""

import signal
import subprocess
import sys
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from flgc_lib import experiments
from flgc_lib.cost import count
from flgc_lib.data import load
from flgc_lib.experiments import rerun, run, sweep
from flgc_lib.grids import Grid, grid
from flgc_lib.records import OF_LAST_EPOCH, read_epochs, read_groups, read_runs
from flgc_lib.training import Classifier, fit


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


def test_the_power_grid_has_each_arm_as_often_as_the_protocol_says():
    runs = grid("power")
    assert {(s.depths, s.stem, s.where, s.epochs, s.hold_out, s.logit_learning_rate) for s in runs} == {
        ((1, 1), "paper", "all", 15, 0, 0.003)
    }
    assert len({s.learning_rate for s in runs}) == 1
    arms = {}
    for s in runs:
        assert s.assign_every == (50 if s.soft_start else 1)
        stem = round(64 * s.width)
        arms.setdefault((s.method, stem if s.method == "dense" else s.groups, s.soft_start), []).append(s.seed)
    hard = [(m, 0.0) for m in ("grouped", "shuffle", "equal", "flgc", "flgc-dup")]
    expected = {("dense", stem, 0.0): seeds for stem, seeds in ((64, 10), (19, 10), (25, 10), (33, 5))}
    for g, seeds in ((16, 10), (8, 10), (4, 5)):
        expected |= {(m, g, soft): seeds for m, soft in [*hard, ("equal", 0.5)]}
        expected["cluster", g, 0.5] = 30 if g > 4 else 5
    assert arms == {arm: list(range(seeds)) for arm, seeds in expected.items()}
    first = [s.seed for s in runs if s.groups != 4 and s.width != 33 / 64]
    assert first == sorted(first), "seed by seed"
    assert 100 not in first


@pytest.mark.parametrize("groups", [16, 8, 4])
def test_the_thin_dense_net_of_the_power_grid_is_the_nearest_to_the_grouped_one(groups):
    (grouped,) = (s for s in grid("power") if (s.method, s.groups, s.seed) == ("grouped", groups, 0))
    wanted = count(grouped.network(), (3, 32, 32)).macs

    def distance(stem):
        thin = replace(grouped, method="dense", width=stem / 64)
        return abs(count(thin.network(), (3, 32, 32)).macs - wanted)

    nearest = min(range(1, 65), key=distance)
    assert nearest / 64 in {s.width for s in grid("power") if s.method == "dense"}
    assert distance(nearest) < 0.04 * wanted


def test_the_rate_of_the_power_grid_is_tuned_on_another_seed_and_held_out_images():
    tuned = grid("power-tune")
    assert {(s.seed, s.hold_out, s.epochs, s.depths, s.where) for s in tuned} == {(100, 5000, 15, (1, 1), "all")}
    assert {s.groups for s in tuned if s.method != "dense"} == {16}
    assert {s.learning_rate for s in grid("power")} <= {s.learning_rate for s in tuned} == {0.1, 0.2, 0.4, 0.8}
    assert {s.method for s in tuned} == {"dense", "equal", "flgc"}


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
    torch.set_num_threads(2)
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

    def fit_and_commit(*arguments, **options):
        version[0] = "after"
        return fit(*arguments, **options)

    monkeypatch.setattr(experiments, "fit", fit_and_commit)
    monkeypatch.setattr(experiments, "code_version", lambda: version[0])
    assert run(tiny(epochs=1), results=tmp_path, root=root, device="cpu")["code"] == "before"


def test_of_several_devices_only_the_first_process_takes_the_lock(tiny, root, tmp_path, monkeypatch):
    """Lightning starts the others from inside `fit`, while the first holds it: they would wait for ever."""
    settings = tiny(epochs=1)
    folder = root / "runs" / settings.id
    folder.mkdir(parents=True)
    taken = []
    real = experiments.FileLock

    def lock(path):
        taken.append(path)
        return real(path)

    monkeypatch.setattr(experiments, "FileLock", lock)
    for rank, count_of_locks in (("1", 0), ("0", 1)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        monkeypatch.setattr(experiments, "fit", lambda *a, **k: pytest.fail("stop here"))
        with pytest.raises(pytest.fail.Exception, match="stop here"):
            run(settings, results=tmp_path / "results", root=root, device="cpu")
        assert len(taken) == count_of_locks


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
    experiments.write_record(tmp_path / "results", row, epochs, {})
    asked = {}
    monkeypatch.setattr(experiments, "run", lambda settings, **options: asked.update(options, settings=settings))
    rerun(tiny().id, results=tmp_path / "results", root=root)
    assert asked["threads"] == 3
    assert asked["settings"] == tiny()
    assert tmp_path not in asked["results"].parents


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


def _fresh(root, tmp_path):
    """Another data folder with the same datasets, but no checkpoints."""
    other = tmp_path / "fresh"
    other.mkdir()
    (other / "cache").symlink_to(root / "cache")
    return other


# SIGKILL

CHILD = """
import os, signal
from pathlib import Path
from flgc_lib.experiments import sweep
from flgc_lib.training import Classifier, Settings

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


@pytest.mark.parametrize("name", list(MOMENTS))
def test_a_killed_sweep_started_again_ends_with_the_same_records(killed, undisturbed, steps, everything, name):
    grid, expected = undisturbed
    process, folder = killed[name]
    assert process.wait() == -signal.SIGKILL
    assert read_runs(folder / "results")["run"].tolist() == [grid[0].id]  # whole, and without the killed run

    assert sweep(grid, results=folder / "results", root=folder, device="cpu", workers=1, threads=1) == {}
    assert steps == [grid[1].id] * MOMENTS[name][1]
    assert everything(folder / "results") == expected
