"""The residual networks: torchvision's by name and output, every method and stem, and `embed` into other networks."""

import copy
from functools import partial

import pytest
import timm
import torch
import torchvision
from torch import nn

from flgc_lib.layers import FLGConv2d
from flgc_lib.methods import METHODS, DrawnConv2d, RandomCopiesConv2d, RingConv2d, method_layer
from flgc_lib.resnet import BasicBlock, Bottleneck, ResNet, embed, resnet, resnet50

STEMS = ("paper", "cifar", "imagenet")


def small(**options):
    """The structure of ResNet-50, small: one block a stage, 16 channels in the stem."""
    torch.manual_seed(0)
    return resnet((1, 1, 1, 1), **({"width": 0.25} | options))


def images(size=32, batch=4):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def learned(model):
    return [name for name, module in model.named_modules() if isinstance(module, FLGConv2d)]


def check_backward(model, x):
    """Finite outputs, and a finite gradient that is not all zero for every trainable parameter."""
    out = model(x)
    assert out.isfinite().all()
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(2)))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name
        else:
            assert parameter.grad is None, name


def randomise_norms(model):
    """Batch norms with statistics and weights that differ, so that two that are mixed up show."""
    torch.manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return model


# torchvision


def test_resnet50_takes_torchvisions_state_dict_and_gives_its_outputs():
    theirs = randomise_norms(torchvision.models.resnet50())
    ours = resnet50(1000, stem="imagenet")
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert ours.load_state_dict(theirs.state_dict()).missing_keys == []
    x = images(64, 2)
    with torch.no_grad():
        expected = theirs.eval()(x)
        assert expected.std() > 0
        assert torch.equal(ours.eval()(x), expected)
        assert torch.equal(ours.train()(x), theirs.train()(x))


def test_basic_blocks_make_torchvisions_resnet18():
    theirs = randomise_norms(torchvision.models.resnet18(num_classes=10))
    ours = ResNet(BasicBlock, (2, 2, 2, 2), stem="imagenet")
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        assert torch.equal(ours.eval()(images(64, 2)), theirs.eval()(images(64, 2)))


@pytest.mark.parametrize(
    ("stem", "kernel", "stride", "pool"), [("paper", 3, 2, 2), ("cifar", 3, 1, 1), ("imagenet", 7, 2, 2)]
)
def test_stems(stem, kernel, stride, pool):
    model = small(stem=stem)
    assert (model.conv1.kernel_size, model.conv1.stride) == ((kernel, kernel), (stride, stride))
    x = model.maxpool(model.conv1(images()))
    assert x.shape == (4, 16, 32 // stride // pool, 32 // stride // pool)


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_block_with_a_zero_residual_is_its_shortcut(block):
    model = block(8 * block.expansion, 8, 1, method_layer("dense"), None)
    for norm in (module for module in model.children() if isinstance(module, nn.BatchNorm2d)):
        nn.init.zeros_(norm.weight)
    x = torch.randn(2, 8 * block.expansion, 4, 4)
    assert torch.equal(model(x), x.relu())  # H(x) = F(x) + x with F = 0


# Methods


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_on_every_stem(method, stem):
    model = small(method=method, stem=stem, groups=4, where="all")
    check_backward(model, images())
    assert model(images()).shape == (4, 10)


@pytest.mark.parametrize(
    ("method", "cls", "trainable", "top_k"),
    [
        ("random", DrawnConv2d, False, None),
        ("flgc", FLGConv2d, True, None),
        ("flgc-dup", FLGConv2d, True, 2),
        ("flgc-randdup", RandomCopiesConv2d, True, 2),
        ("ring", RingConv2d, False, 2),
    ],
)
def test_the_method_reaches_every_layer(method, cls, trainable, top_k):
    model = small(method=method, groups=4, top_k=2, score="softmax")
    layers = [model.get_submodule(name) for name in learned(model)]
    assert len(layers) == 12
    for layer in layers:
        assert type(layer) is cls
        assert (layer.groups, layer.score, layer.duplicate_top_k) == (4, "softmax", top_k)
        assert layer.input_logits.requires_grad is layer.filter_logits.requires_grad is trainable


def test_with_one_group_every_learned_method_is_the_dense_network():
    dense = randomise_norms(small()).eval()
    for method in METHODS:
        model = small(method=method, groups=1)
        model.load_state_dict(dense.state_dict(), strict=False)
        torch.testing.assert_close(model.eval()(images()), dense(images()), rtol=1e-5, atol=1e-6, msg=method)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("block", {"conv1", "conv2", "conv3"}),
        ("3x3", {"conv2"}),
        ("1x1", {"conv1", "conv3"}),
        ("all", {"conv1", "conv2", "conv3", "downsample.0"}),
    ],
)
def test_where_picks_exactly_those_convolutions(where, expected):
    torch.manual_seed(0)
    model = resnet((2, 1), width=0.25, method="flgc", groups=3, where=where)
    blocks = ("layer1.0", "layer1.1", "layer2.0")
    names = {f"{block}.{conv}" for block in blocks for conv in expected} - {"layer1.1.downsample.0"}
    assert set(learned(model)) == names
    assert all(model.get_submodule(name).groups == 3 for name in names)


def test_where_is_block_unless_told():
    assert learned(small(method="flgc", groups=2)) == learned(small(method="flgc", groups=2, where="block"))


@pytest.mark.parametrize("method", ["dense", "grouped", "flgc"])
@pytest.mark.parametrize("where", ["block", "1x1", "3x3"])
def test_depthwise_makes_every_3x3_convolution_depthwise(method, where):
    model = small(method=method, groups=4, where=where, depthwise=True)
    for name, module in model.named_modules():
        if name.endswith("conv2"):
            assert type(module) is nn.Conv2d
            assert module.groups == module.in_channels == module.out_channels
    assert all(not name.endswith("conv2") for name in learned(model))
    check_backward(model, images())


def test_depths_and_width():
    model = resnet((2, 3), 7, width=0.5)
    assert [len(model.layer1), len(model.layer2)] == [2, 3]
    assert not hasattr(model, "layer3")
    assert model.conv1.out_channels == 32
    assert model.layer2[0].conv3.out_channels == 2 * 32 * 4
    assert model(images()).shape == (4, 7)


def test_resnet50_is_3_4_6_3():
    with torch.device("meta"):
        model = resnet50(method="grouped", groups=2)
        assert [len(model.get_submodule(f"layer{i}")) for i in (1, 2, 3, 4)] == [3, 4, 6, 3]
        assert model.state_dict().keys() == resnet((3, 4, 6, 3)).state_dict().keys()
        assert model.fc.out_features == 10


def test_basic_blocks_make_the_resnet20_of_he_et_al():
    model = resnet((3, 3, 3), block="basic", width=0.25, stem="cifar")
    layers = [
        m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and "downsample" not in name
    ]
    assert len(layers) == 20
    shortcuts = [stage[0].downsample for stage in (model.layer2, model.layer3)]  # theirs have no weights
    parameters = sum(p.numel() for p in model.parameters()) - sum(p.numel() for s in shortcuts for p in s.parameters())
    assert parameters == pytest.approx(270_000, rel=0.01)  # 0.27 M, their table 6
    assert model(images()).shape == (4, 10)


def test_basic_blocks_have_no_1x1_convolution_to_replace():
    with pytest.raises(ValueError, match=r"block='basic' has no 1×1 convolutions .* give block, 3x3 or all"):
        resnet((1,), method="flgc", groups=2, block="basic", where="1x1")
    with pytest.raises(ValueError, match=r"block='wide' .* bottleneck, basic"):
        resnet((1,), block="wide")
    expected = ["layer1.0.conv1", "layer1.0.conv2"]
    assert learned(resnet((1,), width=0.25, method="flgc", groups=2, block="basic", where="3x3")) == expected


def test_initialisation_uses_the_fan_out_that_a_grouped_filter_has():
    for method, groups in (("dense", 1), ("grouped", 4), ("flgc", 4)):
        conv = small(method=method, groups=groups).layer4[0].conv2  # 128 filters
        expected = (2 / (128 / groups * 9)) ** 0.5
        assert conv.weight.std().item() == pytest.approx(expected, rel=0.02), method


# embed


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: torchvision.models.resnet18(num_classes=10), 64),
        (lambda: torchvision.models.mobilenet_v2(num_classes=10, width_mult=0.5, dropout=0.0), 64),
        (lambda: timm.create_model("test_resnet", num_classes=10), 64),
        (lambda: timm.create_model("test_efficientnet", num_classes=10), 64),
    ],
    ids=["torchvision-resnet18", "torchvision-mobilenet_v2", "timm-resnet", "timm-efficientnet"],
)
def test_embed_in_other_networks(make, size):
    torch.manual_seed(0)
    model = randomise_norms(make()).eval()
    state = copy.deepcopy(model.state_dict())
    ordinary = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    x = images(size, 2)

    same = embed(model, 1)
    assert learned(same) == ordinary[1:], "all but the first, and none of the depthwise ones"
    with torch.no_grad():
        torch.testing.assert_close(same(x), model(x), rtol=1e-5, atol=1e-5)

    grouped = embed(model, 4, duplicate_top_k=3)
    assert learned(grouped) == ordinary[1:]
    check_backward(grouped.train(), images(size))

    assert not learned(model), "the original is left alone"
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def convolutions():
    """Three convolutions of unlike geometry, 3 → 8 → 8 → 6 channels."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 8, 3, stride=2, padding=2, dilation=2, bias=True),
        nn.Conv2d(8, 6, (1, 3), padding=(0, 1), bias=False),
    )


def test_embed_keeps_the_geometry_and_the_options():
    model = embed(convolutions(), 2, duplicate_top_k=5, score="softmax")
    assert learned(model) == ["1", "2"]
    for before, after in zip(convolutions()[1:], model[1:], strict=True):
        for attribute in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation"):
            assert getattr(after, attribute) == getattr(before, attribute)
        assert (after.bias is None) == (before.bias is None)
        assert (after.groups, after.duplicate_top_k, after.score) == (2, 5, "softmax")
    torch.testing.assert_close(embed(convolutions(), 1)(images(12)), convolutions()(images(12)))


def test_embed_scales_the_weights_for_the_smaller_fan_in():
    original, model = convolutions(), embed(convolutions(), 4)
    assert torch.equal(model[1].weight, original[1].weight * 2)  # √4
    assert torch.equal(model[1].bias, original[1].bias)
    assert model[1].input_logits.shape == (8, 4)


def test_embed_keeps_the_type():
    model = embed(convolutions().double(), 2)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert model(images(12).double()).dtype == torch.float64


def test_embed_skips_what_has_too_few_channels():
    assert learned(embed(convolutions(), 8)) == ["1"]


def test_embed_where_is_a_predicate_on_name_and_convolution():
    seen = []

    def where(name, conv):
        seen.append((name, type(conv)))
        return conv.kernel_size == (3, 3) and name != "1"

    assert learned(embed(convolutions(), 3, where=where)) == ["0"]
    assert seen == [("0", nn.Conv2d), ("1", nn.Conv2d), ("2", nn.Conv2d)]


class OtherConv2d(nn.Conv2d):
    """A convolution that computes something of its own, as timm's weight-standardised ones do."""


def test_embed_leaves_out_what_it_can_not_replace():
    others = [
        nn.Conv2d(8, 8, 3, groups=2),
        OtherConv2d(8, 8, 3),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"),
        nn.utils.spectral_norm(nn.Conv2d(8, 8, 3)),
    ]
    for other in others:
        model = nn.Sequential(nn.Conv2d(3, 8, 1), other, nn.Conv2d(8, 8, 1))
        assert learned(embed(model, 2)) == ["2"]
        with pytest.raises(ValueError, match=r"1 is .*Conv2d\(8, 8.*only an nn.Conv2d with groups=1.*leave it out"):
            embed(model, 2, where=lambda name, conv: name != "0")
    same = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding="same"))
    with pytest.raises(ValueError, match=r"1 is .*padding=same.*numeric zero padding"):
        embed(same, 2, where=lambda name, conv: name == "1")


def test_embed_keeps_what_is_shared_frozen_or_hooked():
    """One layer under two names, one weight or bias in two layers, parameters that do not learn, hooks, the mode."""
    model = nn.ModuleDict({name: nn.Conv2d(8, 8, 1) for name in ("first", "a", "tied", "still")})
    model["again"] = model["a"]
    model["tied"].weight, model["tied"].bias = model["a"].weight, model["a"].bias
    model["still"].requires_grad_(False).eval()
    model["still"].bias.requires_grad_(True)
    model["still"].register_forward_hook(lambda module, inputs, output: output + 1)
    grouped = embed(model, 2)
    assert grouped["again"] is grouped["a"]
    for name in ("weight", "bias", "input_logits", "filter_logits"):
        assert getattr(grouped["tied"], name) is getattr(grouped["a"], name)
    assert grouped["tied"].bias is not model["a"].bias
    assert [name for name, p in grouped["still"].named_parameters() if p.requires_grad] == ["bias"]
    assert not grouped["still"].training
    assert grouped["a"].training
    x = torch.randn(1, 8, 2, 2)
    assert torch.equal(grouped["still"](x), grouped["still"].forward(x) + 1)
    with pytest.raises(ValueError, match=r"shares the weight .* pick both or neither"):
        embed(model, 2, where=lambda name, conv: name == "a")


def test_embed_replaces_a_convolution_wherever_the_network_keeps_it():
    """In lists, mappings and functions that PyTorch does not search for modules."""

    class Held(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(8, 8, 1) for _ in range(3))
            self.listed, self.named = [self.a], {"b": (self.b,)}
            self.called, self.penalised = partial(self.c), [self.a.weight]
            self.a.register_forward_hook(self.count)
            self.counted = 0

        def count(self, *_):
            self.counted += 1

        def forward(self, x):
            return self.called(self.named["b"][0](self.listed[0](x)))

    model = Held()
    grouped = embed(model, 2, where=lambda name, conv: conv is not model.a or name == "a")
    assert learned(grouped) == ["a", "b", "c"]
    grouped(torch.randn(1, 8, 3, 3)).sum().backward()
    assert all(layer.input_logits.grad is not None for layer in (grouped.a, grouped.b, grouped.c))
    assert grouped.penalised[0] is grouped.a.weight
    assert (grouped.counted, model.counted) == (1, 0)
    assert all(p.grad is None for p in model.parameters())


def test_embed_says_when_nothing_was_replaced():
    with pytest.raises(
        ValueError, match=r"no convolution of Sequential was replaced: `where` or groups=9 excludes all"
    ):
        embed(convolutions(), 9)
    with pytest.raises(ValueError, match=r"no convolution of Sequential was replaced"):
        embed(convolutions(), 2, where=lambda name, conv: False)


def test_embed_with_bad_groups():
    with pytest.raises(ValueError, match=r"groups=0 must be at least 1"):
        embed(convolutions(), 0)
    with pytest.raises(ValueError, match=r"groups=7 must be at most out_channels=6"):
        embed(convolutions(), 7, where=lambda name, conv: name == "2")
    with pytest.raises(ValueError, match=r"duplicate_top_k=0 must be at least 1"):
        embed(convolutions(), 2, duplicate_top_k=0)
    with pytest.raises(ValueError, match=r"score='cosine' must be one of logit, softmax"):
        embed(convolutions(), 2, score="cosine")


# Bad input


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"stem": "cifar10"}, r"stem='cifar10' must be one of paper, cifar, imagenet"),
        ({"where": "conv2"}, r"where='conv2' must be one of block, 3x3, 1x1, all"),
        (
            {"method": "FLGC"},
            r"method='FLGC' must be one of dense, grouped, shuffle, random, equal, flgc, flgc-dup, ring",
        ),
        ({"method": "flgc", "groups": 2, "score": "cosine"}, r"score='cosine' must be one of logit, softmax"),
        ({"method": "flgc", "groups": 0}, r"groups=0 must be at least 1"),
        ({"method": "flgc", "groups": 65}, r"groups=65 must be at most in_channels=64"),
        ({"method": "grouped", "groups": 3}, r"groups=3 must divide in_channels=64.*method='flgc' takes any"),
        ({"method": "flgc-dup", "groups": 2, "top_k": 0}, r"top_k=0 must be at least 1"),
    ],
)
def test_bad_options(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        resnet50(**options)
