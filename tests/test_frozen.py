"""Freezing never changes what a network computes: every form, every layer, whole nets."""

import copy
import gc

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flgc_lib import forms
from flgc_lib.convert import from_convolution
from flgc_lib.cost import count
from flgc_lib.frozen import freeze, load, save
from flgc_lib.frozen_layer import FrozenConv2d, frozen_convolutions
from flgc_lib.layers import FLGConv2d
from flgc_lib.resnet import embed, resnet


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the layers are small: two threads only wait for each other
    yield
    torch.set_num_threads(threads)


def assert_same(actual, expected, tolerance=1e-4):
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1e-6)


@torch.no_grad()
def assert_all_forms_same(layer, x):
    frozen = from_convolution(layer)
    for form in frozen.available_forms():
        assert_same(frozen.use(form)(x), layer(x))


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


@pytest.mark.parametrize("groups", range(1, 34))
def test_every_number_of_groups(groups):
    torch.manual_seed(groups)
    kernel = 1 if groups % 2 else 3
    layer = FLGConv2d(33, 40, kernel, groups, padding=kernel // 2, bias=True, duplicate_top_k=3 if groups % 3 else None)
    assert_all_forms_same(layer, torch.randn(1, 33, 9, 7))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 24),
    st.integers(1, 40),
    st.integers(1, 9),
    st.sampled_from([1, 2, 3, (3, 1)]),
    st.sampled_from([1, 2, (2, 1), 3]),
    st.integers(0, 2),
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(1, 19),
    st.integers(1, 35),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_any_layer(channels, filters, groups, kernel, stride, padding, dilation, batch, high, wide, copies, last, seed):
    torch.manual_seed(seed)
    groups = min(groups, channels, filters)
    layer = FLGConv2d(
        channels,
        filters,
        kernel,
        groups,
        stride=stride,
        padding=padding,
        dilation=dilation,
        bias=True,
        duplicate_top_k=1 if copies else None,
    )
    reach = 2 * dilation
    x = torch.randn(batch, channels, high + reach, wide + reach)
    assert_all_forms_same(layer, x.to(memory_format=torch.channels_last) if last else x)


def test_groups_without_channels_or_without_filters():
    layer = FLGConv2d(6, 5, 3, 3, padding=1, bias=True)
    with torch.no_grad():
        layer.input_logits[:, 1] = -9  # group 1 has filters but no channel
        layer.input_logits[2, 2] = 9  # group 2 has a channel but no filter
        layer.filter_logits.copy_(torch.tensor([[1.0, 0, 0]] * 4 + [[0, 1.0, 0]]))
    assert_all_forms_same(layer, torch.randn(2, 6, 5, 5))
    frozen = from_convolution(layer)
    assert 0 in frozen.plan.group_inputs
    assert len(frozen.plan.group_filters) == 2


def test_no_channel_anywhere():
    layer = FLGConv2d(4, 3, 1, 2, bias=True)
    with torch.no_grad():
        layer.input_logits.copy_(torch.tensor([[1.0, 0.0]] * 4))
        layer.filter_logits.copy_(torch.tensor([[0.0, 1.0]] * 3))
    assert_all_forms_same(layer, torch.randn(2, 4, 3, 3))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 3, 12])
def test_ordinary_and_depthwise_convolutions(groups, stride):
    layer = nn.Conv2d(12, 24, 3, stride, 1, groups=groups)
    assert_all_forms_same(layer, torch.randn(2, 12, 11, 6))


def test_residual_and_relu_are_part_of_every_form():
    layer = FLGConv2d(8, 12, 1, 3)
    x, residual = torch.randn(2, 8, 4, 4), torch.randn(2, 12, 4, 4)
    frozen = from_convolution(layer, relu=True)
    with torch.no_grad():
        expected = torch.relu(layer(x) + residual)
        kept = residual.clone()
        for form in frozen.available_forms():
            assert_same(frozen.use(form)(x, residual), expected)
            assert torch.equal(residual, kept)


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
    assert [m.form for _, m in frozen_convolutions(loaded.network)] == [m.form for m in layers.values()]
    with torch.no_grad():
        assert torch.equal(loaded(x), frozen(x))


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
        self.features = nn.Sequential(FLGConv2d(3, 8, 3, 2, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.last = FLGConv2d(8, 8, 1, 3)

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
    assert not any(isinstance(m, nn.BatchNorm2d) for m in frozen.modules())
    with pytest.raises(ValueError, match="freeze again after loading"):
        save(frozen, tmp_path / "frozen.pt")


class InPlace(nn.Module):
    """Overwrites a tensor that it reads again."""

    def __init__(self):
        super().__init__()
        self.a, self.b = FLGConv2d(3, 8, 1, 2), FLGConv2d(8, 8, 1, 2)
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


def test_every_thread_count_computes_the_same():
    layers = [FLGConv2d(37, 41, 3, 5, padding=1), FLGConv2d(64, 64, 1, 8), nn.Conv2d(3, 16, 7, 2, 3)]
    for layer in layers:
        frozen = from_convolution(layer)
        frozen.use(frozen.available_forms()[0])
        for batch in (1, 3, 8):
            x = torch.randn(batch, layer.in_channels, 12, 12)
            with torch.no_grad():
                expected = frozen(x)
                try:
                    torch.set_num_threads(2)
                    assert_same(frozen(x), expected, 1e-6)
                finally:
                    torch.set_num_threads(1)


def test_a_gradient_still_reaches_the_input():
    frozen = freeze(FLGConv2d(4, 4, 1, 2))
    x = torch.randn(1, 4, 3, 3, requires_grad=True)
    frozen(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_bad_requests_get_a_sentence(tmp_path):
    frozen = from_convolution(nn.Conv2d(4, 4, 3, groups=4))
    with pytest.raises(ValueError, match="it has"):
        frozen.use("matmul")
    with pytest.raises(ValueError, match="must be one of"):
        frozen.use("fast")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="is not a frozen network"):
        load(tmp_path / "other.pt")
    save(freeze(resnet((1,), 10)), tmp_path / "frozen.pt")
    content = torch.load(tmp_path / "frozen.pt", weights_only=True)
    content["plan"]["steps"][1] = ("x", "call_function", "torch.load", (), {"dict": {}})
    torch.save(content, tmp_path / "frozen.pt")
    with pytest.raises(ValueError, match="does not compute on tensors"):
        load(tmp_path / "frozen.pt")


def test_without_numba_everything_works(monkeypatch, tmp_path):
    model = used(resnet((1, 1), 10, method="flgc", groups=8, where="all", width=0.5))
    x = torch.randn(2, 3, 32, 32)
    save(freeze(model), tmp_path / "frozen.pt")
    monkeypatch.setattr(forms, "IndirectConvolution", None)
    for frozen in (freeze(model), load(tmp_path / "frozen.pt")):
        with torch.no_grad():
            assert_same(frozen(x), model(x))
        assert all(layer.form != "indirect" for _, layer in frozen_convolutions(frozen))
    _, layer = frozen_convolutions(frozen)[0]
    with pytest.raises(ValueError, match="pip install"):
        layer.use("indirect")


def test_a_copy_computes_after_the_original_is_gone():
    frozen = freeze(used(resnet((1,), 10, method="flgc", groups=4)))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = frozen(x)
        twin = copy.deepcopy(frozen)
        del frozen
        gc.collect()
        assert torch.equal(twin(x), expected)


def test_new_weights_are_used():
    one, other = (from_convolution(FLGConv2d(8, 8, 1, 1)) for _ in range(2))
    x = torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        for form in one.available_forms():
            one.use(form)(x)
            other.use(form)
        one.load_state_dict(other.state_dict())
        for form in one.available_forms():
            assert_same(one.use(form)(x), other.use(form)(x), 1e-6)


def test_wrong_inputs_never_reach_the_kernel():
    frozen = from_convolution(FLGConv2d(8, 8, 3, 2))
    frozen.use(frozen.available_forms()[0])
    for wrong in (torch.randn(1, 7, 5, 5), torch.randn(1, 8, 2, 2)):
        with pytest.raises((RuntimeError, IndexError)):
            frozen(wrong)
