"""Tables computed from the records: accuracy and costs, moves, copies and sizes of groups.

`of_grid` reads what an experiment left behind; the other functions make of it a table with a row for every point of
a figure. One seed gives no spread, and no table pretends that it does.

Source: Motohashi and Yamauchi, section 4; protocol and columns in data/results/README.md.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flgc_lib.experiment.assignments import CORRECT, Arrays, Kind, array_name, layers
from flgc_lib.experiment.grids import Grid, grid
from flgc_lib.experiment.records import EPOCH_COLUMNS, SETTINGS, read_epochs, read_groups, read_runs
from flgc_lib.experiment.statistics import interval
from flgc_lib.methods import METHODS

QUANTILES = {"smallest": 0, "low": 0.1, "median": 0.5, "high": 0.9, "largest": 1}
_GROUPED: dict[str, Kind] = {"channels": "channel_group", "filters": "filter_group"}
_REGROUPING = [name for name, facts in METHODS.items() if facts.regroups and facts.control_of is None]
"""Methods of which moves are shown; a control moves as what it is a control of."""


@dataclass(frozen=True, eq=False)
class Records:
    """What one experiment left behind.

    Attributes:
        folder: of all records.
        runs: its rows of `runs.csv`.
        epochs: their rows of `epochs.csv`.
        planned: how many runs the experiment has.
    """

    folder: Path
    runs: pd.DataFrame
    epochs: pd.DataFrame
    planned: int

    def groups(self, run: str) -> Arrays:
        """Assignments of a run by layer and kind; none for a run of a method without a mask.

        Raises:
            ValueError: if they are missing or damaged.
        """
        method = self.runs.loc[self.runs["run"] == run, "method"].iloc[0]
        arrays = read_groups(self.folder, run) if METHODS[method].masked else {}
        return {name: array for name, array in arrays.items() if name != CORRECT}

    def describe(self, numbers: pd.DataFrame) -> str:
        """Data, epochs, runs, processors and seeds that a table was computed from, as every caption names them."""
        methods = set(numbers["method"]) | set(numbers.get("baseline", ()))
        runs = self.runs[self.runs["method"].isin(methods)]
        seeds = numbers["seeds"] if "seeds" in numbers else [runs["seed"].nunique()]
        fewest, most = min(seeds), max(seeds)
        spread = f"{most} seeds" if most > 1 else "one seed"
        if fewest < most:
            spread = f"{fewest} to {most} seeds a {'pair' if 'baseline' in numbers else 'point'}"
        if most > 1 and "seeds" in numbers:
            spread += "; bars: 95 % t interval over seeds"
        epochs = " or ".join(map(str, sorted(runs["epochs"].unique())))
        count = f"{len(runs)} run{'s' * (len(runs) > 1)}"
        if (kinds := runs["processor"].nunique()) > 1:
            count += f" on {kinds} kinds of processor"
        return f"{runs['data'].iloc[0]}, {epochs} epochs, {count}, {spread}"


def of_grid(name: Grid, folder: Path) -> Records:
    """The records of an experiment, on whichever dataset it was run.

    Args:
        name: of the grid.
        folder: of the records.

    Raises:
        ValueError: if it was run on several datasets, which must not be mixed in one figure.
    """
    runs = read_runs(folder)
    names = {s.id for data in runs["data"].unique() for s in grid(name, data)}
    runs = runs[runs["run"].isin(names)].reset_index(drop=True)
    if runs["fingerprint"].nunique() > 1:
        raise ValueError(f"{folder / 'runs.csv'} has runs of {name} on several datasets; keep one a folder")
    epochs = read_epochs(folder) if len(runs) else pd.DataFrame(columns=list(EPOCH_COLUMNS))
    return Records(folder, runs, epochs[epochs["run"].isin(runs["run"])].reset_index(drop=True), len(grid(name)))


def arm_columns(runs: pd.DataFrame) -> list[str]:
    """What tells the arms of an experiment apart: method, G, and what else differs between runs of one method and G."""
    cells = runs.groupby(["method", "groups"])
    others = [name for name in SETTINGS if name not in ("method", "groups", "seed")]
    return ["method", "groups", *[name for name in others if (cells[name].nunique() > 1).any()]]


def accuracy_by(records: Records, by: Sequence[str]) -> pd.DataFrame:
    """Test accuracy in % over the seeds that agree in the columns `by`: mean, spread and interval; and costs.

    The spread is the standard deviation over seeds; one seed has none.

    Raises:
        ValueError: if runs that agree in `by` differ in another setting than the seed, and are no repetitions.
    """
    for key, cell in records.runs.groupby(list(by)):
        differing = [name for name in SETTINGS if name != "seed" and cell[name].nunique() > 1]
        if differing:
            where = ", ".join(f"{name}={value}" for name, value in zip(by, key, strict=True))
            raise ValueError(
                f"the {len(cell)} runs with {where} differ in {', '.join(differing)}, so they are no seeds of one "
                f"setting: give by={[*by, *differing]}"
            )
    rows = []
    for key, cell in records.runs.sort_values("seed").groupby(list(by)):
        accuracy = 100 * cell["test_accuracy"].to_numpy(dtype=float)
        low, high = interval(accuracy)
        rows.append(
            {
                **dict(zip(by, key, strict=True)),
                "accuracy": accuracy.mean(),
                "spread": 100 * cell["test_accuracy"].std(),
                "low": low,
                "high": high,
                "seeds": len(cell),
                "mega_macs": cell["macs"].mean() / 1e6,
                "mega_parameters": cell["parameters"].mean() / 1e6,
                "copies": cell["copies"].mean(),
                "channels_moved": 100 * cell["channels_moved"].mean(),
            }
        )
    table = pd.DataFrame(rows)
    if "method" in table:
        table = table.sort_values("method", key=lambda m: m.map(list(METHODS).index), kind="stable")
    return table.reset_index(drop=True)


def accuracy_by_groups(records: Records) -> pd.DataFrame:
    """`accuracy_by` method and number of groups, the paper's question, of an experiment with one arm a method."""
    return accuracy_by(records, ["method", "groups"])


def moves_by_epoch(records: Records) -> pd.DataFrame:
    """Share of channels, in %, in another group than at the start and than an epoch before; mean over seeds."""
    settings = records.runs.set_index("run")[["method", "groups"]]
    table = records.epochs.join(settings, on="run")
    table = table[table["method"].isin(_REGROUPING)]
    columns = ["channels_moved", "channels_moved_last", "filters_moved"]
    means = table.groupby(["method", "groups", "epoch"])[columns].mean() * 100
    return means.reset_index()


def copies_by_layer(records: Records) -> pd.DataFrame:
    """Copies that the rule makes at the end of training, in each layer in the network's order; mean over seeds."""
    rows = [
        {"method": row["method"], "groups": row["groups"], **layer}
        for row, arrays in _with_arrays(records)
        if METHODS[row["method"]].copies == "rule"
        for layer in layers(arrays).to_dict("records")
    ]
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows)
    by = ["method", "groups", "place", "layer", "channels"]
    return table.groupby(by, sort=True)["copies"].mean().reset_index()


def origin_of_copies(records: Records) -> pd.DataFrame:
    """Is what a trained layer copies important, or the random start? A row for each run and layer with S at both ends.

    Returns:
        Columns run, method, groups, layer, correlation (of S at the end with S at the start), copies at the end, and
        at_start, how many of them the random start makes too.
    """
    rows = []
    for row, arrays in _with_arrays(records):
        for layer in layers(arrays)["layer"]:
            S = arrays.get(array_name(layer, "S"))  # (snapshots, C, G), of each stage's first block
            if S is None:
                continue
            inputs = arrays[array_name(layer, "inputs")]  # (snapshots, C, G)
            own = np.eye(row["groups"], dtype=bool)[arrays[array_name(layer, "channel_group")][[0, -1]]]  # (2, C, G)
            at_start, at_end = (inputs[[0, -1]].astype(bool) & ~own).astype(bool)
            rows.append(
                {
                    "run": row["run"],
                    "method": row["method"],
                    "groups": row["groups"],
                    "layer": layer,
                    "correlation": float(np.corrcoef(S[0].ravel(), S[-1].ravel())[0, 1]),
                    "copies": int(at_end.sum()),
                    "at_start": int((at_end & at_start).sum()),
                }
            )
    return pd.DataFrame(rows, columns=["run", "method", "groups", "layer", "correlation", "copies", "at_start"])


def group_sizes(records: Records) -> pd.DataFrame:
    """How unequal groups are: size over the equal size, C/G or N/G, over all groups, layers and seeds.

    Returns:
        A row for each method, number of groups, kind (channels, filters) and moment (start, end): smallest, 10 %
        quantile, median, 90 % quantile, largest, and the share of empty groups in %.
    """
    collected: dict[tuple[str, int, str, str], list[np.ndarray]] = {}
    for row, arrays in _with_arrays(records):
        if row["method"] not in _REGROUPING:
            continue
        for layer in layers(arrays)["layer"]:
            for kind, array in _GROUPED.items():
                history = arrays[array_name(layer, array)]
                for moment, groups_of in (("start", history[0]), ("end", history[-1])):
                    sizes = np.bincount(groups_of, minlength=row["groups"]) * row["groups"] / history.shape[1]
                    collected.setdefault((row["method"], row["groups"], kind, moment), []).append(sizes)
    rows = []
    for (method, groups, kind, moment), parts in collected.items():
        sizes = np.concatenate(parts)
        quantiles = np.quantile(sizes, list(QUANTILES.values()))
        rows.append([method, groups, kind, moment, *quantiles.tolist(), 100 * float((sizes == 0).mean())])
    table = pd.DataFrame(rows, columns=["method", "groups", "kind", "moment", *QUANTILES, "empty"])
    return table.sort_values(["groups", "kind"], kind="stable", ignore_index=True)


def _with_arrays(records: Records) -> Iterator[tuple[dict[Hashable, Any], Arrays]]:
    """Rows whose groups were recorded, by method in the order of `METHODS`, number of groups and seed."""
    rows = records.runs.to_dict("records")
    for row in sorted(rows, key=lambda row: (list(METHODS).index(row["method"]), row["groups"], row["seed"])):
        if arrays := records.groups(row["run"]):
            yield row, arrays
