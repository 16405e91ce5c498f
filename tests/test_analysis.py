"""Tables computed from the records, against small cases by hand."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_assignments import EXAMPLE

from flgc_lib.experiment import analysis, contrasts
from flgc_lib.experiment.analysis import (
    Records,
    accuracy_by,
    accuracy_by_groups,
    arm_columns,
    copies_by_layer,
    group_sizes,
    moves_by_epoch,
    of_grid,
    origin_of_copies,
)
from flgc_lib.experiment.assignments import copied, layers
from flgc_lib.experiment.records import stored, write_record
from flgc_lib.experiment.settings import Settings
from flgc_lib.experiment.training import fit

ACCURACIES = {  # by method: seed -> accuracy at G = 4
    "flgc": {0: 0.60, 1: 0.64, 2: 0.50},
    "flgc-dup": {0: 0.62, 1: 0.65, 3: 0.10},
    "random": {0: 0.61, 1: 0.65},
}


def rows(accuracies, groups=4, **columns):
    """Rows of `runs.csv` with the columns that the tables of accuracy read."""
    base = asdict(Settings()) | {"depths": "1"}
    base |= {"macs": 2_000_000, "parameters": 500, "copies": 3, "channels_moved": 0.5, "data": "tiny", "epochs": 2}
    base["processor"] = "one"
    return pd.DataFrame(
        [
            base | {"run": f"{method}-{groups}-{seed}", "method": method, "groups": groups, "seed": seed} | columns
            | {"test_accuracy": accuracy}
            for method, by_seed in accuracies.items()
            for seed, accuracy in by_seed.items()
        ]
    )  # fmt: skip


def records(runs, epochs=None, folder=Path("none")):
    return Records(folder, runs, pd.DataFrame(columns=["run"]) if epochs is None else epochs, planned=10)


def test_accuracy_and_costs_by_hand():
    table = accuracy_by_groups(records(pd.concat([rows(ACCURACIES), rows({"dense": {0: 0.9}}, groups=1)])))
    assert table["method"].tolist() == ["dense", "random", "flgc", "flgc-dup"]
    flgc = table.set_index("method").loc["flgc"]
    assert flgc["accuracy"] == pytest.approx(58)
    half = 4.302653 * 52**0.5 / 3**0.5  # Student's t of two degrees of freedom
    assert [flgc["low"], flgc["high"], flgc["seeds"]] == pytest.approx([58 - half, 58 + half, 3])
    assert flgc["spread"] == pytest.approx(52**0.5)  # of 60, 64 and 50
    assert flgc[["mega_macs", "mega_parameters", "copies", "channels_moved"]].tolist() == [2, 0.0005, 3, 50]


def test_description_names_the_runs_that_the_table_is_of():
    everything = records(rows(ACCURACIES))
    assert everything.describe(accuracy_by_groups(everything)) == (
        "tiny, 2 epochs, 8 runs, 2 to 3 seeds a point; bars: 95 % t interval over seeds"
    )
    random = pd.DataFrame({"method": ["random"]})
    assert everything.describe(random) == "tiny, 2 epochs, 2 runs, 2 seeds"
    differences = contrasts.paired_differences(everything)
    pairs = "tiny, 2 epochs, 8 runs, {}; bars: 95 % t interval over seeds"
    assert everything.describe(differences) == pairs.format("2 seeds")
    differences.loc[0, "seeds"] = 1
    assert everything.describe(differences) == pairs.format("1 to 2 seeds a pair")
    assert records(rows({"flgc": {0: 0.5}})).describe(pd.DataFrame({"method": ["flgc"]})) == (
        "tiny, 2 epochs, 1 run, one seed"
    )


def test_runs_of_different_settings_are_no_seeds_of_one():
    two = pd.concat([rows({"flgc": {0: 0.5, 1: 0.6}}), rows({"flgc": {0: 0.7}}, learning_rate=0.4)])
    assert arm_columns(two) == ["method", "groups", "learning_rate"]
    with pytest.raises(ValueError, match=r"the 3 runs with method=flgc, groups=4 differ in learning_rate.*give by="):
        accuracy_by_groups(records(two))
    assert accuracy_by(records(two), arm_columns(two))["seeds"].tolist() == [2, 1]
    assert arm_columns(rows(ACCURACIES)) == ["method", "groups"]
    # what differs between methods, but not within one, needs no column
    soft = pd.concat([rows({"flgc": {0: 0.5}}), rows({"cluster": {0: 0.5}}, soft_start=0.5)])
    assert arm_columns(soft) == ["method", "groups"]


def test_origin_of_copies(monkeypatch):
    S = np.array([[[2.0, 1], [0, 1]], [[0, 0], [0, 0]], [[2, 1], [1, 0]]])  # start, half-way, end; (C, G) = (2, 2)
    inputs = np.array([[[1, 1], [0, 1]], [[1, 0], [0, 1]], [[1, 1], [1, 1]]])
    arrays = {"a.0.channel_group": np.array([[0, 1], [0, 1], [0, 0]]), "a.0.inputs": inputs, "a.0.S": S}
    arrays |= {"a.0.filter_group": np.zeros((3, 2), dtype=int), "a.0.copies": np.array([1, 0, 2])}
    monkeypatch.setattr(Records, "groups", lambda self, run: arrays)
    (row,) = origin_of_copies(records(rows({"flgc-dup": {0: 0.5}}, groups=2))).to_dict("records")
    # At the start channel 0 is copied into group 1; at the end too, and channel 1, now at home in group 0, as well.
    assert (row["copies"], row["at_start"]) == (2, 1)
    assert row["correlation"] == pytest.approx(np.corrcoef([2, 1, 0, 1], [2, 1, 1, 0])[0, 1])
    monkeypatch.setattr(Records, "groups", lambda self, run: {})
    assert origin_of_copies(records(rows({"flgc-dup": {0: 0.5}}))).empty


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
    write_record(tmp_path / "results", row, module.history, stored(module.assignments, module.correct))
    monkeypatch.setattr(analysis, "grid", lambda name, data=None: [settings, Settings(seed=5)])
    result = of_grid("quick", tmp_path / "results")
    assert (len(result.runs), len(result.epochs), result.planned) == (1, 3, 2)
    arrays = result.groups(settings.id)
    last = module.history[-1]
    assert len(copied(arrays)) == layers(arrays)["copies"].sum() == last["copies"] > 0
    table = layers(arrays)
    assert (table["channels_moved"] * table["channels"]).sum() / table["channels"].sum() == pytest.approx(
        100 * last["channels_moved"]
    )
    for name, layer in module.layers.items():
        assert arrays[f"{name}.inputs"][-1].tolist() == layer.input_membership().tolist()
    assert copies_by_layer(result)["copies"].sum() == last["copies"]
    assert replace(result, runs=result.runs.assign(method="grouped")).groups(settings.id) == {}
