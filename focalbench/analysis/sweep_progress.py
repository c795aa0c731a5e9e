"""How far sweeps are, from their folders alone: what trains now, what waits, what failed, how the arms stand.

Nothing is written, and of a file that grows only its end is read, so that another terminal may ask as often as it
likes.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from focalbench.analysis.arms import set_stopped_apart, trials_by_arm
from focalbench.errors import DataError, FocalbenchError
from focalbench.records.metrics import METRICS_FILE, newest_values
from focalbench.records.plan import SweepPlan
from focalbench.records.reader import TrialReader, TrialRecord, read_trials
from focalbench.records.state import TrialState
from focalbench.records.sweep import SweepFolder
from focalbench.records.sweep_lock import is_at_work
from focalbench.records.trial import TrialFolder
from focalbench.tags import IMAGES_PER_S, MEAN_AP, TRAIN_LOSS, TRAIN_SECONDS

if TYPE_CHECKING:
    from focalbench.analysis.comparison import Comparison

_WAITING, _KILLED = "waiting", "killed"


@dataclass(frozen=True)
class TrialProgress:
    """How far one trial is.

    Attributes:
        name, arm, seed: as in its files.
        state: as its files say.
        at_work: whether a process trains it now.
        step: the last one logged; that of the last checkpoint where nothing is logged.
        steps: of the whole training; None before the data are read.
        images_per_s, mean_ap, loss: the newest logged; the result's mAP of a trial that is done.
        seconds: since its process began with it; None unless it is at work.
        seconds_left: at the pace so far; None before there is one.
        reason: why it is not done or at work, in words; empty where nothing needs to be said.
    """

    name: str
    arm: str
    seed: int | None
    state: TrialState
    at_work: bool
    step: int | None = None
    steps: int | None = None
    images_per_s: float | None = None
    mean_ap: float | None = None
    loss: float | None = None
    seconds: float | None = None
    seconds_left: float | None = None
    reason: str = ""

    @property
    def was_killed(self) -> bool:
        """Whether its files say that it runs, and no process does that."""
        return self.state is TrialState.RUNNING and not self.at_work


@dataclass(frozen=True)
class SweepProgress:
    """How far a sweep is.

    Attributes:
        folder: where it lies.
        at_work: whether a process is at work in it.
        trials: all of them, in the order of the sweep.
        seconds_left: until all are trained, at the pace so far; None where nothing is at work or there is no pace yet.
        comparison: of the arms as far as they have come; None before a trial has finished.
        plan: what the sweep declared; None where its list does not say.
    """

    folder: Path
    at_work: bool
    trials: tuple[TrialProgress, ...]
    seconds_left: float | None
    comparison: Comparison | None = field(repr=False)
    plan: SweepPlan | None = None

    @property
    def counts(self) -> dict[str, int]:
        """The number of trials that are done, running, waiting, killed, failed, and stopped by a search, each once."""
        return _counts((trial.state, trial.at_work) for trial in self.trials)


class SweepReader:
    """Reads how far a sweep is, again and again; what has not changed in between is not worked out anew.

    Args:
        folder: of the sweep, or of a single trial.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read = TrialReader(folder)
        self._compared: tuple[tuple[TrialRecord, ...], Comparison | None] = ((), None)

    def read(self) -> SweepProgress:
        """Returns how far the sweep is now.

        Raises:
            DataError: no such folder, no trials in it, or those of several sweeps.
        """
        records = self._read()
        sweeps = dict.fromkeys(record.folder.parent for record in records)
        if len(sweeps) > 1:
            raise DataError(
                f"{self._folder}: holds {len(sweeps)} sweeps; name one of them, such as {next(iter(sweeps))} "
                f"(`focalbench ls {self._folder}` lists them)"
            )
        is_launched = is_at_work(self._folder)
        trials = tuple(_trial_progress(record, is_launched) for record in records)
        at_work = is_launched or any(trial.at_work for trial in trials)
        left = _sweep_seconds_left(trials, _walls(records)) if at_work else None
        return SweepProgress(self._folder, at_work, trials, left, self._compare(records), _plan(next(iter(sweeps))))

    def _compare(self, records: tuple[TrialRecord, ...]) -> Comparison | None:
        settled = tuple(record for record in records if record.state.is_final)
        if settled != self._compared[0]:
            self._compared = (settled, _comparison(records))
        return self._compared[1]


def _plan(folder: Path) -> SweepPlan | None:
    try:
        return SweepFolder(folder).plan()
    except DataError:  # the comparison says so
        return None


def _comparison(records: Sequence[TrialRecord]) -> Comparison | None:
    from focalbench.analysis.comparison import compare_trials  # which loads scipy: a list of sweeps does without

    try:
        return compare_trials(records, with_test_set_noise=False, with_exact=False)
    except FocalbenchError:  # nothing has finished, or its mAP is undefined
        return None


def _trial_progress(record: TrialRecord, is_launched: bool) -> TrialProgress:
    state, status = record.state, record.status
    known: dict[str, Any] = {"step": status.step, "steps": status.steps, "reason": record.reason}
    if state is TrialState.NEW:
        return TrialProgress(record.folder.name, record.arm, record.seed, state, at_work=False)
    if state is TrialState.DONE:
        known |= {"mean_ap": record.result.mean_ap, "images_per_s": record.result.images_per_s}
        return TrialProgress(record.folder.name, record.arm, record.seed, state, at_work=False, **known)
    at_work = TrialFolder(record.folder).is_locked()
    step, values = newest_values(record.folder, (IMAGES_PER_S, MEAN_AP, TRAIN_LOSS, TRAIN_SECONDS))
    step = status.step if step is None else step
    known |= {"step": step, "mean_ap": values.get(MEAN_AP), "loss": values.get(TRAIN_LOSS)}
    if at_work:
        seconds, left = _times(record, step or 0, values.get(TRAIN_SECONDS))
        known |= {"images_per_s": values.get(IMAGES_PER_S), "seconds": seconds, "seconds_left": left, "reason": ""}
        # Its owner writes down that it runs only after it has taken it.
        return TrialProgress(record.folder.name, record.arm, record.seed, TrialState.RUNNING, at_work=True, **known)
    if state is TrialState.RUNNING:
        known["reason"] = f"killed at step {step or 0}" + ("" if is_launched else "; the same command resumes it")
    return TrialProgress(record.folder.name, record.arm, record.seed, state, at_work=False, **known)


def _times(record: TrialRecord, step: int, train_s: float | None) -> tuple[float | None, float | None]:
    """Seconds since the trial's process began with it, and until its end.

    The pace is that of the wall clock, evaluations included; of a trial that was resumed, whose earlier processes left
    no such time, that of the training steps where it is slower.
    """
    started = _written(record.folder / TrialFolder.CONFIG)  # anew by every process that goes on with it
    if started is None:
        return None, None
    logged = _written(record.folder / METRICS_FILE) or started
    spent, steps = max(logged - started, train_s or 0.0), record.status.steps
    left = spent / step * max(0, steps - step) if steps and step > 0 and spent > 0 else None
    return max(0.0, time.time() - started), left


def _written(path: Path) -> float | None:
    """When a file was last written to, in seconds since 1970; None where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _walls(records: Iterable[TrialRecord]) -> list[float]:
    """How long the trials took that are done."""
    return [r.result.wall_s for r in records if r.state is TrialState.DONE and r.result.wall_s]


def _sweep_seconds_left(trials: Sequence[TrialProgress], walls: Sequence[float]) -> float | None:
    """The trials that wait take as long as those that are done, as many side by side as there are now."""
    running = [trial for trial in trials if trial.at_work]
    timed = [trial for trial in running if trial.seconds is not None and trial.seconds_left is not None]
    wholes = walls or [(trial.seconds or 0) + (trial.seconds_left or 0) for trial in timed]
    if not running or not wholes:
        return None
    whole = fmean(wholes)
    waiting = [trial for trial in trials if not trial.at_work and not trial.state.is_final]
    left = [whole if trial.seconds_left is None else trial.seconds_left for trial in running]
    rest = sum(1 - min(1, (trial.step or 0) / trial.steps) if trial.steps else 1 for trial in waiting) * whole
    return max((sum(left) + rest) / len(running), *left)


@dataclass(frozen=True)
class SweepSummary:
    """A sweep on one line.

    Attributes:
        folder: where it lies.
        counts: see ``SweepProgress.counts``.
        num_arms: arms among its trials.
        best_arm, best_mean_ap, best_n: the arm with the highest mean mAP over its finished seeds; None before any.
        written: when it was last written to, in seconds since 1970.
    """

    folder: Path
    counts: Mapping[str, int]
    num_arms: int
    best_arm: str | None
    best_mean_ap: float | None
    best_n: int
    written: float | None


def summarise_sweeps(folder: Path) -> list[SweepSummary]:
    """Returns each sweep at or below ``folder`` on one line, the one that was written to last at the top.

    Raises:
        DataError: no such folder, or no trials below it.
    """
    sweeps: dict[Path, list[TrialRecord]] = defaultdict(list)
    for record in read_trials([folder]):
        sweeps[record.folder.parent].append(record)
    summaries = [_summary(path, records) for path, records in sweeps.items()]
    return sorted(summaries, key=lambda summary: summary.written or 0, reverse=True)


def _summary(folder: Path, records: Sequence[TrialRecord]) -> SweepSummary:
    kept, _ = set_stopped_apart(records)
    arms = trials_by_arm(kept)
    finished = {
        arm: [record.result.mean_ap for record in of_arm if record.counts and record.result.mean_ap is not None]
        for arm, of_arm in arms.items()
    }
    values = {arm: found for arm, found in finished.items() if found}
    best = max(values, key=lambda arm: fmean(values[arm]), default=None)
    return SweepSummary(
        folder,
        counts=_counts((r.state, r.state is TrialState.RUNNING and TrialFolder(r.folder).is_locked()) for r in records),
        num_arms=len(arms),
        best_arm=best,
        best_mean_ap=None if best is None else fmean(values[best]),
        best_n=0 if best is None else len(values[best]),
        written=_last_written(folder, records),
    )


def _last_written(folder: Path, records: Iterable[TrialRecord]) -> float | None:
    files = [folder / SweepFolder.LIST]
    files += [
        record.folder / name
        for record in records
        for name in (TrialFolder.CONFIG, TrialFolder.STATUS, TrialFolder.RESULT, METRICS_FILE)
    ]
    return max((moment for path in files if (moment := _written(path)) is not None), default=None)


def _counts(trials: Iterable[tuple[TrialState, bool]]) -> dict[str, int]:
    counts = Counter(_group(state, at_work) for state, at_work in trials)
    groups = (TrialState.DONE, TrialState.RUNNING, _WAITING, _KILLED, TrialState.FAILED, TrialState.STOPPED)
    return {str(group): counts[group] for group in groups}


def _group(state: TrialState, at_work: bool) -> str:
    """What a trial is counted as: one that was stopped after a checkpoint waits, as does one whose result is lost."""
    if at_work:
        return TrialState.RUNNING
    if state is TrialState.RUNNING:
        return _KILLED
    return state if state.is_final else _WAITING
