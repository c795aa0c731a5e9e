"""One TensorBoard event file, written by the calling thread.

torch's ``SummaryWriter`` writes from a thread of its own, which prints a traceback when the disk is full, and two files
of one second may be read in the wrong order. Here a fault is raised where the data came from, and a resumed trial's
file always sorts behind the one it goes on from.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

PATTERN = "events.out.tfevents.*"
"""Glob of all event files in a folder."""
_UNFINISHED = ".unfinished"
_KEPT_S = 600.0  # TensorBoard looks again after 5 s, or what --reload_interval says


class EventFile:
    """A new event file in ``folder``, behind all that are there in TensorBoard's order of reading.

    Args:
        folder: an existing folder.
        first_step: what earlier files hold from this step on is hidden.
        suffix: end of the file's name.

    Raises:
        OSError: when it cannot be written; so do all methods.
    """

    def __init__(self, folder: Path, *, first_step: int = 0, suffix: str = "") -> None:
        self._file = _next_path(folder, suffix).open("xb")
        self._records = _begin(self._file, first_step)

    def add(self, summary: Summary, step: int = 0) -> None:
        """Appends ``summary``; it may stay in memory until ``flush``."""
        _add(self._records, Event(step=step, summary=summary))

    def flush(self) -> None:
        """Hands everything to the operating system: a kill of the process loses nothing."""
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def replace_events(folder: Path, summaries: Iterable[tuple[int, Summary]]) -> None:
    """Puts one event file with ``summaries``, each with its step, in the place of all that are in ``folder``.

    A TensorBoard that reads meanwhile, or a kill, meets the old file or the whole new one: then TensorBoard drops what
    it knew from step 0 on.

    Raises:
        OSError: when it cannot be written.
    """
    content = io.BytesIO()
    records = _begin(content, first_step=0)
    for step, summary in summaries:
        _add(records, Event(step=step, summary=summary))
    folder.mkdir(parents=True, exist_ok=True)
    older, path = sorted(folder.glob(PATTERN)), _next_path(folder)
    unfinished = folder / _UNFINISHED  # a name that TensorBoard passes over
    unfinished.write_bytes(content.getvalue())
    unfinished.rename(path)
    retire(older)


def retire(paths: Iterable[Path]) -> None:
    """Empties event files, and removes those that have been empty for some minutes: TensorBoard's plain loader never
    gets past a file that vanishes under it.
    """
    for path in paths:
        if path.stat().st_size:
            os.truncate(path, 0)
        elif time.time() - path.stat().st_mtime > _KEPT_S:
            path.unlink()


def remove_events(folder: Path) -> None:
    """Empties the event files in ``folder``, and removes them and the folder once nobody can be reading them."""
    (folder / _UNFINISHED).unlink(missing_ok=True)
    retire(folder.glob(PATTERN))
    with contextlib.suppress(OSError):
        folder.rmdir()


def _next_path(folder: Path, suffix: str = "") -> Path:
    """The name of a new file, behind all that are there in TensorBoard's order of reading."""
    seconds = max([int(time.time()), *(_seconds(path) + 1 for path in folder.glob(PATTERN))])
    return folder / f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{os.getpid()}{suffix}"


def _begin(file: IO[bytes], first_step: int) -> RecordWriter:
    records = RecordWriter(file)
    _add(records, Event(file_version="brain.Event:2"))
    # TensorBoard's plain loader purges at every start but the first one it sees, so each file begins with one.
    _add(records, Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))
    return records


def _add(records: RecordWriter, event: Event) -> None:
    event.wall_time = time.time()
    records.write(event.SerializeToString())


def _seconds(path: Path) -> int:
    """The time in an event file's name, 0 for names of another form."""
    part = path.name.split(".")[3]
    return int(part) if part.isdigit() else 0
