"""Steps timed before anything has finished: as the trial itself would run, with nothing left behind."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from focalbench.config.load import load_config
from focalbench.config.sweep import Trial
from focalbench.errors import DataError, DeviceMemoryError
from focalbench.experiment.build import build_plan
from focalbench.experiment.rehearsal import START_S, Rehearsal, rehearse
from focalbench.launchers import rehearsal
from focalbench.launchers.local import Slots
from focalbench.launchers.rehearsal import rehearse_side_by_side

Write = Callable[..., Path]


class _Pool:
    """Stands in for processes: calls one after the other, here; ``fault`` is what their end raises."""

    fault: Exception | None = None

    def __init__(self, num_workers: int, **_: Any) -> None:
        self.num_workers = num_workers

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def map(self, function: Callable[[str], Rehearsal], lines: Iterable[str]) -> Iterator[Rehearsal]:
        found = list(lines)
        assert len(found) == self.num_workers
        if self.fault is not None:
            raise self.fault
        return map(function, found)


@pytest.fixture
def trial(write_config: Write) -> Trial:
    return load_config(write_config()).trials[0]


def test_a_rehearsal_times_steps_and_images_of_the_whole_set(trial: Trial, tmp_path: Path) -> None:
    found = rehearse(trial, "cpu", 1)
    assert (found.num_train, found.num_val) == (12, 6)
    assert 0 < found.step_s < 5
    assert 0 < found.image_s < 5
    plan = build_plan(trial.config, 12)
    expected = START_S + plan.total_steps * found.step_s + len(plan.eval_steps) * 6 * found.image_s
    assert found.seconds(trial.config) == pytest.approx(expected)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_side_by_side_the_mean_of_all_slots_counts(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 3.0])
    monkeypatch.setattr(rehearsal, "ProcessPoolExecutor", _Pool)
    monkeypatch.setattr(rehearsal, "rehearse", lambda given, device, threads: _timed(given == trial, next(times)))
    found = rehearse_side_by_side(trial, Slots((("cpu",), ("cpu",)), 1))
    assert (found.step_s, found.image_s) == (2.0, 0.2)


def _timed(is_right: bool, seconds: float) -> Rehearsal:
    assert is_right
    return Rehearsal(12, 6, seconds, seconds / 10)


def test_a_process_that_the_system_ended_is_told_with_the_way_out(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Pool, "fault", BrokenProcessPool())
    monkeypatch.setattr(rehearsal, "ProcessPoolExecutor", _Pool)
    with pytest.raises(DeviceMemoryError, match=r"2 trials side by side: .* run\.threads"):
        rehearse_side_by_side(trial, Slots((("cpu",), ("cpu",)), 1))


def test_what_the_trial_would_fail_with_is_said(write_config: Write) -> None:
    text = "data: {name: voc, root: /nowhere}\n"
    with pytest.raises(DataError, match="/nowhere"):
        rehearse(load_config(write_config(text=text)).trials[0], "cpu", 1)
