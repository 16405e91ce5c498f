"""From the benchmark's records to what people read: the tables of docs/performance.md and a figure."""

import re
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from flgc_lib.candidates import BASELINE

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def read(records: Path) -> pd.DataFrame:
    """The rows of `bench.csv`.

    Raises:
        ValueError: if there is no such file.
    """
    if not records.exists():
        raise ValueError(f"{records} does not exist; `flgc bench` measures and writes it")
    return pd.read_csv(records, keep_default_na=False)


def tables(frame: pd.DataFrame) -> str:
    """Markdown: for every processor, stem, batch and number of threads, times and ratios by candidate and groups."""
    parts = []
    for case, rows in frame.groupby(["processor", "stem", "size", "batch", "threads"], sort=True):
        processor, stem, size, batch, threads = cast(tuple[str, str, int, int, int], case)
        baseline = rows[rows.candidate == BASELINE].milliseconds.iloc[0]
        parts.append(
            f"#### `{stem}` stem, {size} × {size}, batch {batch}, {threads} thread{'s' if threads > 1 else ''} "
            f"({processor}); dense eager {baseline:.1f} ms\n"
        )
        parts.append("| candidate | G | nominal MMAC | actual MMAC | ms (quartiles) | times faster |")
        parts.append("| --- | --- | --- | --- | --- | --- |")
        for row in rows.sort_values(["groups", "times_faster"]).itertuples():
            parts.append(
                f"| {row.candidate} | {row.groups} | {row.nominal_mmacs:.0f} | {row.mmacs:.0f} | "
                f"{row.milliseconds:.2f} ({row.quartile_1:.2f} – {row.quartile_3:.2f}) | {row.times_faster:.2f} |"
            )
        parts.append("")
    return "\n".join(parts)


def write_tables(document: Path, records: Path) -> None:
    """Puts the tables of the records between the marks in a document.

    Raises:
        ValueError: if the marks or the records are missing.
    """
    text = document.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{document} must contain the lines {BEGIN} and {END}, between which the tables go")
    block = f"{BEGIN}\n\n{tables(read(records))}\n{END}"
    document.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: block, text, flags=re.DOTALL))


def draw(frame: pd.DataFrame, canvas: Figure) -> None:
    """Times faster than dense against the number of groups, a panel for each combination, with what MACs promise."""
    cases = list(frame.groupby(["stem", "batch", "threads"], sort=True))
    axes = np.atleast_1d(canvas.subplots(-(-len(cases) // 2), min(2, len(cases)), squeeze=False).ravel())
    for ax, (case, rows) in zip(axes, cases, strict=False):
        stem, batch, threads = cast(tuple[str, int, int], case)
        dense = rows[rows.candidate == BASELINE].mmacs.iloc[0]
        for candidate, line in rows[rows.groups > 1].groupby("candidate", sort=True):
            line = line.sort_values("groups")
            ax.plot(line.groups, line.times_faster, marker="o", label=candidate)
        promised = rows[rows.candidate == "grouped frozen"].sort_values("groups")
        ax.plot(promised.groups, dense / promised.mmacs, color="grey", linestyle=":", label="what the MACs promise")
        ax.axhline(1, color="grey", linewidth=0.8)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log", base=2)
        ax.set_title(f"{stem}, batch {batch}, {threads} thread{'s' if threads > 1 else ''}", fontsize="small")
        ax.set_xlabel("groups G")
        ax.set_ylabel("times faster than dense")
    for ax in axes[len(cases) :]:
        ax.set_axis_off()
    handles = {label: line for ax in axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    canvas.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize="small")
