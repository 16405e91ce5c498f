"""Learned layers in the hands of tools that know nothing of them: torch.fx, torch.compile, torchvision's and timm's."""

import copy
import pickle

import pytest
import timm
import torch
from timm.utils import reparameterize_model
from torch import fx, nn
from torchvision.models import resnet18
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from flgc_lib.cost import count
from flgc_lib.frozen import freeze
from flgc_lib.layers import FLGConv2d
from flgc_lib.methods import METHODS
from flgc_lib.resnet import embed, resnet


def images(size=32):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def learned(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, FLGConv2d)}


def small(method="flgc-dup", **options):
    torch.manual_seed(0)
    return resnet((1, 1), width=0.25, method=method, groups=4, **options)


# torch.fx


def test_a_learned_layer_is_one_node_of_a_traced_network():
    model = small(where="all")
    traced = fx.symbolic_trace(model)
    leaves = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert {name: traced.get_submodule(name) for name in leaves if name in learned(model)} == learned(model)
    for mode in (True, False):
        assert torch.equal(traced.train(mode)(images()), model.train(mode)(images()))
    layer = model.layer1[0].conv1
    before = traced(images())
    with torch.no_grad():
        layer.input_logits.copy_(layer.input_logits.roll(1, dims=1))
    assert not torch.allclose(traced(images()), before), "the groups are not a constant of the graph"


def test_a_traced_network_learns_its_groups():
    model = small(where="all")
    traced = pickle.loads(pickle.dumps(fx.symbolic_trace(model)))
    for network in (model, traced):
        network(images()).square().sum().backward()
    assert any((m.input_membership().sum() > m.in_channels) for m in learned(traced).values()), "copies"
    for name, parameter in model.named_parameters():
        assert torch.equal(traced.get_parameter(name).grad, parameter.grad), name
    assert all(m.input_logits.grad.any() for m in learned(traced).values())


def test_a_layer_called_twice_and_by_name_is_traced():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = FLGConv2d(8, 8, 3, groups=2, padding=1)

        def forward(self, image):
            return self.conv(self.conv(x=image))

    model = Twice()
    x = torch.randn(1, 8, 5, 5)
    assert torch.equal(fx.symbolic_trace(model)(x), model(x))


def test_torch_fx_cannot_look_into_a_layer():
    with pytest.raises(ValueError, match=r"as one step of a network, not look into it: trace .*nn.Sequential\(layer\)"):
        fx.symbolic_trace(FLGConv2d(8, 8, 3, groups=2))
    node = fx.Graph().placeholder("x")
    with pytest.raises(ValueError, match=r"as one step of a network"):
        FLGConv2d(8, 8, 3, groups=2)(fx.Proxy(node))


# torch.compile and torch.export


@pytest.mark.parametrize("learns", [True, False])
def test_compiled_in_one_graph_it_computes_and_learns_the_same(learns):
    torch._dynamo.reset()
    torch.manual_seed(0)
    layer = FLGConv2d(12, 10, 3, groups=5, padding=1, duplicate_top_k=3)
    layer.learns = learns
    x = torch.randn(2, 12, 6, 6)
    gradients = []
    for network in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        layer.zero_grad()
        out = network(x)
        out.square().sum().backward()
        gradients.append([out, *(p.grad for p in layer.parameters() if p.grad is not None)])
    assert len(gradients[1]) == (4 if learns else 2)
    torch.testing.assert_close(gradients[1], gradients[0])


def test_exported_it_computes_the_same():
    torch.manual_seed(0)
    layer, x = FLGConv2d(12, 10, 3, groups=5, padding=1, duplicate_top_k=3), torch.randn(2, 12, 6, 6)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))


@torch.no_grad()
def test_torch_compile_leaves_a_frozen_network_as_it_is():
    """In a network that is compiled around it, too: its layers are machine code already."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = nn.Sequential(FLGConv2d(3, 12, 3, groups=3), nn.BatchNorm2d(12), nn.ReLU()).eval()
    frozen, x = freeze(model, images(32)), images(32)
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(lambda x: frozen(x.sigmoid()).softmax(dim=1), backend=backend)
    assert torch.equal(compiled(x), frozen(x.sigmoid()).softmax(dim=1))
    steps = [node.name for graph in graphs for node in graph.graph.nodes if node.op.startswith("call")]
    assert steps == ["sigmoid", "softmax"]
    with pytest.raises(ValueError, match="has the size"):
        compiled(x[:, :2])


# Feature extractors


def test_torchvisions_feature_extractor_takes_an_embedded_network():
    torch.manual_seed(0)
    model = embed(resnet18(num_classes=10), 4, duplicate_top_k=3).eval()
    names, _ = get_graph_node_names(model)
    assert "layer1.0.conv1" in names
    features = create_feature_extractor(model, ["layer1.0.conv1", "layer3", "fc"])(images(64))
    assert torch.equal(features["fc"], model(images(64)))
    stem = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool, model.layer1[0].conv1)
    assert torch.equal(features["layer1.0.conv1"], stem(images(64)))
    features["layer3"].sum().backward()


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_timms_feature_wrappers_take_an_embedded_network(name):
    torch.manual_seed(0)
    model = embed(timm.create_model(name), 4, duplicate_top_k=3).eval()
    by_graph, by_hook = (
        wrapper(copy.deepcopy(model), out_indices=range(5))(images(64))
        for wrapper in (timm.models.FeatureGraphNet, timm.models.FeatureHookNet)
    )
    assert len(by_graph) == 5
    for ours, theirs in zip(by_graph, by_hook, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", ["list", "hook", "fx"])
def test_embed_takes_a_network_in_timms_feature_wrapper(kind):
    model = timm.create_model("test_resnet", features_only=True, feature_cls=kind).eval()
    with torch.no_grad():
        expected = [feature.shape for feature in model(images(64))]
        assert [feature.shape for feature in embed(model, 4)(images(64))] == expected
    assert len(expected) == 5


def test_embed_keeps_the_hooks_by_which_features_are_collected():
    """Those of timm's expansion features sit on convolutions."""
    model = timm.create_model("test_efficientnet", features_only=True, feature_location="expansion").eval()
    before = [feature.shape for feature in model(images(64))]
    assert [feature.shape for feature in embed(model, 4)(images(64))] == before
    assert len(before) == 5


# timm's fuse()


@pytest.mark.parametrize("method", [name for name, facts in METHODS.items() if facts.masked])
def test_timm_turns_a_trained_network_into_ordinary_convolutions(method):
    model = small(method, where="all").eval()
    state = torch.get_rng_state()
    fused = reparameterize_model(model)
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn"
    assert not learned(fused)
    assert not any("logits" in name for name in fused.state_dict())
    assert not any(m.training for m in fused.modules())
    assert torch.equal(fused(images()), model(images()))
    assert len(learned(model)) == 8, "the original is left alone"
    assert count(fused, (3, 32, 32)).macs > count(model, (3, 32, 32)).macs, "zeros are multiplied"


@pytest.mark.parametrize("softness", [0.0, 0.25])
def test_fuse_burns_the_mask_into_the_weight(softness):
    torch.manual_seed(0)
    layer = FLGConv2d(12, 10, (3, 1), groups=5, stride=2, padding=(1, 0), dilation=(2, 1), bias=True, duplicate_top_k=3)
    layer = layer.double().to(memory_format=torch.channels_last)
    layer.softness = softness
    conv = layer.fuse()
    assert type(conv) is nn.Conv2d
    for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "training"):
        assert getattr(conv, name) == getattr(layer, name), name
    M = layer.connection_mask()
    assert torch.equal(conv.weight, layer.weight * (M + softness * (1 - M))[:, :, None, None])
    assert torch.equal(conv.bias, layer.bias)
    assert conv.bias.data_ptr() != layer.bias.data_ptr()
    assert conv.weight.requires_grad
    x = torch.randn(2, 12, 9, 8, dtype=torch.float64)
    assert torch.equal(conv(x), layer(x))
    assert FLGConv2d(8, 8, 1, groups=2).eval().fuse().bias is None
