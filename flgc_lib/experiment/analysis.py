"""Tables computed from the records: accuracy, paired differences, moves, copies and sizes of groups.

`of_grid` reads what an experiment left behind; the other functions make of it a table with a row for every point of
a figure. One seed gives no spread, and no table pretends that it does.

Source: Motohashi and Yamauchi, section 4; protocol and columns in data/results/README.md.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flgc_lib.experiment.assignments import CORRECT, Arrays, Kind, array_name, layers
from flgc_lib.experiment.grids import Grid, grid
from flgc_lib.experiment.records import read_epochs, read_groups, read_runs
from flgc_lib.methods import METHODS, Method

Pair = tuple[Method, Method]

PAIRS: tuple[Pair, ...] = (
    ("flgc-dup", "flgc"),
    ("flgc-dup", "flgc-randdup"),
    ("flgc", "random"),
    ("cluster", "random"),
    ("cluster-dup", "cluster"),
)
"""The paper's question, and its two controls: does it matter which maps are copied, and that groups are learned? Then
both questions once more for groups that are learned in another way."""
JUDGED_FROM = 5
"""Seeds: a bootstrap interval from fewer is much too narrow (notebook 07 measures how much), so none is judged by."""
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
        """Assignments of a run by layer and kind; none for a run without any."""
        path = self.folder / "groups" / f"{run}.npz"
        arrays = read_groups(self.folder, run) if path.exists() else {}
        return {name: array for name, array in arrays.items() if name != CORRECT}

    def describe(self, numbers: pd.DataFrame) -> str:
        """Data, epochs, runs, processors and seeds that a table was computed from, as every caption names them."""
        methods = set(numbers["method"]) | set(numbers.get("baseline", ()))
        runs = self.runs[self.runs["method"].isin(methods)]
        seeds = numbers["seeds"] if "baseline" in numbers else [runs["seed"].nunique()]
        fewest, most = min(seeds), max(seeds)
        spread = f"{most} seeds" if most > 1 else "one seed"
        if fewest < most:
            spread = f"{fewest} to {most} seeds a pair"
        if most > 1 and "seeds" in numbers:
            spread += "; bars: 95 % bootstrap interval over seeds"
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
    epochs = read_epochs(folder) if len(runs) else pd.DataFrame(columns=["run"])
    return Records(folder, runs, epochs[epochs["run"].isin(runs["run"])].reset_index(drop=True), len(grid(name)))


def interval(values: np.ndarray, draws: int = 10_000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over seeds; one seed gives no spread and the value itself twice."""
    generator = np.random.default_rng(0)  # the same records, the same interval
    means = generator.choice(values, (draws, len(values))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def accuracy_by(records: Records, by: Sequence[str]) -> pd.DataFrame:
    """Test accuracy in % over the seeds that agree in the columns `by`: mean, spread and interval; and costs.

    The spread is the standard deviation over seeds; one seed has none.
    """
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
    """`accuracy_by` method and number of groups: the paper's question."""
    return accuracy_by(records, ["method", "groups"])


def paired_differences(records: Records, pairs: Iterable[Pair] = PAIRS) -> pd.DataFrame:
    """Difference in test accuracy, in percentage points, over the seeds that both methods of a pair have; see `paired`.

    Args:
        records: of an experiment.
        pairs: (method, baseline) each; where there is no common seed there is no row.

    Returns:
        Mean, spread (standard deviation) and interval, a row for each pair and G, and last one with "mean" for G: each
        seed's mean over all G that both methods have, of the seeds that have them all. It is what to judge by: one
        interval a pair, where of the many intervals of single G some miss 0 by luck.
    """
    rows = []
    for method, baseline in pairs:
        differences = paired(records, method, baseline)["difference"].unstack()  # seeds × G
        for groups, values in (*differences.items(), ("mean", differences.dropna().mean(axis="columns"))):
            found = values.dropna()
            if len(found):
                low, high = interval(found.to_numpy())
                rows.append(
                    {
                        "method": method,
                        "baseline": baseline,
                        "groups": str(groups),
                        "difference": found.mean(),
                        "spread": found.std(),
                        "low": low,
                        "high": high,
                        "seeds": len(found),
                        "seeds_above": int((found > 0).sum()),
                    }
                )
    return pd.DataFrame(rows)


def paired(records: Records, method: Method, baseline: Method) -> pd.DataFrame:
    """Test accuracies of two methods, in %, for each seed and G that both were run with on one kind of processor.

    The same seed gives both methods the same images in the same order, and what that does to both alike cancels. Kinds
    of processors round differently, which training amplifies, so runs of two kinds make no pair.

    Returns:
        Indexed by seed and groups, with the columns `baseline`, `method` and "difference", method − baseline.
    """
    runs = records.runs.astype({"test_accuracy": float})
    theirs, ours = (runs[runs["method"] == one] for one in (baseline, method))
    both = theirs.merge(ours, on=["seed", "groups", "processor"]).set_index(["seed", "groups"]).sort_index()
    both = 100 * both[["test_accuracy_x", "test_accuracy_y"]].set_axis([baseline, method], axis="columns")
    return both.assign(difference=both[method] - both[baseline])


def verdict(low: float, high: float, seeds: int) -> str:
    """What an interval of a difference says: "higher", "lower", "not separable with 5 seeds", or why nothing."""
    if seeds < 2:
        return "one seed: no interval, nothing small is separable"
    if seeds < JUDGED_FROM:
        return f"not judged: {seeds} seeds, {JUDGED_FROM} are needed"
    return "higher" if low > 0 else "lower" if high < 0 else f"not separable with {seeds} seeds"


def answer(records: Records) -> str:
    """The paper's question and its two controls, answered from the records in a sentence each."""
    words = {
        PAIRS[0]: ("with the rule (flgc-dup)", "without it (flgc)"),
        PAIRS[1]: ("with the rule's copies (flgc-dup)", "with about as many random ones (flgc-randdup)"),
        PAIRS[2]: ("with learned groups (flgc)", "with random ones (random)"),
    }
    sentences = []
    for pair, (here, there) in words.items():
        both = paired(records, *pair)
        seeds = both[pair[0]].unstack().dropna().index  # those with all G
        if seeds.empty:
            sentences.append(f"Runs {here} and {there} are not both recorded.")
            continue
        row = paired_differences(records, [pair]).iloc[-1].to_dict()  # the mean over G
        means = both.loc[seeds].groupby("groups").mean()
        at = ", ".join(map(str, means.index))
        first, second = (", ".join(f"{a:.2f}" for a in means[method]) for method in pair)
        bracket = f" [{row['low']:+.2f}, {row['high']:+.2f}]" if row["seeds"] > 1 else ""
        sentences.append(
            f"At G = {at} accuracy is {first} % {here} and {second} % {there}: a difference of "
            f"{row['difference']:+.2f}{bracket} points{' on average' * (len(means) > 1)}, "
            f"{verdict(row['low'], row['high'], row['seeds'])}."
        )
    return "\n".join(sentences)


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


def _cells(runs: pd.DataFrame) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """Runs by method, in the order of `METHODS`, and number of groups; seeds in order."""
    for method in METHODS:
        of_method = runs[runs["method"] == method].sort_values("seed")
        for groups in sorted(of_method["groups"].unique()):
            yield method, int(groups), of_method[of_method["groups"] == groups]


def _with_arrays(records: Records) -> Iterator[tuple[dict[Hashable, Any], Arrays]]:
    """Rows whose groups were recorded, by method, number of groups and seed."""
    for _, _, cell in _cells(records.runs):
        for row in cell.to_dict("records"):
            arrays = records.groups(row["run"])
            if arrays:
                yield row, arrays
