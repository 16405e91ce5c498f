"""From the benchmark's records to what people read: the tables of docs/performance.md and a figure."""

from itertools import cycle
from pathlib import Path
from typing import cast

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from flgc_lib.bench.candidates import BASELINE

COLUMNS = ["stem", "batch", "threads", "candidate", "groups", "mmacs", "milliseconds", "times_faster"]
"""What the figure needs."""


def read(results: Path) -> pd.DataFrame:
    """The rows of `bench.csv` in the folder of the records; none if there is no such file."""
    records = results / "bench.csv"
    return pd.read_csv(records, keep_default_na=False) if records.exists() else pd.DataFrame()


def speed(results: Path) -> pd.DataFrame:
    """What the figure shows of them."""
    return read(results).filter(COLUMNS)


def tables(frame: pd.DataFrame) -> str:
    """Markdown: for every processor, stem, batch and number of threads, times and ratios by candidate and groups."""
    if frame.empty:
        return ""
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


def draw(numbers: pd.DataFrame, canvas: Figure) -> None:
    """Times faster than dense against the number of groups, a panel for each combination, with what MACs promise."""
    candidates = sorted(numbers["candidate"][numbers["groups"] > 1].unique())
    looks = zip(candidates, cycle(sns.color_palette("colorblind")), cycle("osD^vP*Xhd"), cycle(("-", "--", "-.")))
    styles = {name: {"color": c, "marker": m, "linestyle": line} for name, c, m, line in looks}
    cases = list(numbers.groupby(["stem", "batch", "threads"], sort=True))
    panels = canvas.subplots(-(-len(cases) // 2), 2, squeeze=False).ravel()
    for axes, (case, rows) in zip(panels, cases, strict=False):
        stem, batch, threads = cast(tuple[str, int, int], case)
        dense = rows[rows["candidate"] == BASELINE]["mmacs"].iloc[0]
        for name, style in styles.items():
            line = rows[rows["candidate"] == name].sort_values("groups")
            axes.plot(line["groups"], line["times_faster"], label=name, markersize=4, **style)
        promised = rows[rows["candidate"] == "grouped frozen"].sort_values("groups")
        axes.plot(
            promised["groups"], dense / promised["mmacs"], color="0.5", linestyle=":", label="MACs of equal groups"
        )
        axes.axhline(1, color="0.5", linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xticks(sorted(numbers["groups"][numbers["groups"] > 1].unique()))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
        axes.set_title(f"{stem}, batch {batch}, {threads} thread{'s' if threads > 1 else ''}", fontsize="small")
        axes.set_xlabel("groups G")
        axes.set_ylabel("times faster than dense")
    for axes in panels[len(cases) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small", frameon=False)
