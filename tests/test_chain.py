"""Layers computed by one call of machine code: the same numbers as one by one, whatever is done to the network."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from flgc_lib.frozen import freeze, load, save
from flgc_lib.frozen.chain import Chain, Chained
from flgc_lib.frozen.convert import from_convolution
from flgc_lib.frozen.forms import FORMS
from flgc_lib.frozen.layer import FrozenConv2d, frozen_convolutions
from flgc_lib.layers import FLGConv2d
from flgc_lib.resnet import resnet

program = pytest.importorskip("flgc_lib.frozen.kernel.program", reason="pip install -e '.[fast]'")
BF16 = "bf16" in FORMS


class Net(nn.Module):
    """Branches, two sums, a result read twice, a pooling in the middle, a map that is returned."""

    def __init__(self):
        super().__init__()
        self.a = FLGConv2d(3, 8, 3, groups=2, padding=1)
        self.b = FLGConv2d(8, 8, 1, groups=3, bias=True, duplicate_top_k=1)
        self.c = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.d = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.e = nn.Conv2d(12, 12, 1, groups=3)
        self.f = nn.Conv2d(8, 12, 1, stride=2)

    def forward(self, x):
        x = torch.relu(self.a(x))
        x = torch.relu(self.c(self.b(x)) + x)
        y = torch.relu(self.e(self.d(x)) + self.f(x))
        y = nn.functional.max_pool2d(y, 2)
        return x, torch.relu(self.e(y) + y).mean((2, 3))


@pytest.fixture
def frozen():
    """A network all of whose layers the kernel computes, and which has computed once."""
    torch.manual_seed(0)
    network = freeze(Net().eval(), X, tune=False)
    for _, layer in frozen_convolutions(network):
        layer.use("indirect")
    network(X)
    return network


X = torch.randn(2, 3, 12, 8, generator=torch.Generator().manual_seed(0))


def same(network, x=X):
    """Whether the chains compute what the layers compute, and did compute."""
    layer_by_layer = network.network(x)
    calls = []
    compute, program.compute = program.compute, lambda *args: (calls.append(args), compute(*args))
    try:
        together = network(x)
    finally:
        program.compute = compute
    equal = all(torch.equal(a, b) for a, b in zip(leaves(together), leaves(layer_by_layer), strict=True))
    return equal and bool(calls)


def leaves(outputs):
    return outputs if isinstance(outputs, tuple) else [outputs]


@pytest.fixture(params=[1, 2])
def threads(request):
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    "form",
    ["indirect", pytest.param("bf16", marks=pytest.mark.skipif(not BF16, reason="this processor has no bf16"))],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_any_network(frozen, batch, form, threads):
    assert same(frozen, torch.randn(batch, 3, 12, 8))
    assert same(frozen, torch.randn(batch, 3, 17, 9))
    model = resnet((1, 2), 10, stem="paper", method="flgc-dup", groups=4, where="all").eval()
    network = freeze(model, torch.randn(batch, 3, 32, 32), tune=False)
    for _, layer in frozen_convolutions(network):
        layer.use(form)
    assert same(network, torch.randn(batch, 3, 32, 32))


class SideBySide(nn.Module):
    """Frozen layers that stand side by side and see different images: `second` says what the second one sees."""

    def __init__(self, second):
        super().__init__()
        for name, channels in {"a": (3, 8), "b": (3, 8), "c": (8, 3)}.items():
            setattr(self, name, from_convolution(nn.Conv2d(*channels, 3, padding=1)).use("indirect"))
        self.second = second

    def forward(self, x, z):
        z = self.second(x, z)
        return self.a(x), self.b(z), self.c(self.a(z), z), self.c(self.b(x), x)


class Layers(fx.Tracer):
    """Follows a network down to its frozen layers."""

    def is_leaf_module(self, module, name):
        return isinstance(module, FrozenConv2d)


@pytest.mark.parametrize("sizes", [(4, 1), (1, 4), (3, 2), (0, 2), (2, 0)])
@pytest.mark.parametrize(
    "second",
    [
        lambda x, z: z,  # a template, and the images that are searched for it
        lambda x, z: z[..., :5],
        lambda x, z: torch.cat([x[..., :8], x[..., 8:]]),  # crops
        lambda x, z: x.unfold(2, 8, 8).permute(0, 2, 1, 4, 3).flatten(0, 1),  # patches
        lambda x, z: x.sum(0, keepdim=True).expand(5, -1, -1, -1),
        lambda x, z: x[:, :, :1, :1].expand(-1, -1, 9, 9),
    ],
)
@torch.no_grad()
def test_layers_side_by_side_see_different_batches(second, sizes, threads):
    model = SideBySide(second)
    chained = Chained(fx.GraphModule(model, Layers().trace(model)))
    inputs = [torch.randn(size, 3, 16, 16) for size in sizes]
    assert [len(chain.layers) for chain in chained.chains] == [6]
    for actual, expected in zip(chained(*inputs), chained.network(*inputs), strict=True):
        assert torch.equal(actual, expected)


def test_what_is_searched_and_its_template():
    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)

        def forward(self, x, z):
            return self.a(x), self.b(z)

    model, inputs = Siamese(), (torch.randn(4, 3, 16, 16), torch.randn(1, 3, 16, 16))
    for actual, expected in zip(freeze(model, inputs, tune=False)(*inputs), model(*inputs), strict=True):
        torch.testing.assert_close(actual, expected)


def test_what_freezing_compares_is_the_chains(monkeypatch):
    model, compute = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)), Chain.forward
    monkeypatch.setattr(Chain, "forward", lambda *inputs: [2 * result for result in compute(*inputs)])
    assert "for the example output 0 differs" in freeze(model, X, tune=False).report()


def test_a_program_takes_one_number_of_images(frozen):
    layer = frozen_convolutions(frozen.network)[0][1].computation()
    steps = [program.Step(layer, 0, None), program.Step(layer, 1, None)]
    with pytest.raises(ValueError, match=r"one number of images, and got \[1, 4\]"):
        program.Program(steps, [(4, 3, 8, 8), (1, 3, 8, 8), (4, 8, 8, 8), (1, 8, 8, 8)], [2, 3])


def test_a_sum_takes_the_place_of_a_residual_that_is_read_for_the_last_time():
    calls = [(0, None), (1, None), (2, 1)]  # makes 3, in the place of 1
    calls += [(3, 3), (4, 0), (5, 2), (6, 4), (7, 4)]  # not of what is read too, an input, a result, what is read later
    steps = [program.Step(None, x, residual) for x, residual in calls]
    assert program._owners(steps, inputs=1, results=[2, 8]) == [0, 1, 2, 1, 4, 5, 6, 7, 4]


def test_a_network_in_several_forms(frozen):
    for name in dict(frozen_convolutions(frozen.network)):
        layer = frozen.network.get_submodule(name)
        assert same(frozen)
        layer.use("equal")
        assert same(frozen) or name == list(dict(frozen_convolutions(frozen.network)))[-1]
        layer.use("indirect")
        layer.use("dense")


def test_a_result_stays_when_the_network_computes_again(frozen):
    before = frozen(X)
    kept = [out.clone() for out in before]
    frozen(torch.randn_like(X))
    assert all(torch.equal(a, b) for a, b in zip(before, kept, strict=True))


def test_an_input_stays(frozen):
    x = X.clone()
    frozen(x)
    assert torch.equal(x, X)


def negate(layer):
    with torch.no_grad():
        layer.weight.neg_()


def put_other_data(layer):
    layer.weight.data = -layer.weight.data


def put_another_weight(layer):
    layer.weight = nn.Parameter(-layer.weight, requires_grad=False)


def load_another_weight(layer):
    layer.load_state_dict(layer.state_dict() | {"weight": -layer.weight})


def change_the_bias(layer):
    layer.bias.data.add_(1)
    layer.forget()


def read_other_channels(layer):
    layer.inputs.copy_(layer.inputs.flip(0))


@pytest.mark.parametrize(
    "change", [negate, put_other_data, put_another_weight, load_another_weight, change_the_bias, read_other_channels]
)
@pytest.mark.parametrize("which", [0, 3])
def test_a_change_of_a_layer_is_noticed(frozen, change, which):
    before = frozen(X)
    change(frozen_convolutions(frozen.network)[which][1])
    after = frozen(X)
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(frozen.network(X), after, strict=True))


def test_another_layer_in_a_layer_s_place(frozen):
    name, layer = frozen_convolutions(frozen.network)[1]
    other = copy.deepcopy(layer)
    negate(other)
    frozen.network.set_submodule(name, other)
    assert same(frozen)


def test_another_network(frozen):
    other = copy.deepcopy(frozen.network)
    negate(frozen_convolutions(other)[0][1])
    frozen.network = other
    assert same(frozen)


def test_a_graph_that_is_rewritten(frozen):
    before = frozen(X)
    output = frozen.network.graph.output_node()
    output.args = ((output.args[0][1], output.args[0][0]),)
    frozen.network.recompile()
    assert torch.equal(frozen(X)[1], before[0])


def test_hooks_are_called(frozen):
    seen = []
    name, layer = frozen_convolutions(frozen.network)[2]
    handle = layer.register_forward_hook(lambda *_: seen.append(name))
    frozen(X)
    assert seen == [name]
    handle.remove()
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, *_: seen.append(module) if isinstance(module, FrozenConv2d) else None
    )
    try:
        frozen(X)
    finally:
        handle.remove()
    assert len(seen) == 1 + len(frozen_convolutions(frozen.network)) + 1, "one layer is called twice"
    handle = frozen.network.register_forward_hook(lambda *_: seen.append("network"))
    frozen(X)
    assert seen[-1] == "network"


class Shortcut(nn.Module):
    """A shortcut that is made before a pooling, which ends a chain, and is added behind it."""

    def __init__(self):
        super().__init__()
        self.s, self.a = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, padding=1)
        self.b, self.c = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        s = self.s(x)
        return self.c(s), torch.relu(self.b(nn.functional.max_pool2d(self.a(x), 3, 1, 1)) + s)


@pytest.mark.parametrize("net", [Net, Shortcut])
def test_what_a_hook_keeps_stays(net):
    network = freeze(net().eval(), X, tune=False)
    expected = network(X)
    layers = [layer for _, layer in frozen_convolutions(network)]
    for hooked in [*([layer] for layer in layers), layers]:
        seen, kept = [], []
        handles = [layer.register_forward_hook(lambda *call, to=seen: to.append(call[-1])) for layer in hooked]
        handles += [layer.register_forward_hook(lambda *call, to=kept: to.append(call[-1].clone())) for layer in hooked]
        actual = network(X)
        for handle in handles:
            handle.remove()
        assert len(seen) >= len(hooked)
        assert all(torch.equal(a, b) for a, b in zip(seen, kept, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("x", [X, X[0]])
def test_a_hook_is_called_once_a_call(x):
    layer, seen = from_convolution(nn.Conv2d(3, 4, 3)), []
    layer.register_forward_pre_hook(lambda *_: seen.append("before"))
    layer.register_forward_hook(lambda *_: seen.append("after"))
    layer(x)
    assert seen == ["before", "after"]


def test_a_copy_has_memory_of_its_own(frozen):
    for twin in (copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):
        assert twin._chained is None
        before = twin(X)
        for _, layer in frozen_convolutions(frozen.network):
            negate(layer)
        assert all(torch.equal(a, b) for a, b in zip(twin(X), before, strict=True))


def test_other_types_layouts_and_numbers_of_dimensions(frozen):
    assert same(frozen, X.to(memory_format=torch.channels_last))
    x = X.clone().requires_grad_()
    frozen(x)[1].sum().backward()
    assert x.grad is not None
    double = copy.deepcopy(frozen)
    double.network.double()
    double.signature = None
    out = double(X.double())
    assert out[0].dtype == torch.float64
    torch.testing.assert_close(out[1].float(), frozen(X)[1])


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_gradient_of_a_weight(frozen, name):
    _, layer = frozen_convolutions(frozen.network)[1]
    tensor = getattr(layer, name).requires_grad_()
    frozen(X)[1].sum().backward()
    assert tensor.grad is not None


def test_inference_mode_and_a_saved_network(frozen, tmp_path):
    with torch.inference_mode():
        assert same(frozen)
    save(frozen, tmp_path / "frozen")
    with torch.inference_mode():
        assert same(load(tmp_path / "frozen"))


def test_what_follows_the_computation_sees_it(frozen):
    with torch.no_grad():
        y = torch.randn_like(X)
        torch.testing.assert_close(make_fx(frozen)(X)(y)[1], frozen(y)[1])
        with FlopCounterMode(display=False) as counted:
            frozen(X)
    assert counted.get_total_flops() > 0


def test_what_a_layer_does_not_take_is_refused_by_it(frozen):
    frozen.signature = None
    with pytest.raises(RuntimeError, match="channels"):
        frozen(torch.randn(2, 4, 12, 8))


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 12), st.integers(0, 6)), min_size=1, max_size=12))
def test_maps_in_use_together_lie_apart(maps):
    maps = sorted(maps, key=lambda m: m[1])
    sizes = {n: size for n, (size, _, _) in enumerate(maps)}
    lives = {n: (begin, begin + length) for n, (_, begin, length) in enumerate(maps)}
    places, room = program.place(sizes, lives)
    assert all(0 <= places[n] and places[n] + sizes[n] <= room for n in sizes)
    for a in sizes:
        for b in range(a):
            together = lives[a][0] <= lives[b][1] and lives[b][0] <= lives[a][1]
            apart = places[a] + sizes[a] <= places[b] or places[b] + sizes[b] <= places[a]
            assert apart or not together


def test_memory_is_used_again():
    """A row of layers needs two maps, however long it is."""
    sizes = dict.fromkeys(range(20), 16)
    _, room = program.place(sizes, {n: (n, n + 1) for n in sizes})
    assert room == 2 * 16


def test_chains_are_as_long_as_can_be(frozen):
    chains = frozen._chained.chains
    assert [len(chain.layers) for chain in chains] == [6, 1]
    assert isinstance(chains[0], Chain)
