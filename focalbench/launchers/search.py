"""``sweep.search``, batch by batch: arms are proposed, trained with all their seeds, and judged as wholes.

Everything is decided again from the books and the trials' own files, so that a search goes on after a kill, and several
processes that share it come to the same arms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, Protocol

from focalbench.config.schema import ExperimentConfig, SearchConfig
from focalbench.config.sweep import Trial, corners, expand
from focalbench.experiment.search import ArmScore, propose, score_at, space_of
from focalbench.experiment.sweep import list_proposals, listed_proposals, open_sweep, trial_state
from focalbench.experiment.trial_files import finished_result, status_of, write_status

_SETTLED = ("done", "failed", "stopped")


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
    """``sweep.search``, where there is one."""
    return config.sweep.search if config.sweep is not None else None


def num_search_trials(config: ExperimentConfig) -> int:
    """Trials that the search of ``config`` means in all, where no two proposals are equal."""
    search = search_of(config)
    seeds = config.sweep.seeds if config.sweep is not None else None
    return search.num * len(seeds or (config.seed,)) if search is not None else 0


def typical_trials(config: ExperimentConfig) -> tuple[Trial, ...]:
    """Trials such as the search will propose, from the ends of its ranges."""
    search = search_of(config)
    return _search_only(config, corners(search)) if search is not None else ()


def proposed_trials(config: ExperimentConfig, out: Path) -> tuple[Trial, ...]:
    """All trials known so far: those of the other blocks, and of the arms that the search in ``out`` has proposed."""
    search = search_of(config)
    return expand(config, proposals=listed_proposals(out, space_of(search))[: search.num] if search is not None else ())


def run_search(
    config: ExperimentConfig, out: Path, train: Train, *, alone: bool, tell: Callable[[str], None]
) -> tuple[Trial, ...]:
    """Proposes and trains the arms of ``sweep.search`` until there are ``num``, or ``train`` says that it is over.

    Args:
        alone: as in ``open_sweep``.
        tell: takes lines of the log.

    Returns:
        all trials of the sweep, as far as they are known.

    Raises:
        ConfigError: when Optuna is not installed, or a proposal is no valid configuration.
    """
    search = search_of(config)
    assert search is not None
    for first in range(0, search.num, search.batch):
        last = min(first + search.batch, search.num)
        proposals = listed_proposals(out, space_of(search))
        if len(proposals) < last:
            history = [_score(arm, out, search.stop_at) for arm in _arms(config, proposals[:first])]
            fresh = propose(search, history)[len(proposals) - first : last - first]
            proposals = list_proposals(out, space_of(search), [*proposals, *fresh])
        open_sweep(out, config.name, expand(config, proposals=proposals[:last]), alone=alone)
        arms = _arms(config, proposals[:last])
        if not _train_batch(arms, arms[first:], search, out, train, tell):
            break
    return proposed_trials(config, out)


def _train_batch(
    known: Sequence[_Arm],
    batch: Sequence[_Arm],
    search: SearchConfig,
    out: Path,
    train: Train,
    tell: Callable[[str], None],
) -> bool:
    """Trains the arms of ``batch`` to their end, or to where they are stopped; whether the search may go on."""
    if search.stop_at is not None:
        for arm in batch:  # seeds that were added to an arm after it was stopped
            if "stopped" in _states(arm, out):
                _stop(arm, out, "by sweep.search, as the other seeds of its arm")
        if not train([trial for arm in batch for trial in arm.trials], pause_at=search.stop_at):
            return False
        _stop_worse(known, batch, search.stop_at, out, tell)
    return train([trial for arm in batch for trial in arm.trials], with_stopped=search.stop_at is None)


def _stop_worse(
    known: Sequence[_Arm], batch: Sequence[_Arm], stop_at: float, out: Path, tell: Callable[[str], None]
) -> None:
    """Stops the arms of ``batch`` that lie below the median of all arms that came as far."""
    scores = [score for arm in known if (score := _mean_at(arm, stop_at, out)) is not None]
    for arm in batch:
        states, score = _states(arm, out), _mean_at(arm, stop_at, out)
        # One with a finished seed was let through before this seed was added.
        passed = "done" in states or (score is not None and score >= median(scores))
        if passed or states <= set(_SETTLED):
            continue
        found = "a seed failed or has no mAP" if score is None else f"mAP {score:.4f}, median {median(scores):.4f}"
        reason = f"by sweep.search, with all seeds of its arm: {found} at {stop_at:.0%} of the training"
        _stop(arm, out, reason)
        tell(f"{arm.trials[0].arm}: stopped {reason}")


def _stop(arm: _Arm, out: Path, reason: str) -> None:
    for trial in arm.trials:
        folder = out / trial.name
        if trial_state(folder) not in _SETTLED:
            status = status_of(folder)
            far = {key: status[key] for key in ("step", "steps") if key in status}
            write_status(folder, trial, "stopped", error=reason, **far)


def _states(arm: _Arm, out: Path) -> set[str]:
    return {trial_state(out / trial.name) for trial in arm.trials}


def _mean_at(arm: _Arm, share: float, out: Path) -> float | None:
    return _mean([score_at(out / trial.name, share) for trial in arm.trials])


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; None where a value is missing or undefined."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return fmean(known) if known and len(known) == len(values) else None


def _score(arm: _Arm, out: Path, stop_at: float | None) -> ArmScore:
    if stop_at is not None and "stopped" in _states(arm, out):
        return ArmScore(arm.values, _mean_at(arm, stop_at, out), stopped=True)
    results = [finished_result(out / trial.name) for trial in arm.trials]
    return ArmScore(arm.values, _mean([result.get("val/mAP") if result is not None else None for result in results]))


def _arms(config: ExperimentConfig, proposals: Sequence[Mapping[str, Any]]) -> list[_Arm]:
    """Each proposal with its trials under the names that the whole sweep gives them."""
    named = {trial.hash: trial for trial in expand(config, proposals=proposals)}
    return [_Arm(values, tuple(named[trial.hash] for trial in _search_only(config, [values]))) for values in proposals]


def _search_only(config: ExperimentConfig, proposals: Sequence[Mapping[str, Any]]) -> tuple[Trial, ...]:
    """The trials of ``proposals`` without those of the other blocks."""
    assert config.sweep is not None
    alone = config.sweep.model_copy(update={"grid": None, "zip": None, "list": (), "random": None})
    return expand(config.model_copy(update={"sweep": alone}), proposals=proposals)
