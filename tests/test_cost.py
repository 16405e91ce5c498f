"""Cost against closed formulas, PyTorch's own counter and the published tables."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from flgc_lib.cost import Cost, connections, count
from flgc_lib.figures import worked_example
from flgc_lib.frozen import freeze, load, save
from flgc_lib.layers import FLGConv2d
from flgc_lib.resnet import embed, resnet, resnet50

# Shares of ResNet-50 at 32 × 32 with the cifar stem: dense MACs over grouped MACs at G = 4, 8, 16.
SAVINGS = {
    "3x3": ("1.54", "1.69", "1.77"),
    "1x1": ("1.5", "1.63", "1.71"),
    "block": ("3.14", "4.87", "6.73"),
    "all": ("3.98", "7.92", "15.7"),
    "depthwise": ("4.86", "6.65", "8.15"),
}


def resnet50_macs(size=32, **options):
    with torch.device("meta"):  # shapes are enough; no weight is ever made
        return count(resnet50(**options), (3, size, size)).macs


def pytorch_macs(model, x):
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.eval()(x)
    return counter.get_total_flops() / 2  # it counts a multiplication and an addition as two


def with_groups(layer, channels, filters):
    """Puts channel c into group channels[c] and filter n into group filters[n]."""
    for logits, owner in ((layer.input_logits, channels), (layer.filter_logits, filters)):
        logits.data.copy_(torch.eye(layer.groups)[torch.tensor(owner)])
    return layer


# Closed formulas


@pytest.mark.parametrize("bias", [True, False])
def test_an_ordinary_convolution(bias):
    # Output 9 × 5: ⌊(17 + 2 - 3)/2⌋ + 1 by ⌊(9 + 2 - 3)/2⌋ + 1.
    conv = nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=bias)
    assert count(conv, (6, 17, 9)) == Cost(8 * 6 * 9 + 8 * bias, 8 * 6 * 9 * 9 * 5)


def test_a_grouped_convolution():
    assert count(nn.Conv2d(6, 8, (1, 3), groups=2, bias=False), (6, 5, 9)) == Cost(2 * 3 * 4 * 3, 2 * 3 * 4 * 3 * 5 * 7)


def test_unequal_groups():
    # 4, 1 and 2 channels; 1, 3 and 2 filters.
    layer = with_groups(FLGConv2d(7, 6, 3, groups=3, bias=True), [0, 0, 0, 0, 1, 2, 2], [0, 1, 1, 1, 2, 2])
    weights = (4 * 1 + 1 * 3 + 2 * 2) * 9
    assert count(layer, (7, 6, 8)) == Cost(weights + 6, weights * 4 * 6)


def test_an_empty_group_costs_nothing():
    layer = with_groups(FLGConv2d(4, 4, 1, groups=3), [0, 0, 1, 1], [0, 1, 2, 2])
    assert count(layer, (4, 5, 5)) == Cost(2 + 2, (2 + 2) * 25)


@pytest.mark.parametrize(("top_k", "score", "extra"), [(None, "logit", 0), (3, "logit", 1), (3, "softmax", 0)])
def test_a_copied_channel_is_counted_in_every_group_that_it_is_in(top_k, score, extra):
    layer = FLGConv2d(8, 4, 3, groups=2, padding=1, duplicate_top_k=top_k, score=score)
    layer.input_logits.data.copy_(worked_example.S)
    layer.filter_logits.data.copy_(worked_example.T)
    weights = (4 * 2 + (4 + extra) * 2) * 9  # 4 channels and 2 filters a group; the copy is in group 1
    assert count(layer, (8, 5, 6)) == Cost(weights, weights * 5 * 6)


def test_overlapping_groups_against_a_loop():
    torch.manual_seed(0)
    layer = FLGConv2d(20, 13, 3, groups=6, duplicate_top_k=3)
    inputs, filters = layer.input_membership(), layer.filter_membership()
    assert inputs.sum() > 20
    weights = sum(int(inputs[:, g].sum()) * int(filters[:, g].sum()) for g in range(6)) * 9
    assert connections(layer) == weights
    assert count(layer, (20, 4, 4)) == Cost(weights, weights * 4)


def test_linear_layers_at_one_and_many_positions():
    assert count(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 2, 2)) == Cost(65, 60)
    tokens = nn.Sequential(nn.Flatten(2), nn.Linear(6, 5, bias=False))  # (1, 3, 6) -> (1, 3, 5)
    assert count(tokens, (3, 2, 3)) == Cost(30, 30 * 3)

    class ChannelsLast(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 5, bias=False)

        def forward(self, x):
            return self.linear(x.permute(0, 2, 3, 1))  # (1, 4, 2, 3) -> (1, 4, 2, 5), as ConvNeXt does

    assert count(ChannelsLast(), (3, 4, 2)) == Cost(15, 15 * 8)


def test_parameters_are_what_inference_needs():
    torch.manual_seed(0)
    layer = FLGConv2d(12, 8, 3, groups=4, bias=True)
    model = nn.Sequential(layer, nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    connected = int(layer.connection_mask().sum()) * 9
    assert connected < layer.weight.numel()
    assert count(model, (12, 8, 8)).parameters == connected + 8 + 2 * 8 + 8 * 2 + 2


def test_half_precision_does_not_round_the_count():
    for dtype in (torch.bfloat16, torch.float64):
        torch.manual_seed(0)
        layer = FLGConv2d(64, 64, 3, groups=8)
        assert connections(layer.to(dtype)) == connections(layer.float())
        assert count(layer.to(dtype), (64, 8, 8)).macs == connections(layer) * 36
    assert connections(FLGConv2d(512, 256, 1, groups=1).half()) == 512 * 256, "more than half precision can hold"


# PyTorch's counter


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
@pytest.mark.parametrize("stride", [1, 2])
def test_grouped_convolutions_against_pytorchs_counter(groups, stride):
    conv = nn.Conv2d(16, 8, 3, stride, 1, groups=groups)
    assert count(conv, (16, 9, 7)).macs == pytorch_macs(conv, torch.zeros(1, 16, 9, 7))


@pytest.mark.parametrize(
    "options", [{}, {"method": "grouped", "groups": 4}, {"method": "grouped", "groups": 8, "depthwise": True}]
)
def test_whole_networks_against_pytorchs_counter(options):
    model = resnet((1, 2, 1, 1), width=0.25, where="all", stem="cifar", **options)
    cost = count(model, (3, 32, 32))
    assert cost.macs == pytorch_macs(model, torch.zeros(1, 3, 32, 32))
    assert cost.parameters == sum(p.numel() for p in model.parameters())


def test_learned_equal_groups_cost_what_grouped_convolutions_cost():
    options = {"width": 0.25, "groups": 4, "where": "all"}
    learned = resnet((1, 1, 1, 1), method="flgc", **options)
    for module in learned.modules():
        if isinstance(module, FLGConv2d):
            with_groups(
                module,
                [c % 4 for c in range(module.in_channels)],
                [n % 4 for n in range(module.out_channels)],
            )
    grouped = resnet((1, 1, 1, 1), method="grouped", **options)
    assert count(learned, (3, 32, 32)) == count(grouped, (3, 32, 32))


# Published numbers


def test_resnet50_on_imagenet():
    with torch.device("meta"):
        assert count(resnet50(1000, stem="imagenet"), (3, 224, 224)) == Cost(25_557_032, 4_089_184_256)


def test_macs_of_the_stems():
    assert f"{resnet50_macs(stem='paper') / 1e9:.2f}" == "0.08"
    assert f"{resnet50_macs(stem='cifar') / 1e9:.3f}" == "1.298"
    assert resnet50_macs(stem="cifar", method="dense", groups=8) == resnet50_macs(stem="cifar")


@pytest.mark.parametrize("where", SAVINGS)
def test_what_grouping_can_save_at_best(where):
    options = {"where": "1x1", "depthwise": True} if where == "depthwise" else {"where": where}
    dense = resnet50_macs(stem="cifar")
    savings = [dense / resnet50_macs(stem="cifar", method="grouped", groups=G, **options) for G in (4, 8, 16)]
    assert tuple(f"{saving:.3g}" for saving in savings) == SAVINGS[where]


# What counting leaves alone


def test_count_leaves_the_model_as_it_was():
    model = resnet((1, 1), width=0.25, method="flgc", groups=4).train()
    model.layer1.eval()
    called = []
    model.fc.register_forward_hook(lambda *_: called.append(True))
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}

    assert count(model, (3, 32, 32)) == count(model, (3, 32, 32))

    assert [module.training for module in model.modules()] == modes
    assert any(modes)
    assert not all(modes)
    assert [len(module._forward_hooks) for module in model.modules() if module._forward_hooks] == [1]
    assert len(called) == 2, "a hook of the model's own still works"
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items()), "no statistic moves"
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_count_leaves_the_model_as_it_was_when_it_fails():
    model = resnet((1,), width=0.25)
    with pytest.raises(RuntimeError, match=r"channels"):
        count(model, (4, 32, 32))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("size", [(3, 32), (1, 3, 32, 32), (3, 0, 32), (3, 32, -1)])
def test_bad_input_size(size):
    with pytest.raises(ValueError, match=r"input_size=\(.*\) must be \(channels, height, width\), for example"):
        count(nn.Conv2d(3, 8, 1), size)


# Other layers


class OtherLinear(nn.Linear):
    """A linear layer by another name."""


class Tokens(nn.Module):
    """Pixels as a sequence, for a layer that takes sequences."""

    def __init__(self, layer, channels=4):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 1)
        self.layer = layer

    def forward(self, x):
        tokens = self.conv(x).flatten(2).transpose(1, 2)  # (B, H · W, channels)
        if isinstance(self.layer, nn.MultiheadAttention):
            return self.layer(tokens, tokens, tokens)[0]
        return self.layer(tokens, tokens) if isinstance(self.layer, nn.Bilinear) else self.layer(tokens)


SEQUENCE = {
    # 12 · 4 for the convolution; then tokens times what each takes: projections to q, k, v and out, twice 12 · 12 · 4.
    "attention": (nn.MultiheadAttention(4, 2, batch_first=True), 12 * 4 * 12 + 12 * 4 * 4 + 2 * 12 * 12 * 4),
    "an encoder": (
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
        12 * 4 * 12 + 12 * 4 * 4 + 2 * 12 * 12 * 4 + 2 * 12 * 4 * 8,
    ),
    "another linear layer": (OtherLinear(4, 5), 12 * 4 * 5),
    "a GRU": (nn.GRU(4, 5, batch_first=True), 12 * 15 * (4 + 5)),
}


@pytest.mark.parametrize("kind", SEQUENCE)
def test_layers_of_sequences(kind):
    layer, macs = SEQUENCE[kind]
    model = Tokens(layer)
    assert count(model, (3, 3, 4)) == Cost(sum(p.numel() for p in model.parameters()), 12 * 3 * 4 + macs)


@pytest.mark.parametrize(
    ("layer", "size", "macs"),
    [
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 5, 5), 25 * 4 * 6 * 9),  # each input pixel is multiplied
        (nn.Sequential(nn.Flatten(2), nn.Conv1d(4, 6, 3)), (4, 5, 5), 23 * 4 * 6 * 3),
        (nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Conv3d(2, 6, 2)), (4, 5, 5), 16 * 2 * 6 * 8),
    ],
    ids=["transposed", "1-D", "3-D"],
)
def test_other_convolutions(layer, size, macs):
    assert count(layer, size).macs == macs


@pytest.mark.parametrize(
    ("layer", "name"), [(nn.LSTM(4, 5, batch_first=True), "rnn_layer"), (nn.Bilinear(4, 4, 2), "_trilinear")]
)
def test_what_is_not_counted_is_named(layer, name):
    with pytest.warns(UserWarning, match=f"not counted in the MACs of Tokens: .*{name}"):
        count(Tokens(layer), (3, 3, 4))


def test_a_layer_used_twice_has_its_parameters_once():
    layer = FLGConv2d(4, 4, 1, groups=2, bias=True)
    once, twice = count(layer, (4, 3, 3)), count(nn.Sequential(layer, nn.ReLU(), layer), (4, 3, 3))
    assert twice == Cost(once.parameters, 2 * once.macs)
    tied = FLGConv2d(4, 4, 1, groups=2, bias=True)
    for name in ("weight", "bias", "input_logits", "filter_logits"):
        setattr(tied, name, getattr(layer, name))
    assert count(nn.Sequential(layer, nn.ReLU(), tied), (4, 3, 3)) == twice


@pytest.mark.parametrize("shared", [("weight",), ("bias",), ("weight", "bias")])
def test_what_embedded_layers_share_counts_once(shared):
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
    for name in shared:
        setattr(model[2], name, getattr(model[1], name))
    torch.manual_seed(0)
    grouped = embed(model, 2)
    weights = connections(grouped[1]) + ("weight" not in shared) * connections(grouped[2])
    assert count(grouped, (4, 3, 3)).parameters == 4 * 4 + 4 + weights + 4 + 4 * ("bias" not in shared)
    assert count(embed(model, 1), (4, 3, 3)) == count(model, (4, 3, 3))


@pytest.mark.parametrize("kind", ["learned", "frozen"])
def test_images_that_the_network_adds_to_the_batch_count(kind):
    class BothWays(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(torch.cat([x, x.flip(3)]))

    expected = count(BothWays(nn.Conv2d(4, 4, 3)), (4, 5, 5))
    model = BothWays(FLGConv2d(4, 4, 3, groups=1, bias=True))
    if kind == "frozen":
        model = freeze(model, torch.randn(2, 4, 5, 5), tune=False)
    assert count(model, (4, 5, 5)) == expected


def test_one_image_without_a_batch_counts_as_one():
    class Alone(nn.Sequential):
        def forward(self, x):
            return super().forward(x[0])

    size = (4, 5, 6)
    assert count(Alone(FLGConv2d(4, 4, 3, groups=1)), size) == count(nn.Conv2d(4, 4, 3, bias=False), size)


def test_a_network_without_parameters_costs_nothing():
    assert count(nn.ReLU(), (3, 8, 8)) == Cost(0, 0)


@pytest.mark.parametrize("kind", ["attention", "a GRU", "a layer twice"])
def test_the_cost_stays_when_a_network_is_frozen_saved_and_loaded(kind, tmp_path):
    torch.manual_seed(0)
    twice = FLGConv2d(4, 4, 1, groups=2)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), twice, nn.ReLU(), twice)
    if kind != "a layer twice":
        model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), Tokens(SEQUENCE[kind][0]))
    expected = count(model, (3, 3, 4))
    frozen = freeze(model, torch.randn(2, 3, 3, 4), tune=False)
    assert count(frozen, (3, 3, 4)) == expected
    save(frozen, tmp_path / "frozen")
    assert count(load(tmp_path / "frozen"), (3, 3, 4)) == expected
