"""The books of a sweep: which trials there are, how each stands, and one table of their results.

A trial is known by the hash that its files name, so that a sweep may grow, and it or its trials may be moved or
renamed: what is done stays done.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from focalbench.config.sweep import Trial
from focalbench.errors import BusyError, DataError, StorageError
from focalbench.experiment.trial_files import RESULT_FILE, STATUS_FILE, finished_result, released, status_of
from focalbench.storage import read_json, remove_unfinished, storage_faults, write_atomically, write_json

SWEEP_FILE = "sweep.json"
RESULTS_FILE = "results.csv"
TO_DO = frozenset({"new", "running", "interrupted"})
"""States of trials that the same command goes on with."""
_LOCK_FILE = ".books.lock"
_IDENTITY = ("name", "arm", "seed", "hash", "differs")


def open_sweep(out: Path, name: str, trials: Sequence[Trial], *, alone: bool = True) -> None:
    """Lists ``trials`` in the books of ``out``, a folder that is made where missing.

    Trials that an earlier form of the sweep gave another name, or whose folders were renamed by hand, are renamed;
    trials that are no longer asked for stay listed.

    Args:
        alone: whether no other process is at work in ``out``: only then may a trial change its name.

    Raises:
        BusyError: when a trial would have to be renamed under the hands of another process.
        StorageError: when ``out`` cannot be written or holds something else.
    """
    if out.exists() and not out.is_dir():
        raise StorageError(f"{out}: is a file, not a folder; pass --out with another path")
    with storage_faults(out):
        out.mkdir(parents=True, exist_ok=True)
    with storage_faults(out), _locked(out):
        remove_unfinished(out)
        known = {row["hash"]: row for row in listed_trials(out)}
        search = _document(out).get("search", {})
        folders = _folders_by_hash(out, trials)
        for trial in trials:
            if trial.hash in folders:
                _rename(folders[trial.hash], out / trial.name, trial, alone)
            known[trial.hash] = {key: getattr(trial, key) for key in _IDENTITY}
        document = {"name": name, "trials": list(known.values())}
        write_json(out / SWEEP_FILE, document | ({"search": search} if search else {}))


def listed_trials(out: Path) -> list[dict[str, Any]]:
    """What sweep.json lists; empty where there is none.

    Raises:
        DataError: when the file is not what focalbench writes.
    """
    rows = _document(out).get("trials", [])
    if not isinstance(rows, list) or any(not isinstance(row, dict) or set(_IDENTITY) - row.keys() for row in rows):
        raise _foreign(out)
    return rows


def listed_proposals(out: Path, space: str) -> list[dict[str, Any]]:
    """The arms that a search over ``space`` has proposed so far, each as the values it sets by key.

    Raises:
        DataError: when sweep.json is not what focalbench writes.
    """
    search = _document(out).get("search", {})
    proposals = search.get("proposals", []) if isinstance(search, dict) else None
    if not isinstance(proposals, list) or any(not isinstance(values, dict) for values in proposals):
        raise _foreign(out)
    return proposals if search.get("space") == space else []


def list_proposals(out: Path, space: str, proposals: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Writes down what has been proposed, unless another process has written down as much; returns what stands."""
    with storage_faults(out), _locked(out):
        known = listed_proposals(out, space)
        if len(known) < len(proposals):
            known += [dict(values) for values in proposals[len(known) :]]
            search = {"space": space, "proposals": known}
            write_json(out / SWEEP_FILE, {"trials": []} | _document(out) | {"search": search})
    return known


def _document(out: Path) -> dict[str, Any]:
    """The content of sweep.json; empty where there is none."""
    path = out / SWEEP_FILE
    if not path.exists():
        return {}
    document = read_json(path)
    if not isinstance(document, dict) or "trials" not in document:
        raise _foreign(out)
    return document


def _foreign(out: Path) -> DataError:
    return DataError(f"{out / SWEEP_FILE}: not a list of trials; move it away or use --fresh")


def _locked(out: Path) -> FileLock:
    """One process at a time reads trials and writes the books, so that none writes down an older state."""
    return FileLock(out / _LOCK_FILE)


def _folders_by_hash(out: Path, trials: Sequence[Trial]) -> dict[str, Path]:
    """Where the trials lie that are not under their name, by what their status.json says."""
    missing = {trial.hash for trial in trials if not (out / trial.name).exists()}
    found = {}
    for path in out.glob(f"*/{STATUS_FILE}") if missing else ():
        try:
            status = status_of(path.parent)
        except DataError:
            continue  # whoever asks for that trial is told
        if status.get("config_hash") in missing:
            found[status["config_hash"]] = path.parent
    return found


def _rename(old: Path, new: Path, trial: Trial, alone: bool) -> None:
    """The same trial under the name that the grown sweep gives it."""
    if not alone:
        raise BusyError(
            f"{old}: has to be renamed to {new.name}, but another process is at work in this sweep; wait for it or "
            "use another --out"
        )
    with released(old), storage_faults(new):
        os.rename(old, new)
    for file in (STATUS_FILE, RESULT_FILE):
        if (new / file).exists():
            document = read_json(new / file)
            write_json(new / file, {**document, "trial": trial.name, "arm": trial.arm, "differs": trial.differs})


def trial_state(folder: Path) -> str:
    """done | failed | interrupted | stopped (early, with its arm) | running (or left behind by a kill) | new.

    A trial whose result is lost or damaged is as good as interrupted: its last checkpoint gives it again.
    """
    state = str(status_of(folder).get("state", "new"))
    return "interrupted" if state == "done" and finished_result(folder) is None else state


def write_results(out: Path) -> None:
    """Replaces results.csv by one row a listed trial, in the order of sweep.json.

    It holds no times, so that a sweep that was killed and resumed ends with the same bytes as one that never was.
    """
    with storage_faults(out), _locked(out):
        _write_results(out)


def _write_results(out: Path) -> None:
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
    result = finished_result(folder)
    if result is not None:
        line |= {key: result.get(key) for key in ("val/mAP", "val/mAP_best", "step", "protocol")}
        per_class = result.get("AP")
        line |= {f"AP/{name}": value for name, value in per_class.items()} if isinstance(per_class, dict) else {}
    return line
