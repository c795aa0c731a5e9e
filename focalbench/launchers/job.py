"""A job as it travels to a worker, and what comes back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel

from focalbench.config.sweep import Trial


class Job(BaseModel, frozen=True, extra="forbid"):
    """One trial to train.

    Attributes:
        folder: where the trial keeps its files.
        devices: of each process that trains it: auto | cpu | cuda | cuda:N.
        threads: intra-op threads of a process; part of what makes CPU results bit-identical.
        pause_at: share of the training after which the trial is left at its first evaluation, to be gone on with or
            not; None trains to the end.
        log: file that takes the worker's stderr.
    """

    trial: Trial
    folder: Path
    devices: tuple[str, ...]
    threads: int
    pause_at: float | None = None
    log: Path | None = None

    def to_line(self) -> str:
        """Returns the job as one line of JSON in ASCII, whatever bytes the names of its folders hold."""
        return json.dumps(self.model_dump(mode="json"))

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Returns the job that :meth:`to_line` wrote.

        Raises:
            ValueError: when ``line`` is no job, or one of another version.
        """
        # Not model_validate_json: a path whose bytes are no UTF-8 is no valid JSON to pydantic, only to Python.
        return cls.model_validate(json.loads(line))


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        state: done | failed | interrupted | paused (at ``pause_at``) | busy (another process trains it).
        error: in words, None when done.
        exit_code: of the fault: 1 for one in focalbench itself, 2 for the user's, 3 for a divergence.
        values: the newest metrics.
    """

    state: str
    error: str | None
    exit_code: int
    values: dict[str, Any]
