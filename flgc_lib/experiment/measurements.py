"""Tables of measurements beside the runs: a row is replaced when the same thing is measured again."""

from pathlib import Path

import pandas as pd

from flgc_lib.files import write_whole


def read(table: Path) -> pd.DataFrame:
    """The rows of a table, text as it stands; none if there is no such file."""
    return pd.read_csv(table, keep_default_na=False) if table.exists() else pd.DataFrame()


def add(rows: pd.DataFrame, table: Path, key: list[str]) -> None:
    """Adds rows to a table, whose folder is made if it is missing.

    Args:
        rows: what was measured.
        table: the file.
        key: columns that say what a row measures; older rows that agree with a new one in all of them go.

    Raises:
        OSError: if the file cannot be written; it is then as it was.
    """
    old = read(table)
    if not old.empty:
        replaced = pd.MultiIndex.from_frame(old[key]).isin(pd.MultiIndex.from_frame(rows[key]))
        rows = pd.concat([old[~replaced], rows], ignore_index=True)
    table.parent.mkdir(parents=True, exist_ok=True)
    write_whole(table, lambda part: rows.to_csv(part, index=False, encoding="utf-8"))
