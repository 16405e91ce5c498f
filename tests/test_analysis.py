"""Tables computed from the records, against small cases by hand."""

import numpy as np
import pandas as pd
import pytest

from flgc_lib import analysis
from flgc_lib.analysis import (
    Records,
    accuracy_by_groups,
    answer,
    copied,
    copies_by_layer,
    group_sizes,
    interval,
    layers,
    moves_by_epoch,
    of_grid,
    paired,
    paired_differences,
    transitions,
    verdict,
)
from flgc_lib.records import RUN_COLUMNS, write_record
from flgc_lib.training import Settings, fit

ACCURACIES = {  # by method: seed -> accuracy at G = 4
    "flgc": {0: 0.60, 1: 0.64, 2: 0.50},
    "flgc-dup": {0: 0.62, 1: 0.65, 3: 0.10},
    "random": {0: 0.61, 1: 0.65},
}


def rows(accuracies, groups=4, **columns):
    """Rows of `runs.csv` with the columns that the tables of accuracy read."""
    base = {"macs": 2_000_000, "parameters": 500, "copies": 3, "channels_moved": 0.5, "data": "tiny", "epochs": 2}
    base["processor"] = "one"
    return pd.DataFrame(
        [
            {"run": f"{method}-{groups}-{seed}", "method": method, "groups": groups, "seed": seed} | base | columns
            | {"test_accuracy": accuracy}
            for method, by_seed in accuracies.items()
            for seed, accuracy in by_seed.items()
        ]
    )  # fmt: skip


def records(runs, epochs=None, folder=None):
    return Records(folder, runs, pd.DataFrame(columns=["run"]) if epochs is None else epochs, planned=10)


def test_a_paired_difference_is_over_common_seeds_only():
    table = paired_differences(records(rows(ACCURACIES)))
    assert table[["method", "baseline", "groups", "seeds", "seeds_above"]].values.tolist() == [
        ["flgc-dup", "flgc", "4", 2, 2],
        ["flgc-dup", "flgc", "mean", 2, 2],
        ["flgc", "random", "4", 2, 0],
        ["flgc", "random", "mean", 2, 0],
    ]
    assert table["difference"].tolist() == pytest.approx([1.5, 1.5, -1.0, -1.0])  # (2 + 1) / 2, (-1 - 1) / 2
    assert table[["low", "high"]].values[::2].tolist() == [pytest.approx([1, 2]), pytest.approx([-1, -1])]
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
    assert table[["difference", "low", "high"]].iloc[-1].tolist() == pytest.approx([1.5, 1, 2])  # the seeds: 1 and 2
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
    assert table.columns.tolist() == ["flgc", "flgc-dup", "difference"]
    assert table.values.tolist() == [pytest.approx([64, 65, 1])]
    assert records(runs).describe(pd.DataFrame({"method": ["flgc"]})) == (
        "tiny, 2 epochs, 2 runs on 2 kinds of processor, 2 seeds"
    )


def test_interval_of_three_values_is_their_range_and_of_one_the_value():
    assert interval(np.array([1.0, 5.0, 2.0])) == (1, 5)  # three times the smallest: 1/27 > 2.5 %
    assert interval(np.array([7.0])) == (7, 7)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ((0.1, 1, 5), "higher"),
        ((-1, -0.1, 5), "lower"),
        ((-0.1, 1, 6), "not separable with 6 seeds"),
        ((0.0, 1, 5), "not separable with 5 seeds"),
        ((0.1, 1, 4), "not judged: 4 seeds, 5 are needed"),
        ((0.1, 0.1, 1), "one seed: no interval, nothing small is separable"),
    ],
)
def test_verdict(case, expected):
    assert verdict(*case) == expected


def test_answer_has_three_sentences_with_numbers():
    runs = pd.concat([rows(ACCURACIES), rows({"flgc": {0: 0.7, 1: 0.6}, "flgc-dup": {0: 0.71, 1: 0.6}}, groups=2)])
    first, second, third = answer(records(runs)).splitlines()
    assert first == (
        "At G = 2, 4 accuracy is 65.50, 63.50 % with the rule (flgc-dup) and 65.00, 62.00 % without it (flgc): "
        "a difference of +1.00 [+0.50, +1.50] points on average, not judged: 2 seeds, 5 are needed."
    )
    assert second.endswith("with about as many random ones (flgc-randdup) are not both recorded.")
    assert "a difference of -1.00 [-1.00, -1.00] points" in third
    one = answer(records(rows({"flgc": {0: 0.5}, "random": {0: 0.4}}))).splitlines()[2]
    assert one == (
        "At G = 4 accuracy is 50.00 % with learned groups (flgc) and 40.00 % with random ones (random): "
        "a difference of +10.00 points, one seed: no interval, nothing small is separable."
    )
    assert len(answer(records(rows({"flgc": {0: 0.5}}))).splitlines()) == 3


def test_accuracy_and_costs_by_hand():
    table = accuracy_by_groups(records(pd.concat([rows(ACCURACIES), rows({"dense": {0: 0.9}}, groups=1)])))
    assert table["method"].tolist() == ["dense", "random", "flgc", "flgc-dup"]
    flgc = table.set_index("method").loc["flgc"]
    assert flgc["accuracy"] == pytest.approx(58)
    assert [flgc["low"], flgc["high"], flgc["seeds"]] == pytest.approx([50, 64, 3])
    assert flgc["spread"] == pytest.approx(52**0.5)  # of 60, 64 and 50
    assert flgc[["mega_macs", "mega_parameters", "copies", "channels_moved"]].tolist() == [2, 0.0005, 3, 50]


def test_description_names_the_runs_that_the_table_is_of():
    everything = records(rows(ACCURACIES))
    assert everything.describe(accuracy_by_groups(everything)) == (
        "tiny, 2 epochs, 8 runs, 4 seeds; bars: 95 % bootstrap interval over seeds"
    )
    random = pd.DataFrame({"method": ["random"]})
    assert everything.describe(random) == "tiny, 2 epochs, 2 runs, 2 seeds"
    differences = paired_differences(everything)
    pairs = "tiny, 2 epochs, 8 runs, {}; bars: 95 % bootstrap interval over seeds"
    assert everything.describe(differences) == pairs.format("2 seeds")
    differences.loc[0, "seeds"] = 1
    assert everything.describe(differences) == pairs.format("1 to 2 seeds a pair")
    assert records(rows({"flgc": {0: 0.5}})).describe(pd.DataFrame({"method": ["flgc"]})) == (
        "tiny, 2 epochs, 1 run, one seed"
    )


def test_moves_are_means_over_seeds_of_methods_that_learn():
    runs = rows({"flgc": {0: 0.5, 1: 0.5}, "random": {0: 0.5}})
    epochs = pd.DataFrame(
        [
            (run, epoch, moved, last, 0.25)
            for run, moved, last in (("flgc-4-0", 0.1, 0.1), ("flgc-4-1", 0.3, 0.2), ("random-4-0", 0, 0))
            for epoch in (1, 2)
        ],
        columns=["run", "epoch", "channels_moved", "channels_moved_last", "filters_moved"],
    )
    table = moves_by_epoch(records(runs, epochs))
    assert table.columns.tolist() == [
        "method", "groups", "epoch", "channels_moved", "channels_moved_last", "filters_moved"
    ]  # fmt: skip
    assert table.iloc[:, :3].values.tolist() == [["flgc", 4, 1], ["flgc", 4, 2]]
    assert table.iloc[:, 3:].values.tolist() == [pytest.approx([20, 15, 25])] * 2


def arrays(channel_group, filter_group, inputs, copies):
    """Of one layer with snapshots at start and end."""
    return {
        "snapshots": np.array([0, 2]),
        "layer1.0.conv1.channel_group": np.array(channel_group, dtype=np.uint8),
        "layer1.0.conv1.filter_group": np.array(filter_group, dtype=np.uint8),
        "layer1.0.conv1.copies": np.array(copies),
        "layer1.0.conv1.inputs": np.array(inputs, dtype=bool),
    }


EXAMPLE = arrays(  # 4 channels, 2 filters, 2 groups, 2 epochs
    channel_group=[[0, 0, 1, 1], [0, 1, 1, 1], [0, 1, 1, 0]],
    filter_group=[[0, 1], [0, 1], [0, 0]],
    inputs=[[[1, 0], [1, 0], [0, 1], [0, 1]], [[1, 1], [0, 1], [1, 1], [1, 0]]],
    copies=[0, 1, 2],
)


def test_layers_by_hand():
    (row,) = layers(EXAMPLE).to_dict("records")
    assert row == {
        "layer": "layer1.0.conv1", "place": 0, "channels": 4, "filters": 2, "copies": 2,
        "channels_moved": 50, "filters_moved": 50,
    }  # fmt: skip


def test_transitions_by_hand():
    flow = transitions(np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 1, 0]), groups=4)
    assert flow.tolist() == [[1, 2, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_copied_lists_who_is_copied_where():
    # At the end the own groups are 0, 1, 1, 0: channel 0 is copied into 1, channel 2 into 0.
    assert copied(EXAMPLE).values.tolist() == [["layer1.0.conv1", 0, 0, 1], ["layer1.0.conv1", 2, 1, 0]]
    assert copied(EXAMPLE, snapshot=0).empty


def test_group_sizes_over_the_equal_size(monkeypatch):
    runs = rows({"flgc": {0: 0.5}, "random": {0: 0.5}}, groups=2)
    monkeypatch.setattr(Records, "groups", lambda self, run: EXAMPLE)
    table = group_sizes(records(runs)).set_index(["kind", "moment"])
    assert set(table["method"]) == {"flgc"}
    assert table.loc[("channels", "start"), ["smallest", "median", "largest", "empty"]].tolist() == [1, 1, 1, 0]
    # At the end both filters are in group 0, of 2 groups: twice the equal size, and an empty group.
    assert table.loc[("filters", "end"), ["smallest", "median", "largest", "empty"]].tolist() == [0, 1, 2, 50]


def test_copies_by_layer_are_means_over_seeds_of_methods_with_the_rule(monkeypatch):
    other = EXAMPLE | {"layer1.0.conv1.copies": np.array([0, 0, 5])}
    stored = {"flgc-dup-2-0": EXAMPLE, "flgc-dup-2-1": other, "flgc-randdup-2-0": EXAMPLE}
    monkeypatch.setattr(Records, "groups", lambda self, run: stored.get(run, {}))
    runs = rows({"flgc-dup": {0: 0.5, 1: 0.5, 2: 0.5}, "flgc-randdup": {0: 0.5}}, groups=2)
    (row,) = copies_by_layer(records(runs)).to_dict("records")
    assert row == {
        "method": "flgc-dup", "groups": 2, "place": 0, "layer": "layer1.0.conv1", "channels": 4, "copies": 3.5
    }  # fmt: skip
    monkeypatch.setattr(Records, "groups", lambda self, run: {})
    assert copies_by_layer(records(runs)).empty
    assert group_sizes(records(runs)).empty


def test_a_real_run_s_record_agrees_with_its_measurements(tiny, images, tmp_path, record, monkeypatch):
    settings = tiny()
    module = fit(settings, images, tmp_path / "run", device="cpu", progress=False)
    row, _ = record(settings)
    write_record(tmp_path / "results", row, module.history, module.assignments, module.correct)
    monkeypatch.setattr(analysis, "grid", lambda name, data=None: [settings, Settings(seed=5)])
    result = of_grid("quick", tmp_path / "results")
    assert (len(result.runs), len(result.epochs), result.planned) == (1, 3, 2)
    stored = result.groups(settings.id)
    last = module.history[-1]
    assert len(copied(stored)) == layers(stored)["copies"].sum() == last["copies"] > 0
    table = layers(stored)
    assert (table["channels_moved"] * table["channels"]).sum() / table["channels"].sum() == pytest.approx(
        100 * last["channels_moved"]
    )
    for name, layer in module.layers.items():
        assert stored[f"{name}.inputs"][-1].tolist() == layer.input_membership().tolist()
    assert copies_by_layer(result)["copies"].sum() == last["copies"]
    assert result.groups("no such run") == {}
    assert set(stored) == set(module.assignments)

    row, _ = record(tiny(method="dense"))
    write_record(tmp_path / "results", row, module.history, {}, module.correct)
    assert result.groups(row["run"]) == {}, "which images are right is no assignment"
