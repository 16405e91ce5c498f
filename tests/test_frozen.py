"""Freezing never changes what a network computes."""

import copy
import gc
import pickle
import subprocess
import sys

import pytest
import timm
import torch
import torchvision
from test_forms import assert_same
from torch import nn

from flgc_lib.cost import count
from flgc_lib.frozen import autotune, forms, freeze, load, save
from flgc_lib.frozen.layer import FrozenConv2d, frozen_convolutions
from flgc_lib.layers import FLGConv2d
from flgc_lib.resnet import embed, resnet


def used(model, size=32):
    """A network as training leaves it: norms that have seen data, and weights that have moved."""
    x = torch.randn(4, 3, size, size)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return model.eval()


NETS = {
    "all": {"method": "flgc", "groups": 8, "where": "all"},
    "block": {"method": "flgc-dup", "groups": 5},
    "depthwise": {"method": "flgc", "groups": 8, "where": "all", "depthwise": True},
    "3x3": {"method": "flgc-randdup", "groups": 4, "where": "3x3"},
    "ring": {"method": "ring", "groups": 4, "where": "1x1"},
    "dense": {"method": "dense"},
    "grouped": {"method": "grouped", "groups": 4},
    "shuffle": {"method": "shuffle", "groups": 4, "where": "all"},
    "equal": {"method": "equal", "groups": 8, "where": "all"},
    "select": {"method": "select", "groups": 8, "share": 1.5},
}


@pytest.mark.parametrize("stem", ["paper", "cifar", "imagenet"])
@pytest.mark.parametrize("net", NETS)
def test_our_networks(net, stem):
    torch.manual_seed(0)
    model = used(resnet((1, 2), 10, stem=stem, width=0.5, **NETS[net]))
    x = torch.randn(3, 3, 32, 32)
    frozen = freeze(model)
    with torch.no_grad():
        expected = model(x)
        assert_same(frozen(x), expected)
        assert_same(frozen(x[:1]), expected[:1])
    assert count(frozen, (3, 32, 32)) == count(model, (3, 32, 32))


@pytest.mark.parametrize(
    "build",
    [torchvision.models.resnet18, torchvision.models.mobilenet_v2, "regnetx_002", "efficientnet_b0", "resnetv2_50"],
)
def test_embedded_networks(build, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model(build, num_classes=10) if isinstance(build, str) else build(num_classes=10)
    model = used(embed(model, 4, duplicate_top_k=3))
    frozen = freeze(model)
    x = torch.randn(1, 3, 64, 48).to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert_same(frozen(x), model(x))
    assert count(frozen, (3, 32, 32)) == count(model, (3, 32, 32))
    assert not any(isinstance(m, FLGConv2d) for m in frozen.modules())
    save(frozen, tmp_path / "frozen.pt")
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "frozen.pt")(x), frozen(x))


@pytest.mark.parametrize("batch", [1, 5])
def test_the_autotuner_keeps_the_outputs(batch, tmp_path):
    model = used(resnet((1, 1), 10, stem="paper", method="flgc-dup", groups=8, where="all"))
    x = torch.randn(batch, 3, 32, 32)
    frozen = freeze(model, x)
    with torch.no_grad():
        assert_same(frozen(x), model(x))
        assert_same(frozen(x[:1]), model(x[:1]))
    layers = dict(frozen_convolutions(frozen.network))
    tuned = {t.name: t for t in frozen.timings}
    assert tuned.keys() >= layers.keys() | {"network"}
    for name, layer in layers.items():
        assert set(tuned[name].milliseconds) == set(layer.available_forms())
        assert name in frozen.table()
    save(frozen, tmp_path / "frozen.pt")
    loaded = load(tmp_path / "frozen.pt")
    assert loaded.timings == frozen.timings
    assert {name: m.form for name, m in frozen_convolutions(loaded.network)} == {n: m.form for n, m in layers.items()}
    with torch.no_grad():
        assert torch.equal(loaded(x), frozen(x))


@pytest.mark.parametrize("best", ["fastest forms", "likely forms", "dense forms"])
def test_the_autotuner_takes_what_was_fastest(best, tmp_path, monkeypatch):
    """The last of a layer's forms, two images at a time, and of the network's choices `best`: by times made up here."""

    def seconds(candidates, *_):
        preferred = {"2 images", best, last[0]}
        return {name: 1.0 if name in preferred else 2.0 + place for place, name in enumerate(candidates)}

    model = used(resnet((1,), 10, stem="paper", method="flgc-dup", groups=4, where="all", width=0.5))
    x = torch.randn(5, 3, 32, 32)
    layers = frozen_convolutions(freeze(model).network)
    last = [layers[0][1].available_forms()[-2]]  # of all layers alike; the very last is the dense one
    monkeypatch.setattr(autotune, "medians", seconds)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    frozen = freeze(model, x)
    forms = {"fastest forms": last[0], "likely forms": layers[0][1].available_forms()[0], "dense forms": "dense"}
    assert {layer.form for _, layer in frozen_convolutions(frozen.network)} == {forms[best]}
    tuned = {timing.name: timing.chosen for timing in frozen.timings}
    assert {tuned[name] for name, _ in layers} == {last[0]}
    assert (tuned["batch"], tuned["network"]) == ("2 images", best)
    assert frozen.images_at_once == (None if best == "dense forms" else 2)
    save(frozen, tmp_path / "frozen")
    assert load(tmp_path / "frozen").images_at_once == frozen.images_at_once
    with torch.no_grad():
        assert_same(frozen(x), model(x))


def test_a_frozen_file_is_as_small_as_its_connections(tmp_path):
    model = resnet((1, 1), 10, method="flgc", groups=8, where="all")
    save(freeze(model), tmp_path / "frozen.pt")
    numbers = count(freeze(model), (3, 32, 32)).parameters
    assert (tmp_path / "frozen.pt").stat().st_size < 1.15 * 4 * numbers + 50_000


def test_no_logits_no_mask_and_no_zeros_are_left():
    frozen = freeze(used(resnet((1, 1), 10, method="flgc", groups=8, where="all")))
    assert not any("logits" in name for name in frozen.state_dict())
    for _, layer in frozen_convolutions(frozen):
        assert (layer.weight != 0).all()


def test_a_bottleneck_gathers_at_most_once_a_convolution():
    frozen = freeze(used(resnet((2,), 10, method="flgc", groups=8)))
    for name, layer in frozen_convolutions(frozen):
        if name.endswith(("conv1", "conv2")):  # what they write goes straight into the next convolution
            assert torch.equal(layer.outputs, torch.arange(layer.plan.out_channels, dtype=torch.int32))


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(FLGConv2d(3, 8, 3, groups=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.last = FLGConv2d(8, 8, 1, groups=3)

    def forward(self, x, flip=None):
        x = self.features(x)
        if x.mean() > 1e9:  # a tracer cannot know
            return x
        return self.last(x) + x


def test_what_cannot_be_traced_is_frozen_in_parts(tmp_path):
    model = used(Untraceable())
    frozen = freeze(model)
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        assert_same(frozen(x), model(x))
    assert sum(isinstance(m, FrozenConv2d) for m in frozen.modules()) == 2
    with pytest.raises(ValueError, match="freeze again after loading"):
        save(frozen, tmp_path / "frozen.pt")


class InPlace(nn.Module):
    """Overwrites a tensor that it reads again."""

    def __init__(self):
        super().__init__()
        self.a, self.b = FLGConv2d(3, 8, 1, groups=2), FLGConv2d(8, 8, 1, groups=2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.a(x)
        y = self.b(self.relu(x))
        y += x
        return self.relu(y) * x


def test_in_place_operations_keep_their_meaning():
    model = InPlace()
    x = torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        assert_same(freeze(model)(x), model(x))


class Residual(nn.Module):
    """conv(x) + x."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return self.conv(x) + x


@torch.no_grad()
def test_a_sum_leaves_the_caller_s_input_alone():
    model = Residual(FLGConv2d(8, 8, 1, groups=2))
    x = torch.randn(2, 8, 5, 5)
    expected, kept = model(x), x.clone()
    assert_same(freeze(model)(x), expected)
    assert torch.equal(x, kept)


@torch.no_grad()
def test_what_is_read_and_added_keeps_its_order():
    model = nn.Sequential(FLGConv2d(3, 8, 1, groups=2), Residual(FLGConv2d(8, 8, 1, groups=2)))
    x = torch.randn(2, 3, 5, 5)
    assert_same(freeze(model)(x), model(x))


def test_a_gradient_still_reaches_the_input():
    frozen = freeze(FLGConv2d(4, 4, 1, groups=2))
    x = torch.randn(1, 4, 3, 3, requires_grad=True)
    frozen(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_bad_files_get_a_sentence(tmp_path):
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="is not a frozen network"):
        load(tmp_path / "other.pt")
    with pytest.raises(OSError, match="could not be written"):
        save(freeze(resnet((1,), 10)), tmp_path / "missing" / "frozen.pt")


def test_without_numba_everything_works(monkeypatch, tmp_path):
    model = used(resnet((1, 1), 10, method="flgc", groups=8, where="all", width=0.5))
    x = torch.randn(2, 3, 32, 32)
    save(freeze(model), tmp_path / "frozen.pt")
    monkeypatch.delitem(forms.FORMS, "indirect", raising=False)
    for frozen in (freeze(model), load(tmp_path / "frozen.pt")):
        with torch.no_grad():
            assert_same(frozen(x), model(x))
        assert all(layer.form != "indirect" for _, layer in frozen_convolutions(frozen))
    _, layer = frozen_convolutions(frozen)[0]
    with pytest.raises(ValueError, match="pip install"):
        layer.use("indirect")


def test_without_numba_everything_is_imported():
    code = "import sys; sys.modules['numba'] = None; from flgc_lib.frozen import forms; print(*forms.FORMS)"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.split() == ["equal", "loop", "matmul", "dense"]


def test_a_copy_computes_after_the_original_is_gone():
    frozen = freeze(used(resnet((1,), 10, method="flgc", groups=4)))
    x = torch.randn(2, 3, 32, 32)
    likely = {layer: layer.form for _, layer in frozen_convolutions(frozen)}
    with torch.no_grad():
        for layer in likely:
            layer.use("equal")
        frozen(x)  # leaves behind what neither a copy nor a pickle can hold
        for layer, form in likely.items():
            layer.use(form)
        expected = frozen(x)
        twins = [copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))]
        del frozen
        gc.collect()
        for twin in twins:
            assert torch.equal(twin(x), expected)
