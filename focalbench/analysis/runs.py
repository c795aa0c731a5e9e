"""Trials as they lie on disk, read without trust: half-written, foreign or moved folders become words, not tracebacks.

Who a trial is comes from what is written inside it (result.json, config.yaml), never from the name of its folder.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from focalbench.config.document import MAX_BYTES, MAX_DEPTH
from focalbench.errors import DataError
from focalbench.records.metrics import METRICS_FILE, read_metrics
from focalbench.storage import read_regular

CONFIG_FILE, STATUS_FILE, RESULT_FILE, SWEEP_FILE = "config.yaml", "status.json", "result.json", "sweep.json"
_TRIAL_FILES = {CONFIG_FILE, STATUS_FILE, RESULT_FILE, METRICS_FILE}
_MAX_DEPTH = 6  # folders below a given path that are searched for trials
_ALIASES = {"mAP": "val/mAP", "map": "val/mAP", "time": "wall_s"}
NOT_STARTED = "not started"
STOPPED = "stopped"
"""State of a trial that a search gave up before its end, with its whole arm."""


@dataclass(frozen=True)
class TrialRecord:
    """One trial's folder.

    Attributes:
        folder: where it lies.
        state: done, running, failed, interrupted, stopped, unreadable or ``not started``.
        reason: why it does not count; empty for a trial that does.
        arm: as written in result.json, else in status.json or sweep.json; failing these, from the folder's name.
        seed: as written in one of the files; None where nothing says it.
        config: config.yaml as plain data; empty where there is none.
        result: result.json; empty where there is none.
        order: (number of its run, place in the sweep), for tables in the order of the sweep.
    """

    folder: Path
    state: str
    reason: str
    arm: str
    seed: int | None
    config: Mapping[str, Any] = field(repr=False)
    result: Mapping[str, Any] = field(repr=False)
    order: tuple[int, int] = (0, 0)

    @property
    def counts(self) -> bool:
        """Whether the trial is finished and readable."""
        return self.state == "done" and not self.reason

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; empty where there is none or it is damaged."""
        try:
            return read_metrics(self.folder)
        except DataError:
            return []

    def value(self, metric: str) -> float | None:
        """The trial's value of ``metric``: a number in result.json, else the last one logged; None where there is none.

        NaN and infinities count as none. ``AP/<class>`` is the class's AP, ``mAP`` stands for ``val/mAP``, ``time`` for
        ``wall_s``.
        """
        name = _ALIASES.get(metric, metric)
        found = self.result.get(name)
        if found is None and name.startswith("AP/"):
            per_class = self.result.get("AP")
            found = per_class.get(name.removeprefix("AP/")) if isinstance(per_class, dict) else None
        if found is None and name not in self.result:
            found = next((line[name] for line in reversed(self.metrics) if line.get(name) is not None), None)
        return as_number(found)

    def metric_names(self) -> set[str]:
        """Every name that ``value`` may have a number for."""
        names = {name for name, value in self.result.items() if as_number(value) is not None}
        per_class = self.result.get("AP")
        names |= {f"AP/{name}" for name in per_class} if isinstance(per_class, dict) else set()
        return names | {name for line in self.metrics for name in line}


def as_number(value: Any) -> float | None:
    """``value`` as a finite float, or None; booleans are no numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # JSON's integers have no largest
        return None


def metric_name(name: str) -> str:
    """``name`` with its short forms spelled out: mAP is val/mAP, time is wall_s."""
    return _ALIASES.get(name, name)


def read_trials(paths: Iterable[str | os.PathLike[str]]) -> tuple[TrialRecord, ...]:
    """Every trial at or below ``paths``, each folder once, in the order of paths and sweeps.

    Trials that a sweep.json lists but that have no folder come as ``not started``, unless single trials of the sweep
    are all that was asked for.

    Raises:
        DataError: a path that does not exist, or no trial anywhere.
    """
    given = [Path(path) for path in paths]
    trials: list[TrialRecord] = []
    seen: set[Path] = set()
    listed_runs: set[Path] = set()
    num_runs = 0
    for path in given:
        if not path.exists():
            raise DataError(f"{path}: no such folder; give run folders (runs/NAME) or trial folders")
        if not path.is_dir():
            raise DataError(f"{path}: is a file; give run folders (runs/NAME) or trial folders")
        for run, folders in _trial_folders(path):
            found, missing = _read_run(run, folders, num_runs)
            trials += [trial for trial in found if trial.folder.resolve() not in seen]
            seen.update(folder.resolve() for folder in folders)
            if not _is_trial(path) and run.resolve() not in listed_runs:
                trials += missing
                listed_runs.add(run.resolve())
            num_runs += 1
    if not trials:
        listed = ", ".join(str(path) for path in given)
        raise DataError(f"{listed}: no trials here; `focalbench run CONFIG` writes them to runs/NAME")
    return tuple(sorted(trials, key=lambda trial: trial.order))


def _trial_folders(path: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Each folder that holds trials, with them; ``path`` itself may be a trial."""
    if _is_trial(path):
        yield path.parent, [path]
        return
    for root, folders, files in os.walk(path):
        folder = Path(root)
        folders.sort()
        if len(folder.relative_to(path).parts) >= _MAX_DEPTH:
            folders.clear()
        trials = [folder / name for name in folders if _is_trial(folder / name)]
        folders[:] = [name for name in folders if folder / name not in trials and not name.startswith(".")]
        if trials or SWEEP_FILE in files:
            yield folder, trials


def _is_trial(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TRIAL_FILES)


def _read_run(run: Path, folders: list[Path], run_number: int) -> tuple[list[TrialRecord], list[TrialRecord]]:
    """The trials in ``folders`` of one run, and those of its sweep.json that are not among them, with their order."""
    listed = {}
    sweep, _ = _read_object(run / SWEEP_FILE)
    rows = sweep.get("trials")
    for place, row in enumerate(rows if isinstance(rows, list) else []):
        if isinstance(row, dict) and isinstance(row.get("hash"), str):
            listed[row["hash"]] = (place, row)
    trials, known = [], set()
    for number, folder in enumerate(folders):
        trial, trial_hash = _read_trial(folder)
        known.add(trial_hash)
        place = listed[trial_hash][0] if trial_hash in listed else len(listed) + number
        trials.append(_at(trial, run_number, place))
    missing = [
        _at(_missing_trial(run, row), run_number, place)
        for trial_hash, (place, row) in listed.items()
        if trial_hash not in known
    ]
    return trials, missing


def _at(trial: TrialRecord, run_number: int, place: int) -> TrialRecord:
    return replace(trial, order=(run_number, place))


def _missing_trial(run: Path, row: Mapping[str, Any]) -> TrialRecord:
    folder = run / str(row.get("name", row["hash"]))
    return TrialRecord(
        folder,
        NOT_STARTED,
        "listed in sweep.json, no folder yet",
        _text(row.get("arm")),
        _seed(row.get("seed")),
        {},
        {},
    )


def _read_trial(folder: Path) -> tuple[TrialRecord, str]:
    """The trial in ``folder`` and its hash, empty where nothing says it."""
    status, status_fault = _read_object(folder / STATUS_FILE)
    result, result_fault = _read_object(folder / RESULT_FILE)
    config, config_fault = _read_config(folder / CONFIG_FILE)
    state = str(status.get("state", "done" if result else "unreadable"))
    arm = _text(result.get("arm")) or _text(status.get("arm")) or _name_without_seed(folder.name)
    seed = _seed(result.get("seed"), config.get("seed"), status.get("seed"))
    reason = _why_not_counted(folder, state, status, result, [status_fault, result_fault, config_fault], seed)
    if state == "done" and reason:
        state = "unreadable"
    trial_hash = _text(result.get("config_hash")) or _text(status.get("config_hash"))
    return TrialRecord(folder, state, reason, arm, seed, config, result), trial_hash


def _why_not_counted(
    folder: Path,
    state: str,
    status: Mapping[str, Any],
    result: Mapping[str, Any],
    faults: list[str],
    seed: int | None,
) -> str:
    if state != "done":
        step, steps, error = status.get("step"), status.get("steps"), str(status.get("error") or "").strip()
        at = f" at step {step}" + (f" of {steps}" if steps else "") if step is not None else ""
        fault = next((fault for fault in faults if fault), "")
        return ": ".join(part for part in (f"{state}{at}", error.splitlines()[0] if error else fault) if part)
    fault = next((fault for fault in faults if fault), "")
    if fault:
        return fault
    if not result:
        return "no result.json"
    if not any(key in result for key in ("val/mAP", "AP")):
        return "result.json holds no val/mAP: written by another version or another tool"
    if seed is None:
        return "neither result.json nor config.yaml says its seed"
    return ""


def _read_object(path: Path) -> tuple[dict[str, Any], str]:
    """A JSON object, and what is wrong with the file; a missing file is an empty object and no fault."""
    try:
        document = json.loads(read_regular(path))
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError, RecursionError) as fault:
        return {}, f"{path.name} cannot be read: {_first_line(fault)}"
    return (document, "") if isinstance(document, dict) else ({}, f"{path.name} is not a JSON object")


def _read_config(path: Path) -> tuple[dict[str, Any], str]:
    try:
        document = _plain_yaml(read_regular(path, MAX_BYTES).decode("utf-8"))
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as fault:
        return {}, f"{path.name} cannot be read: {_first_line(fault)}"
    return (document, "") if isinstance(document, dict) else ({}, f"{path.name} is not a mapping")


def _plain_yaml(text: str) -> Any:
    """What ``focalbench run`` wrote has no aliases and few levels; aliases make bombs, and depth makes libyaml crash.

    Raises:
        yaml.YAMLError: for other text.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    for event in yaml.parse(text, loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH or isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"holds an alias or more than {MAX_DEPTH} levels: not written by focalbench run")
    return yaml.load(text, loader)


def _first_line(fault: Exception) -> str:
    reason = getattr(fault, "strerror", None) or str(fault)
    return reason.splitlines()[0] if reason else type(fault).__name__


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _seed(*candidates: Any) -> int | None:
    """The first candidate that is a seed."""
    return next((value for value in candidates if isinstance(value, int) and not isinstance(value, bool)), None)


def _name_without_seed(folder: str) -> str:
    """A label for a trial whose files name no arm: ``gamma=2`` of ``gamma=2-s0-754a7108``."""
    return re.sub(r"-?s\d+-[0-9a-f]{8}$", "", folder) or folder


def flatten_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys and plain values; lists stay lists."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten_config(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
