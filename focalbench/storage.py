"""Files that a kill at any moment leaves whole, and files of strangers read without harm.

Writing replaces a file atomically: a reader sees the old or the new content and nothing else. Reading takes regular
files of a bounded size only, and no pickles.
"""

from __future__ import annotations

import errno
import fcntl
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
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from focalbench.errors import DataError, StorageError

START_ANEW = "to start this trial over, move its folder out of the run folder and run the same command again"
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
    """Returns ``value`` as JSON can hold it: NaN and infinity become null, arrays and 0-d tensors become numbers and
    lists.

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
        sync(path.parent)


def write_output(path: Path, content: bytes) -> None:
    """Writes as ``write_atomically``, to a path that the user named: links are followed, devices and pipes written to.

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
    """Returns the content of a regular file: a folder may come from anybody, and reading a FIFO in it would never end.

    Raises:
        OSError: when it cannot be read, is no regular file or is larger than ``max_bytes``; ``strerror`` says which.
    """
    with _open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > max_bytes:
            raise OSError(errno.EFBIG, f"is larger than {max_bytes:,} bytes", str(path))
        return file.read()


def read_end(path: Path, num_bytes: int) -> bytes:
    """Returns the last ``num_bytes`` of a regular file, or all of a shorter one.

    Raises:
        OSError: when it cannot be read or is no regular file; ``strerror`` says which.
    """
    with _open_regular(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - num_bytes))
        return file.read(num_bytes)


@contextmanager
def _open_regular(path: Path) -> Iterator[BinaryIO]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        yield file


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Arrays of an ``.npz`` file, without pickles and without unfolding more than a gigabyte.

    Raises:
        OSError, ValueError, EOFError, zipfile.BadZipFile: when it cannot be read or is none.
        KeyError: when a name is missing.
    """
    content = io.BytesIO(read_regular(path, _MAX_ARRAY_BYTES))
    with zipfile.ZipFile(content) as archive:
        if sum(member.file_size for member in archive.infolist()) > _MAX_ARRAY_BYTES:
            raise ValueError(f"it unpacks to more than {_MAX_ARRAY_BYTES:,} bytes")
    content.seek(0)
    with np.load(content, allow_pickle=False) as arrays:
        try:
            return {name: arrays[name] for name in names}
        except zlib.error as fault:
            raise ValueError(f"it is damaged: {fault}") from fault


def read_json(path: Path) -> Any:
    """Returns the document in ``path``.

    Raises:
        DataError: when it is missing or no JSON.
    """
    try:
        return json.loads(read_regular(path))
    except OSError as fault:
        raise DataError(f"{path}: cannot read: {fault.strerror}") from fault
    except (ValueError, RecursionError) as fault:
        raise DataError(f"{path}: not a JSON document: {fault}; move it away and run the command again") from fault


def is_held(lock: Path, *, shared: bool) -> bool:
    """Tells whether a process holds the lock on the file ``lock`` (``flock``), without writing; False without the file.

    Args:
        shared: ask for a share, which only a sole holder refuses; else to hold it alone, which any holder refuses.
    """
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as fault:
        return fault.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(descriptor)  # which lets go of it too
    return False


def sync(path: Path) -> None:
    """Makes the content of a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
