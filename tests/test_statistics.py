"""Intervals and tests, against tables, simulation and the records."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from flgc_lib.experiment.analysis import of_grid
from flgc_lib.experiment.contrasts import PAIRS, paired
from flgc_lib.experiment.statistics import (
    apart,
    detectable,
    expected_half,
    holm,
    image_noise,
    interval,
    p_value,
    seeds_for,
    two_stages,
    verdict,
)

RESULTS = Path(__file__).parents[1] / "data" / "results"


def test_interval_and_test_by_hand():
    values = np.array([1.0, 5.0, 3.0])  # mean 3, standard deviation 2
    half = 4.302653 * 2 / 3**0.5  # Student's t of two degrees of freedom, 97.5 %
    assert interval(values) == pytest.approx((3 - half, 3 + half))
    assert interval(np.array([7.0])) == (7, 7)
    assert p_value(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert [p_value(np.array(v)) for v in ([1.0, 1.0], [0.0, 0.0], [7.0])] == [0, 1, 1]


@pytest.mark.parametrize("seeds", [3, 5, 10, 30])
def test_intervals_cover_as_often_as_they_say_with_the_observed_spread(seeds):
    """Drawn from the paired differences of `small`, centred, of all pairs and G; a bootstrap's are too narrow."""
    records = of_grid("small", RESULTS)
    found = [paired(records, *pair)["difference"].unstack() for pair in PAIRS]
    residuals = np.concatenate([(d - d.mean()).to_numpy().ravel() for d in found])
    residuals = residuals[~np.isnan(residuals)]
    residuals -= residuals.mean()
    generator = np.random.default_rng(0)
    samples = generator.choice(residuals, (4000, seeds))
    covered = np.mean([low <= 0 <= high for low, high in map(interval, samples)])
    assert 0.935 < covered < 0.975
    means = generator.choice(samples[:400], (1, 400, seeds))[0]
    resampled = np.stack([generator.choice(row, (500, seeds)).mean(axis=1) for row in means])
    low, high = np.quantile(resampled, [0.025, 0.975], axis=1)
    bootstrapped = np.mean((low <= 0) & (high >= 0))
    assert bootstrapped < covered or seeds == 30


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.9, 0.6]) == [1, 1]


def test_false_alarms_after_holm_are_five_in_a_hundred_of_experiments():
    generator = np.random.default_rng(0)
    alarms = [min(holm([p_value(row) for row in generator.normal(size=(6, 10))])) < 0.05 for _ in range(1000)]
    assert 0.03 < np.mean(alarms) < 0.07


def test_detectable_is_what_is_seen_in_four_of_five_experiments():
    generator = np.random.default_rng(0)
    spread_known = np.resize([1.0, -1.0], 10)  # ten seeds, standard deviation √(10/9)
    true = detectable(spread_known)
    values = generator.normal(true, (10 / 9) ** 0.5, (4000, 10))
    assert 0.76 < np.mean([interval(v)[0] > 0 for v in values]) < 0.84


def test_the_half_width_of_more_seeds_is_that_of_their_interval_if_the_spread_stays():
    few, many = np.array([-1.0, 1.0] * 4), np.array([-1.0, 1.0] * 15)
    many *= few.std(ddof=1) / many.std(ddof=1)
    assert expected_half(interval(few)[1], 8, 30) == pytest.approx(interval(many)[1])


def test_two_stages_by_hand():
    first = np.array([1.0, 5.0, 3.0])  # half of its interval is 4.97
    half = 4.30265273 * 2 / 5**0.5
    assert two_stages(first, np.array([2.0, 9.0])) == pytest.approx((4 - half, 4 + half))
    assert [seeds_for(aim, first) for aim in (9, 4.96, 2.485, 2.48)] == [3, 4, 12, 13]


def test_two_means_apart_by_hand():
    ours, theirs = np.array([2.0, 4.0]), np.array([1.0, 2.0, 3.0])
    half = 5.17623163 * (2 / 2 + 1 / 3) ** 0.5  # t with (1 + 1/3)² / (1²/1 + (1/3)²/2) = 1.684 degrees of freedom
    assert apart(ours, theirs) == pytest.approx((1 - half, 1 + half))


def test_two_stages_cover_as_often_as_they_say_although_the_first_says_how_many():
    """The t interval of all seeds covers less often."""
    generator = np.random.default_rng(0)
    covered, plain = [], []
    for _ in range(4000):
        first = generator.normal(size=4)
        further = generator.normal(size=seeds_for(1.0, first) - 4)
        low, high = two_stages(first, further)
        assert high - low <= 2 + 1e-9
        covered.append(low <= 0 <= high)
        low, high = interval(np.concatenate([first, further]))
        plain.append(low <= 0 <= high)
    assert 0.94 < np.mean(covered) < 0.97
    assert np.mean(plain) < 0.94


def test_noise_of_the_images_is_mcnemar_s_for_one_seed_and_does_not_vanish_with_more():
    ours, theirs = np.zeros((1, 1000), dtype=bool), np.zeros((1, 1000), dtype=bool)
    ours[0, :40], theirs[0, 30:60] = True, True  # 30 images only ours gets right, 20 only theirs
    variance = (30 + 20 - (30 - 20) ** 2 / 1000) / 999 / 1000
    assert image_noise(ours, theirs) == pytest.approx(1.959964 * variance**0.5)
    assert image_noise(np.repeat(ours, 5, 0), np.repeat(theirs, 5, 0)) == pytest.approx(image_noise(ours, theirs))


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ((0.1, 1, 5), "higher"),
        ((-1, -0.1, 3), "lower"),
        ((-0.1, 1, 6), "not separable with 6 seeds"),
        ((0.0, 1, 5), "not separable with 5 seeds"),
        ((0.1, 0.1, 1), "one seed: no interval, nothing small is separable"),
    ],
)
def test_verdict(case, expected):
    assert verdict(*case) == expected
