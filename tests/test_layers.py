"""FLGConv2d against the sum over groups of ordinary convolutions."""

from itertools import product

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from flgc_lib.figures import worked_example
from flgc_lib.grouping import straight_through
from flgc_lib.layers import FLGConv2d
from flgc_lib.methods import DrawnConv2d, RandomCopiesConv2d, RingConv2d

C, N = 12, 10  # neither is a multiple of 5 or 8


def learned_layer(G, kind="unequal", *, kernel_size=3, seed=0, dtype=torch.float64, **options):
    """A layer whose groups are unequal, of which some are empty, or of which some overlap."""
    torch.manual_seed(seed)
    layer = FLGConv2d(C, N, kernel_size, groups=G, **options).to(dtype)
    if G == 1:
        return layer
    with torch.no_grad():
        if kind == "empty":  # no channel in the first group, which has a filter, and no filter in the last
            layer.input_logits[:, 0] = -9
            layer.filter_logits[0, 0] = 9
            layer.filter_logits[:, -1] = -9
        if kind == "overlapping":  # channel 0 fits every group better than most members do
            layer.duplicate_top_k = 3
            layer.input_logits[0] = torch.linspace(9, 8.5, G)
    inputs, filters = layer.input_membership(), layer.filter_membership()
    assert len(set(inputs.sum(dim=0).tolist())) > 1
    assert kind != "empty" or not (inputs[:, 0].any() or filters[:, -1].any())
    assert kind != "overlapping" or inputs.sum() > C
    return layer


def gathered(layer, x, weight):
    """Σ over groups of an ordinary convolution on the gathered channels: the slow and obvious form."""
    inputs, filters = layer.input_membership(), layer.filter_membership()
    out = None
    for g in range(layer.groups):
        channels, rows = inputs[:, g].nonzero()[:, 0], filters[:, g].nonzero()[:, 0]
        if len(channels) and len(rows):
            part = F.conv2d(
                x[:, channels], weight[rows][:, channels], None, layer.stride, layer.padding, layer.dilation
            )
            if out is None:
                out = part.new_zeros(len(x), layer.out_channels, *part.shape[2:])
            out = out.index_add(1, rows, part)
    return out if layer.bias is None else out + layer.bias[:, None, None]


def logit_gradient(logits, upstream):
    """What the row softmax passes on: ∂L/∂S[c, g] = p[c, g] (upstream[c, g] - Σ_h p[c, h] upstream[c, h])."""
    out = torch.empty_like(logits)
    for c, (p, grad) in enumerate(zip(logits.softmax(dim=1), upstream, strict=True)):
        for g in range(len(p)):
            out[c, g] = p[g] * (grad[g] - sum(p[h] * grad[h] for h in range(len(p))))
    return out


def gradients_by_hand(layer, x, upstream):
    """∂L/∂S and ∂L/∂T from ∂L/∂(W ⊙ M), the gradient of an ordinary dense convolution."""
    W, S, T = layer.weight.detach(), layer.input_logits.detach(), layer.filter_logits.detach()
    A, B = layer.input_membership().to(W), layer.filter_membership().to(W)
    dense = torch.nn.grad.conv2d_weight(x, W.shape, upstream, layer.stride, layer.padding, layer.dilation)
    to_M = (W * dense).sum(dim=(2, 3))  # (N, C)
    to_A = torch.einsum("nc,ng->cg", to_M, B)  # M = B Aᵀ
    to_B = torch.einsum("nc,cg->ng", to_M, A)
    if layer.estimator == "masked":
        to_A, to_B = to_A * A, to_B * B
    return logit_gradient(S, to_A), logit_gradient(T, to_B)


def batch(dtype=torch.float64, channels=C, size=(9, 8)):
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(7), dtype=dtype)


# The layer is the sum over its groups

GEOMETRIES = [
    {"kernel_size": 3},
    {"kernel_size": 3, "stride": 2, "padding": 1, "bias": True},
    {"kernel_size": 3, "stride": (1, 2), "padding": 2, "dilation": 2},
    {"kernel_size": (1, 3), "padding": (0, 1), "dilation": (1, 2), "bias": True},
    {"kernel_size": 1, "stride": 2},
]
CASES = [(1, "unequal"), *product((3, 5, 8), ("unequal", "empty", "overlapping"))]


def assert_equals_gathered(layer, x):
    x.requires_grad_()
    out = layer(x)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(8), dtype=out.dtype)
    out.backward(upstream)

    gathered_x, gathered_weight = x.detach().clone().requires_grad_(), layer.weight.detach().clone().requires_grad_()
    expected = gathered(layer, gathered_x, gathered_weight)
    expected.backward(upstream, inputs=[gathered_x, gathered_weight])

    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(x.grad, gathered_x.grad)
    torch.testing.assert_close(layer.weight.grad, gathered_weight.grad)
    to_S, to_T = gradients_by_hand(layer, x.detach(), upstream)
    torch.testing.assert_close(layer.input_logits.grad, to_S)
    torch.testing.assert_close(layer.filter_logits.grad, to_T)
    if layer.bias is not None:
        torch.testing.assert_close(layer.bias.grad, upstream.sum(dim=(0, 2, 3)))


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize(("G", "kind"), CASES)
def test_forward_and_backward_equal_the_gathered_convolutions(G, kind, geometry):
    assert_equals_gathered(learned_layer(G, kind, **geometry), batch())


# In channels_last: 1×1, one position of the kernel on the padded map, and maps that are just too large for that.
MATRIX_PRODUCTS = [
    ((9, 8), {"kernel_size": 1, "stride": 2}),
    ((1, 1), {"kernel_size": 3, "padding": 1, "bias": True}),
    ((2, 2), {"kernel_size": 3, "padding": 1, "stride": 2}),
    ((2, 1), {"kernel_size": 3, "padding": 1}),
    ((3, 3), {"kernel_size": 3, "padding": 1, "stride": 2}),
    ((1, 4), {"kernel_size": (3, 5), "padding": (1, 1), "stride": (1, 2), "bias": True}),
    ((3, 3), {"kernel_size": 3}),
    ((1, 1), {"kernel_size": 3, "padding": 2, "dilation": 2}),
]


@pytest.mark.parametrize(("size", "geometry"), MATRIX_PRODUCTS, ids=str)
@pytest.mark.parametrize("kind", ["unequal", "empty", "overlapping"])
def test_channels_last_equals_the_gathered_convolutions(kind, size, geometry):
    layer = learned_layer(5, kind, **geometry).to(memory_format=torch.channels_last)
    assert_equals_gathered(layer, batch(size=size).contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize(("G", "kind"), CASES)
def test_single_precision_is_equal_to_1e_5(G, kind):
    layer = learned_layer(G, kind, padding=1, bias=True, dtype=torch.float32)
    x = batch(torch.float32)
    expected = gathered(layer, x, layer.weight)
    assert (layer(x) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", ["unequal", "overlapping"])
def test_masked_estimator_in_the_layer(kind):
    layer = learned_layer(5, kind, estimator="masked")
    x = batch()
    out = layer(x)
    upstream = torch.randn_like(out)
    out.backward(upstream)
    to_S, to_T = gradients_by_hand(layer, x, upstream)
    torch.testing.assert_close(layer.input_logits.grad, to_S)
    torch.testing.assert_close(layer.filter_logits.grad, to_T)


@pytest.mark.parametrize("kind", ["unequal", "empty", "overlapping"])
def test_every_logit_gets_a_gradient(kind):
    layer = learned_layer(5, kind)
    out = layer(batch())
    out.backward(torch.randn_like(out))
    assert layer.input_logits.grad.all()
    assert layer.filter_logits.grad.all()


def test_between_the_passes_it_keeps_less_than_a_mask_written_out():
    """In mixed precision, for wide layers: neither a masked weight nor the mask in single precision."""

    class WrittenOut(FLGConv2d):
        def forward(self, x):
            A = straight_through(self.input_logits, self.input_membership())
            B = straight_through(self.filter_logits, self.filter_membership())
            with torch.autocast("cpu", enabled=False):
                weight = self.weight * (B @ A.T)[:, :, None, None]
            return F.conv2d(x, weight, padding=self.padding)

    kept = {}
    for layer_class, size in product((FLGConv2d, WrittenOut), (1, 3)):
        storages = {}

        def pack(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor  # kept, so that no other one gets its address
            return tensor

        x = torch.randn(2, 64, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
        layer = layer_class(64, 64, size, groups=8, padding=size // 2).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            layer(x)
        kept[layer_class, size] = sum(t.untyped_storage().nbytes() for t in storages.values())
    for size in (1, 3):
        assert kept[FLGConv2d, size] < kept[WrittenOut, size]


def test_weights_behind_the_mask_get_no_gradient():
    layer = learned_layer(5)
    layer(batch()).square().sum().backward()
    assert torch.equal(layer.weight.grad.ne(0).any(dim=3).any(dim=2), layer.connection_mask().bool())


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_one_group_is_exactly_an_ordinary_convolution(geometry):
    layer = learned_layer(1, dtype=torch.float32, **geometry)
    for parameter in (layer.weight, layer.bias):  # sums of whole numbers are exact in any order
        if parameter is not None:
            parameter.data.mul_(50).round_()
    ordinary = nn.Conv2d(C, N, **({"bias": False} | geometry))
    ordinary.load_state_dict({k: v for k, v in layer.state_dict().items() if "logits" not in k})
    x = batch(torch.float32).mul(4).round()
    assert torch.equal(layer(x), ordinary(x))
    assert layer(x).std() > 1
    layer(x).sum().backward()
    ordinary(x).sum().backward()
    assert torch.equal(layer.weight.grad, ordinary.weight.grad)
    assert not layer.input_logits.grad.any(), "with one group there is nothing to choose"


@pytest.mark.parametrize("bias", [True, False])
def test_a_filter_whose_group_has_no_channel_outputs_its_bias_or_0(bias):
    layer = learned_layer(3, "empty", bias=bias)
    assert layer.filter_membership()[0].tolist() == [True, False, False]
    expected = layer.bias.detach()[0].item() if bias else 0.0
    assert layer(batch())[:, 0].unique().tolist() == [expected]


def test_equal_groups_are_the_grouped_convolution():
    layer = FLGConv2d(12, 8, 3, groups=4)
    ordinary = nn.Conv2d(12, 8, 3, groups=4, bias=False)
    with torch.no_grad():
        layer.input_logits.copy_(torch.eye(4).repeat_interleave(3, dim=0))
        layer.filter_logits.copy_(torch.eye(4).repeat_interleave(2, dim=0))
        for n in range(8):
            first = n // 2 * 3
            layer.weight[n, first : first + 3] = ordinary.weight[n]
    x = batch(torch.float32)
    torch.testing.assert_close(layer(x), ordinary(x), rtol=1e-5, atol=1e-6)


# The rule in the layer


def test_the_worked_example_in_the_layer():
    def mask(**options):
        layer = FLGConv2d(8, 4, 1, groups=2, **options)
        S, T = worked_example.S, worked_example.T
        layer.load_state_dict({"weight": layer.weight, "input_logits": S, "filter_logits": T})
        return ["".join(str(int(m)) for m in row) for row in layer.connection_mask()]

    alone = ["11110000", "00001111", "00001111", "11110000"]
    copied = ["11110000", "01001111", "01001111", "11110000"]
    assert mask() == alone
    assert mask(duplicate_top_k=1) == mask(duplicate_top_k=3) == mask(duplicate_top_k=5) == copied
    assert mask(duplicate_top_k=3, score="softmax") == alone


def test_top_k_decides_how_far_a_group_opens():
    # Group 0 has the scores 5, 3, 1: τ = 5, 4, 3 for k = 1, 2, 3. Channels 3 and 4 want in with 4.5 and 3.5.
    layer = FLGConv2d(5, 4, 1, groups=2)
    layer.input_logits.data.copy_(torch.tensor([(5.0, 0.0), (3.0, 0.0), (1.0, 0.0), (4.5, 9.0), (3.5, 9.0)]))
    for top_k, copied in {None: [False, False], 1: [False, False], 2: [True, False], 3: [True, True]}.items():
        layer.duplicate_top_k = top_k
        assert layer.input_membership()[3:, 0].tolist() == copied


def test_softmax_scores_can_copy_where_no_group_is_confident():
    layer = FLGConv2d(4, 3, 1, groups=3, duplicate_top_k=3, score="softmax")
    with torch.no_grad():  # channels 1 to 3 hold 0.34 of group 1 at most; channel 0 holds 0.49 of it
        layer.input_logits.copy_(
            torch.tensor([[1.0, 0.98, -2.0], [0.0, 0.01, 0.0], [0.0, 0.01, 0.0], [0.0, 0.01, 0.0]])
        )
    assert layer.input_membership().int().tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]]
    with torch.no_grad():  # a shift of a row changes its logits but not its softmax
        layer.input_logits[0] -= 5
    assert layer.input_membership()[0].int().tolist() == [1, 1, 0]
    layer.score = "logit"
    assert layer.input_membership()[0].int().tolist() == [1, 0, 0]


def test_groups_and_copies_follow_the_logits_in_every_forward_pass():
    layer = learned_layer(5, "overlapping")
    x = batch()
    before = layer(x)
    with torch.no_grad():
        layer.input_logits.copy_(layer.input_logits.roll(1, dims=0))
    after = layer(x)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, gathered(layer, x, layer.weight))
    layer.eval()
    assert torch.equal(layer(x), after), "evaluation uses the same groups as training"


def test_filters_are_never_copied():
    layer = learned_layer(5, "overlapping")
    assert layer.filter_membership().sum(dim=1).tolist() == [1] * N


def test_memberships_and_mask_have_the_documented_types():
    layer = learned_layer(5, "overlapping", dtype=torch.float32)
    A, B, M = layer.input_membership(), layer.filter_membership(), layer.connection_mask()
    assert (A.dtype, A.shape, B.dtype, B.shape) == (torch.bool, (C, 5), torch.bool, (N, 5))
    assert (M.dtype, M.shape, M.requires_grad) == (torch.float32, (N, C), False)
    assert torch.equal(M, (B.float() @ A.float().T).clamp(max=1))


def test_autocast_does_not_round_the_gradient_of_the_groups():
    layer = learned_layer(5, dtype=torch.float32)
    x = batch(torch.float32)
    dense = (layer.weight * layer.connection_mask()[:, :, None, None]).detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        learned, ordinary = layer(x), F.conv2d(x, dense)
    learned.sum().backward()
    ordinary.sum().backward()
    to_M = (layer.weight.detach() * dense.grad).sum(dim=(2, 3))
    expected = logit_gradient(layer.input_logits.detach(), to_M.T @ layer.filter_membership().float())
    torch.testing.assert_close(layer.input_logits.grad, expected, rtol=1e-5, atol=1e-6)


def test_in_autocast_gradients_of_the_groups_gradients_are_refused():
    layer, x = learned_layer(5, dtype=torch.float32), batch(torch.float32).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x).float().tanh().sum()
    (to_x,) = torch.autograd.grad(out, x, create_graph=True)  # does not pass through the mask
    (to_S,) = torch.autograd.grad(to_x.square().sum(), layer.input_logits, retain_graph=True)
    assert to_S.any()
    with pytest.raises(RuntimeError, match="leave autocast for this layer"):
        torch.autograd.grad(out, layer.weight, create_graph=True)


# Initialisation


@pytest.mark.parametrize("bias", [True, False])
def test_one_group_draws_what_an_ordinary_convolution_draws(bias):
    torch.manual_seed(0)
    layer = FLGConv2d(C, N, 3, groups=1, bias=bias)
    torch.manual_seed(0)
    ordinary = nn.Conv2d(C, N, 3, bias=bias)
    torch.testing.assert_close(layer.weight, ordinary.weight)
    if bias:
        torch.testing.assert_close(layer.bias, ordinary.bias)


def test_weights_account_for_the_fan_in_of_a_group():
    # A weight is uniform with variance 1/(3 fan-in), so a filter that sums over its fan-in has the variance 1/3.
    torch.manual_seed(0)
    x = torch.randn(4, 64, 12, 12)
    for G in (1, 8):
        layer = FLGConv2d(64, 64, 3, groups=G, bias=True)
        bound = (64 / G * 9) ** -0.5
        assert 0.99 * bound < layer.weight.abs().max() <= bound
        assert 0.8 * bound < layer.bias.abs().max() <= bound
        with torch.no_grad():  # equal groups, so that every filter has exactly C/G channels
            for logits in (layer.input_logits, layer.filter_logits):
                logits.copy_(torch.eye(G).repeat_interleave(64 // G, dim=0))
            layer.bias.zero_()
        assert layer(x).var().item() == pytest.approx(1 / 3, rel=0.06), f"G={G}"


def test_logits_are_standard_normal():
    torch.manual_seed(0)
    layer = FLGConv2d(256, 256, 1, groups=32)
    for logits in (layer.input_logits, layer.filter_logits):
        assert logits.mean().item() == pytest.approx(0, abs=0.05)
        assert logits.std().item() == pytest.approx(1, abs=0.05)
        assert logits.requires_grad
    assert not torch.equal(layer.input_logits, layer.filter_logits)


@pytest.mark.parametrize("cls", [RandomCopiesConv2d, RingConv2d])
def test_controls_equal_their_gathered_convolutions(cls):
    torch.manual_seed(0)
    layer = cls(C, N, 3, groups=5, padding=1, duplicate_top_k=3).double()
    assert layer.input_membership().sum() > C
    torch.testing.assert_close(layer(batch()), gathered(layer, batch(), layer.weight))


@pytest.mark.parametrize("learns", [True, False])
def test_in_a_soft_start_weights_outside_count_in_part(learns):
    layer, x = learned_layer(5), batch()
    layer.learns, layer.softness = learns, 0.25
    soft = layer.connection_mask() + 0.25 * (1 - layer.connection_mask())
    assert set(soft.unique().tolist()) == {0.25, 1}
    out = layer(x)
    torch.testing.assert_close(out, F.conv2d(x, layer.weight * soft[:, :, None, None]))
    out.sum().backward()
    assert (layer.input_logits.grad is not None) is learns
    assert layer.weight.grad.ne(0).all()
    layer.softness = 0.0
    torch.testing.assert_close(layer(x), gathered(layer, x, layer.weight))


@pytest.mark.parametrize("learns", [True, False])
def test_softness_may_be_a_tensor_that_changes_in_place(learns):
    """As in a CUDA graph: the operations stay, the number does not."""
    one, other, x = learned_layer(5), learned_layer(5), batch()
    softness = torch.zeros(())
    one.learns = other.learns = learns
    other.softness = softness
    for value in (1.0, 0.25, 0.0):
        one.softness = float(softness.fill_(value))
        for layer in (one, other):
            layer.zero_grad()
            layer(x).square().sum().backward()
        torch.testing.assert_close(other(x), one(x))
        for mine, theirs in zip(other.parameters(), one.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad)


# Bad input


@pytest.mark.parametrize("groups", [0, -2])
def test_groups_must_be_positive(groups):
    with pytest.raises(ValueError, match=rf"groups={groups} must be at least 1"):
        FLGConv2d(8, 8, 3, groups=groups)


def test_groups_must_not_exceed_the_channels():
    with pytest.raises(ValueError, match=r"groups=12 must be at most in_channels=8"):
        FLGConv2d(8, 16, 3, groups=12)
    with pytest.raises(ValueError, match=r"groups=12 must be at most out_channels=8"):
        FLGConv2d(16, 8, 3, groups=12)
    assert FLGConv2d(8, 16, 3, groups=8).groups == 8


@pytest.mark.parametrize("top_k", [0, -1])
def test_top_k_must_be_positive(top_k):
    with pytest.raises(ValueError, match=rf"duplicate_top_k={top_k} must be at least 1, or None"):
        FLGConv2d(8, 8, 3, groups=2, duplicate_top_k=top_k)


def test_unknown_score_and_estimator():
    with pytest.raises(ValueError, match=r"score='cosine' must be one of logit, softmax"):
        FLGConv2d(8, 8, 3, groups=2, score="cosine")
    with pytest.raises(ValueError, match=r"estimator='gumbel' must be one of full, masked"):
        FLGConv2d(8, 8, 3, groups=2, estimator="gumbel")


@pytest.mark.parametrize("logits", ["input_logits", "filter_logits"])
def test_nan_in_the_logits_is_refused_in_the_forward_pass(logits):
    layer = FLGConv2d(8, 8, 1, groups=2)
    getattr(layer, logits).data[3, 1] = torch.nan
    with pytest.raises(ValueError, match=r"S or T.* contain NaN.*diverged"):
        layer(torch.zeros(1, 8, 4, 4))


def test_an_input_with_other_channels_is_refused():
    with pytest.raises(RuntimeError, match=r"expected input.* to have 12 channels, but got 8"):
        learned_layer(3, dtype=torch.float32)(torch.zeros(1, 8, 5, 5))


# As nn.Conv2d does


def test_arguments_that_are_not_as_in_an_ordinary_convolution_are_refused():
    with pytest.raises(ValueError, match="padding='same' must be a number"):
        FLGConv2d(8, 8, 3, groups=2, padding="same")
    with pytest.raises(ValueError, match=r"\(2, 4\) is 'same'"):
        FLGConv2d(8, 8, (3, 5), groups=2, padding="same", dilation=2)
    with pytest.raises(TypeError):
        FLGConv2d(8, 8, 3, 2)  # the stride of nn.Conv2d
    with pytest.raises(TypeError):
        FLGConv2d(8, 8, 3, groups=2, padding_mode="circular")


@pytest.mark.parametrize("cls", [FLGConv2d, DrawnConv2d, RandomCopiesConv2d, RingConv2d])
def test_device_and_type_are_those_asked_for(cls):
    layer = cls(8, 8, 3, groups=2, duplicate_top_k=1, bias=True, dtype=torch.float64, device="meta")
    assert {(t.device.type, t.dtype) for t in layer.parameters()} == {("meta", torch.float64)}
    assert layer(torch.empty(2, 8, 5, 5, dtype=torch.float64, device="meta")).shape == (2, 8, 3, 3)


@pytest.fixture(params=[(3, False), (3, True), (1, True)], ids=["3x3", "3x3 channels last", "1x1 channels last"])
def watched(request):
    """A layer and an input for it, on each of the ways in which the layer computes."""
    size, last = request.param
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 6)
    layer = FLGConv2d(4, 6, size, groups=2, padding=size // 2, bias=True, duplicate_top_k=1)
    return layer, x.contiguous(memory_format=torch.channels_last) if last else x


def test_torch_func(watched):
    layer, x = watched
    parameters = dict(layer.named_parameters())

    def loss(parameters, x):
        return torch.func.functional_call(layer, parameters, (x,)).square().sum()

    loss(parameters, x).backward()
    for name, gradient in torch.func.grad(loss)(parameters, x).items():
        torch.testing.assert_close(gradient, parameters[name].grad)
    torch.testing.assert_close(torch.func.vmap(layer)(x[:, None])[:, 0], layer(x))
    by_image = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x[:, None])
    torch.testing.assert_close(by_image["weight"].sum(dim=0), layer.weight.grad)
    _, forward = torch.func.jvp(layer, (x,), (x,))
    bias = layer.bias[:, None, None]
    torch.testing.assert_close(forward, layer(x) - bias)  # it is linear but for the bias


@pytest.mark.filterwarnings("ignore")  # PyTorch's, about its own tracer
def test_jit_trace(watched):
    layer, x = watched
    traced = torch.jit.trace(layer, x)
    torch.testing.assert_close(traced(x + 1), layer(x + 1))


def test_fake_tensors_have_the_shape(watched):
    layer, x = watched
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert layer(mode.from_tensor(x)).shape == (2, 6, 6, 6)


def test_autocast_leaves_double_precision_alone(watched):
    layer, x = watched
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        assert layer.double()(x.double()).dtype == torch.float64
    with pytest.raises(RuntimeError, match=r"(?i)type|dtype"):
        layer(x)
