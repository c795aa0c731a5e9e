"""What is not there: the results of a training, in a moment, and a machine with GPUs."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from focalbench.config.sweep import Trial
from focalbench.records.state import TrialState
from focalbench.records.trial import TrialFolder
from focalbench.storage import write_json


def finish(out: Path, trial: Trial, mean_ap: float) -> None:
    """Writes result and status of a trial of the sweep in ``out``."""
    TrialFolder(out / trial.name).write_status(trial, TrialState.DONE, step=6, steps=6)
    result = {"arm": trial.arm, "seed": trial.seed, "config_hash": trial.hash, "val/mAP": mean_ap, "AP": {}, "step": 6}
    write_json(out / trial.name / "result.json", result)


class PretendedGpus:
    """A machine with GPUs as torch shows it; ``calls`` are those that take memory on one, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        self.calls: list[tuple[str, str]] = []
        self.states = {index: torch.full((16,), index, dtype=torch.uint8) for index in range(count)}
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", self._record("set_device"))
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", self._record("reset_peak_memory_stats"))
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**20 * device.index)
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 5 * 2**20 * device.index)
        monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: self.states[device.index])
        monkeypatch.setattr(
            torch.cuda, "set_rng_state", lambda state, device: self.states.update({device.index: state})
        )
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")

    def _record(self, name: str) -> Callable[[torch.device], None]:
        return lambda device: self.calls.append((name, str(device)))
