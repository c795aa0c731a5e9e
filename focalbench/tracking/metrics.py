"""The tracker that keeps a trial's metrics.jsonl; pictures and curves have no line there."""

from __future__ import annotations

from collections.abc import Mapping

from focalbench.records.metrics import MetricsFile
from focalbench.tracking.tracker import TrackedTrial, Tracker


class MetricsTracker(Tracker):
    """Appends each call of ``scalars`` as one line to metrics.jsonl.

    Raises:
        StorageError: when the file cannot be written.
    """

    def __init__(self, trial: TrackedTrial) -> None:
        self._file = MetricsFile(trial.folder, resume_step=trial.resume_step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._file.append(step, values)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()
