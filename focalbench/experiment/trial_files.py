"""Names of the files in a trial's folder, and what they hold that others ask for."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from focalbench.config.sweep import Trial
from focalbench.errors import BusyError, DataError
from focalbench.storage import read_json, write_json

CONFIG_FILE = "config.yaml"
STATUS_FILE = "status.json"
RESULT_FILE = "result.json"
DETECTIONS_FILE = "detections.npz"
CHECKPOINTS = "checkpoints"
LOCK_FILE = ".lock"
_RELEASE_S = 60.0
"""A worker whose launcher is gone stops at its next step; it is given this long."""


def write_status(folder: Path, trial: Trial, state: str, **facts: Any) -> None:
    """Replaces status.json; ``state`` is running | done | failed | interrupted | stopped.

    How far a trial is, that of its last checkpoint, stays known from one to the next: ``step``, and ``steps`` in all
    once its data are read.
    """
    known = {key: value for key, value in status_of(folder).items() if key in ("step", "steps")}
    status = {
        "state": state,
        "trial": trial.name,
        "arm": trial.arm,
        "seed": trial.seed,
        "config_hash": trial.hash,
        "pid": os.getpid(),
        "host": os.uname().nodename,
        "time": time.time(),
        "step": 0,
        **known,
        **facts,
    }
    folder.mkdir(parents=True, exist_ok=True)  # a process that died early has not made it
    write_json(folder / STATUS_FILE, status)


def status_of(folder: Path) -> dict[str, Any]:
    """The content of status.json; empty where there is none.

    Raises:
        DataError: when it is damaged.
    """
    path = folder / STATUS_FILE
    if not path.exists():
        return {}
    try:
        status = read_json(path)
    except DataError as fault:
        status = str(fault)
    if not isinstance(status, dict):
        raise DataError(
            f"{path}: damaged, not a trial's status; delete this file and run again: the trial goes on from its "
            "checkpoint"
        )
    return status


def finished_result(folder: Path) -> dict[str, Any] | None:
    """The result of a trial that is done, else None; None too when it cannot be read: the trial makes it again."""
    if status_of(folder).get("state") != "done" or not (folder / RESULT_FILE).exists():
        return None
    try:
        result = read_json(folder / RESULT_FILE)
    except DataError:
        return None
    return result if isinstance(result, dict) else None


def is_locked(folder: Path) -> bool:
    """Whether a process owns the trial in ``folder``."""
    if not (folder / LOCK_FILE).exists():
        return False
    try:
        with FileLock(folder / LOCK_FILE, timeout=0):
            return False
    except Timeout:
        return True


def busy(folder: Path) -> BusyError:
    """What to raise where another process owns the trial in ``folder``."""
    return BusyError(f"{folder}: another process is training this trial; wait for it or use another --out")


@contextmanager
def released(folder: Path) -> Iterator[None]:
    """Within the block no process owns the trial in ``folder``; one that is about to stop is waited for.

    Raises:
        BusyError: when it does not stop.
    """
    lock = FileLock(folder / LOCK_FILE, timeout=_RELEASE_S)
    try:
        lock.acquire()
    except Timeout as fault:
        raise BusyError(
            f"{folder}: another process is training this trial; wait for it or use another --out"
        ) from fault
    try:
        yield
    finally:
        lock.release()
