"""The books of a sweep: which trials there are, how each stands, and one table of their results.

A trial is found by the hash at the end of its folder's name, so that a sweep may grow, move or be renamed: what is done
stays done.
"""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from focalbench.config.sweep import Trial
from focalbench.errors import DataError, StorageError
from focalbench.experiment.trial_files import RESULT_FILE, STATUS_FILE, status_of
from focalbench.tracking.records import read_json, storage_faults, write_atomically, write_json

SWEEP_FILE = "sweep.json"
RESULTS_FILE = "results.csv"
_IDENTITY = ("name", "arm", "seed", "hash", "differs")


def open_sweep(out: Path, name: str, trials: Sequence[Trial], *, fresh: bool = False) -> None:
    """Makes ``out`` ready for ``trials``: with ``fresh`` an older folder is set aside, never deleted.

    Trials that an earlier form of the sweep gave another name are renamed; trials that are no longer asked for stay
    listed.

    Raises:
        StorageError: when ``out`` cannot be written or holds something else.
    """
    if fresh and out.exists():
        aside = out.with_name(f"{out.name}.{time.strftime('%Y%m%d-%H%M%S')}")
        with storage_faults(aside):
            os.rename(out, aside)
    if out.exists() and not out.is_dir():
        raise StorageError(f"{out}: is a file, not a folder; pass --out with another path")
    with storage_faults(out):
        out.mkdir(parents=True, exist_ok=True)
    known = {row["hash"]: row for row in listed_trials(out)}
    for trial in trials:
        row = known.get(trial.hash)
        if row is not None and row["name"] != trial.name:
            _rename(out, row["name"], trial)
        known[trial.hash] = {key: getattr(trial, key) for key in _IDENTITY}
    write_json(out / SWEEP_FILE, {"name": name, "trials": list(known.values())})


def listed_trials(out: Path) -> list[dict[str, Any]]:
    """What sweep.json lists; empty where there is none.

    Raises:
        DataError: when the file is not what focalbench writes.
    """
    path = out / SWEEP_FILE
    if not path.exists():
        return []
    document = read_json(path)
    rows = document.get("trials") if isinstance(document, dict) else None
    if not isinstance(rows, list) or any(not isinstance(row, dict) or "hash" not in row for row in rows):
        raise DataError(f"{path}: not a list of trials; move it away or use --fresh")
    return rows


def _rename(out: Path, old_name: str, trial: Trial) -> None:
    """The same trial under the name that the grown sweep gives it."""
    old, new = out / old_name, out / trial.name
    if not old.is_dir() or new.exists():
        return
    with storage_faults(new):
        os.rename(old, new)
    for file in (STATUS_FILE, RESULT_FILE):
        if (new / file).exists():
            document = read_json(new / file)
            write_json(new / file, {**document, "trial": trial.name, "arm": trial.arm, "differs": trial.differs})


def trial_state(folder: Path) -> str:
    """done | failed | interrupted | running (or left behind by a kill) | new."""
    state = str(status_of(folder).get("state", "new"))
    return "interrupted" if state == "done" and not (folder / RESULT_FILE).exists() else state


def write_results(out: Path) -> None:
    """Replaces results.csv by one row a listed trial, in the order of sweep.json.

    It holds no times, so that a sweep that was killed and resumed ends with the same bytes as one that never was.
    """
    rows = [_result_row(out / str(row["name"]), row) for row in listed_trials(out)]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(out / RESULTS_FILE, text.getvalue().encode())


def _result_row(folder: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    state = trial_state(folder)
    line = {"trial": row["name"], "arm": row["arm"], "seed": row["seed"], "config_hash": row["hash"], "state": state}
    line |= {key: value for key, value in row["differs"].items() if not isinstance(value, dict | list)}
    if state == "done":
        result = read_json(folder / RESULT_FILE)
        line |= {key: result[key] for key in ("val/mAP", "val/mAP_best", "step", "protocol")}
        line |= {f"AP/{name}": value for name, value in result["AP"].items()}
    return line
