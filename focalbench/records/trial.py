"""A trial's folder: the names of its files, its status and its owner."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import Field

from focalbench.config.sweep import Trial
from focalbench.errors import BusyError, DataError, PluginError, StorageError
from focalbench.plugins.source import PluginSource, read_source
from focalbench.records.document import JsonDocument
from focalbench.records.result import TrialResult
from focalbench.records.state import TrialState, state_of
from focalbench.storage import is_held, storage_faults, write_atomically

_RELEASE_S = 60.0
"""A worker whose launcher is gone stops at its next step; it is given this long."""
_GLANCE_S = 0.2
"""Who only asks whether a trial is owned holds its lock for a moment: that must not keep an owner out."""


class TrialStatus(JsonDocument):
    """status.json: how a trial stands, and who it is.

    Attributes:
        state: None where the file says nothing known.
        trial, arm, seed, config_hash: as in ``config.sweep.Trial``.
        pid, host: the process that wrote the status.
        time: when, in seconds since 1970.
        step: finished steps at the last checkpoint.
        steps: those of the whole training; None before the data are read.
        error: why it is not done, in words.
    """

    state: TrialState | None = Field(None, strict=False)
    trial: str = ""
    arm: str = ""
    seed: int | None = None
    config_hash: str = ""
    pid: int | None = None
    host: str = ""
    time: float | None = None
    step: int | None = None
    steps: int | None = None
    error: str | None = None


class TrialFolder:
    """Where a trial keeps its files, and the one reader and writer of its status and its result.

    Args:
        path: the folder, which need not exist.
    """

    LOCK = ".lock"
    CONFIG = "config.yaml"
    STATUS = "status.json"
    RESULT = "result.json"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / self.CONFIG
        self.checkpoints = path / "checkpoints"
        self.analysis = path / "analysis"
        self.plugins = path / "plugins"

    def status(self) -> TrialStatus:
        """Returns the status; empty where there is none.

        Raises:
            DataError: when it is damaged.
        """
        path = self.path / self.STATUS
        was_there = path.exists()  # asked first: its owner may write the first one at any moment
        status, fault = TrialStatus.read(path)
        if fault or (status.state is None and was_there):
            raise DataError(
                f"{path}: damaged, not a trial's status; delete this file and run again: the trial resumes from "
                f"its checkpoint"
            )
        return status

    def write_status(self, trial: Trial, state: TrialState, **facts: Any) -> None:
        """Replaces the status.

        How far a trial is, that of its last checkpoint, stays known from one status to the next.

        Args:
            facts: ``step``, ``steps`` and ``error``, as far as they are known anew.

        Raises:
            StorageError: when the folder cannot be written.
        """
        before = self.status()
        known = {"step": before.step or 0} | ({} if before.steps is None else {"steps": before.steps})
        status = TrialStatus(
            state=state,
            trial=trial.name,
            arm=trial.arm,
            seed=trial.seed,
            config_hash=trial.hash,
            pid=os.getpid(),
            host=os.uname().nodename,
            time=time.time(),
            **(known | facts),
        )
        with storage_faults(self.path):
            self.path.mkdir(parents=True, exist_ok=True)  # a process that died early has not made it
        status.write(self.path / self.STATUS)

    def keep_plugins(self, sources: Sequence[PluginSource]) -> None:
        """Writes down the source of the plugins that the trial makes use of, as it was executed.

        Raises:
            StorageError: when the folder cannot be written.
        """
        for source in sources:
            folder = self.plugins if source.is_file else self.plugins / source.name
            for name, text in source.files:
                path = folder / name
                with storage_faults(self.path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, text.encode())

    def kept_plugin(self, digest: str) -> Path | None:
        """Returns the file of the plugin with this digest; None where there is none, or it is a module's."""
        for path in self.plugins.glob("*.py"):
            with suppress(PluginError):
                if read_source(str(path)).digest == digest:
                    return path
        return None

    def result(self) -> TrialResult | None:
        """Returns the result of a trial that is done, else None.

        Raises:
            DataError: when the status is damaged.
        """
        result = self._written_result()
        state = state_of(self.status().state, has_result=result is not None)
        return result if state is TrialState.DONE else None

    def write_result(self, result: TrialResult) -> None:
        """Replaces the result.

        Raises:
            StorageError: when the folder cannot be written.
        """
        result.write(self.path / self.RESULT)

    def state(self) -> TrialState:
        """Tells how the trial stands.

        Raises:
            DataError: when the status is damaged.
        """
        return state_of(self.status().state, has_result=self._written_result() is not None)

    def _written_result(self) -> TrialResult | None:
        """The result as it stands there; None where there is none that can be read."""
        result, fault = TrialResult.read(self.path / self.RESULT)
        return result if result.entries() and not fault else None

    def rename(self, new: Path, trial: Trial) -> None:
        """Moves the folder to ``new``, which its files then say too.

        Raises:
            BusyError: when a process owns it.
            StorageError: when it cannot be written.
        """
        with self.released(), storage_faults(new):
            os.rename(self.path, new)
        names = {"trial": trial.name, "arm": trial.arm}
        for file, kind, facts in (
            (self.STATUS, TrialStatus, names),
            (self.RESULT, TrialResult, names | {"differs": trial.differs}),
        ):
            document, fault = kind.read(new / file)
            if document.entries() and not fault:
                document.model_copy(update=facts).write(new / file)

    def is_locked(self) -> bool:
        """Tells whether a process owns the trial, also in a folder that cannot be written."""
        return is_held(self.path / self.LOCK, shared=True)

    def busy(self) -> BusyError:
        """Returns what to raise where another process owns the trial."""
        return BusyError(f"{self.path}: another process is training this trial; wait for it or use another --out")

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Within the block this process owns the trial, whose folder is made where missing.

        Raises:
            BusyError: when another process does.
            StorageError: when the folder cannot be written.
        """
        with storage_faults(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with self._locked(timeout=_GLANCE_S):
            yield

    @contextmanager
    def released(self) -> Iterator[None]:
        """Within the block no process owns the trial; one that is about to stop is waited for.

        Raises:
            BusyError: when it does not stop.
        """
        with self._locked(timeout=_RELEASE_S):
            yield

    @contextmanager
    def _locked(self, timeout: float) -> Iterator[None]:
        lock = FileLock(self.path / self.LOCK, timeout=timeout)
        try:
            lock.acquire()
        except Timeout as fault:
            raise self.busy() from fault
        except OSError as fault:
            raise StorageError(f"{self.path}: cannot write: {fault.strerror or fault}") from fault
        try:
            yield
        finally:
            lock.release()
