"""A search from batch to batch: what is proposed, trained and stopped, with a stand-in for the training."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from focalbench.config.load import Experiment, load_config
from focalbench.config.sweep import Trial
from focalbench.launchers.search import num_search_trials, proposed_trials, run_search, typical_trials
from focalbench.records.state import TrialState
from focalbench.records.sweep import SweepFolder
from focalbench.records.trial import TrialFolder
from focalbench.storage import write_json

pytestmark = pytest.mark.usefixtures("extra_search")

Write = Callable[..., Path]
_STEPS = 10


class _Watcher:
    """Keeps what a search says of its own accord."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.finished: dict[str, str] = {}

    def trial_phase(self, name: str, phase: str) -> None: ...
    def stopping(self) -> None: ...

    def trial_started(self, name: str) -> None: ...

    def trial_progress(self, name: str, step: int, steps: int, values: Mapping[str, float | None]) -> None: ...

    def trial_finished(self, name: str, state: str, values: Mapping[str, float | None]) -> None:
        self.finished[name] = state

    def message(self, text: str) -> None:
        self.messages.append(text)


_SEARCH = "search: {{num: {num}, batch: 4, startup: 4, {more} params: {{loss.gamma: {{uniform: [0, 5]}}}}}}"


class _Training:
    """Writes the files of trials whose mAP is the higher the nearer gamma is to 2, and grows evenly to its end.

    Args:
        calls: how many trials are trained before all is stopped.
        failing: gammas above this fail.
        full: number of the trial that finds the disk full: it is left half-way, and the others go on.
        retry: failed trials are trained again, once.
    """

    def __init__(
        self, out: Path, calls: int = 10_000, failing: float = 99, full: int | None = None, retry: bool = False
    ) -> None:
        self.out, self.calls, self.failing, self.full, self.retry = out, calls, failing, full, retry
        self.trained: list[tuple[str, float | None]] = []

    def __call__(self, trials: Sequence[Trial], *, pause_at: float | None = None, with_stopped: bool = False) -> bool:
        for trial in trials:
            state = TrialFolder(self.out / trial.name).state()
            again = self.retry and trial.name not in dict(self.trained)
            if state == "done" or (state == "failed" and not again) or (state == "stopped" and not with_stopped):
                continue
            if self.calls == 0:
                return False
            self.calls -= 1
            self._train(trial, pause_at)
        return True

    def _train(self, trial: Trial, pause_at: float | None) -> None:
        self.trained.append((trial.name, pause_at))
        folder, gamma = self.out / trial.name, trial.config.loss.gamma
        value = 1 - abs(gamma - 2) / 5 + trial.seed / 1000
        last = _STEPS if pause_at is None else round(pause_at * _STEPS)
        if len(self.trained) == self.full:
            TrialFolder(folder).write_status(trial, TrialState.INTERRUPTED, error="No space left on device")
            return
        if gamma > self.failing:
            TrialFolder(folder).write_status(trial, TrialState.FAILED, error="diverged")
            return
        TrialFolder(folder).write_status(trial, TrialState.RUNNING, step=last, steps=_STEPS)
        lines = [{"step": step, "val/mAP": value * step / _STEPS} for step in range(1, last + 1)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if pause_at is not None:
            TrialFolder(folder).write_status(trial, TrialState.INTERRUPTED)
            return
        write_json(folder / "result.json", {"val/mAP": value, "AP": {}, "step": _STEPS})
        TrialFolder(folder).write_status(trial, TrialState.DONE, step=_STEPS, steps=_STEPS)


def _config(write_config: Write, num: int = 8, more: str = "", seeds: str = "[0, 1]", blocks: str = "") -> Experiment:
    search = _SEARCH.format(num=num, more=more)
    return load_config(write_config(f"sweep: {{seeds: {seeds}, {blocks} {search}}}"))


def _search(
    experiment: Experiment, out: Path, training: _Training, watcher: _Watcher | None = None
) -> tuple[Trial, ...]:
    SweepFolder(out).open(experiment.config.name, ())
    return run_search(experiment, SweepFolder(out), training, alone=True, watcher=watcher or _Watcher())


def _states(trials: Sequence[Trial], out: Path) -> dict[str, set[str]]:
    """By arm."""
    states: dict[str, set[str]] = {}
    for trial in trials:
        states.setdefault(trial.arm, set()).add(TrialFolder(out / trial.name).state())
    return states


def test_all_arms_are_trained_with_all_seeds_and_again_nothing(write_config: Write, tmp_path: Path) -> None:
    experiment, training = _config(write_config), _Training(tmp_path)
    trials = _search(experiment, tmp_path, training)
    assert len(trials) == num_search_trials(experiment.config) == 16
    assert len({trial.arm for trial in trials}) == 8
    assert sorted(name for name, _ in training.trained) == sorted(trial.name for trial in trials)
    assert [row["name"] for row in SweepFolder(tmp_path).listed()] == [trial.name for trial in trials]
    again = _Training(tmp_path)
    assert _search(experiment, tmp_path, again) == trials == proposed_trials(experiment, SweepFolder(tmp_path))
    assert again.trained == []


@pytest.mark.parametrize("more", ["", "stop_at: 0.4,"])
def test_a_search_that_was_stopped_anywhere_ends_as_one_that_never_was(
    write_config: Write, tmp_path: Path, more: str
) -> None:
    experiment = _config(write_config, more=more)
    whole = _search(experiment, tmp_path / "whole", _Training(tmp_path / "whole"))
    for calls in range(1, 24, 3):
        out = tmp_path / str(calls)
        _search(experiment, out, _Training(out, calls=calls))
        assert _search(experiment, out, _Training(out)) == whole
        assert _states(whole, out) == _states(whole, tmp_path / "whole")


def test_more_arms_or_seeds_run_only_what_is_new(write_config: Write, tmp_path: Path) -> None:
    few = _search(_config(write_config, num=6), tmp_path, _Training(tmp_path))
    training = _Training(tmp_path)
    many = _search(_config(write_config, num=9), tmp_path, training)
    assert many[: len(few)] == few
    assert len(training.trained) == 6
    training = _Training(tmp_path)
    seeds = _search(_config(write_config, num=9, seeds="[0, 1, 2]"), tmp_path, training)
    assert {trial.arm for trial in seeds} == {trial.arm for trial in many}
    assert len(training.trained) == 9


def test_another_space_is_another_search(write_config: Write, tmp_path: Path) -> None:
    first = _search(_config(write_config), tmp_path, _Training(tmp_path))
    other = _search(_config(write_config, more="seed: 5,"), tmp_path, _Training(tmp_path))
    assert not {trial.arm for trial in first} & {trial.arm for trial in other}
    assert len(SweepFolder(tmp_path).listed()) == 32


def test_whole_arms_below_the_median_are_stopped_at_the_share_and_not_trained_on(
    write_config: Write, tmp_path: Path
) -> None:
    experiment, training = _config(write_config, more="stop_at: 0.4,"), _Training(tmp_path)
    trials = _search(experiment, tmp_path, training)
    states = _states(trials, tmp_path)
    assert all(len(of_arm) == 1 for of_arm in states.values())
    gammas = {trial.arm: abs(trial.config.loss.gamma - 2) for trial in trials}
    first = list(gammas)[:4]
    assert [states[arm] for arm in sorted(first, key=gammas.__getitem__)] == 2 * [{"done"}] + 2 * [{"stopped"}]
    stopped = next(trial for trial in trials if states[trial.arm] == {"stopped"})
    status = json.loads((tmp_path / stopped.name / "status.json").read_text())
    assert (status["step"], status["steps"]) == (4, _STEPS)
    assert "median" in status["error"]
    assert (stopped.name, None) not in training.trained


def test_seeds_added_to_a_stopped_arm_are_not_trained_unless_nothing_is_stopped_any_more(
    write_config: Write, tmp_path: Path
) -> None:
    _search(_config(write_config, num=4, more="stop_at: 0.4,"), tmp_path, _Training(tmp_path))
    training = _Training(tmp_path)
    trials = _search(_config(write_config, num=4, more="stop_at: 0.4,", seeds="[0, 1, 2]"), tmp_path, training)
    assert all(len(of_arm) == 1 for of_arm in _states(trials, tmp_path).values())
    assert len({name for name, _ in training.trained}) == 2
    trials = _search(_config(write_config, num=4, seeds="[0, 1, 2]"), tmp_path, _Training(tmp_path))
    assert all(of_arm == {"done"} for of_arm in _states(trials, tmp_path).values())


def test_an_arm_with_a_failed_seed_does_not_hold_up_the_search(write_config: Write, tmp_path: Path) -> None:
    trials = _search(_config(write_config, more="stop_at: 0.4,"), tmp_path, _Training(tmp_path, failing=3))
    assert len(trials) == 16
    found = _states(trials, tmp_path)
    assert {"failed"} in found.values()
    assert {"done"} in found.values()
    assert "interrupted" not in set().union(*found.values())


@pytest.mark.parametrize("more", ["", "stop_at: 0.4,"])
def test_a_trial_that_a_full_disk_interrupted_ends_the_search_and_stops_no_arm(
    write_config: Write, tmp_path: Path, more: str
) -> None:
    experiment, watcher = _config(write_config, more=more), _Watcher()
    broken = _search(experiment, tmp_path / "o", _Training(tmp_path / "o", full=2), watcher)
    states = _states(broken, tmp_path / "o")
    assert len(states) == 4  # nothing is proposed without its score
    assert "stopped" not in set().union(*states.values())
    assert any(f"waits for {broken[1].name}:" in message for message in watcher.messages)
    whole = _search(experiment, tmp_path / "whole", _Training(tmp_path / "whole"))
    assert _search(experiment, tmp_path / "o", _Training(tmp_path / "o")) == whole
    assert _states(whole, tmp_path / "o") == _states(whole, tmp_path / "whole")


def test_a_failed_seed_of_a_stopped_arm_that_is_tried_again_stays_with_its_arm(
    write_config: Write, tmp_path: Path
) -> None:
    experiment = _config(write_config, num=4, more="stop_at: 0.4,")
    trials = _search(experiment, tmp_path, _Training(tmp_path))
    arm, _ = next(item for item in _states(trials, tmp_path).items() if item[1] == {"stopped"})
    failed = next(trial for trial in trials if trial.arm == arm)
    (tmp_path / failed.name / "metrics.jsonl").unlink()
    TrialFolder(tmp_path / failed.name).write_status(failed, TrialState.FAILED, error="diverged")

    class Lucky(_Training):
        """Now that seed is the best of all."""

        def _train(self, trial: Trial, pause_at: float | None) -> None:
            super()._train(trial, pause_at)
            (self.out / trial.name / "metrics.jsonl").write_text('{"step": 4, "val/mAP": 9}\n')

    training, watcher = Lucky(tmp_path, retry=True), _Watcher()
    _search(experiment, tmp_path, training, watcher)
    assert training.trained == [(failed.name, 0.4)]
    assert watcher.finished == {failed.name: "stopped"}
    assert _states(trials, tmp_path)[arm] == {"stopped"}


def test_equal_proposals_and_arms_of_other_blocks_are_one_arm(write_config: Write, tmp_path: Path) -> None:
    params = "params: {optim.batch_size: {choice: [2, 4]}}"
    text = f"sweep: {{grid: {{loss.gamma: [1, 2]}}, search: {{num: 8, {params}}}}}"
    experiment = load_config(write_config(text))
    trials = _search(experiment, tmp_path, _Training(tmp_path))
    assert len(trials) == len({trial.hash for trial in trials}) == 3  # batches of 4 are gamma=2 itself
    assert {"gamma=1", "gamma=2"} < {trial.arm for trial in trials}


def test_typical_trials_span_the_ranges(write_config: Write) -> None:
    gammas = [trial.config.loss.gamma for trial in typical_trials(_config(write_config, seeds="[0]").config)]
    assert gammas == [0, 5]
    assert typical_trials(load_config(write_config()).config) == ()
    assert num_search_trials(load_config(write_config()).config) == 0


def test_names_of_other_arms_do_not_depend_on_how_far_the_search_is(write_config: Write, tmp_path: Path) -> None:
    experiment = _config(write_config, blocks="list: [{name: ce, loss: {name: ce}}, {optim.lr: 0.1}],", seeds="[0]")
    before: Any = {trial.hash: trial.name for trial in proposed_trials(experiment, SweepFolder(tmp_path))}
    after = {trial.hash: trial.name for trial in _search(experiment, tmp_path, _Training(tmp_path))}
    assert before.items() < after.items()
