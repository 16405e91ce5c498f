"""Tables of measurements beside the runs: a row is replaced when the same thing is measured again."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from flgc_lib.files import first_line, write_table


def read(table: Path) -> pd.DataFrame:
    """The rows of a table, numbers where a column has nothing else; no rows if there is no such file.

    Raises:
        ValueError: if the file is not a table.
    """
    return _read(table) if table.exists() else pd.DataFrame()


def add(rows: pd.DataFrame, table: Path, key: list[str]) -> None:
    """Adds rows to a table, whose folder is made if it is missing; older rows stay as they are written.

    Args:
        rows: what was measured.
        table: the file.
        key: columns that say what a row measures; older rows that agree with a new one in all of them go.

    Raises:
        ValueError: as `check`.
        OSError: if the file cannot be written; it is then as it was.
    """
    table.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(table.parent / ".lock"):
        old = check(table, rows.columns)
        rows = _as_text(io.StringIO(rows.to_csv(index=False)))
        if not old.empty:
            replaced = pd.MultiIndex.from_frame(old[key]).isin(pd.MultiIndex.from_frame(rows[key]))
            rows = pd.concat([old[~replaced], rows])
        write_table(table, rows)


def check(table: Path, columns: Iterable[str]) -> pd.DataFrame:
    """Refuses a table to which rows of these columns cannot be added; one that does not exist yet can be made.

    Returns:
        Its rows, as they are written.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    if not table.exists():
        return pd.DataFrame()
    old = _as_text(table)
    if difference := set(old.columns).symmetric_difference(columns):
        raise ValueError(
            f"{table} has other columns than what is measured (see {', '.join(sorted(difference))}): move it away, or "
            "restore it, for example with git"
        )
    return old


def _as_text(table: Path | io.StringIO) -> pd.DataFrame:
    """Every cell as it is written; pandas alone would take a commit of digits for a number."""
    return _read(table, dtype=str)


def _read(table: Path | io.StringIO, **options: Any) -> pd.DataFrame:  # noqa: ANN401
    try:
        return pd.read_csv(table, keep_default_na=False, encoding="utf-8", **options)
    except ValueError as error:
        raise ValueError(
            f"{table} is not a readable table ({first_line(error)}): move it away, or restore it, for example with git"
        ) from error
