"""Which processes are at work in a sweep's folder: they may share it, but not set it aside or rename under another's
hands.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from focalbench.errors import BusyError, ConfigError, StorageError
from focalbench.records.trial import TrialFolder
from focalbench.storage import is_held, storage_faults

_FILE = ".at-work.lock"
_GLANCE_S = 0.1
"""Who only asks whether anybody is at work holds the lock for a moment: that does not count as being there."""


def require_folder(out: Path) -> None:
    """Refuses a path for a sweep that is no folder and cannot become one.

    Raises:
        StorageError: naming the file.
    """
    for path in (out, *out.parents):
        if os.path.exists(path):  # unlike the method, False where looking is not permitted: making it will say so
            if not path.is_dir():
                raise StorageError(f"{path}: is a file, not a folder; pass --out with another path")
            return


class SweepLock:
    """A process's share in a sweep's folder, for as long as it lives: a lock on a file there.

    Attributes:
        alone: whether no other process was there when this one came: then none comes in before ``share``.

    Raises:
        StorageError: when the folder cannot be written.
    """

    def __init__(self, out: Path) -> None:
        require_folder(out)
        with storage_faults(out):
            out.mkdir(parents=True, exist_ok=True)
            self._file = os.open(out / _FILE, os.O_RDWR | os.O_CREAT, 0o644)
            self.alone = self._take_alone() or self._take_alone(after_s=_GLANCE_S)
            if not self.alone:
                fcntl.flock(self._file, fcntl.LOCK_SH)  # waits while the one who is alone puts the folder in order

    def _take_alone(self, after_s: float = 0.0) -> bool:
        time.sleep(after_s)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def share(self) -> None:
        """Lets in those who wait while this process was alone."""
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def release(self) -> None:
        """Gives the share back."""
        os.close(self._file)


def is_at_work(out: Path) -> bool:
    """Tells whether a process is at work in the sweep's folder ``out``; it writes nothing."""
    return is_held(out / _FILE, shared=False)


@contextmanager
def hold_sweep(out: Path, *, fresh: bool = False) -> Iterator[SweepLock]:
    """Within the block this process counts as at work in ``out``, which is made where missing.

    Args:
        fresh: set an older folder aside first; it is never deleted.

    Raises:
        BusyError: with ``fresh``, when another process is at work there.
        ConfigError: with ``fresh``, when the command itself runs in ``out``.
        StorageError: when ``out`` cannot be written or is no folder.
    """
    if fresh and out.is_dir():
        _set_aside(out)
    lock = SweepLock(out)
    try:
        yield lock
    finally:
        lock.release()


def _set_aside(out: Path) -> None:
    if Path.cwd().is_relative_to(out.resolve()):
        raise ConfigError(
            f"--out {out}: --fresh would set the current folder aside; run from another one, or leave out --fresh"
        )
    lock = SweepLock(out)
    try:
        if not lock.alone:
            raise BusyError(f"{out}: another process is working there; wait for it, or use --out instead of --fresh")
        aside = out.with_name(f"{out.name}.{time.strftime('%Y%m%d-%H%M%S')}")
        with contextlib.ExitStack() as stack, storage_faults(aside):
            for path in out.glob(f"*/{TrialFolder.LOCK}"):  # workers that a killed launcher left
                stack.enter_context(TrialFolder(path.parent).released())
            os.rename(out, aside)
    finally:
        lock.release()
