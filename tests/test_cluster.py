"""A sweep on a Ray cluster of two nodes on this machine, one of which dies in the middle."""

import sys
import threading
import time
from functools import partial
from types import SimpleNamespace

import pytest

from flgc_lib.experiment import cluster
from flgc_lib.experiment.sweep import sweep

cluster_utils = pytest.importorskip("ray.cluster_utils")


@pytest.mark.posix
@pytest.mark.timeout(300)
def test_a_cluster_of_which_a_node_dies_leaves_the_same_records(tiny, root, tmp_path, everything, capsys):
    """Both nodes see one folder: the run of the dead node goes on after its last epoch."""
    settings = [tiny(method="grouped", epochs=2), tiny(epochs=60)]
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "cache").symlink_to(root / "cache")
    assert sweep(settings, results=tmp_path / "here", root=other, device="cpu") == {}

    machines = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        node = machines.add_node(num_cpus=1)
        failures = []
        options = {"results": tmp_path / "there", "root": root.resolve(), "device": "cpu", "on": machines.address}
        sweeping = threading.Thread(target=lambda: failures.append(sweep(settings, **options)))
        sweeping.start()
        while not (root / "runs" / settings[1].id / "last.ckpt").exists():
            assert sweeping.is_alive()
            time.sleep(0.01)
        machines.remove_node(node, allow_graceful=False)
        assert not (tmp_path / "there" / "groups" / f"{settings[1].id}.npz").exists(), "it died too late"
        machines.add_node(num_cpus=1)
        sweeping.join()
        assert failures == [{}]
    finally:
        machines.shutdown()
    assert everything(tmp_path / "there") == everything(tmp_path / "here")
    assert "a machine that dies costs its runs their last epoch" in capsys.readouterr().out


class Ray:
    """As Ray, in this process: a task is done when its outcome is asked for."""

    def init(self, **options):
        pass

    def remote(self, **options):
        self.asked_for = options
        return lambda work: SimpleNamespace(remote=partial(partial, work))

    def wait(self, waiting, num_returns):
        return waiting[:1], waiting[1:]

    def get(self, call):
        return call()

    def shutdown(self):
        pass


def test_a_task_that_gives_nothing_does_not_stop_the_others(monkeypatch):
    ray = Ray()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(cluster, "_check_reachable", lambda address: None)
    found = dict(cluster.each(int, {"first": "12", "falls": "1a", "last": "7"}, "there:1", cores=2, gpus=0.25))
    assert (ray.asked_for["num_cpus"], ray.asked_for["num_gpus"]) == (2, 0.25)
    assert (found["first"], type(found["falls"]), found["last"]) == (12, ValueError, 7)


RECORD = ({}, [], {})


def test_a_run_whose_task_fails_or_whose_record_cannot_be_written_does_not_stop_the_others(tiny, tmp_path, monkeypatch):
    settings = [tiny(seed=seed) for seed in range(4)]
    outcomes = [RuntimeError("its machine died\nlong story"), ("", RECORD), ("ValueError: no", None), ("", RECORD)]
    monkeypatch.setattr(cluster, "each", lambda work, tasks, *_, **__: zip(tasks, outcomes, strict=True))
    results = iter([OSError("no room"), None])

    def write(*_):
        if error := next(results):
            raise error

    monkeypatch.setattr("flgc_lib.experiment.sweep.write_record", write)
    failures = sweep(settings, results=tmp_path, root=tmp_path, device="cpu", on="there:1")
    reasons = ["RuntimeError: its machine died", "OSError: no room", "ValueError: no"]
    assert failures == dict(zip([s.id for s in settings], reasons, strict=False))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"on": "there:1", "workers": 2}, "workers=2 are of this computer, not of there:1"),
        ({"on": "there:1", "device": "cpu", "gpus": 0.5}, "gpus=0.5 are of a cluster's machines: give device='cuda'"),
        ({"on": "there:1", "gpus": 2.0}, "gpus=2.0 are of a cluster's machines: give device='cuda'"),
        ({"gpus": 0.5}, "gpus=0.5 are of a cluster's machines: give device='cuda' and on"),
        ({"on": "there:1", "device": "cuda", "gpus": 0.0}, "gpus=0.0 must be more than 0"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(tiny, tmp_path, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        sweep([tiny()], results=tmp_path, root=tmp_path, **options)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("localhost:1", "there is no Ray cluster at 'localhost:1'"),
        ("ray://localhost:1", "there is no Ray cluster at 'ray://localhost:1'"),
        ("localhost", "the address of a cluster is host:port, ray://host:port or auto, not 'localhost'"),
        ("localhost:99999", "there is no Ray cluster at 'localhost:99999'"),
    ],
)
def test_no_cluster_is_answered_with_a_sentence(tiny, tmp_path, address, sentence):
    with pytest.raises(ValueError, match=sentence):
        sweep([tiny()], results=tmp_path, root=tmp_path, device="cpu", on=address)
