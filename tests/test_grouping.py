"""The mathematics of learned groups: the worked example by hand, then every function against a slow, obvious loop."""

import itertools
import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flgc_lib.figures.worked_example import S, T
from flgc_lib.grouping import (
    check_choice,
    cocluster,
    connection_mask,
    duplicates,
    membership,
    straight_through,
    thresholds,
)
from flgc_lib.layers import Score

always_the_same = settings(max_examples=150, deadline=None, derandomize=True)

# Few distinct values make ties common; their sums are exact, so that a slow loop must agree to the last bit.
values = st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0, 2.0])


@st.composite
def matrices(draw, elements=values, rows=None, columns=None):
    """Nested lists, (rows, columns); many have more columns than rows, and so empty groups."""
    rows = rows or draw(st.integers(1, 9))
    columns = columns or draw(st.integers(1, 5))
    row = st.lists(elements, min_size=columns, max_size=columns)
    return draw(st.lists(row, min_size=rows, max_size=rows))


@st.composite
def scores_and_members(draw):
    """Scores (C, G) and any members at all: empty groups, groups of one, channels in several groups or in none."""
    scores = draw(matrices())
    return scores, draw(matrices(st.booleans(), len(scores), len(scores[0])))


def slow_membership(logits):
    return [[g == row.index(max(row)) for g in range(len(row))] for row in logits]


def slow_thresholds(scores, members, top_k):
    taus = []
    for g in range(len(scores[0])):
        best = sorted((scores[c][g] for c in range(len(scores)) if members[c][g]), reverse=True)[:top_k]
        taus.append(sum(best) / len(best) if best else math.inf)
    return taus


def slow_duplicates(scores, members, top_k):
    taus = slow_thresholds(scores, members, top_k)
    return [
        [not member and score > tau for score, member, tau in zip(row, mine, taus, strict=True)]
        for row, mine in zip(scores, members, strict=True)
    ]


def slow_mask(inputs, filters):
    return [[any(a and b for a, b in zip(A, B, strict=True)) for A in inputs] for B in filters]


def softmax_jacobian_product(logits, upstream):
    """(diag(p) - p pᵀ) · upstream, row by row."""
    rows = []
    for row, grad in zip(logits, upstream, strict=True):
        p = torch.tensor([math.exp(x) for x in row.tolist()], dtype=torch.float64)
        p = p / p.sum()
        rows.append((torch.diag(p) - torch.outer(p, p)) @ grad)
    return torch.stack(rows)


# The worked example


def test_worked_example_members():
    assert membership(S).T.int().tolist() == [[1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1]]
    assert membership(T).T.int().tolist() == [[1, 0, 0, 1], [0, 1, 1, 0]]
    assert membership(S).dtype == torch.bool


@pytest.mark.parametrize(("top_k", "tau"), [(1, (2.0, 1.2)), (3, (1.5, 0.9)), (5, (1.175, 0.7))])
def test_worked_example_logit_scores_copy_channel_1_into_group_1(top_k, tau):
    members = membership(S)
    torch.testing.assert_close(thresholds(S, members, top_k), torch.tensor(tau, dtype=torch.float64))
    assert duplicates(S, members, top_k).nonzero().tolist() == [[1, 1]]


def test_top_k_is_3_unless_told():
    members = membership(S)
    assert torch.equal(thresholds(S, members), thresholds(S, members, 3))
    first_of_three = torch.tensor([[3.0, 0.0], [2.0, 0.0], [-5.0, -6.0], [2.5, 9.0]])  # τ(0) = 0, not 2.5 nor 3
    assert duplicates(first_of_three, membership(first_of_three))[:, 0].tolist() == [False, False, False, True]


def test_worked_example_softmax_scores_copy_nothing():
    scores, members = S.softmax(dim=1), membership(S)
    torch.testing.assert_close(
        thresholds(scores, members), torch.tensor([0.713, 0.649], dtype=torch.float64), atol=5e-4, rtol=0
    )
    assert not duplicates(scores, members).any()


def test_worked_example_masks():
    def rows(M):
        return ["".join(str(int(m)) for m in row) for row in M]

    A, B = membership(S), membership(T)
    assert rows(connection_mask(A, B)) == ["11110000", "00001111", "00001111", "11110000"]
    with_copies = A | duplicates(S, A)
    assert rows(connection_mask(with_copies, B)) == ["11110000", "01001111", "01001111", "11110000"]


# Each function against a slow loop


@always_the_same
@given(matrices())
def test_membership_is_the_first_largest_logit_of_each_row(logits):
    assert membership(torch.tensor(logits)).tolist() == slow_membership(logits)


@always_the_same
@given(scores_and_members(), st.integers(1, 6))
def test_thresholds_average_the_best_members(case, top_k):
    scores, members = case
    tau = thresholds(torch.tensor(scores, dtype=torch.float64), torch.tensor(members), top_k)
    assert tau.tolist() == slow_thresholds(scores, members, top_k)


@always_the_same
@given(scores_and_members(), st.integers(1, 6))
@example(([[1.0], [1.0]], [[True], [False]]), 1)  # equal to τ is not above it
def test_duplicates_are_the_foreign_channels_above_the_threshold(case, top_k):
    scores, members = case
    copies = duplicates(torch.tensor(scores), torch.tensor(members), top_k)
    assert copies.tolist() == slow_duplicates(scores, members, top_k)


@always_the_same
@given(matrices(), st.integers(1, 6))
def test_the_rule_on_the_groups_of_the_scores_themselves(scores, top_k):
    members = slow_membership(scores)
    copies = duplicates(torch.tensor(scores), membership(torch.tensor(scores)), top_k)
    assert copies.tolist() == slow_duplicates(scores, members, top_k)
    empty = ~torch.tensor(members).any(dim=0)
    assert not copies[:, empty].any(), "an empty group never imports"


@always_the_same
@given(st.data(), matrices(st.booleans()))
def test_connection_mask_joins_what_shares_a_group(data, inputs):
    filters = slow_membership(data.draw(matrices(columns=len(inputs[0]))))
    M = connection_mask(torch.tensor(inputs), torch.tensor(filters))
    assert M.shape == (len(filters), len(inputs))
    assert M.is_floating_point()
    assert M.bool().tolist() == slow_mask(inputs, filters)
    assert set(M.unique().tolist()) <= {0.0, 1.0}


def test_connection_mask_keeps_the_floating_type_and_the_gradient():
    A = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    B = torch.tensor([[False, True], [True, False]])
    M = connection_mask(A, B)
    assert M.dtype == torch.float64
    upstream = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=torch.float64)
    M.backward(upstream)
    assert A.grad.tolist() == [[4.0, 1.0], [5.0, 2.0], [6.0, 3.0]]  # ∂M[n, c]/∂A[c, g] = B[n, g]


@always_the_same
@given(matrices(st.floats(-3, 3)), st.integers(1, 6))
def test_a_confident_group_never_imports_by_softmax(logits, top_k):
    logits = torch.tensor(logits, dtype=torch.float64)
    scores, members = logits.softmax(dim=1), membership(logits)
    assert (scores[~members] <= 0.5 + 1e-12).all(), "a second place holds at most half of the softmax"
    confident = thresholds(scores, members, top_k) > 0.5 + 1e-12
    assert not duplicates(scores, members, top_k)[:, confident].any()


# Straight-through


@always_the_same
@given(matrices(st.floats(-90, 90)), st.sampled_from(["full", "masked"]), st.data())
def test_straight_through_is_exactly_the_hard_choice_forward(logits, estimator, data):
    hard = torch.tensor(data.draw(matrices(st.booleans(), len(logits), len(logits[0]))))
    out = straight_through(torch.tensor(logits), hard, estimator=estimator)
    assert out.dtype == torch.float32
    assert torch.equal(out, hard.float())


def test_straight_through_gradient_by_hand():
    # p = (3/4, 1/4). Upstream (2, 6) has the mean 3/4·2 + 1/4·6 = 3, so the gradient is (3/4·(2-3), 1/4·(6-3)).
    logits = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64, requires_grad=True)
    straight_through(logits, membership(logits)).backward(torch.tensor([[2.0, 6.0]]))
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.75, 0.75]], dtype=torch.float64))


@always_the_same
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 6), st.booleans())
def test_straight_through_gradient_is_the_softmax_jacobian(seed, rows, G, with_copies):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, G, generator=generator, dtype=torch.float64).requires_grad_()
    upstream = torch.randn(rows, G, generator=generator, dtype=torch.float64)
    hard = membership(logits)
    if with_copies:
        hard = hard | duplicates(logits, hard, 1)
    straight_through(logits, hard).backward(upstream)
    torch.testing.assert_close(logits.grad, softmax_jacobian_product(logits, upstream))
    if G > 1:
        assert logits.grad.all(), "every entry gets a gradient, chosen or not"

    logits.grad = None
    straight_through(logits, hard, estimator="masked").backward(upstream)
    torch.testing.assert_close(logits.grad, softmax_jacobian_product(logits, upstream * hard))


def test_the_masked_estimator_does_not_feel_what_the_other_group_offers():
    # The channel sits in group 0, p = (1/2, 1/2), and group 0 has the gradient 1. Group 1 has -4 (a move there lowers
    # the loss) or +4 (it raises it). In full: 1/2 · (1 - (1-4)/2) = 1.25 against 1/2 · (1 - (1+4)/2) = -0.75, so the
    # sign turns. Masked, the upstream gradient is (1, 0) in both cases: 1/2 · (1 - 1/2) = 0.25.
    def gradient(estimator, offer):
        logits = torch.zeros(1, 2, requires_grad=True)
        straight_through(logits, membership(logits), estimator=estimator).backward(torch.tensor([[1.0, offer]]))
        return logits.grad.tolist()

    assert gradient("full", -4.0) == [[1.25, -1.25]]
    assert gradient("full", 4.0) == [[-0.75, 0.75]]
    assert gradient("masked", -4.0) == [[0.25, -0.25]]
    assert gradient("masked", 4.0) == [[0.25, -0.25]]


# How often the rule fires by chance

SIMULATED = {  # share of extra copies relative to C, S ~ N(0, 1), k = 3
    (64, "logit"): {4: 0.007, 8: 0.047, 16: 0.18, 32: 0.28},
    (64, "softmax"): {4: 0.0, 8: 0.002, 16: 0.038, 32: 0.11},
    (256, "logit"): {4: 0.0004, 8: 0.002, 16: 0.011, 32: 0.052},
}


@pytest.mark.parametrize(("C", "score"), SIMULATED)
def test_share_of_copies_at_a_random_start(C, score):
    draws = 300
    generator = torch.Generator().manual_seed(0)
    for G, published in SIMULATED[C, score].items():
        copies, some_empty = torch.empty(draws), 0
        for i in range(draws):
            logits = torch.randn(C, G, generator=generator)
            members = membership(logits)
            scores = logits if score == "logit" else logits.softmax(dim=1)
            copies[i] = duplicates(scores, members).sum()
            some_empty += not members.any(dim=0).all()
        share, error = copies.mean() / C, copies.std() / C / draws**0.5
        rounding = 0.05 * published + 1e-4  # the table has two digits at most
        assert abs(share - published) < 4 * error + rounding, f"G={G}"
        if G == 32:
            assert some_empty / draws == pytest.approx({64: 0.99, 256: 0.01}[C], abs=0.02)


# Bad input


# Co-clustering


def one_hot(groups, G):
    return torch.nn.functional.one_hot(torch.as_tensor(groups), G).bool()


def kept(importance, inputs, filters):
    return float((importance * connection_mask(inputs, filters)).sum())


@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(2, 9), st.integers(1, 4))
def test_coclustering_keeps_the_sizes_and_never_loses_importance(seed, C, N, G):
    generator = torch.Generator().manual_seed(seed)
    importance = torch.rand(N, C, generator=generator)
    before = [one_hot(torch.randint(G, (rows,), generator=generator), G) for rows in (C, N)]
    after = cocluster(importance, *before)
    for old, new in zip(before, after, strict=True):
        assert torch.equal(new.sum(dim=1), torch.ones(len(new), dtype=torch.long))
        assert torch.equal(new.sum(dim=0), old.sum(dim=0))
    assert kept(importance, *after) >= kept(importance, *before) - 1e-5


@pytest.mark.parametrize("seed", range(5))
def test_coclustering_assigns_channels_best_for_the_given_filters(seed):
    """Against all assignments of six channels to two groups of three."""
    importance = torch.rand(5, 6, generator=torch.Generator().manual_seed(seed))
    inputs, filters = one_hot([0, 1, 0, 1, 0, 1], 2), one_hot([0, 0, 1, 1, 1], 2)
    found, _ = cocluster(importance, inputs, filters, rounds=1)
    candidates = [one_hot(groups, 2) for groups in itertools.product((0, 1), repeat=6) if sum(groups) == 3]
    assert kept(importance, found, filters) == pytest.approx(max(kept(importance, c, filters) for c in candidates))


def test_coclustering_finds_planted_groups():
    generator = torch.Generator().manual_seed(0)
    inputs, filters = (one_hot(torch.randperm(24, generator=generator) % 4, 4) for _ in range(2))
    importance = connection_mask(inputs, filters) + 0.1 * torch.rand(24, 24, generator=generator)
    start = [one_hot(torch.randperm(24, generator=generator) % 4, 4) for _ in range(2)]
    found = cocluster(importance, *start, rounds=10)
    assert torch.equal(connection_mask(*found), connection_mask(inputs, filters))
    assert not torch.equal(connection_mask(*start), connection_mask(inputs, filters))


@pytest.mark.parametrize("shape", [(3,), (3, 0), (2, 3, 4)])
def test_logits_must_be_a_matrix(shape):
    with pytest.raises(ValueError, match=r"logits has shape \(.*\); it must be a matrix \(rows, groups\)"):
        membership(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"scores has shape .* must be a matrix"):
        thresholds(torch.zeros(shape), torch.zeros(shape, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"inputs has shape .* must be a matrix"):
        connection_mask(torch.zeros(shape), torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"filters has shape .* must be a matrix"):
        connection_mask(torch.zeros(2, 2), torch.zeros(shape))


def test_nan_has_no_best_group():
    with pytest.raises(ValueError, match=r"S or T.* contain NaN.*use a smaller learning rate"):
        membership(torch.tensor([[0.0, 1.0], [torch.nan, 1.0]]))


@pytest.mark.parametrize("function", [thresholds, duplicates])
def test_bad_thresholds(function):
    with pytest.raises(ValueError, match=r"members has shape \(2, 8\) but scores has \(8, 2\).*\(channels, groups\)"):
        function(S, membership(S).T)
    for top_k in (0, -1):
        with pytest.raises(ValueError, match=rf"top_k={top_k} must be at least 1.*top_k=3"):
            function(S, membership(S), top_k)


def test_connection_mask_needs_the_same_groups():
    with pytest.raises(ValueError, match=r"inputs has 2 groups but filters has 3"):
        connection_mask(torch.zeros(8, 2), torch.zeros(4, 3))


def test_bad_straight_through():
    with pytest.raises(ValueError, match=r"hard has shape \(4, 2\) but logits has \(8, 2\)"):
        straight_through(S, membership(T))
    with pytest.raises(ValueError, match=r"estimator='gumbel' must be one of full, masked"):
        straight_through(S, membership(S), estimator="gumbel")


def test_check_choice_names_what_is_allowed():
    check_choice("score", "softmax", Score)
    with pytest.raises(ValueError, match=r"score='cosine' must be one of logit, softmax"):
        check_choice("score", "cosine", Score)
