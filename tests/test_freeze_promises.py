"""What freeze promises, on networks that are hard to freeze: the outputs of model.eval(), or a sentence."""

import copy
import threading
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from sweep_freeze import is_wrong, read, sweep_one, table
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from flgc_lib.cost import count
from flgc_lib.frozen import FrozenNetwork, freeze, load, save
from flgc_lib.frozen.layer import FrozenConv2d
from flgc_lib.layers import FLGConv2d
from flgc_lib.resnet import embed

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
OTHER = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def assert_same(actual, expected, tolerance=1e-4):
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        actual, expected = list(actual.items()), list(expected.items())
    if isinstance(expected, list | tuple):
        assert len(actual) == len(expected)
        for a, b in zip(actual, expected, strict=True):
            assert_same(a, b, tolerance)
    elif isinstance(expected, torch.Tensor):
        assert actual.shape == expected.shape
        assert (actual - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1e-6)
    else:
        assert actual == expected


@torch.no_grad()
def assert_keeps_its_word(model, *inputs, others=None, file=None):
    """Freezes, compares for the example and for other inputs, and again after save and load where it can be saved."""
    frozen = freeze(model, inputs)
    frozen_layers = [m for m in frozen.modules() if isinstance(m, FrozenConv2d)]
    assert frozen_layers, frozen.report()
    model.eval()
    for x in (inputs, others or tuple(x * 2 + 1 for x in inputs)):
        assert_same(frozen(*x), model(*x))
    if file is not None:
        assert "captured as a whole" in frozen.report(), frozen.report()
        save(frozen, file)
        loaded = load(file)
        assert_same(loaded(*inputs), frozen(*inputs))
        save(loaded, file)
        assert_same(load(file)(*inputs), frozen(*inputs))
    return frozen


class Net(nn.Module):
    """Two convolutions, and a forward that a test brings along."""

    def __init__(self, forward, channels=8):
        super().__init__()
        self.c = FLGConv2d(3, channels, 3, groups=2, padding=1)
        self.bn = nn.BatchNorm2d(channels)
        self.d = FLGConv2d(channels, channels, 1, groups=2)
        self.relu = nn.ReLU(inplace=True)
        self.body = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.how = forward
        with torch.no_grad():
            for norm in (self.bn, self.body[1]):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        return self.how(self, x)


def overwrites_a_view(m, x):
    y = m.bn(m.c(x))
    a, _ = y.chunk(2, 1)
    a.relu_()
    return m.d(y) + y


def writes_a_slice(m, x):
    y = m.c(x)
    y[:, :1].mul_(0)
    return m.d(y) + y


def relu_of_a_slice(m, x):
    y = m.c(x)
    nn.ReLU(inplace=True)(y[:, :4])
    return y


def changes_what_was_read(m, x):
    h = m.c(x)
    y = m.d(h)
    F.elu_(h)
    return torch.relu(y) + h


def writes_zero(m, x):
    y = m.c(x)
    z = torch.empty_like(y)
    z.copy_(y)
    y.zero_()
    return m.d(z) + y


def reads_a_weight(m, x):
    return m.c(x) * m.c.weight.mean() + m.d.weight.sum()


def asserts_a_shape(m, x):
    assert x.shape[2] == x.shape[3], "square"
    return m.body(m.c(x))


def iterates(m, x):
    y = m.c(x)
    for layer in m.body:
        y = layer(y)
    return m.body[0](y)


def by_keyword(m, x):
    return m.d(m.c(x=x)) + m.body[0](input=m.c(x))


def adds_its_shape(m, x):
    return m.c(x).flatten(1) * x.shape[0] + x.shape[2]


def returns_a_dictionary(m, x):
    y = m.c(x)
    return OrderedDict([("out", m.d(y)), ("features", [y, (y.mean(), None, 3)])])


def mixes_the_batch(m, x):
    y = m.c(x)
    return y - y.mean(0)


def transposes(m, x):
    return m.c(x).transpose(0, 1)


def draws_noise(m, x):
    y = m.bn(m.c(x))
    return y, torch.randn_like(y).shape[0]


def looks_inside(m, x):
    y = m.c(x)
    if y.mean() > 100:
        return y
    return m.body(y) * m.d.kernel_size[0] + m.c.groups + m.c.stride[0] + m.d.padding[0]


def a_shared_layer(m, x):
    return m.d(torch.relu(m.d(m.c(x)))) + m.d(m.c(x))


def dropout_and_identity(m, x):
    return m.d(F.dropout(m.c(x), 0.5, m.training))


FORWARDS = [
    overwrites_a_view,
    writes_a_slice,
    relu_of_a_slice,
    changes_what_was_read,
    writes_zero,
    reads_a_weight,
    asserts_a_shape,
    iterates,
    by_keyword,
    adds_its_shape,
    returns_a_dictionary,
    mixes_the_batch,
    transposes,
    draws_noise,
    a_shared_layer,
    dropout_and_identity,
]


@pytest.mark.parametrize("forward", FORWARDS, ids=lambda f: f.__name__)
def test_a_forward(forward, tmp_path):
    torch.manual_seed(0)
    if forward is by_keyword:
        forward = lambda m, x: m.d(m.c(x=x)) + m.body[0](input=m.c(x))  # noqa: E731
    assert_keeps_its_word(Net(forward), X, file=tmp_path / "frozen")


def test_a_branch_on_values_keeps_its_modules():
    torch.manual_seed(0)
    frozen = assert_keeps_its_word(Net(looks_inside), X)
    assert "own modules" in frozen.report()


@torch.no_grad()
def test_a_norm_that_is_not_always_called_stays(capfd):
    torch.manual_seed(0)
    model = Net(lambda m, x: m.body(m.c(x)) if x.mean() > -9 else m.body[0](m.c(x))).eval()
    frozen = freeze(model, X, tune=False)
    for x in (X, X - 20):  # no comparison takes the branch
        assert_same(frozen(x), model(x))
    assert not capfd.readouterr().err  # torch.export would print the graph


def test_what_keeps_its_modules_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="freeze again after loading"):
        save(freeze(Net(looks_inside), X), tmp_path / "frozen")


def test_an_optional_argument_and_a_child_that_is_indexed(tmp_path):
    class Parent(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net(adds_its_shape)

        def forward(self, x, scale=None):
            y = self.net.body[0](self.net.c(x))
            return y if scale is None else y * scale

    assert_keeps_its_word(Parent(), X, file=tmp_path / "frozen")


def test_two_inputs_and_a_fixed_batch(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = FLGConv2d(3, 4, 3, groups=2)

        def forward(self, x, y):
            return self.c(x) * self.c(y)

    frozen = assert_keeps_its_word(Two(), X, X.flip(0), file=tmp_path / "frozen")
    with pytest.raises(ValueError, match="frozen for 2 inputs and got 1"):
        frozen(X)


class Free(nn.Module):
    """A convolution and a kernel, and a forward that a test brings along."""

    def __init__(self, forward):
        super().__init__()
        self.c = nn.Conv2d(3, 4, 3, padding=1)
        self.tied = nn.Conv2d(3, 4, 3, padding=1)
        self.tied.weight = self.c.weight
        self.register_buffer("ones", torch.ones(1, 4, 3, 3, dtype=torch.int64))
        self.how = forward

    def forward(self, x):
        return self.how(self, x)


@torch.no_grad()
@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: torch.cat([m.c(x), m.tied(x)], 1),
        lambda m, x: torch.where(x.mean() > 0.5, m.c(x), m.tied(x)),  # the example tells nothing of the first
        lambda m, x: (F.conv2d(x, m.c.weight, m.c.bias), F.conv2d(x, m.c.weight, m.tied.bias)),
    ],
)
def test_one_weight_with_two_biases(forward):
    torch.manual_seed(0)
    model = Free(forward).eval()
    frozen = freeze(model, X, tune=False)
    assert "captured as a whole" in frozen.report()
    for x in (X, X + 1):
        assert_same(frozen(x), model(x))
    assert count(frozen, (3, 8, 8)) == count(model, (3, 8, 8))


@torch.no_grad()
@pytest.mark.parametrize(
    ("forward", "why"),
    [
        (lambda m, x: F.conv2d(m.c(x), m.c.weight[:, :1], groups=4, padding=x.shape[2] // 4), "depends on the size"),
        (lambda m, x: F.conv2d(m.c(x), m.c.weight[:, :1], groups=4, dilation=x.shape[3] // 4), "depends on the size"),
        (lambda m, x: m.c(x) * F.conv2d((m.c(x) > 0).long(), m.ones, padding=1), "not of floating-point numbers"),
        (lambda m, x: F.conv2d(m.c(x).cfloat(), m.ones.cfloat()).abs(), "not of floating-point numbers"),
        (lambda m, x: F.conv2d(x, m.c(x)[:2, :3]), "its weights depend on the input"),
        (lambda m, x: F.conv2d(m.c(x), m.ones[..., :2, :2].float(), padding="same"), "uneven padding"),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding")
def test_a_convolution_that_is_left_alone(forward, why):
    torch.manual_seed(0)
    model = Free(forward).eval()
    frozen = freeze(model, X, tune=False)
    assert "1 convolutions" in frozen.report() or "2 convolutions" in frozen.report()
    assert why in frozen.report()
    assert_same(frozen(X), model(X))


def checks_a_map(m, x):
    torch._assert_async(m.c(x).max() < 100, "too large")
    return m.c(x)


def checks_a_number(m, x):
    times = x.max().int().item() + 10
    torch._check(times < 100)
    return m.c(x) * times


def checks_before_it_writes(m, x):
    y = m.c(x)
    z = y[:, :2]
    torch._assert_async(z.max() < 100, "too large")
    return y.mul_(2)


@torch.no_grad()
@pytest.mark.parametrize("forward", [checks_a_map, checks_a_number, checks_before_it_writes])
def test_a_check_of_values_stays(forward, tmp_path):
    model = Free(forward).eval()
    frozen = freeze(model, X, tune=False)
    assert "captured as a whole" in frozen.report()
    save(frozen, tmp_path / "frozen")
    for network in (model, frozen, load(tmp_path / "frozen")):
        assert_same(network(X), model(X))
        with pytest.raises(RuntimeError):
            network(X + 1000)


class Own(FLGConv2d):
    def forward(self, x):
        return super().forward(x) + 1


def test_a_layer_with_a_forward_of_its_own(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Own(8, 8, 3, groups=2, padding=1), nn.ReLU())
    assert_keeps_its_word(model, X, file=tmp_path / "frozen")


@torch.no_grad()
@pytest.mark.parametrize("forward", [looks_inside, adds_its_shape])
def test_a_layer_that_was_given_a_forward_of_its_own(forward):
    torch.manual_seed(0)
    model = Net(forward).eval()
    model.add_module("again", model.c)
    for layer in (model.c, model.body[0]):
        layer.forward = lambda x, before=layer.forward: before(x) * 2
    frozen = freeze(model, X, tune=False)
    for x in (X, X * 2 + 1):
        assert_same(frozen(x), model(x))


@torch.no_grad()
def test_a_learned_layer_with_two_names():
    layer = FLGConv2d(8, 8, 1, groups=2)
    model = nn.Sequential(FLGConv2d(3, 8, 1, groups=2), layer, nn.ReLU(), layer).eval()
    frozen = freeze(model, X, tune=False)
    assert_same(frozen(X), model(X))
    assert count(frozen, (3, 8, 8)) == count(model, (3, 8, 8))


def test_inside_autocast_there_is_a_sentence():
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="freeze outside of it, or in `with"):
        freeze(nn.Conv2d(3, 4, 1), X)


@torch.no_grad()
def test_a_layer_of_complex_numbers_in_a_network_that_keeps_its_modules():
    model = Net(lambda m, x: m.body(m.c(x)) if x.mean() > -9 else m.d(m.c(x).cfloat()).abs()).eval()
    model.d = nn.Conv2d(8, 8, 1, dtype=torch.complex64)
    frozen = freeze(model, X, tune=False)
    assert_same(frozen(X), model(X))
    assert_same(frozen(X - 20), model(X - 20))


@pytest.mark.parametrize("hook", ["forward", "pre", "inside"])
def test_hooks(hook):
    model = nn.Sequential(FLGConv2d(3, 8, 3, groups=2), nn.BatchNorm2d(8), nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()))
    if hook == "forward":
        model[0].register_forward_hook(lambda m, x, y: y * 2)
    elif hook == "pre":
        model.register_forward_pre_hook(lambda m, x: (x[0] + 1,))
    else:
        model[2][0].register_forward_hook(lambda m, x, y: y - 1)
    assert_keeps_its_word(model, X)


def test_a_hook_that_only_looks_still_looks():
    seen = []
    model = nn.Sequential(FLGConv2d(3, 8, 3, groups=2), nn.ReLU())
    model[1].register_forward_hook(lambda m, x, y: seen.append(y.detach()))
    frozen = freeze(model, X)
    seen.clear()
    frozen(OTHER)
    assert len(seen) == 1
    assert type(seen[0]) is torch.Tensor


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "norm", [weight_norm, spectral_norm, parametrizations.weight_norm, parametrizations.spectral_norm, "prune"]
)
def test_weights_that_are_computed_in_every_call(norm, tmp_path):
    def make():
        torch.manual_seed(3)
        conv = nn.Conv2d(3, 8, 3)
        if norm == "prune":
            prune.random_unstructured(conv, "weight", 0.5)
        else:
            norm(conv)
        return nn.Sequential(conv, nn.BatchNorm2d(8), FLGConv2d(8, 8, 1, groups=2), nn.ReLU())

    model = make()
    state = {
        key: torch.randn_like(value) if value.is_floating_point() else value
        for key, value in make().state_dict().items()
    }
    state["1.running_var"] = state["1.running_var"].abs() + 1
    if norm == "prune":
        state["0.weight_mask"] = (state["0.weight_mask"] > 0).float()
    model.load_state_dict(state)  # the old kinds keep the weight of before until the next call
    frozen = assert_keeps_its_word(model, X, file=tmp_path / "frozen")
    assert "captured as a whole" in frozen.report()
    assert "1 norms" in frozen.report()


def test_a_network_in_its_soft_start(tmp_path):
    model = nn.Sequential(FLGConv2d(3, 8, 3, groups=2), nn.ReLU())
    model[0].softness = 0.7
    assert_keeps_its_word(model, X, file=tmp_path / "frozen")


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = FLGConv2d(3, 4, 1, groups=2)

    def forward(self, x):
        y = self.c(x)
        return y + torch.randn(y.shape)


@torch.no_grad()
def test_noise_stays_noise(tmp_path):
    frozen = freeze(Noisy(), X)
    torch.manual_seed(5)
    first, second = frozen(X), frozen(X)
    assert not torch.equal(first, second)
    save(frozen, tmp_path / "frozen")
    torch.manual_seed(5)
    assert torch.equal(load(tmp_path / "frozen")(X), first)


def in_a_module(y):
    module = nn.Identity()
    module.map = y
    return [module]


@pytest.mark.parametrize("kept", [lambda y: [y], lambda y: {"a": (y, y.mean())}, in_a_module])
def test_a_network_that_keeps_its_maps(kept):
    class Keeps(nn.Sequential):
        def forward(self, x):
            y = self[0](x)
            self.maps = kept(y)
            return self[1](y)

    model = Keeps(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1))
    expected = model(X).detach()
    assert_same(freeze(model, X, tune=False)(X), expected)
    assert_same(embed(model, 1)(X).detach(), expected)
    assert model(X).requires_grad


def test_a_network_that_holds_what_cannot_be_copied():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 1)), nn.Conv2d(8, 8, 1))
    model[0].lock = threading.Lock()
    for way in (freeze, lambda model: embed(model, 2)):
        with pytest.raises(ValueError, match=r"Sequential cannot be copied, because 0\.lock cannot .* set it to None"):
            way(model)


def test_a_network_whose_train_returns_nothing():
    class Silent(nn.Sequential):
        def train(self, mode=True):
            super().train(mode)

        def requires_grad_(self, requires_grad=True):
            super().requires_grad_(requires_grad)

    model = Silent(FLGConv2d(3, 8, 1, groups=2))
    for network in (model, nn.Sequential(model, nn.ReLU())):
        network.eval()
        assert_same(freeze(network, X, tune=False)(X), network(X).detach())


def test_a_compiled_network_is_frozen_all_the_same():
    model = nn.Sequential(FLGConv2d(3, 8, 3, groups=2), nn.BatchNorm2d(8), nn.ReLU())
    inner = nn.Sequential(torch.compile(copy.deepcopy(model)), nn.Conv2d(8, 8, 1))
    for compiled, plain in ((torch.compile(model), model), (inner, nn.Sequential(model, inner[1]))):
        plain.eval()
        if plain is not model:
            plain[0].load_state_dict(inner[0]._orig_mod.state_dict())
        frozen = freeze(compiled, X)
        assert any(isinstance(m, FrozenConv2d) for m in frozen.modules())
        with torch.no_grad():
            assert_same(frozen(X), plain(X))


@torch.no_grad()
def test_changed_parameters_take_effect():
    model = nn.Sequential(FLGConv2d(3, 8, 3, groups=2, bias=True), nn.ReLU()).eval()
    frozen = freeze(model, X)
    before = frozen(X)
    assert not any(p.requires_grad for p in frozen.parameters())
    for p in frozen.parameters():
        p.mul_(2)
    assert_same(frozen(X), before * 2)
    state = {key: value / 2 if value.is_floating_point() else value for key, value in frozen.state_dict().items()}
    assert_same(torch.func.functional_call(frozen, state, (X,)), before)
    assert_same(frozen(X), before * 2)
    frozen.load_state_dict(state)
    assert_same(frozen(X), before)
    for p in frozen.parameters():
        p.data = p.data * 3
    assert_same(frozen(X), before * 3)


@torch.no_grad()
def test_indices_that_point_nowhere_are_refused():
    frozen = freeze(nn.Sequential(FLGConv2d(3, 8, 3, groups=2)), X)
    layer = next(m for m in frozen.modules() if isinstance(m, FrozenConv2d))
    layer.inputs[0] = 70_000
    with pytest.raises(ValueError, match="inputs must lie"):
        frozen(X)


def test_freezing_twice(tmp_path):
    model = nn.Sequential(FLGConv2d(3, 8, 3, groups=2), nn.BatchNorm2d(8), nn.ReLU()).eval()
    frozen = freeze(freeze(model, X), X)
    with torch.no_grad():
        assert_same(frozen(X), model(X))
        save(frozen, tmp_path / "frozen")
        assert_same(load(tmp_path / "frozen")(X), model(X))


def test_buffers_that_are_not_saved(tmp_path):
    class Buffered(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = FLGConv2d(3, 4, 1, groups=2)
            self.register_buffer("shift", torch.randn(4, 1, 1), persistent=False)

        def forward(self, x):
            return torch.tanh(self.c(x)) + self.shift

    assert_keeps_its_word(Buffered(), X, file=tmp_path / "frozen")


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers(kind, tmp_path):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = FLGConv2d(3, 4, 1, groups=2)
            self.r = kind(4, 5, batch_first=True)

        def forward(self, x):
            return self.r(self.c(x).mean(3).transpose(1, 2))[0]

    assert_keeps_its_word(Recurrent(), X, file=tmp_path / "frozen")


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = FLGConv2d(3, 4, 1, groups=2)
        self.register_buffer("calls", torch.zeros(()))
        self.times = 0

    def forward(self, x):
        self.calls += 1
        self.times += 1
        return self.c(x) * self.calls + self.times


@torch.no_grad()
def test_a_network_that_counts_its_calls():
    model = Counts().eval()
    frozen = freeze(model, X)
    assert model.times == 0
    fresh = copy.deepcopy(model)
    for _ in range(3):
        assert_same(frozen(X), fresh(X))


@torch.no_grad()
def test_a_network_that_changes_its_input():
    class Changes(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = FLGConv2d(3, 4, 1, groups=2)

        def forward(self, x):
            return self.c(x.mul_(2))

    model, x = Changes().eval(), X.clone()
    frozen = freeze(model, x)
    assert torch.equal(x, X)
    a, b = X.clone(), X.clone()
    assert_same(frozen(a), model(b))
    assert torch.equal(a, b)


def test_what_differs_is_refused():
    class Fickle(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.c(x) if isinstance(self.c, nn.Conv2d) and float(x.sum()) < 1e9 else x

    with pytest.raises(ValueError, match="cannot be frozen with the same outputs"):
        freeze(Fickle(), X)


def test_nothing_to_freeze_in_a_network_that_cannot_be_captured():
    class Plain(nn.Module):
        def forward(self, x):
            return x if float(x.sum()) < 1e9 else -x

    with pytest.raises(ValueError, match="no convolution that could be frozen"):
        freeze(Plain(), X)


def test_the_cost_of_one_image_without_a_batch():
    """A network that keeps its modules has frozen layers for it too."""
    frozen = freeze(Net(lambda m, x: m.c(x) if x.sum() > 0 else -m.c(x)), torch.randn(3, 5, 7), tune=False)
    assert "own modules" in frozen.report()
    assert f": {frozen.network.c.weight.numel() * 5 * 7:,}, " in frozen.report()


def test_without_an_example_one_is_made_up():
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    frozen = freeze(model)
    assert "outputs compared" in frozen.report()
    x = torch.randn(1, 4, 11, 13)
    with torch.no_grad():
        assert_same(frozen(x), model(x))
    with pytest.raises(ValueError, match="give an example of what it takes"):
        freeze(nn.Sequential(nn.Flatten(), nn.Linear(10, 2)))


def test_sizes_that_were_not_promised_get_a_sentence(tmp_path):
    class OneSize(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = FLGConv2d(3, 4, 1, groups=2)
            self.fc = nn.Linear(4 * 64, 5)

        def forward(self, x):
            return self.fc(self.c(x).flatten(1))

    frozen = assert_keeps_its_word(OneSize(), X, others=(OTHER,), file=tmp_path / "frozen")
    for network in (frozen, load(tmp_path / "frozen")):
        for wrong, why in ((torch.randn(2, 3, 9, 8), "are not such that"), (X.double(), "float64"), (X[0], "the size")):
            with pytest.raises(ValueError, match=why):
                network(wrong)


def test_a_frozen_network_stays_in_eval_mode():
    frozen = freeze(Net(looks_inside), X)
    frozen.train()
    assert not any(m.training for m in frozen.modules())
    assert isinstance(frozen, FrozenNetwork)


def test_the_report_says_what_was_done():
    text = freeze(Net(dropout_and_identity), X).report()
    for word in ("captured as a whole", "2 convolutions", "takes: (any, 3", "compared", "times fewer", "measured"):
        assert word in text


CI = [
    *(("timm", name, f"test_{name}") for name in ("vit", "resnet", "efficientnet", "convnext", "byobnet", "nfnet")),
    *(("timm", "", name) for name in ("mobilenetv3_small_050", "lcnet_035")),
    *(("smp", name, f"{name}-resnet18") for name in ("FPN", "Linknet")),
    ("torchvision", "classification", "shufflenet_v2_x0_5"),
    ("torchvision", "segmentation", "lraspp_mobilenet_v3_large"),
]


@pytest.mark.parametrize("network", CI, ids=lambda network: network[2])
def test_networks_of_others(network):
    """Twelve of the sweep's."""
    row = sweep_one(*network)
    assert row["way"] in ("whole", "partly", "convolutions"), row
    assert row["convolutions"] > 0
    assert not is_wrong(row), row
    assert row["example"] == row["batch"] == "same"


@torch.no_grad()
def test_a_frozen_layer_in_double_precision_takes_what_a_convolution_would():
    layer = next(m for m in freeze(nn.Sequential(FLGConv2d(3, 8, 3, groups=2)), X).modules() if hasattr(m, "form"))
    layer.use("indirect" if "indirect" in layer.available_forms() else "equal")
    expected = layer(X)
    layer.double()
    with pytest.raises(RuntimeError, match="type"):
        layer(X)
    assert_same(layer(X.double()).float(), expected)


def test_what_a_saved_file_replaces_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    frozen, path = freeze(nn.Sequential(FLGConv2d(3, 8, 3, groups=2)), X), tmp_path / "frozen"
    save(frozen, path)
    before = path.read_bytes()

    def stops(part, data):
        part.write_text("half", encoding="utf-8")
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", stops)
    with pytest.raises(OSError, match="no space left"):
        save(frozen, path)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [before]


class BranchesOnItsBatch(nn.Module):
    """Does the same for one image as for several, in its own way, as attention with one broadcast table does."""

    def __init__(self):
        super().__init__()
        self.c = FLGConv2d(3, 4, 1, groups=2)

    def forward(self, x):
        y = self.c(x)
        return y + 1 if len(x) == 1 else torch.cat([y[:1], y[1:]]) + 1


@torch.no_grad()
def test_one_image_as_the_example_leaves_the_batch_free():
    model = nn.Sequential(FLGConv2d(3, 8, 3, groups=2), nn.Flatten())
    frozen = freeze(model, X[:1])
    for x in (X[:1], X, OTHER):
        assert_same(frozen(x), model(x))


@torch.no_grad()
def test_a_network_that_goes_another_way_with_another_batch_is_frozen_for_its_example_s_alone():
    model = BranchesOnItsBatch()
    frozen = freeze(model, X[:1])
    assert_same(frozen(X[:1]), model(X[:1]))
    with pytest.raises(ValueError, match=r"cannot take this: sizes .* are not such that"):
        frozen(X)


def test_the_page_says_what_the_sweep_found():
    root = Path(__file__).parents[1]
    rows = read(root / "data" / "results" / "freeze.csv")
    assert not [row["name"] for row in rows if is_wrong(row)]
    assert table(rows) in (root / "docs" / "freezing.md").read_text(encoding="utf-8")
