"""metrics.jsonl: one line a logged step, appended; what every later reading of a trial's course goes by.

A kill at any moment leaves at most one torn line at the end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from focalbench.errors import DataError
from focalbench.records.document import as_number
from focalbench.storage import START_ANEW, read_end, read_regular, storage_faults, to_json, write_atomically

METRICS_FILE = "metrics.jsonl"
_END_BYTES = 2**20  # some thousand lines


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Returns the lines of ``folder``/metrics.jsonl in the order they were written; null stands for undefined.

    A last line torn by a kill is left out; without the file the list is empty.

    Raises:
        DataError: when any other line is not a JSON object with a step.
    """
    return [record for record, _ in _records(folder / METRICS_FILE)]


def newest_values(folder: Path, tags: Iterable[str]) -> tuple[int | None, dict[str, float | None]]:
    """Returns the last logged step, None where there is none, and the newest value of each of ``tags`` that was logged.

    Only the end of metrics.jsonl is read, for whoever looks on while it grows; lines that are damaged are passed over.
    """
    try:
        lines = read_end(folder / METRICS_FILE, _END_BYTES).splitlines()
    except OSError:
        return None, {}
    last_step: int | None = None
    missing, values = {tag: json.dumps(tag).encode() for tag in tags}, {}
    for line in reversed(lines):
        if last_step is not None and not missing:
            break
        if last_step is not None and not any(name in line for name in missing.values()):
            continue  # most lines lack the tags that evaluations log: not parsed
        try:
            record = json.loads(line)
            step = int(record["step"])
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            continue  # torn by a kill, or its beginning is not read
        last_step = step if last_step is None else last_step
        for tag in [tag for tag in missing if tag in record]:
            values[tag] = as_number(record[tag])
            del missing[tag]
    return last_step, values


def truncate_after(folder: Path, step: int | None) -> None:
    """Drops from metrics.jsonl the lines with a step above ``step``, so that a resumed trial neither loses nor
    doubles one.

    Atomic: a kill in between leaves the old file. A torn last line goes too.

    Args:
        step: step of the checkpoint that training goes on from; None drops all lines, for a trial that starts anew.
    """
    path = folder / METRICS_FILE
    if not path.exists():
        return
    kept = [] if step is None else [line for record, line in _records(path) if record["step"] <= step]
    write_atomically(path, b"".join(kept))


def drop_values(folder: Path, step: int, prefixes: tuple[str, ...]) -> None:
    """Drops from metrics.jsonl the lines of ``step`` with a value whose tag begins with one of ``prefixes``.

    Atomic: a kill in between leaves the old file.
    """
    path = folder / METRICS_FILE
    records = _records(path)
    kept = [
        line
        for record, line in records
        if record["step"] != step or not any(tag.startswith(prefixes) for tag in record)
    ]
    if len(kept) < len(records):
        write_atomically(path, b"".join(kept))


def _records(path: Path) -> list[tuple[dict[str, Any], bytes]]:
    """The parsed and the raw form of each whole line."""
    try:
        lines = read_regular(path).splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except OSError as fault:
        raise DataError(f"{path}: cannot read: {fault.strerror}") from fault
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            whole = line.endswith(b"\n") and isinstance(record["step"], int)
        except (ValueError, KeyError, TypeError, RecursionError):
            whole = False
        if whole:
            records.append((record, line))
        elif number < len(lines):
            raise DataError(f"{path}:{number}: not a JSON object with a step; {START_ANEW}")
    return records


class MetricsFile:
    """Appends lines to metrics.jsonl, each in one write to the operating system: a kill tears at most the last one.

    Args:
        folder: the trial's folder, made when missing.
        resume_step: step of the checkpoint that training goes on from; later lines are dropped. None starts an empty
            file.

    Raises:
        StorageError: when the file cannot be written; so do all methods.
    """

    def __init__(self, folder: Path, *, resume_step: int | None = None) -> None:
        self._path = Path(folder) / METRICS_FILE
        with storage_faults(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        truncate_after(self._path.parent, resume_step)
        with storage_faults(self._path):
            self._file: IO[bytes] = self._path.open("ab", buffering=0)

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one line; values that are not finite become null."""
        record = {"step": int(step), **to_json(values)}
        line = (json.dumps(record, allow_nan=False) + "\n").encode()
        with storage_faults(self._path):
            if self._file.write(line) != len(line):
                raise OSError("the disk took part of a line")

    def flush(self) -> None:
        """Waits until the lines are on the disk."""
        with storage_faults(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes and closes; safe to call twice."""
        if not self._file.closed:
            self.flush()
            self._file.close()
