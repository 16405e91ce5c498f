"""Settings: ids that stay valid, refusals, and a network that its seed alone decides."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from flgc_lib.experiment.settings import Settings
from flgc_lib.experiment.training import Classifier
from flgc_lib.resnet import resnet


def test_ids_of_old_records_stay_valid():
    """Whoever changes a default, a name or the hash makes every committed record unreadable."""
    assert Settings().id == "flgc-g8-s0-44136fa3"
    changed = Settings(
        method="flgc-dup", groups=4, seed=3, data="cifar10", depths=(1, 1, 1), width=0.25, stem="cifar", epochs=4
    )
    assert changed.id == "flgc-dup-g4-s3-52d237ed"


def test_ids_ignore_defaults_and_spelling_but_no_value():
    assert Settings(epochs=10, top_k=3).id == Settings().id
    assert Settings(width=1).id == Settings(width=1.0).id
    assert Settings(width=2).id == Settings(width=2.0).id
    assert Settings(epochs=3.0, depths=(1.0,)).id == Settings(epochs=np.int64(3), depths=(1,)).id
    assert Settings(depths=[1, 2]) == Settings(depths=(1, 2))
    others = {
        "method": "flgc-dup",
        "groups": 4,
        "seed": 1,
        "data": "cifar10",
        "hold_out": 100,
        "depths": (1,),
        "width": 0.5,
        "stem": "cifar",
        "where": "all",
        "depthwise": True,
        "top_k": 2,
        "score": "softmax",
        "epochs": 11,
        "batch": 64,
        "learning_rate": 0.2,
        "momentum": 0.8,
        "weight_decay": 0.0,
        "logit_learning_rate": 0.02,
        "assign_every": 2,
        "soft_start": 0.5,
        "precision": "fp32",
    }
    assert Settings(top_k=2, score="softmax").id == Settings().id, "FLGC alone copies nothing"
    assert Settings(method="ring", top_k=2).id != Settings(method="ring").id, "its overlap comes from the rule"
    base = Settings(method="cluster-dup", soft_start=0.25)  # reads every setting
    ids = {base.id, *(replace(base, **{name: value}).id for name, value in others.items())}
    assert len(ids) == 1 + len(others)
    copying = {Settings(method="flgc-dup", copy_time=when).id for when in ("training", "post-hoc")}
    assert len(copying) == 2


def test_dense_has_one_id_for_all_groups():
    assert Settings(method="dense", groups=2) == Settings(method="dense", groups=8)
    assert Settings(method="dense").id == "dense-s0-318ce1f3"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"groups": 0}, "groups=0 must be at least 1"),
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"batch": 0}, "batch=0 must be at least 1"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"seed": -1}, "seed=-1 must be from 0 to"),
        ({"seed": 2**45}, "seed=35184372088832 must be from 0 to"),
        ({"groups": 257, "width": 16}, "groups=257 must be at most 256, what the records of method='flgc' hold"),
        ({"epochs": 1.5}, "epochs=1.5 must be a whole number"),
        ({"batch": float("inf")}, "batch=inf must be a whole number"),
        ({"groups": "8"}, "groups='8' must be a whole number"),
        ({"depths": (1, 1.5)}, "depths=1.5 must be a whole number"),
        ({"hold_out": -1}, "hold_out=-1 must not be negative"),
        ({"width": 0}, "width=0.0 must be from 0.015625 to 16"),
        ({"depths": ()}, r"depths=\(\) must be at least one block"),
        ({"depths": (1, 0)}, r"depths=\(1, 0\) must be at least one block"),
        ({"method": "glfc"}, "method='glfc' must be one of .*flgc-dup"),
        ({"score": "rank"}, "score='rank' must be one of logit, softmax"),
        ({"width": float("inf")}, "width=inf must be from"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be from"),
        ({"momentum": 2}, "momentum=2.0 must be from 0 to 0.999, the share"),
        ({"weight_decay": -1}, "weight_decay=-1.0 must be from 0 to 1"),
        ({"precision": "fp16"}, "precision='fp16' must be one of .*bf16"),
        ({"copy_time": "never"}, "copy_time='never' must be one of .*post-hoc"),
        ({"soft_start": 1}, "soft_start=1.0 must be a share of the training: at least 0, less than 1"),
        ({"soft_start": 0.5, "method": "grouped"}, "soft_start=0.5 needs a method with a mask, not method='grouped'"),
        ({"method": "cluster"}, "method='cluster' finds its groups in a soft start: give soft_start"),
        ({"method": "select"}, "method='select' finds its groups in a soft start: give soft_start"),
        ({"scout": 0.1}, "scout=0.1 must be 0, or less than soft_start=0.0"),
        ({"method": "cluster", "soft_start": 0.5, "scout": 0.5}, "scout=0.5 must be 0, or less than soft_start=0.5"),
        ({"method": "flgc", "share": 1.5}, "share=1.5 is for budget, .*select.*, not for method='flgc'"),
        ({"method": "select", "soft_start": 0.5, "share": 0}, "share=0.0 must be positive"),
        ({"method": "select", "soft_start": 0.5, "share": 9}, "share=9.0 must be positive, and at most groups=8"),
        ({"method": "budget", "soft_start": 0.5}, "share=1.0 imports nothing: give method='budget' more"),
        ({"method": "flgc", "copy_time": "post-hoc"}, "it needs method='flgc-dup' or 'cluster-dup', not 'flgc'"),
    ],
)
def test_settings_that_cannot_run_are_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        Settings(**wrong)


def test_groups_that_are_not_recorded_may_be_more():
    assert Settings(method="grouped", groups=512, width=16).groups == 512


def test_the_largest_seed_makes_the_batches_of_every_epoch(tiny, images):
    module = Classifier(tiny(seed=10**12), images)
    assert len(next(iter(module.train_dataloader()))[1]) == 16
    with pytest.raises(ValueError, match="seed=1000000000001 must be from 0 to"):
        tiny(seed=10**12 + 1)


def test_the_network_is_drawn_from_the_seed(tiny):
    one, again, other = (tiny(seed=seed).network().state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])
    for method in ("flgc", "random"):  # the learned methods start from the same weights and groups
        start = tiny(method=method, seed=0).network().state_dict()
        assert all(torch.equal(one[name], start[name]) for name in one)


def test_the_network_is_what_the_global_generator_would_draw_and_leaves_it_alone(tiny):
    settings, before = tiny(method="flgc-randdup", seed=3), torch.get_rng_state()
    drawn = settings.network().state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)  # as the networks of the first records were drawn
        expected = resnet((1,), method="flgc-randdup", groups=2, top_k=1, width=1 / 16).state_dict()
    assert drawn.keys() == expected.keys()
    assert all(torch.equal(drawn[name], expected[name]) for name in drawn)


def test_only_training_loads_lightning():
    light = ("settings", "assignments", "checkpoint", "grids", "records", "analysis")
    code = f"import sys; from flgc_lib.experiment import {', '.join(light)}; sys.exit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
