"""Names of the files in a trial's folder, and what they hold that others ask for."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from focalbench.config.sweep import Trial
from focalbench.tracking.records import read_json, write_json

CONFIG_FILE = "config.yaml"
STATUS_FILE = "status.json"
RESULT_FILE = "result.json"
DETECTIONS_FILE = "detections.npz"
CHECKPOINTS = "checkpoints"
LOCK_FILE = ".lock"


def write_status(folder: Path, trial: Trial, state: str, **facts: Any) -> None:
    """Replaces status.json; ``state`` is running | done | failed | interrupted."""
    status = {
        "state": state,
        "trial": trial.name,
        "arm": trial.arm,
        "seed": trial.seed,
        "config_hash": trial.hash,
        "pid": os.getpid(),
        "host": os.uname().nodename,
        "time": time.time(),
        **facts,
    }
    write_json(folder / STATUS_FILE, status)


def status_of(folder: Path) -> dict[str, Any]:
    """The content of status.json; empty where there is none."""
    return read_json(folder / STATUS_FILE) if (folder / STATUS_FILE).exists() else {}


def finished_result(folder: Path) -> dict[str, Any] | None:
    """The result of a trial that is done, else None."""
    if status_of(folder).get("state") == "done" and (folder / RESULT_FILE).exists():
        return read_json(folder / RESULT_FILE)
    return None
