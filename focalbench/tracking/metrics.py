"""The tracker that keeps a trial's metrics.jsonl; pictures and curves have no line there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from focalbench.records.metrics import MetricsFile
from focalbench.tracking.tracker import Tracker


class MetricsTracker(Tracker):
    """Appends each call of ``scalars`` as one line to metrics.jsonl.

    Args:
        folder: the trial's folder, made when missing.
        resume_step: see ``MetricsFile``.

    Raises:
        StorageError: when the file cannot be written.
    """

    def __init__(self, folder: Path, *, resume_step: int | None = None) -> None:
        self._file = MetricsFile(folder, resume_step=resume_step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._file.append(step, values)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()
