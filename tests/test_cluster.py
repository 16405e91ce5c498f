"""A sweep on a Ray cluster of two nodes on this machine, one of which dies in the middle."""

import threading
import time

import pytest

from flgc_lib.experiment.sweep import sweep

cluster_utils = pytest.importorskip("ray.cluster_utils")


@pytest.mark.timeout(300)
def test_a_cluster_of_which_a_node_dies_leaves_the_same_records(tiny, root, tmp_path, everything, capsys):
    """Both nodes see one folder: the run of the dead node goes on after its last epoch."""
    settings = [tiny(method="grouped", epochs=2), tiny(epochs=60)]
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "cache").symlink_to(root / "cache")
    assert sweep(settings, results=tmp_path / "here", root=other, device="cpu") == {}

    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=1)
        failures = []
        options = {"results": tmp_path / "there", "root": root.resolve(), "device": "cpu", "on": cluster.address}
        sweeping = threading.Thread(target=lambda: failures.append(sweep(settings, **options)))
        sweeping.start()
        while not (root / "runs" / settings[1].id / "last.ckpt").exists():
            assert sweeping.is_alive()
            time.sleep(0.01)
        cluster.remove_node(node, allow_graceful=False)
        assert not (tmp_path / "there" / "groups" / f"{settings[1].id}.npz").exists(), "it died too late"
        cluster.add_node(num_cpus=1)
        sweeping.join()
        assert failures == [{}]
    finally:
        cluster.shutdown()
    assert everything(tmp_path / "there") == everything(tmp_path / "here")
    assert "a machine that dies costs its runs their last epoch" in capsys.readouterr().out


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
