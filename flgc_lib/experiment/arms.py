"""The experiments `premise`, `power` and `resnet20`, judged by what was written down before their runs.

Source: the protocol, data/results/README.md, sections "Power" and "Premise".
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from flgc_lib.experiment.analysis import Records, origin_of_copies
from flgc_lib.experiment.assignments import CORRECT
from flgc_lib.experiment.grids import (
    AIM,
    FURTHER_SEEDS,
    JUDGED,
    PREMISE_SEEDS,
    PRIMARY,
    PRIMARY_SEEDS,
    RESNET20_GROUPS,
    RESNET20_SEEDS,
    SECONDARY_SEEDS,
    WAYS,
    power_arms,
    premise_arms,
    resnet20_arms,
)
from flgc_lib.experiment.records import read_groups
from flgc_lib.experiment.settings import Settings
from flgc_lib.experiment.statistics import (
    LEVEL,
    apart,
    detectable,
    holm,
    image_noise,
    interval,
    p_value,
    seeds_for,
    two_stages,
)

Contrast = tuple[str, str]


@dataclass(frozen=True)
class Plan:
    """An experiment of few arms with many seeds.

    Attributes:
        arms: settings by the arm's name, of a number of groups and a seed.
        groups: the numbers of groups that it has.
        judged: those over which a primary contrast is averaged.
        seeds: of the primary arms; the others may have some of them only.
        dense: the accuracy, in %, that its dense net has to reach before anything is judged.
        secondary: contrasts, arm and baseline, each judged at each G of `judged`, all by one correction.
    """

    arms: Callable[[int, int], Mapping[str, Settings]]
    groups: tuple[int, ...]
    judged: tuple[int, ...]
    seeds: Sequence[int]
    dense: float = 0
    secondary: tuple[Contrast, ...] = ()


NOT_ABOVE = "not judged: the contrast before it is not above 0"
BESIDE = "not judged: random groups that leave no channel out"
_GROUPED = ("grouped", "shuffle", "equal", "equal, soft start", "cluster", "flgc", "flgc-dup")
_SECONDARY: tuple[Contrast, ...] = (
    ("flgc-dup", "flgc"),
    ("flgc-dup, soft start", "flgc-randdup, soft start"),
    ("flgc", "equal"),
    ("cluster", "equal, soft start"),
    ("equal", "grouped"),
    ("shuffle", "equal"),
    *(("thin dense", arm) for arm in _GROUPED),
)
POWER = Plan(power_arms, (16, 8, 4), JUDGED, PRIMARY_SEEDS, secondary=_SECONDARY)
RESNET20 = Plan(resnet20_arms, RESNET20_GROUPS, RESNET20_GROUPS, RESNET20_SEEDS, dense=88)


def primary(records: Records, plan: Plan = POWER) -> pd.DataFrame:
    """The contrasts that an experiment is for, a row each: the best arm − its random copies, then − `cluster`.

    A third, − `equal` on its schedule, tells what the best arm gains on random groups that leave no channel out. It is
    not judged: in `power` it was added when its runs were known.

    Args:
        records: of the experiment.
        plan: of the experiment. One number a seed, the paired difference averaged over its numbers of groups.

    Returns:
        Columns arm, baseline, seeds; difference (test accuracy, points), low and high (t interval), images (half of an
        interval from the choice of the test images alone), detectable (the true difference that 80 % of such
        experiments show, points), macs (what the arm costs more, %), p, and verdict: nothing is judged before all seeds
        are there, and the second contrast only if the first is above 0: together they keep a false alarm rate of 5 %.
    """
    arm, control = PRIMARY
    rows: list[dict[str, Any]] = []
    for baseline in (control, "cluster", "equal, soft start"):
        both = _at_every_g(records, (arm, baseline), plan.seeds, plan)
        points = _of_seeds(both)
        if len(points):
            row = {"arm": arm, "baseline": baseline, **_compared(records, both, points)}
            rows.append(row | {"verdict": said(row, plan.seeds)})
    table = pd.DataFrame(rows)
    if len(table):
        first = table.loc[table["baseline"] == control, "verdict"]
        before = first.iloc[0] if len(first) else "open: no pair"
        if before != "higher":
            waits = "open: waits for the contrast before it" if before.startswith("open") else NOT_ABOVE
            table.loc[table["baseline"] == "cluster", "verdict"] = waits
        table.loc[table["baseline"] == "equal, soft start", "verdict"] = BESIDE
        if plan.dense and not _dense(records, plan) >= plan.dense:
            table["verdict"] = f"open: dense has not reached {plan.dense} %"
    return table


def narrowed(records: Records) -> dict[str, Any]:
    """The first primary contrast of `power` once more, with further seeds that make its interval as narrow as `AIM`.

    It judges nothing: the contrast is judged by its first stage.

    Returns:
        Empty before the first stage and two further seeds are there; arm, baseline, seeds, needed (how many there are
        to be), difference (test accuracy, points), low and high (`statistics.two_stages`); alone, `summary` of the
        further seeds; beside, how far their mean is above that of the first stage, likewise (`statistics.apart`).
    """
    first, further = (_of_seeds(_at_every_g(records, PRIMARY, seeds)) for seeds in (PRIMARY_SEEDS, FURTHER_SEEDS))
    if len(first) < len(PRIMARY_SEEDS) or len(further) < 2:
        return {}
    arm, baseline = PRIMARY
    seeds = {"seeds": len(first) + len(further), "needed": seeds_for(AIM, first)}
    both = _around(*two_stages(first, further))
    beside = {"seeds": len(further)} | _around(*apart(further, first))
    return {"arm": arm, "baseline": baseline, **seeds, **both, "alone": summary(further), "beside": beside}


def _around(low: float, high: float) -> dict[str, float]:
    return {"difference": (low + high) / 2, "low": low, "high": high}


def _at_every_g(records: Records, contrast: Contrast, seeds: Sequence[int], plan: Plan = POWER) -> pd.DataFrame:
    """Pairs of runs at the numbers of groups over which a primary contrast is averaged, of the seeds that have all."""
    by_groups = [matched(*(runs_at(records, name, groups, seeds, plan) for name in contrast)) for groups in plan.judged]
    common = set.intersection(*(set(pairs["seed"]) for pairs in by_groups))
    both = pd.concat(by_groups)
    return both[both["seed"].isin(common)]


def _of_seeds(pairs: pd.DataFrame) -> np.ndarray:
    """One number a seed, the mean of its pairs' differences in test accuracy, points."""
    return pairs.assign(points=gains(pairs)).groupby("seed")["points"].mean().to_numpy()


def _dense(records: Records, plan: Plan) -> float:
    """Mean accuracy of the dense net, %; NaN if it has not been run."""
    return 100 * runs_at(records, "dense", plan.groups[0], plan.seeds, plan)["test_accuracy"].mean()


def differences(records: Records, plan: Plan = POWER) -> pd.DataFrame:
    """Paired differences of the secondary contrasts, a row for each contrast and G of which runs are recorded.

    Args:
        records: of the experiment.
        plan: of the experiment.

    Returns:
        Columns arm, baseline, groups, seeds; difference (test accuracy, points), low and high (t interval), images
        (half of an interval from the choice of the test images alone), detectable (the true difference that 80 % of
        such experiments show, points; without the correction), macs (what the arm costs more, %), loss (difference of
        the test losses, nats), p, corrected by Holm over all contrasts at every G, and verdict, open
        until all of them have all seeds.
    """
    rows: list[dict[str, Any]] = []
    for groups in plan.judged:
        for arm, baseline in plan.secondary:
            pairs = matched(*(runs_at(records, name, groups, SECONDARY_SEEDS, plan) for name in (arm, baseline)))
            if pairs.empty:
                continue
            rows.append(
                {
                    "arm": arm,
                    "baseline": baseline,
                    "groups": groups,
                    **_compared(records, pairs, gains(pairs)),
                    "loss": float((pairs["test_loss_x"] - pairs["test_loss_y"]).mean()),
                }
            )
    missing = len(plan.secondary) * len(plan.judged) - len(rows)
    corrected = holm([*(row["p"] for row in rows), *[1.0] * missing])
    rows = [row | {"p": p} for row, p in zip(rows, corrected, strict=False)]
    done = not missing and all(row["seeds"] == len(SECONDARY_SEEDS) for row in rows)
    return pd.DataFrame([row | {"verdict": said(row, SECONDARY_SEEDS, others=done)} for row in rows])


def ways(records: Records) -> pd.DataFrame:
    """The ways of `premise` beside their controls, a row for each way that has a pair of runs, the best first.

    Returns:
        Columns arm, baseline, seeds; accuracy and mega_macs of the way; difference to the control (points, mean), low
        and high (t interval), macs (what the way costs more, %); copies (mean over runs);
        correlation of S at the end with its start (median over layers and runs), and new, the share of the copies in %
        that the random start does not make, and both of the control, correlation_control and new_control.
    """
    origin = origin_of_copies(records)
    rows = []
    for arm, baseline in WAYS:
        runs = [_recorded(records, [premise_arms(s)[name] for s in PREMISE_SEEDS]) for name in (arm, baseline)]
        pairs = matched(*runs)
        if pairs.empty:
            continue
        ours, theirs = (origin[origin["run"].isin(pairs[f"run_{side}"])] for side in "xy")
        rows.append(
            {
                "arm": arm,
                "baseline": baseline,
                **summary(gains(pairs)),
                "accuracy": 100 * pairs["test_accuracy_x"].mean(),
                "mega_macs": pairs["macs_x"].mean() / 1e6,
                "macs": _extra_macs(pairs),
                "copies": pairs["copies_x"].mean(),
                "correlation": ours["correlation"].median(),
                "correlation_control": theirs["correlation"].median(),
                "new": 100 * (1 - ours["at_start"].sum() / ours["copies"].sum()),
                "new_control": 100 * (1 - theirs["at_start"].sum() / theirs["copies"].sum()),
            }
        )
    return pd.DataFrame(rows).sort_values("difference", ascending=False, ignore_index=True) if rows else pd.DataFrame()


def said(row: Mapping[Any, Any], planned: Sequence[int], *, others: bool = True) -> str:
    """What a row says by its p: nothing before it, and all others that are corrected with it, have their seeds."""
    if row["seeds"] < len(planned):
        return f"open: {row['seeds']} of {len(planned)} seeds"
    if not others:
        return "open: others that are judged with it lack seeds"
    return "not separable" if row["p"] >= LEVEL else "higher" if row["difference"] > 0 else "lower"


def runs_of(records: Records, arm: str) -> pd.DataFrame:
    """The recorded runs of an arm of `power` at all G of `JUDGED`."""
    return pd.concat([runs_at(records, arm, groups, PRIMARY_SEEDS) for groups in JUDGED])


def runs_at(records: Records, arm: str, groups: int, seeds: Sequence[int], plan: Plan = POWER) -> pd.DataFrame:
    """The recorded runs of an arm of an experiment, by seed."""
    return _recorded(records, [plan.arms(groups, seed)[arm] for seed in seeds])


def _recorded(records: Records, planned: Sequence[Settings]) -> pd.DataFrame:
    """Those of the planned runs that are recorded, on whichever data set the experiment was run."""
    names = {replace(settings, data=data).id for settings in planned for data in records.runs["data"].unique()}
    return records.runs[records.runs["run"].isin(names)]


def matched(ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """Runs of two arms that have the seed and the kind of processor in common."""
    return ours.merge(theirs, on=["seed", "processor"], validate="one_to_one").sort_values("seed")


def gains(pairs: pd.DataFrame) -> np.ndarray:
    """Differences in test accuracy of the pairs, points."""
    return 100 * (pairs["test_accuracy_x"] - pairs["test_accuracy_y"]).to_numpy(dtype=float)


def _extra_macs(pairs: pd.DataFrame) -> float:
    """By how many % the first runs of the pairs cost more multiply-accumulates than the second, on average."""
    return float(100 * (pairs["macs_x"] / pairs["macs_y"] - 1).mean())


def _compared(records: Records, pairs: pd.DataFrame, points: np.ndarray) -> dict[str, Any]:
    """What a row of `primary` and of `differences` says of its pairs, whose differences by seed are points (n,)."""
    return {
        **summary(points),
        "images": _image_noise(records, pairs),
        "detectable": detectable(points),
        "macs": _extra_macs(pairs),
        "p": p_value(points),
    }


def summary(points: np.ndarray) -> dict[str, Any]:
    """Number of seeds, mean difference and its t interval, of differences by seed (n,)."""
    low, high = interval(points)
    return {"seeds": len(points), "difference": points.mean(), "low": low, "high": high}


def _image_noise(records: Records, pairs: pd.DataFrame) -> float:
    """Half of the interval that the mean difference of the pairs has from the choice of the test images, points."""
    packed = (
        np.stack([read_groups(records.folder, run, [CORRECT])[CORRECT] for run in pairs[f"run_{side}"]])
        for side in "xy"
    )
    ours, theirs = (np.unpackbits(bits, axis=1).astype(bool) for bits in packed)
    return 100 * image_noise(ours, theirs)  # the last byte's padding is wrong in both networks, and cancels
