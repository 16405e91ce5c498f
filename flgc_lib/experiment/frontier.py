"""What the arms of an experiment cost and reach: frontier, what is retained as groups grow in number, best at one cost.

Source: the protocol, data/results/README.md, sections "Power" and "ResNet-20".
"""

from itertools import combinations
from typing import Any

import pandas as pd

from flgc_lib.experiment.analysis import Records
from flgc_lib.experiment.arms import POWER, Plan, gains, matched, runs_at, said, summary
from flgc_lib.experiment.grids import JUDGED, RETAINED, RETAINED_SEEDS, SECONDARY_SEEDS, power_arms
from flgc_lib.experiment.statistics import holm, interval, p_value

EQUAL_COST = 0.05
"""Arms whose multiply-accumulates differ by no more than this share cost the same; thin dense comes within 3.4 %."""


def costs(records: Records, plan: Plan = POWER) -> pd.DataFrame:
    """What every arm costs and reaches, a row an arm and number of groups, the cheapest first.

    Accuracies at one number of groups are those of the seeds that all arms have there of which there is a run; dense,
    one net for every G, counts at the first.

    Args:
        records: of an experiment.
        plan: of the experiment.

    Returns:
        Columns arm, method, groups, seeds; accuracy (%, mean), low and high (t interval); mega_macs (millions of
        multiply-accumulates); and frontier, whether no row that costs the same (`EQUAL_COST`) or less is more accurate:
        open, and False, until every arm has a run.
    """
    rows: list[list[Any]] = []
    for groups in plan.groups:
        seeds = plan.seeds if groups in plan.judged else RETAINED_SEEDS
        arms = [arm for arm in plan.arms(groups, 0) if arm != "dense" or not rows]  # dense is one net for every G
        for arm, runs in _of_common_seeds({arm: runs_at(records, arm, groups, seeds, plan) for arm in arms}).items():
            accuracy = 100 * runs["test_accuracy"].to_numpy(dtype=float)
            low, high = interval(accuracy)
            macs = runs["macs"].mean() / 1e6
            method = runs["method"].iloc[0]
            g = 1 if arm == "dense" else groups
            rows.append([arm, method, g, len(runs), accuracy.mean(), low, high, macs])
    table = pd.DataFrame(rows, columns=["arm", "method", "groups", "seeds", "accuracy", "low", "high", "mega_macs"])
    table = table.sort_values(["mega_macs", "accuracy"], ascending=[True, False], ignore_index=True)
    reached = [as_cheap(table, cost)["accuracy"].max() for cost in table["mega_macs"]]
    planned = {run.id for groups in plan.groups for run in plan.arms(groups, 0).values()}  # dense once
    return table.assign(frontier=(table["accuracy"] == reached) & (len(table) == len(planned)))


def as_cheap(table: pd.DataFrame, mega_macs: float) -> pd.DataFrame:
    """The rows of `costs` that cost the same (`EQUAL_COST`) or less."""
    return table[table["mega_macs"] <= mega_macs * (1 + EQUAL_COST)]


def retained(records: Records) -> pd.DataFrame:
    """What arms lose as groups grow in number (`RETAINED`), the least loss first, by the seeds that all have.

    Returns:
        A row an arm. Columns arm, seeds; difference (test accuracy, points; below 0 for a loss), low and high (t
        interval); times, its multiply-accumulates at the most groups over those of `grouped`: what is retained may have
        been paid for.
    """
    most = RETAINED[0]
    price = runs_at(records, "grouped", most, RETAINED_SEEDS)["macs"].mean()
    arms = [arm for arm in power_arms(most, 0) if arm != "dense"]
    every = {arm: matched(*(runs_at(records, arm, groups, RETAINED_SEEDS) for groups in RETAINED)) for arm in arms}
    rows = [
        {"arm": arm, **summary(gains(pairs)), "times": pairs["macs_x"].mean() / price}
        for arm, pairs in _of_common_seeds(every).items()
    ]
    return pd.DataFrame(rows).sort_values("difference", ascending=False, ignore_index=True) if rows else pd.DataFrame()


def _of_common_seeds(every: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Of the arms that have rows those of the seeds that all of them have: no arm is ahead by its seeds."""
    there = {arm: rows for arm, rows in every.items() if len(rows)}
    common = set.intersection(*(set(rows["seed"]) for rows in there.values())) if there else set()
    return {arm: rows[rows["seed"].isin(common)] for arm, rows in there.items() if common}


def equally_cheap(records: Records) -> pd.DataFrame:
    """At each G of `JUDGED` the arms that cost what `grouped` costs there, the highest mean first, beside that one.

    The best of several is so by luck in part: p is corrected (Holm) over all pairs of such arms, at every G.

    Returns:
        Columns groups, price (that of `grouped`, millions of multiply-accumulates), arm, best (the group's first arm),
        seeds; accuracy (%, mean); difference to the best (points), low and high (t interval), p, 1 for the best itself,
        and verdict, open until all arms have all seeds.
    """
    rows: list[dict[str, Any]] = []
    others: list[float] = []  # p of the pairs without the best
    done = True
    for groups in JUDGED:
        every = {arm: runs_at(records, arm, groups, SECONDARY_SEEDS) for arm in power_arms(groups, 0)}
        done &= all(len(runs) == len(SECONDARY_SEEDS) for runs in every.values())
        price = every["grouped"]["macs"].mean()
        there = {arm: runs for arm, runs in every.items() if abs(runs["macs"].mean() / price - 1) <= EQUAL_COST}
        ranked = sorted(there, key=lambda arm: -there[arm]["test_accuracy"].mean())
        others += [p_value(gains(matched(there[one], there[other]))) for one, other in combinations(ranked[1:], 2)]
        for arm in ranked:
            points = gains(matched(there[arm], there[ranked[0]]))
            if len(points):
                of_arm = {"groups": groups, "arm": arm, "best": ranked[0], **summary(points), "p": p_value(points)}
                rows.append(of_arm | {"price": price / 1e6, "accuracy": 100 * there[arm]["test_accuracy"].mean()})
    tested = [row for row in rows if row["arm"] != row["best"]]
    for row, p in zip(tested, holm([*(row["p"] for row in tested), *others]), strict=False):
        row["p"] = p
    return pd.DataFrame([row | {"verdict": said(row, SECONDARY_SEEDS, others=done)} for row in rows])
