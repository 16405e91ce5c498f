"""Checkpoints: those of other runs and other programs are refused, and one becomes a frozen file."""

import pytest
import torch

from flgc_lib.data import synthetic
from flgc_lib.experiment.deploy import freeze_checkpoint
from flgc_lib.experiment.training import Classifier, fit
from flgc_lib.frozen import load


def train(settings, dataset, folder):
    return fit(settings, dataset, folder, device="cpu", progress=False)


@pytest.fixture(scope="module")
def checkpoint(tiny, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    train(tiny(epochs=1), images, folder)
    return (folder / "last.ckpt").read_bytes()


def test_a_checkpoint_of_another_run_is_refused(tiny, images, tmp_path, checkpoint):
    (tmp_path / "last.ckpt").write_bytes(checkpoint)
    with pytest.raises(ValueError, match=r"belongs to another run \(seed was 0, not 7; top_k was 1, not 2\): move"):
        train(tiny(epochs=1, seed=7, top_k=2), images, tmp_path)
    other = synthetic(seed=1, train=80, test=40)
    with pytest.raises(ValueError, match=f"fingerprint {images.fingerprint}, not {other.fingerprint}.*start this run"):
        train(tiny(epochs=1), other, tmp_path)
    assert (tmp_path / "last.ckpt").read_bytes() == checkpoint


class Bomb:
    """Code that runs if somebody unpickles it."""

    def __reduce__(self):
        return pytest.fail, ("the checkpoint ran code",)


@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated", "one byte", "another program's", "code"])
def test_what_is_not_our_checkpoint_is_refused(tiny, images, tmp_path, checkpoint, damage):
    path = tmp_path / "last.ckpt"
    if damage == "another program's":
        torch.save({"state_dict": {}}, path)
    elif damage == "code":
        torch.save({"flgc": Bomb()}, path)
    else:
        half = len(checkpoint) // 2
        altered = checkpoint[:half] + bytes([checkpoint[half] ^ 1]) + checkpoint[half + 1 :]
        content = {"empty": b"", "garbage": b"garbage" * 100, "truncated": checkpoint[:half], "one byte": altered}
        path.write_bytes(content[damage])
    with pytest.raises(
        ValueError, match=r"last\.ckpt is not a checkpoint written by `flgc train`, or it is damaged: mov"
    ):
        train(tiny(epochs=1), images, tmp_path)
    assert path.exists()


def test_a_network_of_other_parameters_is_refused(tiny, images, tmp_path, checkpoint):
    (tmp_path / "whole.ckpt").write_bytes(checkpoint)
    content = torch.load(tmp_path / "whole.ckpt", weights_only=True)
    name = next(name for name in content["state_dict"] if name.endswith("conv1.weight"))
    content["state_dict"][name] = content["state_dict"][name][:1]
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"belongs to another run \(its network has other parameters\): move"):
        train(tiny(epochs=1), images, tmp_path)
    with pytest.raises(ValueError, match=r"has other parameters than the network of its settings"):
        freeze_checkpoint(tmp_path / "last.ckpt", tmp_path / "frozen")


def test_freezes_a_checkpoint(tiny, images, tmp_path):
    settings = tiny(groups=4, depths=(1, 1), width=0.25)
    module = Classifier(settings, images)
    x = torch.randn(2, 3, 32, 32)
    module.train()
    module(x)  # the norms see data
    content = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    torch.save(content, tmp_path / "last.ckpt")
    frozen = freeze_checkpoint(tmp_path / "last.ckpt", tmp_path / "frozen.pt", batch=2)
    with torch.no_grad():
        expected = module.eval()(x)
        assert torch.allclose(frozen(x), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(load(tmp_path / "frozen.pt")(x), frozen(x))
    assert frozen.timings


def test_refuses_another_file(tmp_path):
    torch.save({}, tmp_path / "other.pt")
    for path in (tmp_path / "other.pt", tmp_path / "missing.pt"):
        with pytest.raises(
            ValueError, match="is not a checkpoint written by `flgc train`, or it is damaged: give the path"
        ):
            freeze_checkpoint(path, tmp_path / "frozen.pt")


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_run_in_its_soft_start_is_not_frozen(tiny, images, tmp_path, epochs):
    module = Classifier(tiny(groups=4, epochs=2, soft_start=0.75), images)
    module.history = [{"epoch": 0.0}] * epochs
    content = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    torch.save(content, tmp_path / "last.ckpt")
    if epochs == 2:
        freeze_checkpoint(tmp_path / "last.ckpt", tmp_path / "frozen", tune=False)
    else:
        with pytest.raises(ValueError, match=r"in its soft start: after 1 epochs .* they close after 1\.5; resume it"):
            freeze_checkpoint(tmp_path / "last.ckpt", tmp_path / "frozen", tune=False)


def test_a_frozen_network_does_not_replace_its_own_checkpoint(tmp_path, checkpoint):
    path = tmp_path / "last.ckpt"
    path.write_bytes(checkpoint)
    with pytest.raises(ValueError, match="is the checkpoint itself, which would be lost"):
        freeze_checkpoint(path, tmp_path / "." / "last.ckpt", tune=False)
    assert path.read_bytes() == checkpoint
