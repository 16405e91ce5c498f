"""The benchmark's records, `bench.csv` in the folder of all records, and what is said of a combination."""

import pandas as pd

TABLE = "bench.csv"
KEY = ["stem", "batch", "threads", "candidate", "groups", "processor"]
"""What a row measures."""
COLUMNS = (
    *("stem", "size", "batch", "threads", "candidate", "groups", "assignment", "nominal_mmacs", "mmacs"),
    *("milliseconds", "quartile_1", "quartile_3", "times_faster", "repetitions"),
    *("processor", "system", "torch", "numba", "onnxruntime", "openvino", "code"),
)
"""What it tells; docs/performance.md says what each is."""


def load(batch: int, threads: int) -> str:
    """How a combination is named: "batch 1, 2 threads"."""
    return f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}"


def summary(frame: pd.DataFrame) -> str:
    """The table of one combination, the fastest last."""
    columns = ["candidate", "groups", "mmacs", "milliseconds", "quartile_1", "quartile_3", "times_faster"]
    return frame.sort_values("milliseconds", ascending=False)[columns].to_string(index=False, float_format="%.2f")
