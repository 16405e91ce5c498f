"""The experiments `premise` and `power`, judged by what was written down before their runs; and which arm to use.

Source: the protocol, data/results/README.md, sections "Power" and "Premise".
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from flgc_lib.experiment.analysis import Records, origin_of_copies
from flgc_lib.experiment.assignments import CORRECT
from flgc_lib.experiment.grids import (
    JUDGED,
    PREMISE_SEEDS,
    PRIMARY,
    PRIMARY_SEEDS,
    SECONDARY_SEEDS,
    WAYS,
    power_arms,
    premise_arms,
)
from flgc_lib.experiment.records import read_groups
from flgc_lib.experiment.settings import Settings
from flgc_lib.experiment.statistics import LEVEL, holm, image_noise, interval, p_value

Contrast = tuple[str, str]
_GROUPED = ("grouped", "shuffle", "equal", "equal, soft start", "cluster", "flgc", "flgc-dup")
SECONDARY: tuple[Contrast, ...] = (
    ("flgc-dup", "flgc"),
    ("flgc", "equal"),
    ("cluster", "equal, soft start"),
    ("equal", "grouped"),
    ("shuffle", "equal"),
    *(("thin dense", arm) for arm in _GROUPED),
)
"""Arm and baseline, by their names in `power_arms`; each is judged at each G of `JUDGED`, all by one correction."""


def primary(records: Records) -> pd.DataFrame:
    """The contrasts that the experiment is for, a row each: the best arm − its random copies, then − `cluster`.

    One number a seed, the paired difference averaged over the numbers of groups of `JUDGED`.

    Returns:
        Columns arm, baseline, seeds; difference (test accuracy, points), low and high (t interval), p, and verdict: the
        second contrast is judged only if the first is above 0, so that both together keep a false alarm rate of 5 %.
    """
    arm, control = PRIMARY
    rows: list[dict[str, Any]] = []
    for baseline in (control, "cluster"):
        by_groups = []
        for groups in JUDGED:
            pairs = _pairs(*(_runs(records, name, groups, PRIMARY_SEEDS) for name in (arm, baseline)))
            by_groups.append(pd.Series(_points(pairs), pairs["seed"]))
        points = pd.concat(by_groups, axis="columns").dropna().mean(axis="columns").to_numpy()
        if len(points):
            row = {"arm": arm, "baseline": baseline, **_summary(points), "p": p_value(points)}
            before_is_open = any(earlier["verdict"] != "higher" for earlier in rows)
            rows.append(row | {"verdict": _said(row, PRIMARY_SEEDS, wait=before_is_open)})
    return pd.DataFrame(rows)


def differences(records: Records, contrasts: Sequence[Contrast] = SECONDARY) -> pd.DataFrame:
    """Paired differences between arms, a row for each contrast and G of which runs are recorded.

    Returns:
        Columns arm, baseline, groups, seeds; difference (test accuracy, points), low and high (t interval), images
        (half of an interval from the choice of the test images alone), loss (difference of the test losses, nats), and
        p, corrected by Holm over all rows.
    """
    rows = []
    for groups in JUDGED:
        for arm, baseline in contrasts:
            pairs = _pairs(*(_runs(records, name, groups, SECONDARY_SEEDS) for name in (arm, baseline)))
            if pairs.empty:
                continue
            points = _points(pairs)
            ours, theirs = (_correct(records, pairs[f"run_{side}"]) for side in "xy")
            rows.append(
                {
                    "arm": arm,
                    "baseline": baseline,
                    "groups": groups,
                    **_summary(points),
                    "images": 100 * image_noise(ours, theirs),
                    "loss": float((pairs["test_loss_x"] - pairs["test_loss_y"]).mean()),
                    "p": p_value(points),
                }
            )
    return pd.DataFrame(rows).assign(p=holm([row["p"] for row in rows])) if rows else pd.DataFrame()


def ways(records: Records) -> pd.DataFrame:
    """The ways of `premise` beside their controls, a row for each way that has a pair of runs, the best first.

    Returns:
        Columns arm, baseline, seeds; accuracy and mega_macs of the way; difference to the control (points, mean), low
        and high (t interval); correlation of S at the end with its start (median over layers and runs), copies (mean
        over runs, of each stage's first block), and new, the share of them in % that the random start does not make.
    """
    origin = origin_of_copies(records)
    rows = []
    for arm, baseline in WAYS:
        runs = [_recorded(records, [premise_arms(s)[name] for s in PREMISE_SEEDS]) for name in (arm, baseline)]
        pairs = _pairs(*runs)
        if pairs.empty:
            continue
        copies = origin[origin["run"].isin(pairs["run_x"])]
        rows.append(
            {
                "arm": arm,
                "baseline": baseline,
                **_summary(_points(pairs)),
                "accuracy": 100 * pairs["test_accuracy_x"].mean(),
                "mega_macs": pairs["macs_x"].mean() / 1e6,
                "correlation": copies["correlation"].median(),
                "copies": copies.groupby("run")["copies"].sum().mean(),
                "new": 100 * (1 - copies["at_start"].sum() / copies["copies"].sum()),
            }
        )
    return pd.DataFrame(rows).sort_values("difference", ascending=False, ignore_index=True) if rows else pd.DataFrame()


def costs(records: Records) -> pd.DataFrame:
    """Mean accuracy (%), its t interval and the multiply-accumulates (millions) of every arm, a row an arm and G."""
    rows = []
    for groups in (4, 8, 16):
        for arm in power_arms(groups, seed=0):
            runs = _runs(records, arm, groups, PRIMARY_SEEDS)
            if len(runs) and not (arm == "dense" and groups > 4):  # one net for every G
                accuracy = 100 * runs["test_accuracy"].to_numpy(dtype=float)
                low, high = interval(accuracy)
                macs = runs["macs"].mean() / 1e6
                rows.append([arm, 1 if arm == "dense" else groups, len(runs), accuracy.mean(), low, high, macs])
    return pd.DataFrame(rows, columns=["arm", "groups", "seeds", "accuracy", "low", "high", "mega_macs"])


def verdict(row: Mapping[Any, Any]) -> str:
    """Of a row of `differences`: higher or lower where Holm's p is below 5 %; open as long as seeds are missing."""
    return _said(row, SECONDARY_SEEDS)


def _said(row: Mapping[Any, Any], planned: Sequence[int], *, wait: bool = False) -> str:
    if row["seeds"] < len(planned):
        return f"open: {row['seeds']} of {len(planned)} seeds"
    if wait:
        return "not judged: the contrast before it is not above 0"
    return "not separable" if row["p"] >= LEVEL else "higher" if row["difference"] > 0 else "lower"


def _runs(records: Records, arm: str, groups: int, seeds: Sequence[int]) -> pd.DataFrame:
    """The recorded runs of an arm of `power`, by seed."""
    return _recorded(records, [power_arms(groups, seed)[arm] for seed in seeds])


def _recorded(records: Records, planned: Sequence[Settings]) -> pd.DataFrame:
    """Those of the planned runs that are recorded, on whichever data set the experiment was run."""
    data = records.runs["data"].iloc[0]
    return records.runs[records.runs["run"].isin([replace(settings, data=data).id for settings in planned])]


def _pairs(ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """Runs of two arms that have the seed and the kind of processor in common."""
    return ours.merge(theirs, on=["seed", "processor"], validate="one_to_one").sort_values("seed")


def _points(pairs: pd.DataFrame) -> np.ndarray:
    """Differences in test accuracy of the pairs, points."""
    return 100 * (pairs["test_accuracy_x"] - pairs["test_accuracy_y"]).to_numpy(dtype=float)


def _summary(points: np.ndarray) -> dict[str, Any]:
    low, high = interval(points)
    return {"seeds": len(points), "difference": points.mean(), "low": low, "high": high}


def _correct(records: Records, runs: pd.Series) -> np.ndarray:
    """Which test images the networks of some runs get right, bool (runs, images)."""
    packed = np.stack([read_groups(records.folder, run)[CORRECT] for run in runs])
    return np.unpackbits(packed, axis=1).astype(bool)  # the last byte's padding is wrong in both networks, and cancels
