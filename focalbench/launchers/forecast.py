"""How long a sweep will still take, going by its own finished trials, or by a rehearsal where none like them is."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from focalbench.config.dump import resolved
from focalbench.config.identity import Effect, effect_of
from focalbench.config.schema import ExperimentConfig
from focalbench.config.sweep import Trial
from focalbench.records.reader import TrialRecord, flatten_config, read_trial
from focalbench.records.state import TrialState
from focalbench.records.sweep import SweepFolder

if TYPE_CHECKING:
    from focalbench.experiment.rehearsal import Rehearsal

_MOST_REHEARSED = 4  # kinds of trials: each takes its seconds


@dataclass(frozen=True)
class Forecast:
    """An estimate of the time that trials will take.

    Attributes:
        num_left: trials to train or to finish.
        num_known: those of a kind of which one has finished, or was rehearsed.
        num_measured: finished trials that the estimate goes by.
        num_rehearsed: kinds of trials that it knows from a rehearsal.
        seconds: for the known ones, as many side by side as there are slots; None where none is known.
        longest: of one of them alone.
    """

    num_left: int
    num_known: int
    num_measured: int
    num_rehearsed: int
    seconds: float | None
    longest: float | None


def forecast(
    trials: Sequence[Trial],
    sweep: SweepFolder,
    *,
    num_slots: int = 1,
    device: str | None = None,
    retry_failed: bool = False,
    with_stopped: bool = False,
    rehearse: Callable[[Trial], Rehearsal] | None = None,
) -> Forecast:
    """Returns the time left for ``trials`` in ``sweep``: the images still to be trained on, times the seconds per image
    of the finished trials that differ in nothing that costs time, those of the same loss before others.

    Args:
        num_slots: trials that run side by side.
        device: where they will run, such as cuda:0; what finished on another kind of device does not count.
        retry_failed: whether failed trials are trained again.
        with_stopped: whether trials that a search had stopped early are trained to their end.
        rehearse: times the first steps of a trial of whose kind none has finished; None leaves such trials unknown.
    """
    records = {trial.name: read_trial(sweep.trial(trial.name).path) for trial in trials}
    measured = _paces(trials, records, device and device.split(":")[0])
    again = ({TrialState.FAILED} if retry_failed else set()) | ({TrialState.STOPPED} if with_stopped else set())
    left = [trial for trial in trials if not (state := records[trial.name].state).is_final or state in again]
    seconds: list[float] = []
    used: set[str] = set()
    rehearsed: dict[str, Rehearsal] = {}
    for trial in left:
        kind = _kind(trial.config)
        paces = [pace for pace in measured if pace.kind == kind]
        paces = [pace for pace in paces if pace.loss == trial.config.loss.name] or paces
        if paces:
            used.update(pace.trial for pace in paces)
            num_images = _num_images(trial.config, paces[0].num_train) * _share_left(records[trial.name])
            seconds.append(num_images * fmean(pace.seconds_per_image for pace in paces))
        elif rehearse is not None and (kind in rehearsed or len(rehearsed) < _MOST_REHEARSED):
            if kind not in rehearsed:
                rehearsed[kind] = rehearse(trial)
            seconds.append(rehearsed[kind].seconds(trial.config) * _share_left(records[trial.name]))
    total = _side_by_side(seconds, num_slots) if seconds or not left else None
    return Forecast(len(left), len(seconds), len(used), len(rehearsed), total, max(seconds, default=None))


@dataclass(frozen=True)
class _Pace:
    """What one finished trial says."""

    trial: str
    kind: str
    loss: str
    num_train: int
    seconds_per_image: float


def _paces(trials: Iterable[Trial], records: Mapping[str, TrialRecord], device_kind: str | None) -> list[_Pace]:
    paces = []
    for trial in trials:
        record = records[trial.name]
        result = record.result
        if not record.counts or (device_kind and str(result.device).split(":")[0] != device_kind):
            continue
        if result.wall_s and result.train_images:
            pace = result.wall_s / _num_images(trial.config, result.train_images)
            paces.append(_Pace(trial.name, _kind(trial.config), trial.config.loss.name, result.train_images, pace))
    return paces


def _kind(config: ExperimentConfig) -> str:
    """Equal for configurations whose images cost the same, up to the loss."""
    settings = flatten_config(resolved(config))
    return json.dumps({key: value for key, value in settings.items() if Effect.TIME in effect_of(key)})


def _num_images(config: ExperimentConfig, num_train: int) -> float:
    """Images of the whole training, repeats counted."""
    if config.optim.steps is not None:
        return config.optim.steps * config.optim.batch_size
    assert config.optim.epochs is not None  # the schema asks for exactly one
    return config.optim.epochs * num_train


def _share_left(record: TrialRecord) -> float:
    """The share of the training that the trial's last checkpoint leaves."""
    step, steps = record.status.step or 0, record.status.steps or 0
    return 1 - min(step / steps, 1) if steps > 0 else 1.0


def _side_by_side(seconds: Sequence[float], num_slots: int) -> float:
    """When the last one ends, each begun on the first slot that is free."""
    ends = [0.0] * num_slots
    for duration in seconds:
        heapq.heappush(ends, heapq.heappop(ends) + duration)
    return max(ends)
