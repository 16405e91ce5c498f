"""Computing by groups gives what the mask gives, and the same gradients."""

import pytest
import torch
from torch.nn import functional as F

from flgc_lib import compact
from flgc_lib.clustered import ClusteredConv2d, SelectedConv2d
from flgc_lib.compact import compact_conv2d, equal_groups
from flgc_lib.controls import EqualConv2d
from flgc_lib.grouping import connection_mask
from flgc_lib.layers import FLGConv2d

GEOMETRIES = [
    (1, (1, 1), (0, 0), (1, 1)),
    (1, (2, 2), (0, 0), (1, 1)),
    (3, (1, 1), (1, 1), (1, 1)),
    (3, (2, 2), (1, 1), (1, 1)),
    (3, (1, 1), (2, 2), (2, 2)),
    (1, (1, 1), (1, 1), (1, 1)),
]


def a_layer(kind=EqualConv2d, kernel=1, **options):
    torch.manual_seed(0)
    layer = kind(24, 16, kernel, groups=4, **options)
    layer.compact = True
    return layer


def images(dtype=torch.float32):
    x = torch.randn(3, 24, 6, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    return x.contiguous(memory_format=torch.channels_last).requires_grad_()


def gradients(out, *leaves):
    towards = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out.dtype)
    return torch.autograd.grad(out, leaves, towards)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), GEOMETRIES)
def test_outputs_and_gradients_are_those_of_the_mask(kernel, stride, padding, dilation, layout):
    layer = a_layer(kernel=kernel, bias=True).double()
    x = images(torch.double).contiguous(memory_format=layout).detach().requires_grad_()
    A, B = layer.input_membership(), layer.filter_membership()
    leaves = (x, layer.weight, layer.bias)
    found = compact_conv2d(x, layer.weight, equal_groups(A, B), layer.bias, stride, padding, dilation)
    masked = layer.weight * connection_mask(A, B).double()[:, :, None, None]
    expected = F.conv2d(x, masked, layer.bias, stride, padding, dilation)
    assert torch.allclose(found, expected)
    for one, other in zip(gradients(found, *leaves), gradients(expected, *leaves), strict=True):
        assert torch.allclose(one, other)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("channels", [23, 30])
def test_another_number_of_channels_is_refused(kernel, channels):
    layer = a_layer(kernel=kernel)
    groups = equal_groups(layer.input_membership(), layer.filter_membership())
    with pytest.raises(RuntimeError, match=f"the images have {channels} channels, and the weights are for 24"):
        compact_conv2d(torch.zeros(1, channels, 6, 6), layer.weight, groups, None, (1, 1), (0, 0), (1, 1))


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("towards", ["input", "weight"])
def test_gradients_of_gradients_are_refused(kernel, towards):
    layer, x = a_layer(kernel=kernel), images()
    groups = equal_groups(layer.input_membership(), layer.filter_membership())
    out = compact_conv2d(x, layer.weight, groups, None, (1, 1), (0, 0), (1, 1))
    leaf = x if towards == "input" else layer.weight
    with pytest.raises(RuntimeError, match="set compact=False in the layer"):
        torch.autograd.grad(out.tanh().sum(), leaf, create_graph=True)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("autocast", [False, True])
def test_types_are_those_of_the_mask(calls, kernel, autocast):
    for weights in (torch.float32, torch.float64, torch.bfloat16):
        layer = a_layer(kernel=kernel).to(weights)
        for pixels in (torch.float32, torch.float64, torch.bfloat16):
            found = []
            for layer.compact in (False, True):
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    try:
                        found.append(layer(images(pixels)).dtype)
                    except RuntimeError:
                        found.append("refused")
            assert found[0] == found[1], (weights, pixels)
    assert len(calls) == 9


def test_in_autocast_it_works_in_bf16():
    layer, x = a_layer(), images()
    groups = equal_groups(layer.input_membership(), layer.filter_membership())
    with torch.autocast("cpu", torch.bfloat16):
        out = compact_conv2d(x, layer.weight, groups, None, (1, 1), (0, 0), (1, 1))
    assert out.dtype == torch.bfloat16
    to_x, to_weight = gradients(out, x, layer.weight)
    assert (to_x.dtype, to_weight.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize("frozen", ["weight", "input"])
def test_what_needs_no_gradient_gets_none(frozen):
    for kernel in (1, 3):
        layer, x = a_layer(kernel=kernel), images()
        groups = equal_groups(layer.input_membership(), layer.filter_membership())
        (layer.weight if frozen == "weight" else x).requires_grad_(False)
        compact_conv2d(x, layer.weight, groups, None, (1, 1), (0, 0), (1, 1)).sum().backward()
        assert (x.grad is None, layer.weight.grad is None) == (frozen == "input", frozen == "weight")


@pytest.fixture
def calls(monkeypatch):
    """How often a layer was computed by groups; it always pays."""
    seen = []
    monkeypatch.setattr("flgc_lib.layers.pays", lambda *sizes: True)
    monkeypatch.setattr("flgc_lib.layers.compact_conv2d", lambda *a: seen.append(1) or compact_conv2d(*a))
    return seen


def test_closed_groups_are_computed_by_groups(calls):
    layer, x = a_layer(ClusteredConv2d), images()
    layer.softness = 0.5
    layer(x)
    assert not calls
    layer.softness = 0.0
    found = layer(x)
    assert calls
    layer.compact = False
    assert torch.allclose(layer(x), found, atol=1e-5)
    assert len(calls) == 1


def test_what_learns_copies_or_is_unequal_keeps_the_mask(calls):
    x = images()
    learning = a_layer(EqualConv2d)
    learning.input_logits.requires_grad_(True)
    learning(x).sum().backward()
    assert learning.input_logits.grad is not None
    copying = a_layer(SelectedConv2d)
    copying.regroup()
    assert (copying.input_membership().sum(dim=1) > 1).any()
    copying(x)
    resting = a_layer(FLGConv2d)
    resting.learns = False
    resting(x)
    assert not calls


def test_by_default_the_mask_is_kept(calls):
    EqualConv2d(24, 16, 1, groups=4)(images())
    assert not calls


def test_it_pays_where_weights_outnumber_pixels():
    def asked(channels, kernel, size, padding):
        x = torch.zeros(128, channels, size, size).contiguous(memory_format=torch.channels_last)
        return compact.pays(torch.zeros(channels, channels, kernel, kernel), x, (1, 1), (padding, padding))

    assert asked(512, 1, 1, 0)
    assert not asked(64, 1, 8, 0)
    assert asked(64, 3, 8, 1)
    assert not asked(64, 3, 1, 1)
