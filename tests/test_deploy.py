"""A checkpoint of training becomes a frozen file."""

from dataclasses import asdict

import pytest
import torch

from flgc_lib.data import synthetic
from flgc_lib.experiment.checkpoint import freeze_checkpoint
from flgc_lib.experiment.training import Classifier, Settings
from flgc_lib.frozen import load


def test_freezes_a_checkpoint(tmp_path):
    settings = Settings(method="flgc-dup", groups=4, depths=(1, 1), width=0.25)
    module = Classifier(settings, synthetic())
    x = torch.randn(2, 3, 32, 32)
    module.train()
    module(x)  # the norms see data
    content = {"state_dict": module.state_dict(), "flgc": {"settings": asdict(settings)}}
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
        with pytest.raises(ValueError, match="is not a checkpoint written by `flgc train`"):
            freeze_checkpoint(path, tmp_path / "frozen.pt")
