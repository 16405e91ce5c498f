"""The experiment `power` judged, on made-up records."""

import math
import re
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from flgc_lib.cost import count
from flgc_lib.experiment import arms, conclusion, frontier
from flgc_lib.experiment.analysis import of_grid
from flgc_lib.experiment.grids import (
    AIM,
    FURTHER_SEEDS,
    JUDGED,
    PREMISE_SEEDS,
    PRIMARY,
    PRIMARY_SEEDS,
    RETAINED_SEEDS,
    SECONDARY_SEEDS,
    WAYS,
    grid,
    power_arms,
    premise_arms,
)
from flgc_lib.experiment.records import EPOCH_COLUMNS, RUN_COLUMNS, stored, write_record
from flgc_lib.figures.tables import filled

RESULTS = Path(__file__).parents[1] / "data" / "results"


@pytest.fixture
def powered(record, tmp_path):
    """Writes runs of arms, hits of 16 images by seed, beside those written before; reads all of them as `power`."""
    rows = {}
    (tmp_path / "groups").mkdir()
    pd.DataFrame(columns=list(EPOCH_COLUMNS)).to_csv(tmp_path / "epochs.csv", index=False)

    def write(accuracies, processor=lambda seed: "one", groups=16, macs=MappingProxyType({}), plan=arms.POWER):
        for arm, by_seed in accuracies.items():
            for seed, hits in by_seed.items():
                settings = replace(plan.arms(groups, seed)[arm], data="tiny")
                row, _ = record(settings, test_accuracy=hits / 16, test_loss=1 - hits / 16)
                row["processor"] = processor(seed) if arm == "flgc" else "one"
                row["macs"] = macs.get(arm, row["macs"])
                rows[settings.id] = row
                correct = stored({}, torch.arange(16) < hits)
                np.savez(tmp_path / "groups" / f"{settings.id}.npz", **correct)
        pd.DataFrame(rows.values(), columns=list(RUN_COLUMNS)).to_csv(tmp_path / "runs.csv", index=False)
        return of_grid("power" if plan is arms.POWER else "resnet20", tmp_path)

    return write


def test_every_contrast_is_of_arms_that_the_experiment_has_and_counts_are_those_of_the_protocol():
    names = set(power_arms(16, 0))
    assert {name for contrast in arms.POWER.secondary for name in contrast} <= names
    assert len(arms.POWER.secondary) * len(JUDGED) == 26
    planned = [s.id for s in grid("power")]
    assert len(planned) == len(set(planned))
    assert not {power_arms(g, s)[a].id for g in JUDGED for s in SECONDARY_SEEDS for a in names} - set(planned)
    grouped = names - {"dense"}
    assert not {power_arms(g, s)[a].id for g in (16, 4) for s in RETAINED_SEEDS for a in grouped} - set(planned)
    compared = (*PRIMARY, "cluster")
    assert not {power_arms(g, s)[a].id for g in JUDGED for s in PRIMARY_SEEDS for a in compared} - set(planned)
    assert not {power_arms(g, s)[a].id for g in JUDGED for s in FURTHER_SEEDS for a in PRIMARY} - set(planned)
    assert {s.seed for s in grid("power")[:250]} == set(SECONDARY_SEEDS), "seeds that all arms have are run first"
    assert (len(PRIMARY_SEEDS), len(SECONDARY_SEEDS)) == (30, 10)


def test_the_primary_arms_are_trained_as_in_premise():
    for arm, way in zip(PRIMARY, ("select 1", "select-random 1"), strict=True):
        assert replace(power_arms(16, 3)[arm], seed=101, hold_out=5000) == premise_arms(101)[way]


def test_primary_contrasts_by_hand(powered):
    """One number a seed, the mean over the numbers of groups; a seed that lacks one of them does not count."""
    powered({"select": {0: 10, 1: 9, 2: 12}, "select-random": {0: 8, 1: 9, 2: 9}, "cluster": {0: 9, 1: 9}})
    records = powered({"select": {0: 11, 1: 9}, "select-random": {0: 10, 1: 8}, "cluster": {0: 13, 1: 9}}, groups=8)
    first, second = arms.primary(records).to_dict("records")
    points = 100 * np.array([(2 + 1) / 2, (0 + 1) / 2]) / 16
    half = 12.7062047 * points.std(ddof=1) / 2**0.5
    assert (first["arm"], first["baseline"], first["seeds"]) == ("select", "select-random", 2)
    assert [first["difference"], first["low"], first["high"]] == pytest.approx(
        [points.mean(), points.mean() - half, points.mean() + half]
    )
    assert first["verdict"] == "open: 2 of 30 seeds"
    assert (second["baseline"], second["difference"]) == ("cluster", pytest.approx(100 * ((1 - 2) / 2 + 0) / 2 / 16))


def test_further_seeds_narrow_the_first_contrast_and_judge_nothing(powered):
    first = {seed: 8 + seed % 3 for seed in PRIMARY_SEEDS}
    for groups in JUDGED:
        records = powered({"select": first, "select-random": dict.fromkeys(first, 8)}, groups=groups)
    assert arms.narrowed(records) == {}
    alone = arms.primary(records)
    powered({"select": {31: 15, 32: 15}, "select-random": {31: 8, 32: 8}})
    powered({"select": {31: 13}, "select-random": {31: 8}}, groups=8)
    records = powered({"select": {33: 10}, "select-random": {33: 8}})
    assert arms.narrowed(records) == {}, "one further seed has no spread"
    records = powered({"select": {33: 12}, "select-random": {33: 8}}, groups=8)
    row = arms.narrowed(records)
    points = 100 * np.array([hits - 8 for hits in first.values()] + [6, 3]) / 16
    assert (row["seeds"], row["difference"]) == (32, pytest.approx(points.mean())), "32 lacks G = 8"
    half = (alone["high"] - alone["low"]).item() / 2
    assert row["high"] - row["low"] == pytest.approx(2 * half * (30 / 32) ** 0.5)
    assert row["alone"]["seeds"] == 2
    assert row["alone"]["difference"] == pytest.approx(points[30:].mean())
    assert row["beside"]["difference"] == pytest.approx(points[30:].mean() - points[:30].mean())
    assert row["needed"] == math.ceil(30 * (half / 0.2) ** 2)
    pd.testing.assert_frame_equal(arms.primary(records), alone)
    text = conclusion.answer(records)
    assert f"points with 32 of {row['needed']} seeds in two stages (Stein 1945), which judges nothing" in text
    assert "judges nothing; +28.12 [-91.00, +147.25] by the 2 of the second alone, +22.08 [" in text
    assert "beside the first:" not in text, "two seeds say little"
    more = {seed: 13 + seed % 2 for seed in range(34, 40)}
    for groups in JUDGED:
        records = powered({"select": more, "select-random": dict.fromkeys(more, 8)}, groups=groups)
    assert "beside the first: draws from one distribution" in conclusion.answer(records)


def test_there_are_as_many_further_seeds_as_the_spread_of_the_first_says():
    row = arms.primary(of_grid("power", RESULTS)).iloc[0]
    assert row["seeds"] == len(PRIMARY_SEEDS)
    assert math.ceil(30 * ((row["high"] - row["low"]) / 2 / AIM) ** 2) == len({*PRIMARY_SEEDS, *FURTHER_SEEDS})


@pytest.mark.parametrize(
    ("gain", "verdicts"),
    [
        (2, ["higher", "higher"]),
        (-2, ["lower", arms.NOT_ABOVE]),
        (0, ["not separable", arms.NOT_ABOVE]),
    ],
)
def test_the_second_contrast_waits_for_the_first(powered, gain, verdicts):
    for groups in JUDGED:
        records = powered(
            {
                "select": {seed: 10 + gain + seed % 2 for seed in PRIMARY_SEEDS},
                "select-random": {seed: 10 + (seed // 2) % 2 for seed in PRIMARY_SEEDS},
                "cluster": {seed: 8 + (seed // 2) % 2 for seed in PRIMARY_SEEDS},
            },
            groups=groups,
        )
    assert arms.primary(records)["verdict"].tolist() == verdicts


def test_the_second_contrast_is_not_judged_before_the_first(powered):
    above = {seed: 12 + seed % 2 for seed in PRIMARY_SEEDS}
    below = {seed: 8 + (seed // 2) % 2 for seed in PRIMARY_SEEDS}
    for groups in JUDGED:
        records = powered({"select": above, "cluster": below}, groups=groups)
    assert arms.primary(records)["verdict"].tolist() == ["open: waits for the contrast before it"]
    for groups in JUDGED:
        records = powered({"select-random": dict(list(below.items())[1:])}, groups=groups)
    waiting = ["open: 29 of 30 seeds", "open: waits for the contrast before it"]
    assert arms.primary(records)["verdict"].tolist() == waiting


def test_random_groups_that_leave_no_channel_out_are_shown_beside_and_not_claimed(powered):
    for groups in JUDGED:
        drawn = {seed: 12 + seed % 2 for seed in SECONDARY_SEEDS}
        records = powered({"select": dict.fromkeys(PRIMARY_SEEDS, 8), "equal, soft start": drawn}, groups=groups)
    (row,) = arms.primary(records).to_dict("records")
    assert (row["seeds"], row["verdict"]) == (10, arms.BESIDE)
    text = conclusion.answer(records)
    assert "**Claim.** None: no two arms" in text
    assert "- select − equal, soft start, over G = 16 and 8: -2" in text


@pytest.mark.parametrize(("hits", "verdict"), [(None, "open"), (14, "open"), (15, "higher")])
def test_resnet20_is_judged_if_its_dense_net_is_what_it_should_be(powered, hits, verdict):
    """87.5 % are too few, 93.75 % enough."""
    seeds = arms.RESNET20.seeds
    dense = {} if hits is None else {"dense": dict.fromkeys(seeds, hits)}
    for groups in arms.RESNET20.groups:
        select = {seed: 12 + seed % 2 for seed in seeds}
        runs = {"select": select, "select-random": dict.fromkeys(seeds, 8), **dense}
        records = powered(runs, groups=groups, plan=arms.RESNET20)
    (found,) = arms.primary(records, arms.RESNET20)["verdict"]
    assert found == (verdict if verdict == "higher" else "open: dense has not reached 88 %")


def test_differences_by_hand(powered):
    flgc, copies = {0: 8, 1: 9, 20: 10}, {0: 10, 1: 9, 20: 13}
    (row,) = arms.differences(powered({"flgc": flgc, "flgc-dup": copies})).to_dict("records")
    assert (row["arm"], row["baseline"], row["groups"], row["seeds"]) == ("flgc-dup", "flgc", 16, 3)
    points = 100 * np.array([2, 0, 3]) / 16
    half = 4.302653 * points.std(ddof=1) / 3**0.5
    assert [row["difference"], row["low"], row["high"]] == pytest.approx(
        [points.mean(), points.mean() - half, points.mean() + half]
    )
    assert row["loss"] == pytest.approx(-points.mean() / 100)
    assert row["detectable"] == pytest.approx(half * (1 + 1.0606602 / 4.302653))
    of_image = np.zeros(16)  # a third for each seed in which only flgc-dup is right
    of_image[[8, 9]] += 1 / 3
    of_image[[10, 11, 12]] += 1 / 3
    assert row["images"] == pytest.approx(100 * 1.959964 * of_image.std(ddof=1) / 4)


def test_runs_on_two_processors_make_no_pair(powered):
    both = {seed: 8 for seed in SECONDARY_SEEDS[:3]}
    records = powered({"flgc": both, "equal": both}, processor=lambda seed: "two" if seed == 1 else "one")
    table = arms.differences(records)
    assert table[["arm", "baseline", "seeds"]].values.tolist() == [["flgc", "equal", 2]]


def test_verdicts_wait_for_all_seeds_of_all_contrasts_and_are_corrected(powered):
    far = {seed: 5 + seed % 2 for seed in SECONDARY_SEEDS}
    near = {seed: 9 + (seed % 3 == 0) for seed in SECONDARY_SEEDS}
    hits = {arm: near for contrast in arms.POWER.secondary for arm in contrast} | {"flgc": far}
    table = arms.differences(powered(hits | {"flgc-dup": dict(list(near.items())[:9])}))
    p = stats.ttest_1samp([near[seed] - far[seed] for seed in SECONDARY_SEEDS], 0).pvalue
    assert table["p"].min() == pytest.approx(26 * p), "those that are missing count"
    assert table["verdict"].iloc[0] == "open: 9 of 10 seeds"
    assert set(table["verdict"].iloc[1:-1]) == {"open: others that are judged with it lack seeds"}
    powered(hits)
    table = arms.differences(powered(hits, groups=8)).set_index(["arm", "baseline"])
    assert len(table) == 26
    above = table.loc[("flgc-dup", "flgc")]
    assert above["p"].tolist() == pytest.approx([26 * p] * 2)
    assert above["verdict"].tolist() == ["higher"] * 2
    assert table.loc[("flgc", "equal"), "verdict"].tolist() == ["lower"] * 2
    assert set(table.loc[("shuffle", "equal"), "verdict"]) == {"not separable"}


def test_costs_of_the_arms(powered):
    table = frontier.costs(powered({"dense": {0: 12, 1: 13}, "equal": {0: 8, 2: 9}}, macs={"dense": 3_000_000}))
    assert table[["arm", "method", "groups", "seeds"]].values.tolist() == [
        ["equal", "equal", 16, 1],
        ["dense", "dense", 1, 1],
    ]
    assert table["accuracy"].tolist() == pytest.approx([50, 75]), "of the seed that both have"
    assert table["mega_macs"].tolist() == [2, 3]
    records = powered({"equal": {0: 8, 31: 9, 32: 10}, "flgc": {31: 8, 32: 10}}, groups=4)
    table = frontier.costs(records).query("groups == 4")
    assert sorted(table[["arm", "seeds", "accuracy"]].values.tolist()) == [["equal", 2, 59.375], ["flgc", 2, 56.25]]


def test_on_the_frontier_is_what_nothing_of_its_price_or_below_beats(powered):
    hits = {"thin dense": 8, "shuffle": 9, "equal": 10, "flgc": 9, "dense": 12}
    macs = {"thin dense": 1_000_000, "shuffle": 1_040_000, "equal": 2_000_000, "flgc": 2_300_000, "dense": 4_000_000}
    plan = replace(arms.POWER, groups=(16,), arms=lambda g, seed: {arm: power_arms(g, seed)[arm] for arm in macs})
    last = {"dense": {0: hits.pop("dense")}}
    table = frontier.costs(powered({arm: {0: h} for arm, h in hits.items()}, macs=macs), plan)
    assert not table["frontier"].any(), "open, as long as an arm has no run"
    table = frontier.costs(powered(last, macs=macs), plan)
    assert table["arm"].tolist() == list(macs), "the cheapest first"
    assert table["frontier"].tolist() == [False, True, True, False, True]  # 4 % of the price are no price


@pytest.mark.parametrize("plan", [arms.POWER, arms.RESNET20], ids=["power", "resnet20"])
def test_the_thin_dense_net_costs_as_nearly_as_whole_channels_can_what_grouped_costs(plan):
    def macs(settings):
        return count(settings.network(), (3, 32, 32)).macs

    for groups in plan.groups:
        of_g = plan.arms(groups, 0)
        stem = round(64 * of_g["thin dense"].width)
        away = {
            n: abs(macs(replace(of_g["thin dense"], width=n / 64)) - macs(of_g["grouped"]))
            for n in range(stem - 1, stem + 2)
        }
        assert min(away, key=lambda n: away[n]) == stem


def test_what_is_retained_as_groups_grow_in_number(powered):
    """By the seed that both arms have; 1 is none of those that are retained's."""
    powered({"equal": {0: 12, 31: 12, 32: 16, 1: 9}, "flgc": {0: 12}}, groups=4)
    table = frontier.retained(powered({"equal": {0: 10, 31: 11, 1: 10}, "flgc": {0: 12}, "select": {0: 1}}))
    assert table[["arm", "seeds", "difference"]].values.tolist() == [["flgc", 1, 0], ["equal", 1, -100 * 2 / 16]]
    assert table["times"].isna().all()
    records = powered({"grouped": {0: 9}, "flgc": {0: 12}}, macs={"grouped": 1_000_000, "flgc": 2_500_000})
    assert frontier.retained(records).set_index("arm")["times"].to_dict() == {"flgc": 2.5, "equal": 2}
    text = conclusion.answer(records)
    assert "flgc +0.00 at 2.5 times the price, equal -12.50 at 2.0 times" in text
    assert " at 2.0 times the price (the price: multiply-accumulates of `grouped` at G = 16)." in text


def test_arms_of_one_cost_are_compared_with_the_best_by_one_correction(powered):
    """At G = 16 three arms, so three pairs; what costs a tenth more is not among them."""
    seeds = SECONDARY_SEEDS
    hits = {
        "grouped": {seed: 9 + (n < 3) for n, seed in enumerate(seeds)},
        "equal": {seed: 10 + n % 2 for n, seed in enumerate(seeds)},
        "shuffle": {seed: 10 + (n % 3 == 0) for n, seed in enumerate(seeds)},
        "flgc-dup": dict.fromkeys(seeds, 16),
    }
    table = frontier.equally_cheap(powered(hits, macs={"flgc-dup": 2_120_000, "shuffle": 2_090_000}))
    assert set(table["verdict"]) == {"open: others that are judged with it lack seeds"}
    assert table["groups"].unique().tolist() == [16]
    assert table["arm"].tolist() == ["equal", "shuffle", "grouped"]
    best, near, far = table.to_dict("records")
    assert (best["difference"], best["p"]) == (0, 1)
    points = {arm: 100 * np.array([hits[arm][seed] - hits["equal"][seed] for seed in seeds]) / 16 for arm in hits}
    alone = {arm: stats.ttest_1samp(points[arm], 0).pvalue for arm in ("shuffle", "grouped")}
    between = stats.ttest_1samp(points["shuffle"] - points["grouped"], 0).pvalue
    assert alone["grouped"] < between < alone["shuffle"]
    assert near["p"] == pytest.approx(alone["shuffle"])  # the largest of three
    assert far["p"] == pytest.approx(3 * alone["grouped"])
    assert (near["difference"], far["difference"]) == (points["shuffle"].mean(), points["grouped"].mean())


# In words


def test_the_conclusion_waits_for_seeds_and_says_so(powered):
    powered({"select": {0: 10}, "select-random": {0: 8}}, groups=8)
    records = powered({"select": {0: 10}, "select-random": {0: 9}, "grouped": {0: 4}})
    text = conclusion.answer(records)
    assert "Over G = 16 and 8, nothing is said of accuracy with groups that read, and share, the channels" in text
    assert "(open: 1 of 30 seeds)" in text
    assert "would refute it.** What is open claims nothing yet." in text
    assert "- select − select-random, over G = 16 and 8: +9.38 points with 1 seed for +0.0 % multiply" in text
    advice = conclusion.use(records)
    assert "`select`, with 62.50 % the highest mean over 1 of 10 seeds so far; what else does as well is" in advice


def test_without_records_there_are_tables_without_rows(tmp_path):
    records = of_grid("power", tmp_path)
    for table in (arms.primary, arms.differences, arms.ways, frontier.costs, frontier.retained, frontier.equally_cheap):
        assert table(records).empty
    assert conclusion.answer(records).startswith("**Claim.** None: no two arms that the question")
    assert conclusion.use(records) == ""


def test_a_conclusion_from_nothing_to_compare(powered):
    assert conclusion.answer(powered({"dense": {0: 9}})).startswith("**Claim.** None: no two arms that the question")


def test_the_conclusion_of_all_runs(powered, tmp_path):
    """Made up so that it pays what a group reads, sharing does not, and the rule does harm."""
    names = dict.fromkeys(power_arms(16, 0))
    for groups in (4, *JUDGED):
        seeds = {4: RETAINED_SEEDS, 8: PRIMARY_SEEDS, 16: (*PRIMARY_SEEDS, *RETAINED_SEEDS)}[groups]
        most = seeds if groups == 4 else (*PRIMARY_SEEDS, *FURTHER_SEEDS)
        high, low = ({seed: h + (seed + groups // 8) % 2 for seed in most} for h in (12, 8))
        other = {seed: 12 + (seed // 2) % 2 for seed in seeds}
        own = SECONDARY_SEEDS if groups == 8 else {*SECONDARY_SEEDS, *RETAINED_SEEDS}
        few = {seed: hit for seed, hit in low.items() if seed in own}
        fewer = {seed: hit - 4 + (seed % 3 == 0) for seed, hit in few.items()}
        hits = {arm: few for arm in names if arm != "dense"} | {"flgc-dup": fewer}
        dense = {"dense": {seed: 15 for seed in SECONDARY_SEEDS}} if groups == 16 else {}
        hits |= dense | {"select": high, "select-random": low, "cluster": other}
        records = powered(hits, groups=groups, macs={"dense": 9_000_000})
    assert len(records.runs) == records.planned
    text = conclusion.answer(records)
    assert "most important to them (`select`) is higher than with groups that read random channels" in text
    assert "no difference is shown between accuracy with `select` and with groups from the weights" in text
    assert "At G = 16 and at G = 8, accuracy with the paper's rule (`flgc-dup`) is lower than with learned" in text
    assert " points with 30 seeds for +0.0 % multiply-accumulates; not separable." in text
    assert "reaches 0. Of one that is not shown: as many further seeds as are set beforehand, by a test" in text
    assert "- select − select-random once more: +" in text
    assert "From G = 4 to 16 accuracy changes, in points, with 5 seeds, which judges nothing: " in text
    best = r"^- At 2.00 .*: `select`, .*; not separable from it: cluster \S+ \[\S+ \S+\]; lower: .*\.$"
    assert len(re.findall(best, conclusion.use(records), re.MULTILINE)) == 2
    assert "What is not separable may be there: even uncorrected, these seeds show " in text
    rule = "with G = 16 53.12 % for 2.00 million, where `select` with G = 16 has 78.12 %; with G = 8 53.12 % for"
    assert rule in conclusion.use(records)
    assert "corrected for all 132 pairs of arms of one cost" in conclusion.use(records)
    document = tmp_path / "page.md"
    document.write_text("<!-- differences: power -->\n<!-- /differences -->\n", encoding="utf-8")
    (first,) = [row for row in filled(document, tmp_path).splitlines() if row.startswith("| select − select-random |")]
    assert first.endswith("| 30 | +0.0 | < 0.001 | higher |")
    document.write_text("<!-- table: power -->\n<!-- /table -->\n", encoding="utf-8")
    rows = filled(document, tmp_path).splitlines()
    assert first in rows
    assert sum(row.startswith("| flgc-dup − flgc |") for row in rows) == len(JUDGED)


def test_premise_runs_its_ways_and_their_controls_first():
    deciding = {premise_arms(seed)[arm].id for seed in PREMISE_SEEDS for pair in WAYS for arm in pair}
    assert {s.id for s in grid("premise")[: len(deciding)]} == deciding
    assert len(deciding) == 24
    assert not {s.seed for s in grid("premise")} & {s.seed for s in grid("power")}
    assert all(s.hold_out for s in grid("premise"))


@pytest.fixture
def tried(record, tmp_path):
    """Writes runs of ways and controls of `premise`, hits of 16 images by arm; all learned layers have the arrays."""

    def write(hits, seeds=PREMISE_SEEDS):
        S = torch.eye(3, 16)
        inputs = torch.eye(3, 16).bool()
        inputs[2, 0] = True
        start = inputs.clone()  # at the start channel 2 is in two groups,
        inputs[1, 0] = True  # at the end channel 1 as well
        own = torch.tensor([0, 1, 2]).to(torch.uint8)
        arrays = {
            "snapshots": [torch.tensor(e) for e in (0, 4, 8)],
            "layer1.0.conv1.channel_group": [own] * 9,
            "layer1.0.conv1.filter_group": [own] * 9,
            "layer1.0.conv1.copies": [torch.tensor(2)] * 9,
            "layer1.0.conv1.inputs": [start, inputs, inputs],
            "layer1.0.conv1.S": [S, S, -S],
        }
        for arm, right in hits.items():
            for seed in seeds:
                settings = replace(premise_arms(seed)[arm], data="tiny")
                row, epochs = record(settings, test_accuracy=(right + seed % 2) / 16)
                write_record(tmp_path, row, epochs, stored(arrays, torch.arange(16) < right))
        return of_grid("premise", tmp_path)

    return write


def test_ways_beside_their_controls(tried):
    table = arms.ways(
        tried({"select 1": 9, "select-random 1": 8, "budget 1.5": 12, "budget-random 1.5": 9, "flgc": 14})
    )
    assert table["arm"].tolist() == ["budget 1.5", "select 1"]  # the best first
    row = table.iloc[0].to_dict()
    assert (row["baseline"], row["seeds"], row["copies"], row["new"]) == ("budget-random 1.5", 3, 5, 50)
    assert (row["new_control"], row["correlation_control"], row["macs"]) == (50, pytest.approx(-1), 0)
    assert [row["difference"], row["low"], row["high"]] == pytest.approx([100 * 3 / 16] * 3)
    assert row["correlation"] == pytest.approx(-1)
    assert row["mega_macs"] == 2


def test_the_best_way_is_named_when_all_have_all_seeds(tried, tmp_path):
    document = tmp_path / "page.md"
    document.write_text("<!-- table: premise -->\n<!-- /table -->\n", encoding="utf-8")
    hits = {name: 8 + (name == "select 1.5") for pair in WAYS for name in pair}
    tried(hits, seeds=PREMISE_SEEDS[:2])
    text = filled(document, tmp_path)
    assert "| select 1.5 − select-random 1.5 | +6.25 [+6.25, +6.25] | 2 |" in text
    assert "is open until" in text
    tried(hits, seeds=PREMISE_SEEDS[2:])
    assert "that of `select 1.5`: the two go into `power`" in filled(document, tmp_path)
