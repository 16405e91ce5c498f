"""Checks of the exercises of notebook 07."""

import numpy as np

from flgc_lib.course.exercises import NotYet, call


def exercise_1(answer: object) -> str:
    """Mean paired difference in percentage points."""
    method, baseline = {0: 0.62, 1: 0.66, 2: 0.90}, {1: 0.65, 0: 0.60, 3: 0.10}
    value = float(call(answer, "paired", method, baseline))
    if abs(value - 0.015) < 1e-9:
        raise NotYet("0.015 is right as a share; give percentage points, 100 times that.")
    if abs(value + 1.5) < 1e-9:
        raise NotYet("the sign is the wrong way round: method minus baseline.")
    unpaired = 100 * (sum(method.values()) - sum(baseline.values())) / 3
    if abs(value - unpaired) < 1e-6:
        raise NotYet("you subtract the means over *different* seeds; use the seeds that both have, here 0 and 1.")
    if abs(value - 1.5) > 1e-9:
        raise NotYet(f"you gave {value:g}; both have seeds 0 (62 − 60 = 2 points) and 1 (66 − 65 = 1 point), so 1.5.")
    return "Right: 1.5 points, from the two seeds that both methods were run with."


def exercise_2(answer: object) -> str:
    """A bootstrap interval."""
    values = np.arange(100, dtype=float)
    low, high = (float(x) for x in call(answer, "bootstrap", values))
    if low > high:
        raise NotYet("the lower end comes first.")
    if high - low > 80:
        raise NotYet(
            f"[{low:.1f}, {high:.1f}] holds 95 % of the *values*; wanted are 95 % of the *means* of resampled values."
        )
    if high - low < 0.1:
        raise NotYet("your means are all (nearly) the same: draw with replacement, as many values as there are.")
    if abs((low + high) / 2 - 49.5) > 1 or abs((high - low) / 2 - 5.66) > 0.5:
        raise NotYet(
            f"for the values 0 … 99 you gave [{low:.1f}, {high:.1f}]; it should be near [43.8, 55.2]: the 2.5 % and "
            "97.5 % quantiles of at least a thousand means."
        )
    return "Right: near 49.5 ± 1.96 · 28.9 / √100."


def exercise_3(answer: object) -> str:
    """How many seeds an effect needs."""
    value = call(answer, "seeds_needed", 0.5, 0.3)
    if value == int(1.96 * 0.5 / 0.3) + 1:
        raise NotYet("the half-width falls with √n: to halve it takes four times as many seeds. Square the ratio.")
    if float(value) != int(value):
        raise NotYet(f"{value:g} seeds can't be run: round up to a whole number, for example with `math.ceil`.")
    if int(value) != 11:
        raise NotYet(
            f"for sd = 0.5 and difference = 0.3 you gave {value}; 1.96 · 0.5 / √10 = 0.31 is still too wide, and "
            "1.96 · 0.5 / √11 = 0.295 is not: 11."
        )
    if int(call(answer, "seeds_needed", 0.5, 0.1)) != 97:
        raise NotYet("for a difference of 0.1 it takes 97 seeds: 1.96 · 0.5 / √97 = 0.0995.")
    return "Right: 11 seeds for 0.3 points, and 97 for 0.1."


def exercise_4(answer: object) -> str:
    """The sign-flip test."""
    value = float(call(answer, "sign_flip", [1.0, 2.0, 3.0]))
    if abs(value - 1 / 8) < 1e-9:
        raise NotYet("1/8 counts one side only; a mean of −2 is as extreme as +2: compare absolute values.")
    if abs(value) < 1e-9:
        raise NotYet("the observed signs are among the 8 ways themselves, so the share can't be 0: count with ≥.")
    if abs(value - 1 / 4) > 1e-9:
        raise NotYet(
            f"for [1, 2, 3] you gave {value:g}: of the 8 ways to give signs only + + + and − − − have a mean of "
            "at least 2 in size, so 2/8."
        )
    value = float(call(answer, "sign_flip", [0.5, -0.5, 1.0, 0.2, 0.3]))
    if abs(value - 12 / 32) > 1e-9:
        raise NotYet(f"for [0.5, −0.5, 1, 0.2, 0.3] it is 12/32, not {value:g}; does rounding make equal means differ?")
    return "Right. With five seeds it can't be below 2/32 = 6 %, however large the effect: that is what five seeds are."
