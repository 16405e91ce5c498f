"""The experiment `power`, judged: the contrasts that were written down before its runs, and which arm to use.

Source: the protocol, data/results/README.md, section "Power".
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from flgc_lib.experiment.analysis import Records
from flgc_lib.experiment.assignments import CORRECT
from flgc_lib.experiment.grids import power_arms
from flgc_lib.experiment.records import read_groups
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
JUDGED = (16, 8)
SEEDS = 10


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
            pairs = _pairs(records, arm, baseline, groups)
            if pairs.empty:
                continue
            points = 100 * (pairs["test_accuracy_x"] - pairs["test_accuracy_y"]).to_numpy(dtype=float)
            low, high = interval(points)
            ours, theirs = (_correct(records, pairs[f"run_{side}"]) for side in "xy")
            rows.append(
                {
                    "arm": arm,
                    "baseline": baseline,
                    "groups": groups,
                    "seeds": len(points),
                    "difference": points.mean(),
                    "low": low,
                    "high": high,
                    "images": 100 * image_noise(ours, theirs),
                    "loss": float((pairs["test_loss_x"] - pairs["test_loss_y"]).mean()),
                    "p": p_value(points),
                }
            )
    return pd.DataFrame(rows).assign(p=holm([row["p"] for row in rows])) if rows else pd.DataFrame()


def costs(records: Records) -> pd.DataFrame:
    """Mean accuracy (%), its t interval and the multiply-accumulates (millions) of every arm, a row an arm and G."""
    rows = []
    for groups in (4, 8, 16):
        for arm in power_arms(groups, seed=0):
            runs = _runs(records, arm, groups)
            if len(runs) and not (arm == "dense" and groups > 4):  # one net for every G
                accuracy = 100 * runs["test_accuracy"].to_numpy(dtype=float)
                low, high = interval(accuracy)
                macs = runs["macs"].mean() / 1e6
                rows.append([arm, 1 if arm == "dense" else groups, len(runs), accuracy.mean(), low, high, macs])
    return pd.DataFrame(rows, columns=["arm", "groups", "seeds", "accuracy", "low", "high", "mega_macs"])


def verdict(row: Mapping[Any, Any]) -> str:
    """Of a row of `differences`: higher or lower where Holm's p is below 5 %; open as long as seeds are missing."""
    if row["seeds"] < SEEDS:
        return f"open: {row['seeds']} of {SEEDS} seeds"
    return "not separable" if row["p"] >= LEVEL else "higher" if row["difference"] > 0 else "lower"


def _runs(records: Records, arm: str, groups: int) -> pd.DataFrame:
    """The recorded runs of an arm, by seed; on whichever data set the experiment was run."""
    data = records.runs["data"].iloc[0]
    ids = [replace(power_arms(groups, seed)[arm], data=data).id for seed in range(SEEDS)]
    return records.runs[records.runs["run"].isin(ids)]


def _pairs(records: Records, arm: str, baseline: str, groups: int) -> pd.DataFrame:
    ours, theirs = (_runs(records, one, groups) for one in (arm, baseline))
    return ours.merge(theirs, on=["seed", "processor"], validate="one_to_one").sort_values("seed")


def _correct(records: Records, runs: pd.Series) -> np.ndarray:
    """Which test images the networks of some runs get right, bool (runs, images)."""
    packed = np.stack([read_groups(records.folder, run)[CORRECT] for run in runs])
    return np.unpackbits(packed, axis=1).astype(bool)  # the last byte's padding is wrong in both networks, and cancels
