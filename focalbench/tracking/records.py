"""Trial files in JSON: metrics.jsonl, appended line by line, and whole documents replaced atomically.

A kill at any moment leaves at most one torn line at the end of metrics.jsonl, and of every other file the old or the
new content.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import secrets
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from focalbench.errors import DataError, StorageError
from focalbench.tracking.tracker import FinalStatus, ScoredHits

METRICS_FILE = "metrics.jsonl"
START_ANEW = "to start this trial anew, move its folder out of the run's and give the same command again"
"""The way out for one trial: --fresh would set all others aside too."""
_MAX_ARRAY_BYTES = 2**30
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}")


@contextmanager
def storage_faults(path: Path) -> Iterator[None]:
    """Turns a full disk or a folder without write permission into a StorageError that names ``path``."""
    try:
        yield
    except OSError as fault:
        full = fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "free some space or name another folder" if full else "name another place"
        raise StorageError(f"{path}: cannot write: {fault.strerror or fault}; {remedy}") from fault


def to_json(value: Any) -> Any:
    """``value`` as JSON can hold it: NaN and infinity become null, arrays and 0-d tensors become numbers and lists.

    Raises:
        TypeError: for anything else that JSON has no form for.
    """
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays, torch tensors
        return to_json(value.tolist())
    raise TypeError(f"no JSON form for {type(value).__name__}: {value!r}")


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces ``path`` by ``content`` such that a reader, or a kill, sees the old or the new file and nothing else.

    Raises:
        StorageError: when the folder cannot be written.
    """
    # In the same folder, for os.replace cannot cross file systems.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with storage_faults(path):
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def write_output(path: Path, content: bytes) -> None:
    """As ``write_atomically``, to a path that the user named: links are followed, devices and pipes written to.

    Raises:
        StorageError: when it cannot be written.
    """
    if not path.is_symlink() and (path.is_file() or not path.exists()):
        write_atomically(path, content)
        return
    with storage_faults(path), path.open("wb") as file:
        file.write(content)


def remove_unfinished(folder: Path) -> None:
    """Deletes the temporary files that a killed :func:`write_atomically` left; only the owner of ``folder`` may."""
    for path in folder.glob(".*.*"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes one JSON document (status.json, result.json, sweep.json) atomically.

    Raises:
        StorageError: when the folder cannot be written.
    """
    write_atomically(path, (json.dumps(to_json(value), indent=2, allow_nan=False) + "\n").encode())


def read_regular(path: Path, max_bytes: int = 256 * 2**20) -> bytes:
    """The content of a regular file: a folder may come from anybody, and reading a FIFO in it would never end.

    Raises:
        OSError: when it cannot be read, is no regular file or is larger than ``max_bytes``; ``strerror`` says which.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        if status.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"is larger than {max_bytes:,} bytes", str(path))
        return file.read()


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Arrays of an ``.npz`` file, without pickles and without unfolding more than a gigabyte.

    Raises:
        OSError, ValueError, EOFError, zipfile.BadZipFile: when it cannot be read or is none.
        KeyError: when a name is missing.
    """
    content = io.BytesIO(read_regular(path, _MAX_ARRAY_BYTES))
    with zipfile.ZipFile(content) as archive:
        if sum(member.file_size for member in archive.infolist()) > _MAX_ARRAY_BYTES:
            raise ValueError(f"it unfolds to more than {_MAX_ARRAY_BYTES:,} bytes")
    content.seek(0)
    with np.load(content, allow_pickle=False) as arrays:
        try:
            return {name: arrays[name] for name in names}
        except zlib.error as fault:
            raise ValueError(f"it is damaged: {fault}") from fault


def read_json(path: Path) -> Any:
    """The document in ``path``.

    Raises:
        DataError: when it is missing or no JSON.
    """
    try:
        return json.loads(read_regular(path))
    except OSError as fault:
        raise DataError(f"{path}: cannot read: {fault.strerror}") from fault
    except (ValueError, RecursionError) as fault:
        raise DataError(f"{path}: not a JSON document: {fault}; move it away and run the command again") from fault


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``folder``/metrics.jsonl in the order they were written; null stands for undefined.

    A last line torn by a kill is left out; without the file the list is empty.

    Raises:
        DataError: when any other line is not a JSON object with a step.
    """
    return [record for record, _ in _records(folder / METRICS_FILE)]


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


def _sync_folder(folder: Path) -> None:
    """Makes a rename in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class RecordsTracker:
    """Appends each call of ``scalars`` as one line to metrics.jsonl; pictures and curves have no line.

    Args:
        folder: the trial's folder, made when missing.
        resume_step: step of the checkpoint that training goes on from; later lines are dropped. None starts an empty
            file.

    Raises:
        StorageError: when the file cannot be written.
    """

    def __init__(self, folder: Path, *, resume_step: int | None = None) -> None:
        self._path = Path(folder) / METRICS_FILE
        with storage_faults(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        truncate_after(self._path.parent, resume_step)
        with storage_faults(self._path):
            self._file: IO[bytes] = self._path.open("ab", buffering=0)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One line, handed to the operating system in one write: a kill tears at most this line."""
        record = {"step": int(step), **to_json(values)}
        line = (json.dumps(record, allow_nan=False) + "\n").encode()
        with storage_faults(self._path):
            if self._file.write(line) != len(line):
                raise OSError("the disk took part of a line")

    def images(self, step: int, tag: str, image: NDArray[np.uint8]) -> None:
        """Pictures live in the event file only."""

    def pr_curves(self, step: int, curves: Mapping[str, ScoredHits]) -> None:
        """Curves can be recomputed from detections.npz."""

    def finish(self, status: FinalStatus) -> None:
        """The status has a file of its own."""

    def flush(self) -> None:
        """Waits until the lines are on the disk."""
        with storage_faults(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if not self._file.closed:
            self.flush()
            self._file.close()
