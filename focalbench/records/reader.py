"""Trials as they lie on disk, read without trust: half-written, foreign or moved folders become words, not tracebacks.

Who a trial is comes from what is written inside it (result.json, config.yaml), never from the name of its folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import yaml

from focalbench.config.document import MAX_BYTES, MAX_DEPTH
from focalbench.errors import DataError
from focalbench.records.document import as_number, first_line
from focalbench.records.metrics import METRICS_FILE, read_metrics
from focalbench.records.result import TrialResult, metric_name
from focalbench.records.results_table import read_table
from focalbench.records.state import TrialState, state_of
from focalbench.records.sweep import SweepFolder
from focalbench.records.trial import TrialFolder, TrialStatus
from focalbench.storage import read_json, read_regular

_TRIAL_FILES = {TrialFolder.CONFIG, TrialFolder.STATUS, TrialFolder.RESULT, METRICS_FILE}
_SEED_LINE = re.compile(r"^seed: (0|[1-9][0-9]{0,9})$", re.MULTILINE)
_ASK = "give run folders (runs/NAME) or trial folders"
_ASK_TABLES = ", or a table of results (results.csv)"
_MAX_DEPTH = 6  # folders below a given path that are searched for trials


@dataclass(frozen=True)
class TrialRecord:
    """What one trial's folder holds, at the moment it was read.

    Attributes:
        folder: where it lies.
        status, result: the two documents; empty where there is none.
        fault: what is wrong with them, empty for nothing.
        order: (number of its run, place in the sweep), for tables in the order of the sweep.
        set_apart: why a finished trial does not count all the same, empty where it may.
        settings: the part of its configuration that a table of results holds; None where config.yaml is to be asked.
    """

    folder: Path
    status: TrialStatus = field(repr=False)
    result: TrialResult = field(repr=False)
    fault: str = ""
    order: tuple[int, int] = (0, 0)
    set_apart: str = ""
    settings: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def from_table(self) -> bool:
        """Whether a table of results is all that is known of the trial, and none of its files may be asked."""
        return self.settings is not None

    @cached_property
    def state(self) -> TrialState:
        """How the trial stands; one that is done but cannot be made use of is unreadable."""
        if self.set_apart:
            return TrialState.STOPPED
        if self.status.state is None and self.fault:
            return TrialState.UNREADABLE
        state = state_of(self.status.state, has_result=bool(self.result.entries()))
        return TrialState.UNREADABLE if state is TrialState.DONE and self._flaw else state

    @property
    def counts(self) -> bool:
        """Whether the trial is finished and readable."""
        return self.state is TrialState.DONE

    @cached_property
    def reason(self) -> str:
        """Why the trial does not count; empty for one that does."""
        if self.set_apart or self.counts:
            return self.set_apart
        if self.state is TrialState.UNREADABLE:
            return self._flaw
        if not self.from_table and not self.folder.exists():
            return f"listed in {SweepFolder.LIST}, no folder yet"
        step, steps, error = self.status.step, self.status.steps, (self.status.error or "").strip()
        # At step 0, nothing has been recorded yet, and only the error says where.
        at = f" at step {step}" + (f" of {steps}" if steps else "") if step else ""
        return ": ".join(part for part in (f"{self.state}{at}", error.splitlines()[0] if error else self.fault) if part)

    @property
    def _flaw(self) -> str:
        """What keeps a finished trial from being made use of."""
        if self.fault or self._read_config[1]:
            return self.fault or self._read_config[1]
        if not self.result.entries():
            return f"no {TrialFolder.RESULT}"
        if not self.result.is_scored:
            return f"{TrialFolder.RESULT} holds no val/mAP: written by another version or another tool"
        return "" if self.seed is not None else f"neither {TrialFolder.RESULT} nor {TrialFolder.CONFIG} says its seed"

    @property
    def name(self) -> str:
        """The name of its folder: arm, seed and hash."""
        return self.folder.name

    @property
    def error(self) -> str:
        """What went wrong, as the trial wrote it down; empty where it is done or nothing did."""
        return "" if self.counts else self.status.error or ""

    @property
    def arm(self) -> str:
        """The arm as written in the result, else in the status; failing these, from the folder's name."""
        return self.result.arm or self.status.arm or _name_without_seed(self.folder.name)

    @property
    def seed(self) -> int | None:
        """The seed as written in one of the files; None where nothing says it."""
        written = (self.result.seed, self.config.get("seed"), self.status.seed)
        return next((seed for seed in written if isinstance(seed, int) and not isinstance(seed, bool)), None)

    @property
    def config_hash(self) -> str:
        """The hash that the files name, empty where nothing says it."""
        return self.result.config_hash or self.status.config_hash

    @property
    def config(self) -> dict[str, Any]:
        """config.yaml as plain data, or what a table of results holds of it, with dotted keys; empty where there is
        neither.
        """
        return self._read_config[0]

    @cached_property
    def _read_config(self) -> tuple[dict[str, Any], str]:
        if self.settings is not None:
            return dict(self.settings), ""
        return _read_config(self.folder / TrialFolder.CONFIG)

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; empty where there is none, it is damaged, or a table is all there is."""
        if self.from_table:
            return []
        try:
            return read_metrics(self.folder)
        except DataError:
            return []

    def value(self, metric: str) -> float | None:
        """Returns the trial's value of ``metric``: a number of the result, else the last one logged; None where there
        is none.

        NaN and infinities count as none. ``AP/<class>`` is the class's AP, ``mAP`` stands for ``val/mAP``, ``time`` for
        ``wall_s``.
        """
        name = metric_name(metric)
        found = self.result.value(name)
        if found is None and not self.result.has(name):
            found = next((line[name] for line in reversed(self.metrics) if line.get(name) is not None), None)
        return as_number(found)

    def metric_names(self) -> set[str]:
        """Returns every name that ``value`` may have a number for."""
        return self.result.metric_names() | {name for line in self.metrics for name in line}


def read_trials(paths: Iterable[str | os.PathLike[str]], *, tables: bool = False) -> tuple[TrialRecord, ...]:
    """Returns every trial at or below ``paths``, each folder once, in the order of paths and sweeps.

    Trials that a sweep.json lists but that have no folder come as new ones, unless single trials of the sweep are all
    that was asked for.

    Args:
        tables: whether a path may also be a table of results (results.csv), which stands for the trials that it lists;
            for callers that need nothing but their values.

    Raises:
        DataError: a path that does not exist, a table that cannot be read, or no trial anywhere.
    """
    given = [Path(path) for path in paths]
    trials: list[TrialRecord] = []
    seen: set[Path] = set()
    listed_runs: set[Path] = set()
    num_runs = 0
    for path in given:
        asked = _ASK + _ASK_TABLES * tables
        if not path.exists():
            raise DataError(f"{path}: no such {'file or ' * is_table(path)}folder; {asked}")
        if tables and is_table(path):
            trials += _read_kept(path, num_runs)
            num_runs += 1
            continue
        if not path.is_dir():
            raise DataError(f"{path}: is a file; {asked}")
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


def is_table(path: Path) -> bool:
    """Tells whether ``path`` is read as a table of results: a file that ends in .csv."""
    return path.suffix.lower() == ".csv" and not path.is_dir()


def _read_kept(path: Path, run_number: int) -> list[TrialRecord]:
    """The trials of a table, each where it would lie beside it."""
    return [
        TrialRecord(
            path.parent / row.trial,
            TrialStatus(state=row.state, trial=row.trial, arm=row.arm, seed=row.seed, config_hash=row.config_hash),
            row.result,
            order=(run_number, number),
            settings=row.settings,
        )
        for number, row in enumerate(read_table(path))
    ]


class TrialReader:
    """Reads the trials at or below a folder again and again; a configuration that is known is not parsed anew.

    What a record keeps of metrics.jsonl is as old as the record: whoever follows a trial reads that file itself.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Path, TrialRecord] = {}

    def __call__(self) -> tuple[TrialRecord, ...]:
        """Returns the trials as they are now; see :func:`read_trials`."""
        found = read_trials([self._folder])
        records = tuple(known if (known := self._known.get(new.folder)) == new else new for new in found)
        self._known = {record.folder: record for record in records}
        return records


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
        names = [name for name in folders if _is_trial(folder / name)]
        trials, known = [folder / name for name in names], set(names)
        folders[:] = [name for name in folders if name not in known and not name.startswith(".")]
        if trials or SweepFolder.LIST in files:
            yield folder, trials


def _is_trial(folder: Path) -> bool:
    if os.access(folder, os.R_OK | os.X_OK):
        return any((folder / name).is_file() for name in _TRIAL_FILES)
    # One that may not be read is told with its reason, and the others are shown.
    return any(folder.name == row.get("name") for row in _listed_by_hash(folder.parent).values())


def _read_run(run: Path, folders: list[Path], run_number: int) -> tuple[list[TrialRecord], list[TrialRecord]]:
    """The trials in ``folders`` of one run, and those that its list names and that are not among them, in order."""
    listed = _listed_by_hash(run)
    trials = [read_trial(folder) for folder in folders]
    places = {trial_hash: place for place, trial_hash in enumerate(listed)}
    found = [
        replace(trial, order=(run_number, places.get(trial.config_hash, len(listed) + number)))
        for number, trial in enumerate(trials)
    ]
    known, names = {trial.config_hash for trial in trials}, {trial.name for trial in trials}
    missing = [
        replace(_missing_trial(run, row), order=(run_number, places[trial_hash]))
        for trial_hash, row in listed.items()
        if trial_hash not in known and row.get("name") not in names  # of one that cannot be read no hash is known
    ]
    return found, missing


def _missing_trial(run: Path, row: Mapping[str, Any]) -> TrialRecord:
    """A trial that the list names and that has no folder yet."""
    status = TrialStatus.model_validate({key: row[key] for key in ("arm", "seed") if key in row})
    return TrialRecord(run / str(row.get("name", row["hash"])), status, TrialResult())


def _listed_by_hash(run: Path) -> dict[str, dict[str, Any]]:
    """The rows of a run's list; empty where it has none that can be read."""
    try:
        document = read_json(run / SweepFolder.LIST)
    except DataError:
        return {}
    rows = document.get("trials") if isinstance(document, dict) else None
    rows = rows if isinstance(rows, list) else []
    return {row["hash"]: row for row in rows if isinstance(row, dict) and isinstance(row.get("hash"), str)}


def read_trial(folder: Path) -> TrialRecord:
    """Returns the trial in ``folder``, whatever is there."""
    status, status_fault = TrialStatus.read(folder / TrialFolder.STATUS)
    result, result_fault = TrialResult.read(folder / TrialFolder.RESULT)
    if "state" in status.model_fields_set and status.state is None:
        status_fault = f"{TrialFolder.STATUS} names no known state"
    return TrialRecord(folder, status, result, status_fault or result_fault)


def _read_config(path: Path) -> tuple[dict[str, Any], str]:
    try:
        document = _parse_config(read_regular(path, MAX_BYTES).decode("utf-8"))
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as fault:
        return {}, f"{path.name} cannot be read: {first_line(fault)}"
    return (document, "") if isinstance(document, dict) else ({}, f"{path.name} is not a mapping")


def _parse_config(text: str) -> Any:
    """The content of a config.yaml. Those of an arm differ in their seed alone, and YAML takes a while: the rest is
    parsed once an arm.
    """
    lines = _SEED_LINE.findall(text)
    if len(lines) != 1:
        return _plain_yaml(text)
    document = _plain_yaml(_SEED_LINE.sub("seed: 0", text))
    is_config = isinstance(document, dict) and document.get("seed") == 0
    return document | {"seed": int(lines[0])} if is_config else _plain_yaml(text)


@lru_cache(maxsize=512)
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


def _name_without_seed(folder: str) -> str:
    """A label for a trial whose files name no arm: ``gamma=2`` of ``gamma=2-s0-754a7108``."""
    return re.sub(r"-?s\d+-[0-9a-f]{8}$", "", folder) or folder


def flatten_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns dotted keys and plain values; lists stay lists."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten_config(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
