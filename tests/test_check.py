"""The comparisons on which freezing relies: of outputs, of networks that play dice, of batches with their images."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flgc_lib.frozen import freeze
from flgc_lib.frozen.autotune import is_image_by_image
from flgc_lib.frozen.check import difference, largest_difference, probe
from flgc_lib.frozen.freezing import _is_about_one

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shown", [7, 4, 1])
@pytest.mark.parametrize("fill", [-1e9, 1e6, torch.finfo(torch.float32).min, -torch.inf])
def test_a_huge_number_hides_no_difference(fill, shown):
    def scores(x, factor=1.0):
        return (x * factor).masked_fill(torch.arange(8) >= shown, fill)

    expected = probe(scores, "scores", (X,))
    assert difference(lambda x: scores(x, 1.001), expected) is not None
    assert difference(lambda x: scores(x, 1 + 1e-6), expected) is None
    assert difference(lambda x: scores(x).where(x != x.max(), 0), expected) is not None
    assert difference(lambda x: scores(x).where(scores(x) == x, 2 * fill), expected) is not None or fill == -torch.inf
    assert largest_difference(scores(X, 1.01), scores(X)) == pytest.approx(0.01, rel=1e-3)


def test_the_other_infinity_is_another_number():
    expected = probe(lambda x: x / 0, "infinities", (X,))
    assert difference(lambda x: -x / 0, expected) is not None
    assert largest_difference(X / 0, -X / 0) == float("inf")


@pytest.mark.parametrize("rounding", [lambda x: x + 1e-7 * x.roll(1), lambda x: x * (1 + 1e-6)])
@pytest.mark.parametrize(
    "network",
    [
        lambda x: (9 * x).softmax(3),
        lambda x: torch.cat([x, 1e-9 * x]),
        lambda x: torch.cat([x, (x * 3 - x - x - x)] * 2),
        lambda x: torch.cat([x, x.double().mul(3).float() / 3 - x] * 2),
        lambda x: x.relu() * (x > 2),
        lambda x: x.flatten()[:2] * torch.tensor([1.0, 1e-6]),
        lambda x: 0 * x,
        lambda x: x.exp().exp(),
        lambda x: x[:0],
        lambda x: x.half() / 1e6,
    ],
)
def test_a_rounding_error_is_no_difference(network, rounding):
    assert difference(lambda x: network(rounding(x)), probe(network, "rounding", (X,))) is None


def by_python(x):
    return x.flip(3) if random.random() < 0.5 else x


def by_numpy(x):
    return x.flip(3) if np.random.random() < 0.5 else x


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("chance", [by_python, by_numpy])
def test_a_network_that_plays_dice_goes_on_playing(chance, seed):
    class Dice(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.c(chance(x))

    random.seed(seed)
    np.random.seed(seed)
    frozen = freeze(Dice(), X, tune=False)
    assert len({float(frozen(X)[0, 0, 0, 0]) for _ in range(20)}) == 2
    assert "it draws random numbers from Python or NumPy" in frozen.report()


def ghost_norm(x):
    return F.batch_norm(x.view(2, -1, *x.shape[2:]), None, None, training=True).view_as(x)


@pytest.mark.parametrize("batch", [X, torch.zeros_like(X), torch.ones_like(X), X[:1].expand_as(X), X.clamp(-1, 1)])
@pytest.mark.parametrize(
    "network",
    [
        lambda x: F.batch_norm(x, None, None, training=True),
        lambda x: x / x.abs().amax().clamp(min=2),
        lambda x: x / x.abs().amax().clamp(min=50),
        lambda x: x.softmax(0),
        lambda x: x - x.mean(0),
        lambda x: x.flip(0),
        lambda x: x.sort(0).values,
        lambda x: x + 1e-3 * x.sum(0),
        lambda x: x / len(x),
        lambda x: x.mean((1, 2, 3), keepdim=True).squeeze(),
        lambda x: x.mean(),
        lambda x: x.roll(1, 0).flatten(1).argmax(1),
        lambda x: {"out": x},
        lambda x: (x, x),
        ghost_norm,
    ],
)
def test_a_batch_that_is_more_than_its_images(network, batch):
    assert not is_image_by_image(network, batch)


@pytest.mark.parametrize("batch", [X, torch.zeros_like(X), 300 * X, X.half()])
@pytest.mark.parametrize(
    "network",
    [
        lambda x: x.mean((2, 3)).relu(),
        lambda x: x / x.flatten(1).std(1)[:, None, None, None],
        lambda x: x.flatten(1).argmax(1),
        lambda x: x.flatten(1).softmax(1),
        lambda x: (x @ x).exp(),
    ],
)
def test_a_batch_that_is_its_images(network, batch):
    assert is_image_by_image(network, batch)


def test_whole_numbers_that_are_all_the_same_tell_no_image_from_another():
    def counts(x):
        return x + x.unique().numel()

    assert is_image_by_image(lambda x: x + 1, torch.arange(8).view(4, 2))
    assert not is_image_by_image(counts, torch.zeros(4, 2, dtype=torch.long))


@pytest.mark.parametrize(
    ("guard", "about_one"),
    [
        ("input0_0 != 1", True),
        ("input0_0 > 1", True),
        ("1 < 3*input0_3*input0_2", True),
        ("input0_0 > 12", False),
        ("input0_0 != 128", False),
        ("-1 < input0_0", False),
        ("21 != input0_0", False),
        ("input0_0 // 8 > 1", False),
        ("1 < (input0_0 // 2)", False),
        ("input0_0 > 1 and input0_0 < 9", False),
    ],
)
def test_assumptions_of_sizes_of_one(guard, about_one):
    assert _is_about_one(guard) == about_one


@pytest.mark.parametrize("splits", [lambda n: n > 12, lambda n: n // 8 > 1])
def test_a_branch_on_the_batch_is_taken_as_it_was(splits):
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.c(x) if splits(x.shape[0]) else self.c(x) / x.shape[0]

    frozen = freeze(Branch(), X.repeat(4, 1, 1, 1), tune=False)
    with pytest.raises(ValueError, match=r"sizes .* are not such that"):
        frozen(X)
