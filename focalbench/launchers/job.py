"""A job as it travels to a worker, and what comes back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from focalbench.config.load import resolved
from focalbench.config.schema import ExperimentConfig
from focalbench.config.sweep import Trial


@dataclass(frozen=True)
class Job:
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

    def to_json(self) -> str:
        """One line."""
        trial = self.trial
        return json.dumps(
            {
                "name": trial.name,
                "arm": trial.arm,
                "seed": trial.seed,
                "hash": trial.hash,
                "differs": trial.differs,
                "config": resolved(trial.config),
                "folder": str(self.folder),
                "devices": self.devices,
                "threads": self.threads,
                "pause_at": self.pause_at,
                "log": None if self.log is None else str(self.log),
            }
        )

    @classmethod
    def from_json(cls, line: str) -> Job:
        """The inverse of :meth:`to_json`."""
        fields = json.loads(line)
        config = ExperimentConfig.model_validate_json(json.dumps(fields["config"]))
        trial = Trial(fields["name"], fields["arm"], fields["seed"], config, fields["hash"], fields["differs"])
        return cls(
            trial,
            Path(fields["folder"]),
            tuple(fields["devices"]),
            fields["threads"],
            fields["pause_at"],
            None if fields["log"] is None else Path(fields["log"]),
        )


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
