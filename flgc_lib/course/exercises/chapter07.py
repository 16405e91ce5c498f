"""Checks of the exercises of notebook 07."""

import itertools
import math

import numpy as np

from flgc_lib.course.exercises.answers import Case, Student
from flgc_lib.course.exercises.values import NotYet, read, show


def exercise_1(answer: object) -> str:
    """Mean paired difference in percentage points."""
    student, rng = Student(answer, "paired"), np.random.default_rng(0)
    cases = [({0: 0.62, 1: 0.66, 2: 0.90}, {1: 0.65, 0: 0.60, 3: 0.10})]
    for _ in range(6):
        pair = [
            dict(zip(rng.permutation(9)[:n].tolist(), rng.integers(500, 900, n) / 1000, strict=True)) for n in (7, 6)
        ]
        cases.append(tuple({seed: float(v) for seed, v in side.items()} for side in pair))  # type: ignore[arg-type]
    asked: list[Case] = []
    for method, baseline in cases:
        seeds = sorted(method.keys() & baseline.keys())
        differences = [100 * (method[s] - baseline[s]) for s in seeds]
        wanted = float(np.mean(differences))
        unpaired = 100 * (np.mean(list(method.values())) - np.mean(list(baseline.values())))
        mistakes = {
            "right as a share; give percentage points, 100 times that.": wanted / 100,
            "the sign is the wrong way round: method minus baseline.": -wanted,
            "that subtracts the means over *different* seeds; use the seeds that both have.": unpaired,
            "that is the median of the differences; the mean is asked for.": float(np.median(differences)),
            "that is the sum of the differences; divide by the number of seeds that both have.": sum(differences),
            "divide by the number of seeds that both have, not by all.": sum(differences) / len(method),
        }
        why = f"both have the seeds {seeds}; there the differences are {[round(d, 1) for d in differences]} points."
        asked.append(((method, baseline), wanted, why, mistakes))
    student.solves(asked)
    return "Right: in points, and only from the seeds that both methods were run with."


def exercise_2(answer: object) -> str:
    """A bootstrap interval."""
    student, rng = Student(answer, "bootstrap"), np.random.default_rng(0)
    samples = [np.arange(100.0)]
    samples += [m + s * rng.standard_normal(n) for m, s, n in ((5, 1, 40), (-2, 0.1, 64), (0, 7, 25), (100, 3, 90))]
    ratios = []
    for values in samples:
        called, mean, spread = student.called(values), values.mean(), values.std() / math.sqrt(len(values))
        given = student(values)
        ends = read(given, called)
        if ends.shape != (2,):
            raise NotYet(f"{called} should give two numbers, the lower and the upper end; yours is {show(given)}.")
        low, high = ends.tolist()
        target = f"near [{mean - 1.96 * spread:.4g}, {mean + 1.96 * spread:.4g}]"
        if low > high:
            raise NotYet("the lower end comes first.")
        if np.allclose([low, high], np.quantile(values, [0.025, 0.975]), atol=spread):
            raise NotYet(
                f"[{low:.4g}, {high:.4g}] holds 95 % of the *values*; wanted are 95 % of the *means* of "
                f"resampled values, {target}."
            )
        if high - low < 0.2 * spread:
            raise NotYet(
                f"[{low:.4g}, {high:.4g}] is next to nothing wide: draw with replacement, as many values as there are."
            )
        if abs((low + high) / 2 - mean) > 0.5 * spread or not 1 < (high - low) / (2 * spread) < 3:
            raise NotYet(
                f"{called} gives [{low:.4g}, {high:.4g}]; it should be {target}: the 2.5 % and 97.5 % quantiles of at "
                "least a thousand means of as many values, drawn with replacement."
            )
        ratios.append((high - low) / (2 * spread))
    width = float(np.mean(ratios))
    if abs(width - 1.96) > 0.12:
        raise NotYet(
            f"over five samples your intervals reach {width:.2f} standard errors to each side, not 1.96: are the "
            "quantiles 2.5 % and 97.5 %, and is every draw as large as the sample?"
        )
    skewed = np.array([0.0] * 9 + [10.0])
    low = float(read(student(skewed), "`bootstrap`")[0])
    if low < -1e-9:
        raise NotYet(
            f"for {skewed.tolist()} the lower end is {low:.3g}, but no mean of resampled values is below 0: take "
            "quantiles of the means, not mean ± 1.96 standard errors."
        )
    return "Right: as wide as mean ± 1.96 standard errors where values are normal, and never beyond the values."


def exercise_3(answer: object) -> str:
    """How many seeds an effect needs."""
    student, rng = Student(answer, "seeds_needed"), np.random.default_rng(0)
    cases = [(0.5, 0.3), (0.5, 0.1), (1.0, 0.98), (0.2, 3.0)]
    cases += [(round(float(sd), 2), round(float(d), 2)) for sd, d in rng.uniform(0.1, 1, (12, 2))]
    asked: list[Case] = []
    for sd, difference in cases:
        exact = (1.96 * sd / difference) ** 2
        wanted = math.ceil(exact - 1e-9)
        if abs(exact - round(exact)) < 1e-6 and (sd, difference) != (1.0, 0.98):
            continue  # rounding would decide
        mistakes = {
            "the half-width falls with √n: to halve it takes four times as many seeds. Square the ratio.": math.ceil(
                1.96 * sd / difference
            ),
            "rounded down or to the nearest; then the interval is still too wide: round up.": wanted - 1,
            "one seed too many: there the half-width *is* at most the difference with one less.": wanted + 1,
            "that is the whole width of the interval, not half of it: 1.96 · sd / √n.": math.ceil(4 * exact),
            "seeds can't be run in part: round up to a whole number, for example with `math.ceil`.": exact,
        }
        why = f"1.96 · {sd} / √{wanted} = {1.96 * sd / math.sqrt(wanted):.4g} is at most {difference}" + (
            f", and with {wanted - 1} it is {1.96 * sd / math.sqrt(wanted - 1):.4g}." if wanted > 1 else "."
        )
        asked.append(((sd, difference), wanted, why, mistakes))
    student.solves(asked)
    return "Right: 11 seeds for 0.3 points at a spread of 0.5, and 97 for 0.1."


def exercise_4(answer: object) -> str:
    """The sign-flip test."""
    student, rng = Student(answer, "sign_flip"), np.random.default_rng(0)
    cases = [[1.0, 2.0, 3.0], [0.5, -0.5, 1.0, 0.2, 0.3]]
    cases += [[int(v) / 10 for v in rng.integers(-6, 9, n)] for n in (2, 3, 4, 5, 6, 6, 7)]
    asked: list[Case] = []
    for differences in cases:
        tenths = [round(10 * d) for d in differences]
        sums = [
            sum(s * d for s, d in zip(signs, tenths, strict=True))
            for signs in itertools.product((1, -1), repeat=len(tenths))
        ]
        observed, ways = abs(sum(tenths)), len(sums)
        extreme = sum(abs(s) >= observed for s in sums)
        mistakes = {
            "that counts one side only; a mean of -2 is as extreme as +2: compare absolute values.": (
                sum(s >= sum(tenths) for s in sums) / ways
            ),
            "the observed signs are among the ways themselves, and equal means count: ≥, not >.": (
                sum(abs(s) > observed for s in sums) / ways
            ),
            "that is the number of ways; divide by 2ⁿ.": extreme,
            "that is the share of the ways that are *less* extreme.": 1 - extreme / ways,
        }
        why = (
            f"{extreme} of the {ways} ways to choose signs have a mean of at least {observed / 10 / len(tenths):.3g} "
            "in size; does rounding make equal means differ? Compare with ≥ observed - 1e-12."
        )
        asked.append(((differences,), extreme / ways, why, mistakes))
    student.solves(asked)
    return "Right. With five seeds it can't be below 2/32 = 6 %, however large the effect: that is what five seeds are."
