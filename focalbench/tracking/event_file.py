"""One TensorBoard event file, written by the calling thread.

torch's ``SummaryWriter`` writes from a thread of its own, which prints a traceback when the disk is full, and two files
of one second may be read in the wrong order. Here a fault is raised where the data came from, and a resumed trial's
file always sorts behind the one it goes on from.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

PATTERN = "events.out.tfevents.*"
"""Glob of all event files in a folder."""


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
        seconds = max([int(time.time()), *(_seconds(path) + 1 for path in folder.glob(PATTERN))])
        path = folder / f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{os.getpid()}{suffix}"
        self._file = path.open("xb")
        self._records = RecordWriter(self._file)
        self._add(Event(file_version="brain.Event:2"))
        # TensorBoard's plain loader purges at every start but the first one it sees, so each file begins with one.
        self._add(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, summary: Summary, step: int = 0) -> None:
        """Appends ``summary``; it may stay in memory until ``flush``."""
        self._add(Event(step=step, summary=summary))

    def flush(self) -> None:
        """Hands everything to the operating system: a kill of the process loses nothing."""
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())


def _seconds(path: Path) -> int:
    """The time in an event file's name, 0 for names of another form."""
    part = path.name.split(".")[3]
    return int(part) if part.isdigit() else 0
