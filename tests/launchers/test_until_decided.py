"""A sweep that adds seeds until its arms are decided, with a stand-in for the training."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pretended import finish

from focalbench.analysis.comparison import compare_trials
from focalbench.config.load import Experiment, load_config
from focalbench.config.sweep import Trial
from focalbench.launchers.until_decided import (
    declared_plan,
    forecast_until_decided,
    opened_trials,
    run_until_decided,
)
from focalbench.records.reader import read_trials
from focalbench.records.state import TrialState
from focalbench.records.sweep import SweepFolder
from focalbench.records.trial import TrialFolder

Write = Callable[..., Path]
_SWEEP = """\
sweep:
  seeds: {seeds}
  until: decided
  max_seeds: {most}
  list:
    - {{name: ce, loss: {{name: ce}}}}
    - {{name: same, loss: {{name: focal, gamma: 0.1}}}}
    - {{name: worse, loss: {{name: focal, gamma: 5}}}}
    - {{name: close, loss: {{name: focal, gamma: 1}}}}
"""
_MEANS = {"ce": 0.70, "same": 0.70, "worse": 0.60, "close": 0.712}


class _Watcher:
    """Keeps what the sweep says of its own accord."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.lines: list[list[str]] = []
        self.grew = 0

    def trial_started(self, name: str) -> None: ...
    def trial_phase(self, name: str, phase: str) -> None: ...
    def trial_progress(self, name: str, step: int, steps: int, values: Mapping[str, float | None]) -> None: ...
    def trial_finished(self, name: str, state: str, values: Mapping[str, float | None]) -> None: ...
    def stopping(self) -> None: ...

    def message(self, text: str) -> None:
        self.messages.append(text)

    def standing(self, lines: Sequence[str]) -> None:
        self.lines.append(list(lines))

    def sweep_grew(self, num_trials: int) -> None:
        self.grew += num_trials


class _Training:
    """Writes the files of trials whose mAP follows from arm and seed.

    Args:
        calls: how many trials are trained before all is stopped.
        failing: arms that fail in every seed.
        sd: of the luck of each trial.
    """

    def __init__(self, out: Path, calls: int = 10_000, failing: Sequence[str] = (), sd: float = 0.006) -> None:
        self.out, self.calls, self.failing, self.sd = out, calls, failing, sd
        self.trained: list[str] = []

    def __call__(self, trials: Sequence[Trial]) -> bool:
        for trial in trials:
            if TrialFolder(self.out / trial.name).state().is_final:
                continue
            if self.calls == 0:
                return False
            self.calls -= 1
            self._train(trial)
        return True

    def _train(self, trial: Trial) -> None:
        self.trained.append(trial.name)
        folder = TrialFolder(self.out / trial.name)
        if trial.arm in self.failing:
            folder.write_status(trial, TrialState.FAILED, error="diverged")
            return
        luck = np.random.default_rng([trial.seed, *trial.arm.encode()]).normal()
        finish(self.out, trial, _MEANS[trial.arm] + self.sd * luck)


def _experiment(write_config: Write, seeds: str = "6", most: int = 20) -> Experiment:
    return load_config(write_config(_SWEEP.format(seeds=seeds, most=most)))


def _run(experiment: Experiment, out: Path, training: _Training, watcher: _Watcher | None = None) -> tuple[Any, str]:
    sweep, plan = SweepFolder(out), declared_plan(experiment)
    sweep.open(experiment.config.name, experiment.trials)
    assert plan is not None
    sweep.declare(plan)
    return run_until_decided(experiment, sweep, training, alone=True, watcher=watcher or _Watcher())


def _words(out: Path) -> dict[str, str]:
    found = compare_trials(read_trials([out]), with_test_set_noise=False)
    return {entry.arm: entry.verdict for entry in found.comparisons}


def _seeds(trials: Sequence[Trial]) -> dict[str, int]:
    return {arm: sum(trial.arm == arm for trial in trials) for arm in _MEANS}


def test_a_decided_arm_gets_no_more_seeds_and_the_baseline_goes_on(write_config: Write, tmp_path: Path) -> None:
    out, watcher = tmp_path / "out", _Watcher()
    trials, ending = _run(_experiment(write_config), out, _Training(out), watcher)
    seeds = _seeds(trials)
    assert _words(out) == {"same": "no practical difference", "worse": "worse", "close": "better"}
    assert seeds["worse"] == 6
    assert 6 < max(seeds["same"], seeds["close"]) == seeds["ce"]
    assert ending == f"every arm has a verdict: {sum(seeds.values())} of at most 80 trials"
    assert watcher.grew == sum(seeds.values()) - 24
    looks = SweepFolder(out).looks()
    assert [len(look.seeds) for look in looks] == [size for size in (6, 8, 10, 12, 16, 20) if size <= seeds["ce"]]
    assert looks[0].words["worse"] == "worse"
    assert looks[-1].words == _words(out)
    assert "worse: worse, " in watcher.messages[0]
    assert watcher.messages[0].endswith(" after 6 seeds; it gets no more")
    assert watcher.lines[0][0] == "after 6 seeds, the next look is at 8:"
    assert all("called different at" in line for line in watcher.lines[0][1:])


def test_one_that_was_stopped_anywhere_ends_as_one_that_never_was(write_config: Write, tmp_path: Path) -> None:
    experiment = _experiment(write_config)
    whole = _run(experiment, tmp_path / "whole", _Training(tmp_path / "whole"))
    total = len(whole[0])
    for calls in range(1, total, 5):
        out = tmp_path / str(calls)
        _, ending = _run(experiment, out, _Training(out, calls=calls))
        assert ending == ""
        assert _run(experiment, out, _Training(out)) == whole
        assert SweepFolder(out).looks() == SweepFolder(tmp_path / "whole").looks()
        assert _words(out) == _words(tmp_path / "whole")


def test_again_nothing_is_trained_and_the_same_is_said(write_config: Write, tmp_path: Path) -> None:
    experiment, again = _experiment(write_config), _Training(tmp_path / "out")
    first = _run(experiment, tmp_path / "out", _Training(tmp_path / "out"))
    assert _run(experiment, tmp_path / "out", again) == first
    assert again.trained == []
    assert opened_trials(experiment, SweepFolder(tmp_path / "out")) == first[0]


def test_what_is_not_decided_at_the_limit_is_named(write_config: Write, tmp_path: Path) -> None:
    out, watcher = tmp_path / "out", _Watcher()
    trials, ending = _run(_experiment(write_config, most=8), out, _Training(out, sd=0.05), watcher)
    assert ending.startswith("undecided after all 8 seeds: ")
    assert ending.endswith(f": {len(trials)} of at most 32 trials")
    assert watcher.lines[-1][0] == "after 8 seeds, there are no more:"


def test_an_arm_that_fails_always_is_given_up_at_the_first_look(write_config: Write, tmp_path: Path) -> None:
    out, watcher = tmp_path / "out", _Watcher()
    trials, ending = _run(_experiment(write_config), out, _Training(out, failing=["worse"]), watcher)
    assert _words(out)["worse"] == "unstable"
    assert _seeds(trials)["worse"] == 6
    assert ending.startswith("every arm has a verdict")
    assert "worse: unstable: failed 6 of 6 seeds, 95 % 54 to 100 %; it gets no more seeds" in watcher.messages


def test_without_a_baseline_there_is_nothing_to_decide(write_config: Write, tmp_path: Path) -> None:
    out, watcher = tmp_path / "out", _Watcher()
    trials, ending = _run(_experiment(write_config), out, _Training(out, failing=["ce"]), watcher)
    assert (len(trials), ending) == (24, "")
    assert watcher.messages == ["sweep.until ends here: ce, the baseline, has no result to compare with"]


def test_with_nothing_finished_the_reasons_are_listed(write_config: Write, tmp_path: Path) -> None:
    out, watcher = tmp_path / "out", _Watcher()
    _run(_experiment(write_config), out, _Training(out, failing=list(_MEANS)), watcher)
    assert watcher.messages[0].startswith("sweep.until ends here: no finished trial among 24")


def test_a_look_waits_for_every_trial(write_config: Write, tmp_path: Path) -> None:
    out, watcher = tmp_path / "out", _Watcher()
    experiment = _experiment(write_config)
    _, ending = _run(experiment, out, lambda trials: True, watcher)  # such as a full disk leaves it
    assert ending == ""
    assert watcher.messages == [
        f"sweep.until waits for {experiment.trials[0].name} and 23 more: the same command resumes it"
    ]
    assert SweepFolder(out).looks() == ()


@pytest.mark.parametrize(
    ("seeds", "most", "first", "last"),
    [
        ("6", 20, range(6), range(20)),
        ("[7, 3]", 8, (7, 3, 8, 9, 10, 11), (7, 3, 8, 9, 10, 11, 12, 13)),
        ("9", 14, range(9), range(14)),
        ("6", 6, range(6), range(6)),
    ],
)
def test_seeds_begin_as_listed_and_count_on(
    write_config: Write, seeds: str, most: int, first: Sequence[int], last: Sequence[int]
) -> None:
    experiment = _experiment(write_config, seeds, most)
    plan = declared_plan(experiment)
    assert plan is not None
    assert [trial.seed for trial in experiment.trials if trial.arm == "ce"] == list(first)
    assert plan.seeds == tuple(last)
    assert plan.looks[0] == len(first)
    assert plan.looks[-1] == most
    assert plan.baseline == "ce"


def test_the_forecast_says_least_expected_and_most(write_config: Write, tmp_path: Path) -> None:
    experiment, out = _experiment(write_config), tmp_path / "out"
    before = forecast_until_decided(experiment, SweepFolder(out))
    assert before is not None
    assert (before.least, before.most, before.sd, before.measured) == (24, 80, 0.01, False)
    assert 30 < before.expected < 70
    _run(experiment, out, _Training(out, sd=0.003))
    after = forecast_until_decided(experiment, SweepFolder(out))
    assert after is not None
    assert after.measured
    assert after.sd == pytest.approx(0.003 * 2**0.5, rel=0.6)
    assert after.expected < before.expected
    listed = load_config(write_config("sweep: {seeds: 6, grid: {loss.gamma: [1, 2]}}"))
    assert forecast_until_decided(listed, SweepFolder(out)) is None


def test_an_arm_that_is_added_later_counts_for_all(write_config: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = _SWEEP.format(seeds="6", most=20)
    three = load_config(write_config("\n".join(text.splitlines()[:-1])))
    _run(three, out, _Training(out))
    assert json.loads((out / "sweep.json").read_text())["plan"]["until"] == "decided"
    four = _experiment(write_config)
    _, ending = _run(four, out, _Training(out))
    assert ending.startswith("every arm has a verdict")
    assert compare_trials(read_trials([out]), with_test_set_noise=False).num_arms == 3
