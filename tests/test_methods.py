"""The controls against what they control for, and the table of methods."""

from itertools import product
from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flgc_lib.clustered import BudgetConv2d, ClusteredConv2d, RandomBudgetConv2d, RandomSelectionConv2d, SelectedConv2d
from flgc_lib.controls import DrawnConv2d, RandomCopiesConv2d, RingConv2d
from flgc_lib.figures import worked_example
from flgc_lib.grouping import connection_mask, membership
from flgc_lib.layers import FLGConv2d
from flgc_lib.methods import METHODS, Method, method_layer

# The controls


def built(cls, seed, channels=24, filters=16, groups=8, **options):
    """A layer from a seed, and the global generator's state after it."""
    torch.manual_seed(seed)
    return cls(channels, filters, 1, groups=groups, **({"duplicate_top_k": 3} | options)), torch.get_rng_state()


def rule_copies(layer):
    """The copies of FLGConv2d: what the rule asks for."""
    return layer.input_membership() & ~membership(layer.input_logits)


@pytest.mark.parametrize("score", ["logit", "softmax"])
def test_random_copies_are_as_many_as_the_rules_and_never_members(score):
    differ = 0
    for seed in range(20):
        rule, state = built(FLGConv2d, seed, score=score)
        control, control_state = built(RandomCopiesConv2d, seed, score=score)
        assert torch.equal(state, control_state), "the next layer draws what it would have drawn"
        for name in ("weight", "input_logits", "filter_logits"):
            assert torch.equal(getattr(rule, name), getattr(control, name)), name
        members = membership(control.input_logits)
        copies = control._copies(members, 3)
        assert not (copies & members).any()
        assert torch.equal(copies.sum(dim=0), rule_copies(rule).sum(dim=0))
        assert torch.equal(control.input_membership(), members | copies)
        assert torch.equal(control.input_membership(), control.input_membership()), "the draw is fixed"
        differ += not torch.equal(copies, rule_copies(rule))
    assert differ > 10


def test_every_foreign_channel_is_as_likely_to_be_the_random_copy():
    draws, drawn = 400, torch.zeros(8, 2)
    for seed in range(draws):
        control, _ = built(RandomCopiesConv2d, seed, channels=8, filters=4, groups=2)
        control.input_logits.data.copy_(worked_example.S)
        drawn += control.input_membership() & ~membership(worked_example.S)
    assert not drawn[:, 0].any(), "the rule copies nothing into group 0"
    assert not drawn[4:, 1].any()
    assert drawn[:, 1].sum() == draws, "and one channel into group 1"
    spread = (0.25 * 0.75 * draws) ** 0.5
    assert ((drawn[:4, 1] - draws / 4).abs() < 4 * spread).all(), drawn[:4, 1]


def test_random_copies_survive_a_state_dict():
    control, _ = built(RandomCopiesConv2d, 0)
    other, _ = built(RandomCopiesConv2d, 1)
    assert not torch.equal(other.priority, control.priority)
    other.load_state_dict(control.state_dict())
    assert torch.equal(other.input_membership(), control.input_membership())


@pytest.mark.parametrize(("channels", "filters", "groups"), [(24, 16, 8), (20, 13, 6)])
def test_ring_groups_are_contiguous_and_overlap_by_the_rules_counts(channels, filters, groups):
    wrapped = 0
    for seed in range(20):
        rule, state = built(FLGConv2d, seed, channels, filters, groups)
        ring, ring_state = built(RingConv2d, seed, channels, filters, groups)
        assert torch.equal(state, ring_state)
        assert torch.equal(rule.weight, ring.weight)
        wanted = rule_copies(rule).sum(dim=0)

        own = membership(ring.input_logits)
        for owner in (own.int().argmax(dim=1), ring.filter_membership().int().argmax(dim=1)):
            sizes = owner.bincount(minlength=groups)
            assert torch.equal(owner, owner.sort().values), "contiguous"
            assert sizes.max() - sizes.min() <= 1

        expected = own.clone()
        for g in range(groups):
            last = int(own[:, g].nonzero().max())
            for step in range(1, int(wanted[g]) + 1):
                expected[(last + step) % channels, g] = True
        assert torch.equal(ring.input_membership(), expected)
        assert torch.equal(expected.sum(dim=0) - own.sum(dim=0), wanted), "as many copies as the rule's"
        wrapped += int(wanted[-1])
    assert wrapped > 0, "the last group's neighbour is the first"


def test_ring_is_fixed_and_still_learns_its_weights():
    ring, _ = built(RingConv2d, 0)
    ring(torch.randn(2, 24, 9, 8)).square().sum().backward()
    assert not ring.input_logits.requires_grad
    assert not ring.filter_logits.requires_grad
    assert ring.input_logits.grad is ring.filter_logits.grad is None
    assert torch.equal(ring.weight.grad.ne(0)[:, :, 0, 0], ring.connection_mask().bool())


# Groups from the weights


def clustered(**options):
    torch.manual_seed(0)
    return ClusteredConv2d(16, 24, 3, groups=4, padding=1, **options)


def test_clusters_start_equal_and_random_with_the_weights_of_flgc():
    layer = clustered()
    for members, size in ((layer.input_membership(), 4), (layer.filter_membership(), 6)):
        assert members.sum(dim=0).tolist() == [size] * 4
        assert not torch.equal(members, F.one_hot(torch.arange(4 * size) // size, 4).bool())
    torch.manual_seed(0)
    assert torch.equal(layer.weight, FLGConv2d(16, 24, 3, groups=4).weight)
    assert not layer.input_logits.requires_grad
    assert not layer.filter_logits.requires_grad


def test_regrouping_follows_the_weights_and_says_what_is_important():
    layer = clustered(duplicate_top_k=1)
    assert layer.input_membership().sum() == 16, "before anything is important, nothing is copied"
    planted = F.one_hot(torch.arange(24) % 4, 4).float() @ F.one_hot(torch.arange(16) % 4, 4).float().T  # (N, C)
    with torch.no_grad():
        layer.weight.copy_((planted + 0.01)[:, :, None, None])
        layer.weight[:, 5] = 2  # a channel that every filter needs
    for _ in range(5):
        layer.regroup()
    members = membership(layer.input_logits)
    assert torch.equal(connection_mask(members, layer.filter_membership()), planted)
    for c, g in product(range(16), range(4)):
        weights = layer.weight[layer.filter_membership()[:, g], c]  # (filters, 3, 3)
        torch.testing.assert_close(layer.importance[c, g], weights.square().sum(dim=(1, 2)).mean().sqrt())
    copied = layer.input_membership() & ~members
    assert copied.sum(dim=1).tolist() == [3 * (c == 5) for c in range(16)]
    assert clustered(duplicate_top_k=None).input_membership().sum() == 16


# The layer of a method


@pytest.mark.parametrize(
    ("method", "cls", "top_k", "learns"),
    [
        ("random", DrawnConv2d, None, False),
        ("flgc", FLGConv2d, None, True),
        ("flgc-dup", FLGConv2d, 2, True),
        ("flgc-randdup", RandomCopiesConv2d, 2, True),
        ("ring", RingConv2d, 2, False),
        ("cluster", ClusteredConv2d, None, False),
        ("cluster-dup", ClusteredConv2d, 2, False),
    ],
)
def test_learned_methods(method, cls, top_k, learns):
    layer = method_layer(method, 4, top_k=2, score="softmax")(16, 8, 3, 2, 1)
    assert type(layer) is cls
    assert (layer.in_channels, layer.out_channels, layer.groups, layer.score) == (16, 8, 4, "softmax")
    assert (layer.kernel_size, layer.stride, layer.padding, layer.bias) == ((3, 3), (2, 2), (1, 1), None)
    assert layer.duplicate_top_k == top_k
    assert layer.input_logits.requires_grad is layer.filter_logits.requires_grad is learns
    assert layer.weight.requires_grad


@pytest.mark.parametrize(("method", "groups"), [("dense", 1), ("grouped", 4)])
def test_ordinary_methods(method, groups):
    layer = method_layer(method, 4)(16, 8, 3, 2, 1)
    assert type(layer) is nn.Conv2d
    assert (layer.in_channels, layer.out_channels, layer.groups) == (16, 8, groups)
    assert (layer.kernel_size, layer.stride, layer.padding, layer.bias) == ((3, 3), (2, 2), (1, 1), None)


def test_random_and_learned_groups_start_alike():
    def start(method):
        torch.manual_seed(0)
        return method_layer(method, 4)(16, 8, 3, 1, 1).state_dict()

    for name, value in start("flgc").items():
        for method in ("random", "flgc-dup", "flgc-randdup"):
            assert torch.equal(start(method)[name], value), (method, name)


# The table


def test_every_method_has_a_row_and_what_its_row_names():
    assert tuple(METHODS) == get_args(Method), "in the same order"
    for method, facts in METHODS.items():
        other = facts.without_copies
        assert other is None or METHODS[other].copies == "none", method
        assert other is None or METHODS[other].layer is facts.layer, method
        assert facts.control_of is None or METHODS[facts.control_of].control_of is None, method


@pytest.mark.parametrize("method", METHODS)
def test_the_row_says_what_the_layer_does(method):
    """With 24 channels in 8 groups the rule copies something."""
    torch.manual_seed(0)
    facts, layer = METHODS[method], method_layer(method, 8, share=4 / 3)(24, 16, 3, 1, 1)
    assert isinstance(layer, FLGConv2d) is facts.masked
    if not facts.masked:
        assert layer.groups == (1 if facts.groups_from == "one" else 8)
        return
    assert layer.input_logits.requires_grad is layer.filter_logits.requires_grad is (facts.groups_from == "gradient")
    assert hasattr(layer, "regroup") is (facts.groups_from == "weights")
    if facts.groups_from == "weights":
        layer.regroup()
    members = membership(layer.input_logits)
    copies = layer.input_membership() & ~members
    assert bool(copies.any()) is (facts.copies != "none")
    if facts.copies == "share":
        assert layer.input_membership().sum(dim=0).tolist() == 8 * [4]
    elif facts.copies != "none":
        assert torch.equal(copies, FLGConv2d._copies(layer, members, 3)) is (facts.copies == "rule")


# Bad input


def test_method_layer_needs_groups():
    with pytest.raises(ValueError, match=r"groups=0 must be at least 1"):
        method_layer("grouped", 0)


def test_unknown_method():
    with pytest.raises(
        ValueError,
        match=r"method='fglc' must be one of dense, grouped, shuffle, random, equal, flgc, flgc-dup, ring",
    ):
        method_layer("fglc", 2)


@pytest.mark.parametrize("method", ["budget", "budget-random", "select", "select-random"])
def test_a_share_is_of_channels_that_there_are(method):
    """Anything else would be cut in silence, or count channels from the end."""
    least = 1.0 if method.startswith("budget") else 0.25
    for share in (least, 4.0):
        layer = method_layer(method, 4, share=share)(16, 16, 1, 1, 0)
        layer.regroup()
        assert layer.input_membership().sum(dim=0).tolist() == 4 * [4 * share]
    for share in (0, -1, least - 0.25, 4.1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=rf"share={share} must be .*, and at most groups=4, for method='{method}'"):
            method_layer(method, 4, share=share)


@pytest.mark.parametrize(("method", "share"), [("select", 0.4), ("select-random", 0.01), ("budget", 1.2)])
def test_no_share_is_too_small_for_a_channel(method, share):
    layer = method_layer(method, 16, share=share)(16, 16, 1, 1, 0)
    assert layer.input_membership().sum(dim=0).tolist() == [1 + (method == "budget")] * 16


def test_weights_of_a_training_that_has_diverged_choose_no_groups():
    layer = method_layer("cluster", 4)(16, 16, 1, 1, 0)
    layer.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"the weights contain NaN or infinity.*use a smaller learning rate"):
        layer.regroup()


def test_fixed_groups_must_divide_the_channels():
    with pytest.raises(ValueError, match=r"groups=3 must divide in_channels=8.*method='flgc' takes any number"):
        method_layer("grouped", 3)(8, 9, 3, 1, 1)
    with pytest.raises(ValueError, match=r"groups=3 must divide out_channels=8"):
        method_layer("grouped", 3)(9, 8, 3, 1, 1)


# Groups of a given number of channels


SIZED = [BudgetConv2d, RandomBudgetConv2d, SelectedConv2d, RandomSelectionConv2d]


@pytest.fixture(params=SIZED, ids=lambda kind: kind.__name__)
def sized(request):
    torch.manual_seed(0)
    layer = request.param(16, 24, 3, groups=4, padding=1)
    layer.share = 1.5
    layer.regroup()
    return layer


def test_every_group_has_the_channels_that_it_is_given(sized):
    assert sized.input_membership().sum(dim=0).tolist() == 4 * [6]
    assert sized.filter_membership().sum(dim=0).tolist() == 4 * [6]
    assert int(sized.connection_mask().sum()) == 4 * 6 * 6


def test_the_weights_are_those_of_flgc_and_the_generator_is_left_as_by_flgc(sized):
    for kind in (FLGConv2d, type(sized)):
        torch.manual_seed(0)
        weight, after = kind(16, 24, 3, groups=4, padding=1).weight, torch.rand(1)
        if kind is FLGConv2d:
            expected = weight, after
    assert torch.equal(weight, expected[0])
    assert torch.equal(after, expected[1])


def test_a_budget_imports_what_matters_most_to_the_group():
    torch.manual_seed(0)
    layer = BudgetConv2d(8, 8, 1, groups=2)
    layer.share = 1.25
    layer.regroup()
    members, copies = membership(layer.input_logits), layer.input_membership()
    assert (copies >= members).all()
    outside = layer.importance.masked_fill(members, -1)
    assert torch.equal((copies & ~members).int().argmax(dim=0), outside.argmax(dim=0))


def test_a_selection_takes_what_matters_most_and_drops_what_nobody_needs():
    torch.manual_seed(0)
    layer = SelectedConv2d(8, 8, 1, groups=2)
    with torch.no_grad():
        layer.weight.mul_(0.01)
        layer.weight[:, 3] = 9  # everybody needs channel 3, nobody 7
        layer.weight[:, 7] = 0
    layer.regroup()
    inputs = layer.input_membership()
    assert inputs[3].tolist() == [True, True]
    assert inputs[7].tolist() == [False, False]
    assert inputs.sum(dim=0).tolist() == [4, 4]


@pytest.mark.parametrize(("kind", "control"), [(SelectedConv2d, RandomSelectionConv2d)])
def test_a_random_selection_copies_and_drops_as_many_other_channels(kind, control):
    found = []
    for cls in (kind, control):
        torch.manual_seed(0)
        layer = cls(32, 32, 1, groups=4)
        with torch.no_grad():
            layer.weight.mul_(torch.rand(32)[:, None, None])
        layer.regroup()
        found.append((layer.input_membership(), layer.filter_membership()))
    (inputs, filters), (other_inputs, other_filters) = found
    assert torch.equal(filters, other_filters)
    assert not torch.equal(inputs, other_inputs)
    layer.regroup()  # by the same weights
    assert torch.equal(other_inputs, layer.input_membership())
    assert sorted(inputs.sum(dim=1).tolist()) == sorted(other_inputs.sum(dim=1).tolist())
    assert torch.equal(torch.tensor(sorted(inputs.tolist())), torch.tensor(sorted(other_inputs.tolist())))


def test_random_imports_are_others_and_stay_when_groups_stay():
    torch.manual_seed(0)
    layer = RandomBudgetConv2d(32, 32, 1, groups=4)
    layer.regroup()
    before = layer.input_membership() & ~membership(layer.input_logits)
    best = layer.importance.masked_fill(membership(layer.input_logits), -1).topk(4, dim=0).indices
    assert not before.gather(0, best).all()
    layer.regroup()  # by the same weights
    assert torch.equal(before, layer.input_membership() & ~membership(layer.input_logits))
