"""How sure a mean over seeds is: t intervals and tests, Holm's correction, the test images' own noise."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

LEVEL = 0.05
"""Rate of false alarms: of so many differences that are none, one is called a difference."""
POWER = 0.8
"""Share of the experiments in which a difference of the size `detectable` would be called one."""


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % t interval of the mean over seeds, values (n,); one seed gives no spread and the value itself twice.

    A bootstrap interval from few seeds is too narrow: `tests/test_statistics.py` measures both.
    """
    mean = float(values.mean())
    if len(values) < 2:
        return mean, mean
    half = _half(values)
    return mean - half, mean + half


def _half(values: np.ndarray) -> float:
    """Of the t interval of values (n,), n ≥ 2."""
    return float(stats.t.ppf(1 - LEVEL / 2, len(values) - 1)) * standard_error(values)


def two_stages(first: np.ndarray, further: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean over the seeds of two stages, (n,) and (m,), if the first one's spread said how many.

    Stein 1945: t and spread are those of the first stage alone, which tells nothing of any mean. The t interval of all
    seeds would be a little too narrow.
    """
    mean = float(np.concatenate([first, further]).mean())
    half = _half(first) * math.sqrt(len(first) / (len(first) + len(further)))
    return mean - half, mean + half


def seeds_for(half: float, first: np.ndarray) -> int:
    """How many seeds in all make `two_stages` as narrow as `half`, by the spread of a first stage (n,), n ≥ 2."""
    return max(len(first), math.ceil(len(first) * (_half(first) / half) ** 2))


def apart(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of `ours` (n,) − that of `theirs` (m,), of seeds that make no pairs, n and m ≥ 2.

    Welch 1947: their spreads may differ.
    """
    found = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(1 - LEVEL)
    return float(found.low), float(found.high)


def standard_error(values: np.ndarray) -> float:
    """Of the mean of values (n,), n ≥ 2."""
    return float(values.std(ddof=1)) / math.sqrt(len(values))


def p_value(values: np.ndarray) -> float:
    """Of the two-sided t test that the mean of values (n,) is 0; 1 for a single value, which tests nothing."""
    if len(values) < 2:
        return 1.0
    error = standard_error(values)
    if error == 0:
        return float(values.mean() == 0)
    return float(2 * stats.t.sf(abs(values.mean()) / error, len(values) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p values for being several (Holm 1979), in the order in which they are given.

    With those that are then below 0.05 called differences, a false one is among them in 5 % of the experiments at most.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(np.argsort(p_values)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def detectable(values: np.ndarray) -> float:
    """The true difference that as many seeds, with a spread as that of values (n,), show in 80 % of the experiments.

    Infinite for a single value, which shows none.
    """
    if len(values) < 2:
        return math.inf
    freedom = len(values) - 1
    quantiles = stats.t.ppf([1 - LEVEL / 2, POWER], freedom)
    return float(quantiles.sum()) * standard_error(values)


def expected_half(half: float, seeds: int, planned: int) -> float:
    """Half of the t interval that as many seeds as are planned will have, if their spread is that of those so far.

    Args:
        half: of the interval from the seeds so far.
        seeds: how many, at least 2.
        planned: how many there will be.
    """
    spread = half / float(stats.t.ppf(1 - LEVEL / 2, seeds - 1)) * math.sqrt(seeds)
    return spread / math.sqrt(planned) * float(stats.t.ppf(1 - LEVEL / 2, planned - 1))


def image_noise(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Half of the 95 % interval that a mean difference in accuracy has from the choice of the test images alone.

    For one seed this is McNemar's account of the images that only one of two networks gets right; over seeds, which are
    tested on the same images, an image counts by its mean, so that more seeds do not make the images more.

    Args:
        ours: bool (n, m), which of m test images the network of each of n seeds gets right.
        theirs: likewise, of the baseline.

    Returns:
        A share of the images, as accuracies are.
    """
    of_image = (ours.astype(float) - theirs.astype(float)).mean(axis=0)  # (m,)
    return float(stats.norm.ppf(1 - LEVEL / 2)) * standard_error(of_image)


def verdict(low: float, high: float, seeds: int) -> str:
    """What an interval of a difference says: "higher", "lower", "not separable with 5 seeds", or that there is none."""
    if seeds < 2:
        return "one seed: no interval, nothing small is separable"
    return "higher" if low > 0 else "lower" if high < 0 else f"not separable with {seeds} seeds"
