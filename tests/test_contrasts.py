"""Paired differences and the answer, against small cases by hand."""

import pandas as pd
import pytest
from test_analysis import ACCURACIES, records, rows

from flgc_lib.experiment.analysis import Records
from flgc_lib.experiment.contrasts import answer, claim, paired, paired_differences
from flgc_lib.experiment.records import RUN_COLUMNS

T1 = 12.706205  # Student's t of one degree of freedom, 97.5 %


@pytest.fixture(autouse=True)
def without_arrays(monkeypatch):
    monkeypatch.setattr(Records, "groups", lambda self, run: {})


def test_a_paired_difference_is_over_common_seeds_only():
    table = paired_differences(records(rows(ACCURACIES)))
    assert table[["method", "baseline", "groups", "seeds", "seeds_above"]].values.tolist() == [
        ["flgc-dup", "flgc", "4", 2, 2],
        ["flgc-dup", "flgc", "mean", 2, 2],
        ["flgc", "random", "4", 2, 0],
        ["flgc", "random", "mean", 2, 0],
    ]
    assert table["difference"].tolist() == pytest.approx([1.5, 1.5, -1.0, -1.0])  # (2 + 1) / 2, (-1 - 1) / 2
    half = T1 * 0.5  # standard error of 2 and 1: √0.5 / √2
    assert table[["low", "high"]].values[::2].tolist() == [
        pytest.approx([1.5 - half, 1.5 + half]),
        pytest.approx([-1, -1]),
    ]
    assert table["spread"].tolist()[::2] == pytest.approx([0.5**0.5, 0])  # of 2 and 1


def test_differences_are_by_number_of_groups_and_of_the_pairs_asked_for():
    both = pd.concat([rows(ACCURACIES), rows({"flgc": {0: 0.3}, "random": {0: 0.1}}, groups=8)])
    table = paired_differences(records(both), [("random", "flgc")])
    assert table[["groups", "seeds"]].values.tolist() == [["4", 2], ["8", 1], ["mean", 1]]
    assert table["difference"].tolist() == pytest.approx([1, -20, -9.5])  # seed 0 has both: (1 - 20) / 2
    assert table[["low", "high"]].iloc[1].tolist() == pytest.approx([-20, -20])
    assert table["spread"].isna().tolist() == [False, True, True]


def test_the_mean_over_g_is_of_the_seeds_that_have_all_of_them():
    runs = [
        rows({"flgc": {0: 0.50, 1: 0.60, 2: 0.70}, "flgc-dup": {0: 0.52, 1: 0.61, 2: 0.7}}, groups=2),
        rows({"flgc": {0: 0.40, 1: 0.50}, "flgc-dup": {0: 0.40, 1: 0.53}}, groups=4),
        rows({"flgc": {0: 0.40}}, groups=8),
    ]
    table = paired_differences(records(pd.concat(runs)), [("flgc-dup", "flgc")])
    assert table[["groups", "seeds"]].values.tolist() == [["2", 3], ["4", 2], ["mean", 2]]
    assert table[["difference", "low", "high"]].iloc[-1].tolist() == pytest.approx(
        [1.5, 1.5 - T1 / 2, 1.5 + T1 / 2]
    )  # the seeds: 1 and 2
    apart = [rows({"flgc": {0: 0.5}, "flgc-dup": {0: 0.5}}), rows({"flgc": {1: 0.5}, "flgc-dup": {1: 0.5}}, groups=8)]
    assert paired_differences(records(pd.concat(apart)))["groups"].tolist() == ["4", "8"]


def test_without_a_common_seed_there_is_no_difference():
    assert paired_differences(records(rows({"flgc": {0: 0.5}, "flgc-dup": {1: 0.5}}))).empty
    assert paired_differences(records(pd.DataFrame(columns=list(RUN_COLUMNS)))).empty


def test_runs_on_two_kinds_of_processors_make_no_pair():
    other = rows({"flgc": {0: 0.60, 1: 0.64}}, processor="other")
    runs = pd.concat([other, rows({"flgc-dup": {0: 0.61, 1: 0.65}})])
    runs.loc[(runs["seed"] == 1), "processor"] = "one"
    assert paired_differences(records(runs))[["groups", "seeds"]].values.tolist() == [["4", 1], ["mean", 1]]
    table = paired(records(runs), "flgc-dup", "flgc")
    assert table.columns.tolist() == ["flgc", "flgc-dup", "difference", "macs"]
    assert table.values.tolist() == [pytest.approx([64, 65, 1, 0])]
    assert records(runs).describe(pd.DataFrame({"method": ["flgc"]})) == (
        "tiny, 2 epochs, 2 runs on 2 kinds of processor, 2 seeds"
    )


def test_all_seeds_are_paired_whatever_their_processor_if_asked():
    runs = records(
        pd.concat([rows({"flgc": {0: 0.6, 1: 0.6}}, processor="other"), rows({"flgc-dup": {0: 0.61, 1: 0.63}})])
    )
    table = paired_differences(runs, [("flgc-dup", "flgc")], any_processor=True)
    assert table["seeds"].tolist() == [2, 2]
    assert table["difference"].tolist() == pytest.approx([2, 2])


def test_two_runs_of_one_seed_make_no_pair():
    two = pd.concat([rows({"flgc": {0: 0.5}}), rows({"flgc": {0: 0.7}}, learning_rate=0.4), rows({"random": {0: 0.5}})])
    for pair in (("flgc", "random"), ("random", "flgc")):
        with pytest.raises(ValueError, match="flgc has several runs with seed=0 and groups=4"):
            paired(records(two), *pair)


def test_answer_claims_what_its_intervals_show_and_no_more():
    runs = pd.concat([rows(ACCURACIES), rows({"flgc": {0: 0.7, 1: 0.6}, "flgc-dup": {0: 0.71, 1: 0.6}}, groups=2)])
    claimed, _, evidence, sure, refute = answer(records(runs)).split("\n\n")
    # random is a point above flgc in both seeds: a spread of 0, and an interval that does not reach 0.
    assert claimed == (
        "**Claim.** Accuracy with learned groups (flgc) is lower than with random ones (random). No difference is "
        "shown between accuracy with the rule (flgc-dup) and without it (flgc)."
    )
    assert evidence.startswith(
        "- At G = 2, 4 accuracy is 65.50, 63.50 % with the rule (flgc-dup) and 65.00, 62.00 % without it "
        f"(flgc): a difference of +1.00 [{1 - T1 / 2:+.2f}, {1 + T1 / 2:+.2f}] points on average, not separable with "
        "2 seeds."
    )
    assert "with about as many random ones (flgc-randdup) are not both recorded." in evidence
    assert "a difference of -1.00 [-1.00, -1.00] points, lower." in evidence
    assert "2 seeds show a true difference of" in sure
    assert refute.startswith("**What would refute it.**")
    assert claim(records(runs)) == claimed


def test_answer_from_one_seed_claims_nothing():
    one = answer(records(rows({"flgc": {0: 0.5}, "random": {0: 0.4}}))).split("\n\n")
    assert (
        "At G = 4 accuracy is 50.00 % with learned groups (flgc) and 40.00 % with random ones (random): "
        "a difference of +10.00 points, one seed: no interval, nothing small is separable."
    ) in one[2]
    assert one[0] == (
        "**Claim.** No difference is shown between accuracy with learned groups (flgc) and with random ones (random)."
    )
    assert "are both recorded" in answer(records(rows({"flgc": {0: 0.5}})))


def test_answer_says_when_pairing_left_seeds_out():
    cluster = pd.concat([rows({"cluster": {0: 0.7}}), rows({"cluster": {1: 0.5}}, processor="other")])
    evidence = answer(records(pd.concat([cluster, rows({"random": {0: 0.6, 1: 0.6}})]))).split("\n\n")[2]
    assert "a difference of +10.00 points" in evidence
    assert "These are the 1 seeds whose two runs are on one kind of processor" in evidence
    assert "over all 2 it is +0.00 [" in evidence
