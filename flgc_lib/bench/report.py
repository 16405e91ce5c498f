"""The benchmark's records: `bench.csv` in the folder of all records, and what is said of a combination."""

from pathlib import Path

import pandas as pd

from flgc_lib.files import write_whole


def read(results: Path) -> pd.DataFrame:
    """The rows of `bench.csv` in the folder of the records; none if there is no such file."""
    records = results / "bench.csv"
    return pd.read_csv(records, keep_default_na=False) if records.exists() else pd.DataFrame()


def store(frame: pd.DataFrame, results: Path) -> None:
    """Adds rows to `bench.csv`; a combination that was measured before, on the same processor, is replaced."""
    same = ["stem", "batch", "threads", "candidate", "groups", "processor"]
    old = read(results)
    if not old.empty:
        replaced = pd.MultiIndex.from_frame(old[same]).isin(pd.MultiIndex.from_frame(frame[same]))
        frame = pd.concat([old[~replaced], frame], ignore_index=True)
    results.mkdir(parents=True, exist_ok=True)
    write_whole(
        results / "bench.csv", lambda part: frame.to_csv(part, index=False, float_format="%.4f", encoding="utf-8")
    )


def load(batch: int, threads: int) -> str:
    """How a combination is named: "batch 1, 2 threads"."""
    return f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}"


def summary(frame: pd.DataFrame) -> str:
    """The table of one combination, the fastest last."""
    columns = ["candidate", "groups", "mmacs", "milliseconds", "quartile_1", "quartile_3", "times_faster"]
    return frame.sort_values("milliseconds", ascending=False)[columns].to_string(index=False, float_format="%.2f")
