"""The tables and sentences that documents show, computed from the records as Markdown."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import pandas as pd

from flgc_lib.bench import report
from flgc_lib.bench.candidates import BASELINE
from flgc_lib.experiment import ablation, arms, conclusion, contrasts, deploy, frontier, measurements
from flgc_lib.experiment.analysis import Records, accuracy_by, arm_columns, of_grid
from flgc_lib.experiment.contrasts import bracketed
from flgc_lib.experiment.grids import PREMISE_SEEDS, WAYS, Grid
from flgc_lib.experiment.statistics import interval
from flgc_lib.figures import result
from flgc_lib.grouping import check_choice

_MARKED = re.compile(
    r"^(?P<open><!-- (?P<kind>\w+): (?P<of>\w+) -->)\n(?:(?!<!-- ).*\n)*?(?P<close><!-- /(?P=kind) -->)$", re.MULTILINE
)
_MARKER = re.compile(r"^<!-- /?\w+(: \w+)? -->$", re.MULTILINE)


def filled(document: Path, results: Path) -> str:
    """The text of a document with its tables and answers computed anew from the records.

    A table stands between the lines `<!-- table: GRID -->` and `<!-- /table -->`, the answer to the paper's question
    between `<!-- answer: GRID -->` and `<!-- /answer -->`, and so on for all of `KINDS`. Tables that are of no grid:
    `bench`, all of the benchmark; `choice`, its fastest; `engines`, accuracy in other engines; `ablation`. One without
    records stays as it is.

    Args:
        document: Markdown.
        results: folder of the records.

    Raises:
        ValueError: if an experiment, or a kind, has another name; if an opening or a closing line lacks the other, and
            as `of_grid`.
    """

    def fill(match: re.Match[str]) -> str:
        kind, name = match["kind"], match["of"]
        measured = kind == "table" and name in _MEASURED
        text = _measured(name, results) if measured else _of_grid(kind, name, results)
        return f"{match['open']}\n{text}\n{match['close']}" if text else match[0]

    text = document.read_text(encoding="utf-8")
    if alone := _MARKER.search(_MARKED.sub("", text)):
        raise ValueError(f"{document}: {alone[0]} stands alone: an opening and a closing line belong together")
    return _MARKED.sub(fill, text)


def _of_grid(kind: str, grid: str, results: Path) -> str:
    check_choice(kind, grid, Grid)
    compute = _JUDGED.get((kind, grid)) or KINDS.get(kind)
    if compute is None:
        known = ", ".join([*KINDS, *(f"{kind}: {grid}" for kind, grid in _JUDGED if kind not in KINDS)])
        raise ValueError(f"<!-- {kind}: {grid} --> is not known: computed from records are {known}")
    records = of_grid(cast(Grid, grid), results)
    if records.runs.empty and kind != "progress":
        return ""
    return compute(records)


def _premise(records: Records) -> str:
    """The ways to copy what has become important beside their controls, and which of them goes into `power`."""
    found = arms.ways(records)
    rows = [
        {
            "way": f"{row['arm']} − {row['baseline']}",
            "points": bracketed(row),
            "seeds": row["seeds"],
            "accuracy (%)": f"{row['accuracy']:.2f}",
            "MACs (M)": f"{row['mega_macs']:.2f}",
            "more than the control (%)": f"{row['macs']:+.1f}",
            "S with its start (control)": f"{row['correlation']:.3f} ({row['correlation_control']:.3f})",
            "copies": f"{row['copies']:.0f}",
            "not in the random start (%)": f"{row['new']:.0f} ({row['new_control']:.0f})",
        }
        for row in found.to_dict("records")
    ]
    done = f"{len(records.runs)} of {records.planned} runs are recorded."
    if len(found) < len(WAYS) or (found["seeds"] < len(PREMISE_SEEDS)).any():
        verdict = "Which way goes into `power` is open until every way and its control have all seeds."
    else:
        best = found["arm"].iloc[0]
        verdict = f"The largest mean difference to its control is that of `{best}`: the two go into `power`."
    return "\n\n".join(filter(None, [done, _markdown(rows), verdict]))


def _planned(records: Records, plan: arms.Plan) -> str:
    """The contrasts of an experiment of few arms with their verdicts, and what every arm costs and reaches."""
    judged = [
        {
            "contrast": f"{row['arm']} − {row['baseline']}",
            "G": row["groups"],
            "points": bracketed(row),
            "test images alone": f"± {row['images']:.2f}",
            "test loss (nats)": f"{row['loss']:+.3f}",
            "MACs (%)": f"{row['macs']:+.1f}",
            "p (Holm)": _p(row["p"]),
            "verdict": row["verdict"],
        }
        for row in arms.differences(records, plan).to_dict("records")
    ]
    reached = [
        {
            "arm": row["arm"],
            "G": row["groups"],
            "test accuracy (%)": f"{row['accuracy']:.2f}"
            + f" [{row['low']:.2f}, {row['high']:.2f}]" * (row["seeds"] > 1),
            "seeds": row["seeds"],
            "MACs (M)": f"{row['mega_macs']:.2f}",
            "on the frontier": "yes" if row["frontier"] else "",
        }
        for row in frontier.costs(records, plan).to_dict("records")
    ]
    done = f"{len(records.runs)} of {records.planned} runs are recorded."
    return "\n\n".join(filter(None, [done, _primary(records, plan), _markdown(judged), _markdown(reached)]))


def _primary(records: Records, plan: arms.Plan = arms.POWER) -> str:
    """The contrasts that an experiment of few arms is for, with their verdicts."""
    rows = [
        {
            "primary contrast": f"{row['arm']} − {row['baseline']}",
            "points": bracketed(row),
            "seeds": row["seeds"],
            "MACs (%)": f"{row['macs']:+.1f}",
            "p": _p(row["p"]),
            "verdict": row["verdict"],
        }
        for row in arms.primary(records, plan).to_dict("records")
    ]
    return _markdown(rows)


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _accuracy(records: Records) -> str:
    """Accuracy and costs of an experiment, a row a method and number of groups."""
    rows = []
    columns = arm_columns(records.runs)
    for row in accuracy_by(records, columns).to_dict("records"):
        spread = f" ± {row['spread']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" if row["seeds"] > 1 else ""
        rows.append(
            {
                **{{"groups": "G"}.get(name, name): row[name] for name in columns},
                "test accuracy (%)": f"{row['accuracy']:.2f}{spread}",
                "seeds": row["seeds"],
                "MACs (M)": f"{row['mega_macs']:.2f}",
                "parameters (M)": f"{row['mega_parameters']:.2f}",
                "copies": f"{row['copies']:.0f}",
                "channels moved (%)": f"{row['channels_moved']:.1f}",
            }
        )
    return _markdown(rows)


def _measured(table: str, results: Path) -> str:
    name, compute = _MEASURED[table]
    frame = measurements.read(results / name)
    return "" if frame.empty else compute(frame)


def _of_bench(frame: pd.DataFrame) -> str:
    """For every processor, stem, batch and number of threads, times and ratios by candidate and groups."""
    return "\n".join(_speed(rows) for _, rows in frame.groupby(["processor", "stem", "size", "batch", "threads"]))


def _speed(rows: pd.DataFrame) -> str:
    """The rows of one processor, stem, batch and number of threads, which the heading names."""
    dense = rows[rows["candidate"] == BASELINE].iloc[0]
    fastest, slowest = (rows["milliseconds"] * rows["times_faster"]).quantile([0, 1])  # of all calls
    took = f"{fastest:.1f} to {slowest:.1f}" if slowest > 1.01 * fastest else f"{dense['milliseconds']:.1f}"
    heading = (
        f"### `{dense['stem']}` stem, {dense['size']} × {dense['size']}, "
        f"{report.load(dense['batch'], dense['threads'])} ({dense['processor']}); dense eager {took} ms"
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


def _choice(frame: pd.DataFrame) -> str:
    """What is fastest, and how many times faster than dense eager, by kind of groups and precision."""
    frame = frame.assign(
        kind=frame["candidate"].str.split(" ").str[0],
        precision=frame["candidate"].str.extract(r"(bf16|int8)$", expand=False).fillna("fp32"),
    )
    table = []
    for case, rows in frame.groupby(["processor", "stem", "batch", "threads", "groups"], sort=True):
        processor, stem, batch, threads, groups = cast(tuple[str, str, int, int, int], case)
        if not rows["kind"].eq("equal").any():
            continue
        for precision in ("fp32", "bf16", "int8"):
            of_precision = rows[rows["precision"] == precision]
            cells = {head: _fastest(of_precision[of_precision["kind"] == kind]) for kind, head in _HEADS.items()}
            network = f"`{stem}`, {report.load(batch, threads)}"
            table.append({"processor": processor, "network": network, "G": groups, "precision": precision, **cells})
    return _markdown(table)


def _fastest(rows: pd.DataFrame) -> str:
    if rows.empty:
        return "–"
    best = rows.sort_values("times_faster").iloc[-1]
    return f"{best['times_faster']:.1f}: {best['candidate'].partition(' ')[2]}"


def _of_engines(frame: pd.DataFrame) -> str:
    """Accuracy of trained networks in other engines, and what it lost there."""
    rows = [
        {
            "run": f"`{row['run']}`",
            "epochs": row["epochs"],
            "engine": row["engine"],
            "precision": row["precision"],
            "frozen, fp32 (%)": f"{row['accuracy_frozen']:.2%}".rstrip("%"),
            "there (%)": f"{row['accuracy']:.2%}".rstrip("%"),
            "lost (points)": f"{100 * (row['accuracy_frozen'] - row['accuracy']):.2f}",
        }
        for row in frame.to_dict("records")
    ]
    return _markdown(rows)


def _of_ablation(frame: pd.DataFrame) -> str:
    """What the copies of trained networks are worth, a row a method, number of groups and channels of a group."""
    rows = []
    for case, runs in frame.groupby(["method", "groups", "share"], sort=True):
        method, groups, share = cast(tuple[str, int, float], case)
        lost = [100 * (runs["accuracy"] - runs[f"without_{what}"]).to_numpy(float) for what in ("copies", "random")]
        low, high = interval(lost[0] - lost[1])
        difference = (lost[0] - lost[1]).mean()
        rows.append(
            {
                "method": f"`{method}`",
                "G": groups,
                "share": f"{share:g}",
                "networks": len(runs),
                "copies": f"{runs['copies'].mean():.0f}",
                "accuracy (%)": f"{100 * runs['accuracy'].mean():.2f}",
                "lost without copies (points)": f"{lost[0].mean():.2f}",
                "without as many connections": f"{lost[1].mean():.2f}",
                "difference": bracketed({"difference": difference, "low": low, "high": high, "seeds": len(runs)}),
            }
        )
    return _markdown(rows)


_HEADS = {"grouped": "fixed equal groups", "equal": "learned, equal", "flgc": "learned, unequal"}
_MEASURED: Mapping[str, tuple[str, Callable[[pd.DataFrame], str]]] = {
    "bench": (report.TABLE, _of_bench),
    "choice": (report.TABLE, _choice),
    "engines": (deploy.TABLE, _of_engines),
    "ablation": (ablation.TABLE, _of_ablation),
}
"""Tables of no grid: the file of their measurements, and what computes them."""


def _markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """A table; the keys of the rows are the heads of its columns. Nothing for no rows."""
    if not rows:
        return ""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


KINDS: Mapping[str, Callable[[Records], str]] = {
    "table": _accuracy,
    "answer": contrasts.answer,
    "claim": contrasts.claim,
    "differences": lambda records: _markdown(result.differences(records)),
    "progress": result.progress,
}
"""What a document may ask for, and what computes it."""
_JUDGED: Mapping[tuple[str, str], Callable[[Records], str]] = {
    ("table", "premise"): _premise,
    ("table", "power"): partial(_planned, plan=arms.POWER),
    ("table", "resnet20"): partial(_planned, plan=arms.RESNET20),
    ("answer", "power"): conclusion.answer,
    ("use", "power"): conclusion.use,
    ("differences", "power"): _primary,
}
"""The same for the experiments that are judged by rules of their own."""
