"""The tables and sentences that documents show, computed from the records as Markdown."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pandas as pd

from flgc_lib.bench import report
from flgc_lib.bench.candidates import BASELINE
from flgc_lib.experiment import arms
from flgc_lib.experiment.analysis import Records, accuracy_by, arm_columns, of_grid
from flgc_lib.experiment.contrasts import answer
from flgc_lib.experiment.grids import Grid
from flgc_lib.grouping import check_choice

_MARKED = re.compile(
    r"(?P<open><!-- (?P<kind>table|answer): (?P<of>\w+) -->)\n.*?(?P<close><!-- /(?P=kind) -->)", re.DOTALL
)


def filled(document: Path, results: Path) -> str:
    """The text of a document with its tables and answers computed anew from the records.

    A table stands between the lines `<!-- table: GRID -->` and `<!-- /table -->`, the answer to the paper's question
    between `<!-- answer: GRID -->` and `<!-- /answer -->`, the benchmark's tables as that of the grid `bench`; one
    without records stays as it is.

    Args:
        document: Markdown.
        results: folder of the records.

    Raises:
        ValueError: if an experiment has another name, and as `of_grid`.
    """

    def fill(match: re.Match[str]) -> str:
        text = _of_bench(results) if match["of"] == "bench" else _of_grid(match["kind"], match["of"], results)
        return f"{match['open']}\n{text}\n{match['close']}" if text else match[0]

    return _MARKED.sub(fill, document.read_text(encoding="utf-8"))


def _of_grid(kind: str, grid: str, results: Path) -> str:
    check_choice(kind, grid, Grid)
    records = of_grid(cast(Grid, grid), results)
    if records.runs.empty:
        return ""
    if kind == "table":
        return _accuracy(records)
    return _contrasts(records) if grid == "power" else answer(records)


def _contrasts(records: Records) -> str:
    """The contrasts of `power` with their verdicts, and what every arm costs and reaches."""
    judged = [
        {
            "contrast": f"{row['arm']} − {row['baseline']}",
            "G": row["groups"],
            "points": f"{row['difference']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]",
            "test images alone": f"± {row['images']:.2f}",
            "test loss (nats)": f"{row['loss']:+.3f}",
            "p (Holm)": f"{row['p']:.3f}",
            "verdict": arms.verdict(row),
        }
        for row in arms.differences(records).to_dict("records")
    ]
    reached = [
        {
            "arm": row["arm"],
            "G": row["groups"],
            "test accuracy (%)": f"{row['accuracy']:.2f} [{row['low']:.2f}, {row['high']:.2f}]",
            "seeds": row["seeds"],
            "MACs (M)": f"{row['mega_macs']:.2f}",
        }
        for row in arms.costs(records).sort_values(["mega_macs", "accuracy"]).to_dict("records")
    ]
    done = f"{len(records.runs)} of {records.planned} runs are recorded."
    return "\n\n".join([done, *(_markdown(rows) for rows in (judged, reached) if rows)])


def _accuracy(records: Records) -> str:
    """Accuracy and costs of an experiment, a row a method and number of groups."""
    rows = []
    arms = arm_columns(records.runs)
    for row in accuracy_by(records, arms).to_dict("records"):
        spread = f" ± {row['spread']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" if row["seeds"] > 1 else ""
        rows.append(
            {
                **{{"groups": "G"}.get(name, name): row[name] for name in arms},
                "test accuracy (%)": f"{row['accuracy']:.2f}{spread}",
                "seeds": row["seeds"],
                "MACs (M)": f"{row['mega_macs']:.2f}",
                "parameters (M)": f"{row['mega_parameters']:.2f}",
                "copies": f"{row['copies']:.0f}",
                "channels moved (%)": f"{row['channels_moved']:.1f}",
            }
        )
    return _markdown(rows)


def _of_bench(results: Path) -> str:
    """For every processor, stem, batch and number of threads, times and ratios by candidate and groups."""
    frame = report.read(results)
    if frame.empty:
        return ""
    by = ["processor", "stem", "size", "batch", "threads"]
    return "\n".join(_speed(rows) for _, rows in frame.groupby(by, sort=True))


def _speed(rows: pd.DataFrame) -> str:
    """The rows of one processor, stem, batch and number of threads, which the heading names."""
    dense = rows[rows["candidate"] == BASELINE].iloc[0]
    load = report.load(dense["batch"], dense["threads"])
    heading = (
        f"#### `{dense['stem']}` stem, {dense['size']} × {dense['size']}, {load} ({dense['processor']}); "
        f"dense eager {dense['milliseconds']:.1f} ms"
    )
    table = [
        {
            "candidate": row["candidate"],
            "G": row["groups"],
            "nominal MMAC": f"{row['nominal_mmacs']:.0f}",
            "actual MMAC": f"{row['mmacs']:.0f}",
            "ms (quartiles)": f"{row['milliseconds']:.2f} ({row['quartile_1']:.2f} – {row['quartile_3']:.2f})",
            "times faster": f"{row['times_faster']:.2f}",
        }
        for row in rows.sort_values(["groups", "times_faster"]).to_dict("records")
    ]
    return f"{heading}\n\n{_markdown(table)}\n"


def _markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """A table; the keys of the rows are the heads of its columns."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)
