"""A frozen convolution computes the same in every form."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flgc_lib.frozen.convert import from_convolution
from flgc_lib.layers import FLGConv2d


def assert_same(actual, expected, tolerance=1e-4):
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1e-6)


@torch.no_grad()
def assert_all_forms_same(layer, x):
    frozen = from_convolution(layer)
    for form in frozen.available_forms():
        assert_same(frozen.use(form)(x), layer(x))


@pytest.mark.parametrize("groups", range(1, 34))
def test_every_number_of_groups(groups):
    torch.manual_seed(groups)
    kernel = 1 if groups % 2 else 3
    layer = FLGConv2d(
        33, 40, kernel, groups=groups, padding=kernel // 2, bias=True, duplicate_top_k=3 if groups % 3 else None
    )
    assert_all_forms_same(layer, torch.randn(1, 33, 9, 7))


@st.composite
def layers(draw):
    """A layer of any kind, and an input of it."""
    channels, filters = draw(st.integers(1, 24)), draw(st.integers(1, 40))
    groups = min(draw(st.integers(1, 9)), channels, filters)
    kernel = draw(st.sampled_from([1, 2, 3, (3, 1)]))
    stride = draw(st.sampled_from([1, 2, (2, 1), 3, (1, 2)]))
    padding, dilation = draw(st.integers(0, 2)), draw(st.integers(1, 2))
    batch, high, wide = draw(st.integers(1, 3)), draw(st.integers(1, 19)), draw(st.integers(1, 40))
    top_k = draw(st.sampled_from([1, None]))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    layer = FLGConv2d(
        channels,
        filters,
        kernel,
        groups=groups,
        stride=stride,
        padding=padding,
        dilation=dilation,
        bias=True,
        duplicate_top_k=top_k,
    )
    return layer, torch.randn(batch, channels, high + 2 * dilation, wide + 2 * dilation)


@settings(max_examples=40, deadline=None)
@given(layers(), st.booleans())
def test_any_layer(case, last):
    layer, x = case
    assert_all_forms_same(layer, x.to(memory_format=torch.channels_last) if last else x)


@torch.no_grad()
def with_empty_groups():
    """A layer whose group 1 has filters but no channel, and whose group 2 has a channel but no filter."""
    layer = FLGConv2d(6, 5, 3, groups=3, padding=1, bias=True)
    layer.input_logits[:, 1] = -9
    layer.input_logits[2, 2] = 9
    layer.filter_logits.copy_(torch.tensor([[1.0, 0, 0]] * 4 + [[0, 1.0, 0]]))
    return layer


@torch.no_grad()
def without_any_channel():
    """A layer all of whose filters are in a group without channels."""
    layer = FLGConv2d(4, 3, 1, groups=2, bias=True)
    layer.input_logits.copy_(torch.tensor([[1.0, 0.0]] * 4))
    layer.filter_logits.copy_(torch.tensor([[0.0, 1.0]] * 3))
    return layer


def test_groups_without_channels_or_without_filters():
    layer = with_empty_groups()
    assert_all_forms_same(layer, torch.randn(2, 6, 5, 5))
    frozen = from_convolution(layer)
    assert 0 in frozen.plan.group_inputs
    assert len(frozen.plan.group_filters) == 2


def test_no_channel_anywhere():
    assert_all_forms_same(without_any_channel(), torch.randn(2, 4, 3, 3))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 3, 12])
def test_ordinary_and_depthwise_convolutions(groups, stride):
    layer = nn.Conv2d(12, 24, 3, stride, 1, groups=groups)
    assert_all_forms_same(layer, torch.randn(2, 12, 11, 6))


def test_residual_and_relu_are_part_of_every_form():
    layer = FLGConv2d(8, 12, 1, groups=3)
    x, residual = torch.randn(2, 8, 4, 4), torch.randn(2, 12, 4, 4)
    frozen = from_convolution(layer)
    frozen.plan = replace(frozen.plan, relu=True)
    with torch.no_grad():
        expected = torch.relu(layer(x) + residual)
        kept = residual.clone()
        for form in frozen.available_forms():
            assert_same(frozen.use(form)(x, residual), expected)
            assert torch.equal(residual, kept)


def test_every_thread_count_computes_the_same():
    layers = [FLGConv2d(37, 41, 3, groups=5, padding=1), FLGConv2d(64, 64, 1, groups=8), nn.Conv2d(3, 16, 7, 2, 3)]
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


def test_new_weights_are_used():
    one, other = (from_convolution(FLGConv2d(8, 8, 1, groups=1)) for _ in range(2))
    x = torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        for form in one.available_forms():
            one.use(form)(x)
            other.use(form)
        one.load_state_dict(other.state_dict())
        for form in one.available_forms():
            assert_same(one.use(form)(x), other.use(form)(x), 1e-6)


@pytest.mark.parametrize("name", ["weight", "bias", "input"])
def test_gradients_reach_weight_bias_and_input_whatever_the_form(name):
    torch.manual_seed(0)
    convolution, x = nn.Conv2d(8, 8, 1, groups=2), torch.randn(2, 8, 4, 4)
    layer = from_convolution(convolution)
    wanted = (x if name == "input" else getattr(convolution, name)).requires_grad_()
    convolution(x).square().sum().backward(inputs=[wanted])
    expected, all_forms = wanted.grad.flatten(), layer.available_forms("bf16")
    for form in all_forms:
        x.requires_grad_(False)
        with torch.inference_mode():
            layer.use(form)(x)  # what it derives from its weights now has no way back to them
        tensor = (x if name == "input" else getattr(layer, name)).requires_grad_()
        tensor.grad = None
        for _ in range(2):
            layer(x).square().sum().backward()
        assert_same(tensor.grad.flatten(), 2 * expected)
        tensor.requires_grad_(False)
    assert layer.available_forms("bf16") == all_forms


@torch.no_grad()
def test_every_form_takes_no_image_at_all():
    layer = from_convolution(nn.Conv2d(8, 6, 1, groups=2))
    for form in layer.available_forms("bf16"):
        assert layer.use(form)(torch.randn(0, 8, 4, 5)).shape == (0, 6, 4, 5)


def test_wrong_inputs_never_reach_the_kernel():
    frozen = from_convolution(FLGConv2d(8, 8, 3, groups=2))
    frozen.use(frozen.available_forms()[0])
    for wrong in (torch.randn(1, 7, 5, 5), torch.randn(1, 8, 2, 2)):
        with pytest.raises((RuntimeError, IndexError)):
            frozen(wrong)


def test_a_new_plan_is_used():
    layer = from_convolution(FLGConv2d(8, 8, 1, groups=2))
    x = torch.randn(1, 8, 4, 4)
    for form in layer.available_forms():
        layer.plan = replace(layer.plan, relu=False)
        expected = layer.use(form)(x).relu()
        layer.plan = replace(layer.plan, relu=True)
        assert torch.equal(layer(x), expected)


def test_a_form_that_a_layer_does_not_have_gets_a_sentence():
    frozen = from_convolution(nn.Conv2d(4, 4, 3, groups=4))
    with pytest.raises(ValueError, match="it has"):
        frozen.use("matmul")
    with pytest.raises(ValueError, match="must be one of"):
        frozen.use("fast")
