"""What a finished run leaves behind: `runs.csv`, `epochs.csv`, `groups/<run>.npz`; see data/results/README.md.

Every file is replaced whole, under a lock, so that neither a kill nor a full disk leaves half a record.
"""

import platform
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from torch import Tensor

from flgc_lib.experiment.assignments import CORRECT
from flgc_lib.experiment.settings import Settings
from flgc_lib.files import check_folder, first_line, write_table, write_whole

SETTINGS = tuple(f.name for f in fields(Settings))
RUN_COLUMNS = (
    "run",
    *SETTINGS,
    "fingerprint",
    "code",
    "torch",
    "processor",
    "threads",
    "test_accuracy",
    "test_loss",
    "train_loss",
    "seconds",
    "parameters",
    "macs_dense",
    "macs_grouped",
    "macs",
    "copies",
    "empty_groups",
    "channels_moved",
    "filters_moved",
)
EPOCH_COLUMNS = (
    "run",
    "epoch",
    "train_loss",
    "test_loss",
    "test_accuracy",
    "copies",
    "empty_groups",
    "channels_moved",
    "channels_moved_last",
    "filters_moved",
    "largest_logit",
    "seconds",
)
OF_LAST_EPOCH = tuple(c for c in RUN_COLUMNS if c in EPOCH_COLUMNS and c not in ("run", "seconds"))
"""What a run's row takes from its last epoch as it is, but for what post-hoc copies change after it."""
KINDS: dict[str, type] = {  # all other columns are float
    **{f.name: type(f.default) for f in fields(Settings)},
    **dict.fromkeys(("run", "fingerprint", "code", "torch", "processor"), str),
    **dict.fromkeys(("epoch", "threads", "parameters", "macs_dense", "macs_grouped", "macs", "copies"), int),
    "empty_groups": int,
}


_SHARES = ("test_accuracy", "channels_moved", "channels_moved_last", "filters_moved")


def read_runs(results: Path) -> pd.DataFrame:
    """One row a finished run; empty if there is no `runs.csv` yet.

    Raises:
        ValueError: if a row is incomplete, unreadable, there twice, or its id is not that of its settings; the message
            names the line.
    """
    runs = _read(results / "runs.csv", RUN_COLUMNS, key=["run"])
    for position, row in enumerate(runs.to_dict("records")):
        try:
            expected = settings_of(row).id
        except (ValueError, TypeError) as error:
            raise ValueError(_broken(results / "runs.csv", position, str(error))) from error
        if expected != row["run"]:
            raise ValueError(
                _broken(results / "runs.csv", position, f"its settings are those of {expected}, not {row['run']}")
            )
    return runs


def read_epochs(results: Path) -> pd.DataFrame:
    """One row an epoch of every finished run.

    Raises:
        ValueError: as `read_runs`.
    """
    return _read(results / "epochs.csv", EPOCH_COLUMNS, key=["run", "epoch"])


def read_groups(results: Path, run: str, names: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Assignments of a run, by name of layer and kind; see data/results/README.md.

    Args:
        results: the folder of the records.
        run: its id.
        names: of the arrays that are wanted; all of them, if none is named.

    Raises:
        ValueError: if the file is missing or damaged.
    """
    path = results / "groups" / f"{run}.npz"
    try:
        with np.load(path) as arrays:
            return {name: arrays[name] for name in names or arrays}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} is missing or damaged ({first_line(error)}): restore it, for example with git"
        ) from error


def settings_of(row: Mapping[Any, Any]) -> Settings:
    """The settings that a row of `runs.csv` was run with."""
    values = {name: row[name] for name in SETTINGS}
    values["depths"] = tuple(int(d) for d in str(values["depths"]).split("-"))
    return Settings(**values)


def write_record(
    results: Path,
    run: Mapping[str, Any],
    epochs: Sequence[Mapping[Any, Any]],
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Adds a finished run to the records, or replaces it.

    The row of `runs.csv`, which says that the run is done, is written last.

    Args:
        results: the folder of the records; made if missing.
        run: the columns of `runs.csv`.
        epochs: `Classifier.history`.
        arrays: of `groups/<run>.npz`, see `stored`.

    Raises:
        OSError: if a file cannot be written, with a sentence; what was there before is still there, whole.
    """
    name = run["run"]
    try:
        (results / "groups").mkdir(parents=True, exist_ok=True)
        with FileLock(results / ".lock"):
            if arrays:
                write_whole(results / "groups" / f"{name}.npz", partial(_save_arrays, arrays))
            rows = pd.DataFrame([{"run": name, **row} for row in epochs], columns=list(EPOCH_COLUMNS))
            _merge(results / "epochs.csv", read_epochs(results), rows, ["run", "epoch"])
            row = pd.DataFrame([run], columns=list(RUN_COLUMNS))
            _merge(results / "runs.csv", read_runs(results), row, ["run"])
    except OSError as error:
        raise OSError(
            f"the record of {name} could not be written to {results} ({error.__cause__ or error}); the earlier "
            "records are whole and the finished run is kept in its checkpoint: make room, or make the folder writable, "
            "and start the same command again"
        ) from error


def stored(assignments: Mapping[str, list[Tensor]], correct: Tensor) -> dict[str, np.ndarray]:
    """The arrays of `groups/<run>.npz`, from `Classifier.assignments` and `Classifier.correct`."""
    arrays = {key: np.stack([value.numpy() for value in values]) for key, values in assignments.items()}
    return arrays | {CORRECT: np.packbits(correct.numpy())}


def check_writable(results: Path) -> None:
    """Refuses records that are damaged or could not be written, before a training rather than after it.

    Raises:
        ValueError: as `read_runs`.
        OSError: if the folder cannot be made or written to.
    """
    read_runs(results)
    read_epochs(results)
    check_folder(results)


def code_version() -> str:
    """The last commit that changed the library, with "+changed" if files differ from it; "unknown" outside git."""
    package = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(package), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        commit = git("log", "-1", "--format=%h", "--abbrev=12", "--", ".")
        if commit:  # a package inside somebody else's repository has none
            return commit + ("+changed" if git("status", "--porcelain", "--", "*.py") else "")
    except (OSError, subprocess.CalledProcessError):
        pass
    return "unknown"


def processor_name(device: torch.device) -> str:
    """What a run was computed on, as the driver or the operating system calls it.

    Two kinds of processors can have one name, and round differently: Linux also tells family, model and stepping.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    table = Path("/proc/cpuinfo")  # Linux's platform.processor() is often empty
    text = table.read_text(encoding="utf-8") if table.exists() else ""
    told = dict(re.findall(r"^([a-z ]+?)\s*: (.+)$", text, re.MULTILINE))
    name = told.get("model name") or platform.processor() or platform.machine()
    if not {"cpu family", "model", "stepping"} <= told.keys():
        return name
    return f"{name} (family {told['cpu family']}, model {told['model']}, stepping {told['stepping']})"


def _read(path: Path, columns: tuple[str, ...], key: list[str]) -> pd.DataFrame:
    if not path.exists():
        return pd.DataFrame(columns=list(columns))
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""], encoding="utf-8")
    except (ValueError, pd.errors.ParserError) as error:
        reason = str(error).strip()
        raise ValueError(f"{path} is not a readable table ({reason}): restore it, for example with git") from error
    if tuple(table.columns) != columns:
        difference = set(columns).symmetric_difference(table.columns)
        raise ValueError(
            f"{path} has other columns than expected (see {', '.join(sorted(difference))}): restore it with git"
        )
    for position in np.flatnonzero(table.isna().any(axis=1)).tolist():
        missing = table.columns[table.iloc[position].isna()]
        raise ValueError(_broken(path, position, f"{', '.join(missing)} is missing"))
    for column in columns:
        table[column] = [_value(path, position, column, text) for position, text in enumerate(table[column])]
    for position in np.flatnonzero(table.duplicated(key)).tolist():
        raise ValueError(_broken(path, position, "it is there twice"))
    return table


def _value(path: Path, position: int, column: str, text: str) -> Any:  # noqa: ANN401 - of the column's kind
    """The cell as it was before it was written, to the last digit; pandas alone would guess the kind of a column."""
    kind = KINDS.get(column, float)
    try:
        if kind is bool:
            return {"True": True, "False": False}[text]
        value = {int: int, float: float}.get(kind, str)(text)
    except (ValueError, KeyError) as error:
        raise ValueError(_broken(path, position, f"{column} is {text!r}, not of kind {kind.__name__}")) from error
    most = 1 if column in _SHARES else sys.float_info.max
    if kind in (int, float) and not 0 <= value <= most:  # NaN is no number from 0 on, either
        raise ValueError(_broken(path, position, f"{column} is {text}, not from 0 to {most:g}"))
    return value


def _broken(path: Path, position: int, what: str) -> str:
    return f"{path}, line {position + 2}: broken row: {what}; remove the row, or restore the file with git"


def _save_arrays(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type] # one array may be called like an option, none is


def _merge(path: Path, old: pd.DataFrame, new: pd.DataFrame, key: list[str]) -> None:
    old = old[old["run"] != new["run"].iloc[0]]
    table = pd.concat([old, new]) if len(old) else new
    write_table(path, table.sort_values(key))
