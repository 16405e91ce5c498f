"""The form in bf16: a convolution of rounded numbers, summed in float32, only where it is asked for and possible."""

import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_forms import assert_same, layers, with_empty_groups, without_any_channel
from torch import nn
from torch.nn import functional as F

from flgc_lib.frozen import forms, freeze, load, save
from flgc_lib.frozen.convert import from_convolution
from flgc_lib.frozen.layer import frozen_convolutions
from flgc_lib.layers import FLGConv2d
from flgc_lib.resnet import resnet

bf16 = pytest.mark.skipif("bf16" not in forms.FORMS, reason="this processor has no bf16, or Numba is missing")


def expected(layer, x, residual=None):
    """The frozen layer in float64, of inputs and weights that are rounded to bf16."""
    plan, out = layer.plan, None
    x = x.bfloat16().double()
    for group in layer.parts():
        part = x[:, group.inputs.long()]
        size = plan.window.output_size(*x.shape[2:])
        found = x.new_zeros(len(x), len(group.outputs), *size)
        if part.shape[1]:
            found = F.conv2d(part, group.weight.bfloat16().double(), None, plan.stride, plan.padding, plan.dilation)
        out = x.new_zeros(len(x), plan.out_channels, *size) if out is None else out
        out[:, group.outputs.long()] = found + group.bias.double()[:, None, None]
    out = out if residual is None else out + residual
    return out.relu() if plan.relu else out


@torch.no_grad()
def assert_rounds_only_its_inputs(layer, x, *, relu=False, residual=False):
    frozen = from_convolution(layer).use("bf16")
    frozen.plan = replace(frozen.plan, relu=relu)
    out = expected(frozen, x)
    more = torch.randn(out.shape) if residual else None
    out = expected(frozen, x, more)
    for threads in (1, 2):
        try:
            torch.set_num_threads(threads)
            assert_same(frozen(x, more).double(), out, 1e-5)
        finally:
            torch.set_num_threads(1)


@bf16
@settings(max_examples=60, deadline=None)
@given(layers(), st.booleans())
def test_any_layer(case, more):
    assert_rounds_only_its_inputs(*case, relu=more, residual=more)


@bf16
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 14, 16, 28, 32, 56])
def test_maps_of_networks(size, kernel, stride):
    assert_rounds_only_its_inputs(
        FLGConv2d(12, 17, kernel, groups=3, stride=stride, padding=kernel // 2), torch.randn(2, 12, size, size)
    )


@bf16
@pytest.mark.parametrize(
    ("kernel", "padding", "stride", "dilation", "size"),
    [(41, 20, 1, 1, 32), (3, 40, 1, 1, 40), (3, 33, 2, 1, 50), (5, 30, 3, 2, 40), (1, 18, 1, 1, 40), (3, 0, 1, 17, 40)],
)
def test_wide_margins(kernel, padding, stride, dilation, size):
    """Wider than a vector. What the packed copy does not write is what was in memory before."""
    x = torch.randn(2, 12, size, size)
    before = [torch.full((2**n,), float("nan")) for n in range(16, 22)]
    del before
    assert_rounds_only_its_inputs(
        FLGConv2d(12, 17, kernel, groups=3, stride=stride, padding=padding, dilation=dilation), x
    )


@bf16
def test_groups_without_channels_or_without_filters():
    assert_rounds_only_its_inputs(with_empty_groups(), torch.randn(2, 6, 5, 5))
    assert_rounds_only_its_inputs(without_any_channel(), torch.randn(2, 4, 3, 3))


@bf16
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_numbers_are_rounded_to_the_nearest_and_halves_to_even(stride):
    layer = nn.Conv2d(2, 2, 1, stride, groups=2, bias=False)
    nn.init.ones_(layer.weight)
    bits = torch.randint(-(2**31), 2**31, (1, 2, 40, 57), generator=torch.Generator().manual_seed(0))
    bits[..., ::3] = bits[..., ::3] // 2**16 * 2**16 + 2**15  # halfway between two neighbours
    x = bits.to(torch.int32).view(torch.float32)
    x[x.abs() < 2**-125] = 0  # what is smaller counts as 0
    x[x.abs() > 2.0**126] = float("inf")  # as does the sum of two halves of larger ones, in float32
    with torch.no_grad():
        found = from_convolution(layer).use("bf16")(x)
    rounded = x.bfloat16().float()[..., ::stride, ::stride]
    assert rounded.isnan().any()
    torch.testing.assert_close(found, rounded, rtol=0, atol=0, equal_nan=True)


@bf16
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("number", [float("inf"), float("nan")])
@torch.no_grad()
def test_what_is_not_finite_reaches_exactly_the_filters_that_read_it(number, channels):
    layer = nn.Conv2d(2 * channels, 6, 3, padding=1, groups=2)
    frozen = from_convolution(layer).use("bf16")
    x = torch.randn(1, 2 * channels, 9, 9)
    x[0, channels - 1, 4, 4] = number
    found, wanted = frozen(x), expected(frozen, x)
    assert torch.equal(found.isnan(), wanted.isnan())
    assert torch.equal(found.isinf(), wanted.isinf())
    assert found[:, 3:].isfinite().all()


@bf16
def test_it_is_never_among_the_exact_forms():
    layer = from_convolution(nn.Conv2d(4, 4, 3))
    assert "bf16" not in layer.available_forms()
    assert set(layer.available_forms("bf16")) == {"bf16", *layer.available_forms()}
    assert "bf16" not in layer.double().available_forms("bf16")


@bf16
def test_what_the_kernel_does_not_take_is_computed_otherwise():
    """An input that has a gradient: to the last digits, which bf16 does not have."""
    conv = nn.Conv2d(4, 4, 3)
    frozen = from_convolution(conv).use("bf16")
    x = torch.randn(1, 4, 5, 5, requires_grad=True)
    assert_same(frozen(x), conv(x), 1e-5)
    with torch.no_grad(), pytest.raises((RuntimeError, IndexError)):
        frozen(x[:, :3])


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = resnet((1, 1), 10, method="flgc-dup", groups=4, where="all", width=0.5)
    with torch.no_grad():
        model.train()(torch.randn(8, 3, 32, 32))  # norms get means and deviations
    return model.eval()


X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@bf16
@pytest.mark.parametrize("tune", [False, True])
@torch.no_grad()
def test_a_network_in_bf16_says_how_far_it_is_from_fp32(model, tune, tmp_path):
    frozen = freeze(model, X, tune=tune, precision="bf16")
    layers = [layer.form for _, layer in frozen_convolutions(frozen)]
    assert tune or set(layers) == {"bf16"}
    if tune:
        assert all("bf16" in t.milliseconds for t in frozen.timings if t.name not in ("batch", "network"))
    exact = freeze(model)(X)
    share = float((frozen(X) - exact).abs().max() / exact.abs().max())
    assert 0 < share < 0.05 or "bf16" not in layers
    wanted = f"in bf16: {layers.count('bf16')} of {len(layers)} convolutions"
    assert wanted in frozen.report()
    assert f"by up to {share:.2%} of the largest number" in frozen.report()
    save(frozen, tmp_path / "frozen")
    loaded = load(tmp_path / "frozen")
    assert [layer.form for _, layer in frozen_convolutions(loaded)] == layers
    assert torch.equal(loaded(X), frozen(X))
    assert loaded.report() == frozen.report()
    again = freeze(frozen, X, tune=False)
    assert_same(again(X), exact)
    assert "bf16" not in again.report()


@bf16
@torch.no_grad()
def test_without_an_example_every_layer_that_can_is_in_bf16(model):
    assert {layer.form for _, layer in frozen_convolutions(freeze(model, precision="bf16"))} == {"bf16"}
    assert "bf16" not in {layer.form for _, layer in frozen_convolutions(freeze(model, X))}
    with pytest.raises(ValueError, match="for an example"):
        freeze(freeze(model), precision="bf16")


@bf16
def test_a_network_that_is_no_longer_finite_is_refused():
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False))
    nn.init.constant_(model[0].weight, torch.finfo(torch.float32).max)  # the nearest number in bf16 is infinite
    with pytest.raises(ValueError, match="not finite where they are in fp32"):
        freeze(model, torch.full((1, 1, 4, 4), 1e-3), tune=False, precision="bf16")


@torch.no_grad()
def test_a_processor_without_it_says_so_at_once_and_computes_its_files_exactly(model, tmp_path, monkeypatch):
    frozen = freeze(model, precision="bf16" if "bf16" in forms.FORMS else "fp32")
    save(frozen, tmp_path / "frozen")
    monkeypatch.delitem(forms.FORMS, "bf16", raising=False)
    with pytest.raises(ValueError, match="AVX512-BF16, and one of them is missing here"):
        freeze(None, precision="bf16")
    with pytest.raises(ValueError, match="must be one of fp32, bf16"):
        freeze(None, precision="int8")
    loaded = load(tmp_path / "frozen")
    assert "bf16" not in {layer.form for _, layer in frozen_convolutions(loaded)}
    assert "bf16" not in loaded.report()
    assert_same(loaded(X), model(X))
    _, layer = frozen_convolutions(loaded)[0]
    with pytest.raises(ValueError, match="AVX512-BF16"):
        layer.use("bf16")
    assert_same(pickle.loads(pickle.dumps(frozen))(X), model(X))  # which may have come from another processor
