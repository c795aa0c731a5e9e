"""``sweep.search``, batch by batch: arms are proposed, trained with all their seeds, and judged as wholes.

Everything is decided again from the sweep's list and the trials' own files, so that a search goes on after a kill, and
several processes that share it come to the same arms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, Protocol

from focalbench.config.load import Experiment
from focalbench.config.schema import ExperimentConfig, SearchConfig
from focalbench.config.sweep import Trial, expand, extreme_proposals, first_seeds
from focalbench.console import points
from focalbench.experiment.search import ArmScore, propose, score_at, space_of
from focalbench.launchers.job_queue import Watcher
from focalbench.records.state import TrialState
from focalbench.records.sweep import SweepFolder


class Train(Protocol):
    """Trains what is left of ``trials``, up to the share ``pause_at``; says whether the search may go on."""

    def __call__(
        self, trials: Sequence[Trial], *, pause_at: float | None = None, with_stopped: bool = False
    ) -> bool: ...


@dataclass(frozen=True)
class _Arm:
    values: Mapping[str, Any]
    trials: tuple[Trial, ...]


def search_of(config: ExperimentConfig) -> SearchConfig | None:
    """Returns ``sweep.search``, where there is one."""
    return config.sweep.search if config.sweep is not None else None


def num_search_trials(config: ExperimentConfig) -> int:
    """Tells how many trials the search of ``config`` means in all, where no two proposals are equal."""
    search = search_of(config)
    return search.num * len(first_seeds(config)) if search is not None else 0


def leaves_stopped(config: ExperimentConfig) -> bool:
    """Tells whether trials that were stopped early stay so: as long as the search stops any."""
    search = search_of(config)
    return search is not None and search.stop_at is not None


def typical_trials(config: ExperimentConfig) -> tuple[Trial, ...]:
    """Returns trials such as the search will propose, from the ends of its ranges."""
    search = search_of(config)
    return _search_only(config, extreme_proposals(search)) if search is not None else ()


def proposed_trials(experiment: Experiment, sweep: SweepFolder) -> tuple[Trial, ...]:
    """Returns all trials known so far: those of the other blocks, and of the arms that the search in ``sweep`` has
    proposed.
    """
    search = search_of(experiment.config)
    if search is None:
        return experiment.trials
    return expand(experiment.config, proposals=sweep.proposals(space_of(search))[: search.num])


def run_search(
    experiment: Experiment, sweep: SweepFolder, train: Train, *, alone: bool, watcher: Watcher
) -> tuple[Trial, ...]:
    """Proposes and trains the arms of ``sweep.search`` until there are ``num``, ``train`` says that it is over, or a
    trial could not be trained as far as it should: what comes next depends on it.

    Args:
        alone: as in ``SweepFolder.open``.
        watcher: told which arms are stopped.

    Returns:
        all trials of the sweep, as far as they are known.

    Raises:
        ConfigError: when Optuna is not installed, or a proposal is no valid configuration.
    """
    config, search = experiment.config, search_of(experiment.config)
    assert search is not None
    for first in range(0, search.num, search.batch):
        last = min(first + search.batch, search.num)
        proposals = sweep.proposals(space_of(search))
        if len(proposals) < last:
            history = [_score(arm, sweep, search.stop_at) for arm in _arms(config, proposals[:first])]
            fresh = propose(search, history)[len(proposals) - first : last - first]
            proposals = sweep.add_proposals(space_of(search), [*proposals, *fresh])
        sweep.open(config.name, expand(config, proposals=proposals[:last]), alone=alone)
        arms = _arms(config, proposals[:last])
        if not _train_batch(arms, arms[first:], search, sweep, train, watcher):
            break
    return proposed_trials(experiment, sweep)


def _train_batch(
    known: Sequence[_Arm],
    batch: Sequence[_Arm],
    search: SearchConfig,
    sweep: SweepFolder,
    train: Train,
    watcher: Watcher,
) -> bool:
    """Trains the arms of ``batch`` to their end, or to where they are stopped; whether the search may go on."""
    trials = [trial for arm in batch for trial in arm.trials]
    if search.stop_at is not None:
        _stop_with_arm(batch, sweep, watcher)  # seeds that were added to an arm after it was stopped
        if not (train(trials, pause_at=search.stop_at) and _all_came(trials, search.stop_at, sweep, watcher)):
            return False
        _stop_with_arm(batch, sweep, watcher)  # a seed that had failed and was tried again
        _stop_worse(known, batch, search.stop_at, sweep, watcher)
    return train(trials, with_stopped=search.stop_at is None) and _all_came(trials, None, sweep, watcher)


def _all_came(trials: Sequence[Trial], share: float | None, sweep: SweepFolder, watcher: Watcher) -> bool:
    """Whether all trials have come to ``share`` of the training (None: its end), or are settled before.

    A full disk or a lone worker that was told to stop leaves one that has not: its arm has no score yet, and is not bad
    for that.
    """

    def has_come(trial: Trial) -> bool:
        folder = sweep.trial(trial.name)
        return folder.state().is_final or (share is not None and score_at(folder, share) is not None)

    left = [trial.name for trial in trials if not has_come(trial)]
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        watcher.message(f"sweep.search waits for {left[0]}{more}: the same command resumes it")
    return not left


def _stop_with_arm(batch: Sequence[_Arm], sweep: SweepFolder, watcher: Watcher) -> None:
    """Stops what is left of the arms that are stopped: an arm is judged as a whole."""
    for arm in batch:
        if TrialState.STOPPED in _states(arm, sweep):
            _stop(arm, sweep, "by sweep.search, like the other seeds of its arm", watcher)


def _stop_worse(
    known: Sequence[_Arm], batch: Sequence[_Arm], stop_at: float, sweep: SweepFolder, watcher: Watcher
) -> None:
    """Stops the arms of ``batch`` that lie below the median of all arms that came as far."""
    scores = [score for arm in known if (score := _mean_at(arm, stop_at, sweep)) is not None]
    for arm in batch:
        states, score = _states(arm, sweep), _mean_at(arm, stop_at, sweep)
        # One with a finished seed was let through before this seed was added.
        passed = TrialState.DONE in states or (score is not None and score >= median(scores))
        if passed or all(state.is_final for state in states):
            continue
        found = "a seed failed or has no mAP"
        if score is not None:
            found = f"mAP {points(score)}, median {points(median(scores))}"
        reason = f"by sweep.search, with all seeds of its arm: {found} at {stop_at:.0%} of the training"
        watcher.message(f"{arm.trials[0].arm}: stopped {reason}")
        _stop(arm, sweep, reason, watcher)


def _stop(arm: _Arm, sweep: SweepFolder, reason: str, watcher: Watcher) -> None:
    for trial in arm.trials:
        folder = sweep.trial(trial.name)
        if not folder.state().is_final:
            folder.write_status(trial, TrialState.STOPPED, error=reason)
            watcher.trial_finished(trial.name, TrialState.STOPPED, {})


def _states(arm: _Arm, sweep: SweepFolder) -> set[TrialState]:
    return {sweep.trial(trial.name).state() for trial in arm.trials}


def _mean_at(arm: _Arm, share: float, sweep: SweepFolder) -> float | None:
    return _mean([score_at(sweep.trial(trial.name), share) for trial in arm.trials])


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; None where a value is missing or undefined."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return fmean(known) if known and len(known) == len(values) else None


def _score(arm: _Arm, sweep: SweepFolder, stop_at: float | None) -> ArmScore:
    if stop_at is not None and TrialState.STOPPED in _states(arm, sweep):
        return ArmScore(arm.values, _mean_at(arm, stop_at, sweep), stopped=True)
    results = [sweep.trial(trial.name).result() for trial in arm.trials]
    return ArmScore(arm.values, _mean([None if result is None else result.mean_ap for result in results]))


def _arms(config: ExperimentConfig, proposals: Sequence[Mapping[str, Any]]) -> list[_Arm]:
    """Each proposal with its trials under the names that the whole sweep gives them."""
    named = {trial.hash: trial for trial in expand(config, proposals=proposals)}
    return [_Arm(values, tuple(named[trial.hash] for trial in _search_only(config, [values]))) for values in proposals]


def _search_only(config: ExperimentConfig, proposals: Sequence[Mapping[str, Any]]) -> tuple[Trial, ...]:
    """The trials of ``proposals`` without those of the other blocks."""
    assert config.sweep is not None
    alone = config.sweep.model_copy(update={"grid": None, "zip": None, "list": (), "random": None})
    return expand(config.model_copy(update={"sweep": alone}), proposals=proposals)
