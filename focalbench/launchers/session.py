"""One call of ``focalbench run``: the data are checked, the trials listed, what is left to do is launched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from focalbench.config.load import Experiment
from focalbench.config.schema import ExperimentConfig
from focalbench.config.sweep import Trial
from focalbench.data.check import check_data
from focalbench.data.faults import raise_for_faults, summarise
from focalbench.errors import BusyError, ConfigError
from focalbench.experiment.first_weights import require_weights
from focalbench.experiment.limits import limits
from focalbench.experiment.locations import (
    cache_dir,
    class_rule,
    class_setting,
    data_location,
    image_cache,
    sample_range,
)
from focalbench.experiment.search import require_optuna
from focalbench.extras import require_timm
from focalbench.launchers.hardware import require_hardware
from focalbench.launchers.job import Job, Outcome
from focalbench.launchers.job_queue import JobQueue, Watcher
from focalbench.launchers.local import LocalRun, report_idle_cores, report_unused_gpus, slots_of
from focalbench.launchers.search import (
    leaves_stopped,
    num_search_trials,
    proposed_trials,
    run_search,
    search_of,
    typical_trials,
)
from focalbench.launchers.until_decided import declared_plan, ends_by_itself, opened_trials, run_until_decided
from focalbench.records.source import keep_source
from focalbench.records.state import TrialState
from focalbench.records.sweep import SweepFolder
from focalbench.records.sweep_lock import hold_sweep, require_folder
from focalbench.runtime import StopFlag, stop_on_signals

_WARNING_LINES = 6  # of a data set's warnings; `focalbench data check` shows more


@dataclass(frozen=True)
class SessionOptions:
    """The switches of ``focalbench run``, and the command itself as the sweep's list keeps it."""

    device: str
    fresh: bool = False
    retry_failed: bool = False
    fail_fast: bool = False
    command: str = ""


@dataclass(frozen=True)
class Session:
    """How all trials stand at the end.

    Attributes:
        trials: of the sweep, those that its search has proposed among them.
        states: by trial.
        outcomes: of the trials that ran now.
        signum: the signal that stopped the session, or None.
        ending: of a sweep that ends by itself, how it did; empty where it has not.
    """

    trials: tuple[Trial, ...]
    states: dict[str, TrialState]
    outcomes: dict[str, Outcome]
    signum: int | None
    ending: str = ""

    @property
    def exit_code(self) -> int:
        """0 done, 3 when some failed, 128 + n after a signal; the failure's own code when nothing at all worked."""
        if self.signum is not None:
            return 128 + self.signum
        counts = Counter(self.states.values())
        codes = {outcome.exit_code for outcome in self.outcomes.values() if outcome.state != TrialState.DONE}
        if counts[TrialState.DONE] == 0 and len(codes) == 1:
            return codes.pop()
        return 3 if counts[TrialState.DONE] + counts[TrialState.STOPPED] < len(self.states) else 0


@contextmanager
def open_launcher(
    config: ExperimentConfig, device: str, num_trials: int, *, out: Path, stop: StopFlag
) -> Iterator[Callable[[JobQueue, Watcher], dict[str, Outcome]]]:
    """What trains the jobs of a queue, on this machine or on a cluster that is left when the block ends.

    Raises:
        ConfigError: when there are no such devices, no such cluster, or no Ray.
    """
    run = config.run
    if run.launcher == "local":
        slots = slots_of(config, device, num_trials)
        yield lambda jobs, watcher: LocalRun(jobs, slots, watcher=watcher, log_folder=out).run(stop)
        return
    try:
        from focalbench.launchers import ray
    except ModuleNotFoundError as fault:
        if fault.name != "ray":
            raise
        raise ConfigError(
            "run.launcher: ray: Ray is not installed: pip install 'focalbench[ray]', or use local"
        ) from fault
    with ray.connected(run.ray_address), stop_on_signals(stop):  # Ray has put its own handlers in place
        share = ray.plan_share(device, run.trials_per_device, run.devices, run.threads)
        yield lambda jobs, watcher: ray.RayRun(jobs, share, watcher=watcher, log_folder=out).run(stop)


def known_trials(experiment: Experiment, sweep: SweepFolder) -> tuple[Trial, ...]:
    """Returns all trials known so far, with those that a search has proposed and those of the looks that were begun."""
    if ends_by_itself(experiment.config):
        return opened_trials(experiment, sweep)
    return proposed_trials(experiment, sweep)


def check_all_data(
    trials: Sequence[Trial],
    report: Callable[[str], None],
    stop: StopFlag | None = None,
    *,
    to_train: Callable[[Trial], bool] = lambda trial: True,
) -> dict[str, list[str]]:
    """Reads every split that any trial uses, before the first one starts, and fills the image caches on the way.

    Args:
        to_train: whether a trial will need its images.

    Returns:
        The fingerprints of its training and evaluation images, by hash of the trial.

    Raises:
        DataError: with all faults at once.
        InterruptedTrial: when ``stop`` is set meanwhile.
    """
    sharing: dict[Any, list[Trial]] = {}
    for trial in trials:
        config = trial.config
        key = (*data_location(config), class_setting(config), class_rule(config), sample_range(config))
        sharing.setdefault(key, []).append(trial)
    fingerprints: dict[str, list[str]] = {}
    for (root, train, val, classes, rule, samples), alike in sharing.items():
        caches = dict.fromkeys(image_cache(trial.config) for trial in alike if to_train(trial))
        found = check_data(
            root,
            train=train,
            val=val,
            classes=classes,
            cache_dir=cache_dir(alike[0].config),
            stop=stop,
            fill=[cache for cache in caches if cache is not None],
            rule=rule,
            sample_range=samples,
        )
        raise_for_faults(found.errors)
        if found.warnings:
            for line in summarise(found.warnings, "warning", _WARNING_LINES):
                report(line)
        fingerprints |= {trial.hash: list(found.fingerprints) for trial in alike}
        for sentence in dict.fromkeys(line for trial in alike for line in limits(trial.config, *found.sizes)):
            report(f"warning: {sentence}")
    return fingerprints


def report_stale_results(
    trials: Sequence[Trial], fingerprints: Mapping[str, list[str]], sweep: SweepFolder, report: Callable[[str], None]
) -> None:
    """Says which finished trials saw other images or annotations than there are now: no part of a trial's hash."""
    stale = []
    for trial in trials:
        now, result = fingerprints[trial.hash], sweep.trial(trial.name).result()
        if result is not None and result.data_fingerprint not in (None, now):
            stale.append(trial.name)
    if stale:
        report(
            f"the data has changed since {len(stale)} of {len(trials)} trials were trained, such as {stale[0]}: "
            "they are kept, but what is trained now cannot be compared with them; --fresh trains all again"
        )


def run_session(
    experiment: Experiment,
    out: Path,
    options: SessionOptions,
    make_watcher: Callable[[int, int, int], Watcher],
    report: Callable[[str], None],
) -> Session:
    """Trains what is not done yet.

    Args:
        make_watcher: (number of trials, number done before, number that failed or were stopped before and stay so) to
            who shows the progress.
        report: takes lines of the log.

    Raises:
        FocalbenchError: for faults found before the first trial starts; nothing is half-written then.
        InterruptedTrial: when a signal arrives as early as that.
    """
    config, trials, stop, sweep = experiment.config, experiment.trials, StopFlag(), SweepFolder(out)
    plan = declared_plan(experiment)
    require_folder(out)
    with stop_on_signals(stop):
        if not options.fresh:
            sweep.listed()  # another version's list, or another plan, is refused before any image is read
            if plan is not None:
                sweep.require_plan(plan)
        _require_parts(config, [*trials, *typical_trials(config)], options, sweep)
        fingerprints = check_all_data(
            [*trials, *typical_trials(config)],
            report,
            stop,
            to_train=lambda trial: options.fresh or sweep.trial(trial.name).state() is not TrialState.DONE,
        )
        num_trials = len(trials) + num_search_trials(config)
        with (
            open_launcher(config, options.device, num_trials, out=out, stop=stop) as launch,
            hold_sweep(out, fresh=options.fresh) as lock,
        ):
            sweep.open(config.name, trials, alone=lock.alone, command=options.command)
            keep_source(out, experiment.written, options.command)
            if plan is not None:
                sweep.declare(plan)
            lock.share()
            report_stale_results(trials, fingerprints, sweep, report)
            if config.run.launcher == "local":
                slots = slots_of(config, options.device, num_trials)
                report_unused_gpus(slots, options.device, report)
                report_idle_cores(slots, report)
            later = len(known_trials(experiment, sweep)) - len(trials) if ends_by_itself(config) else 0
            watcher = make_watcher(num_trials + later, *_count_final(experiment, sweep, options.retry_failed))
            # A worker that a killed launcher left behind stops by itself.
            share = num_trials > 1 or lock.alone
            ending = ""
            rounds = _Rounds(launch, watcher, stop, sweep, options, retries=config.run.retries, share=share)
            if ends_by_itself(config):
                trials, ending = run_until_decided(experiment, sweep, rounds.train, alone=lock.alone, watcher=watcher)
            elif rounds.train(trials, with_stopped=True) and search_of(config) is not None:
                trials = run_search(experiment, sweep, rounds.train, alone=lock.alone, watcher=watcher)
    states = {trial.name: sweep.trial(trial.name).state() for trial in trials}
    busy = [outcome for outcome in rounds.outcomes.values() if outcome.state == "busy"]
    if busy:
        raise BusyError(busy[0].error or "another process is training this trial")
    return Session(trials, states, rounds.outcomes, stop.signum, ending)


def _require_parts(
    config: ExperimentConfig, trials: Sequence[Trial], options: SessionOptions, sweep: SweepFolder
) -> None:
    """What is missing on this machine is said before anything is read.

    Raises:
        ConfigError: for hardware or a compiler that the trials ask for, timm, or Optuna where the sweep has a search.
        DataError: for first weights of trials that are to be trained, when they cannot be had, are none or do not fit.
    """
    for trial in trials:
        require_timm(str(getattr(trial.config.model, "backbone", "")))
    if search_of(config) is not None:
        require_optuna()
    if config.run.launcher == "local":
        require_hardware(trials, options.device)
    require_weights(trial.config for trial in trials if _needs_weights(sweep.trial(trial.name).state(), options))


def _needs_weights(state: TrialState, options: SessionOptions) -> bool:
    """Whether a trial that stands so will build its network."""
    is_over = state is TrialState.DONE or (state is TrialState.FAILED and not options.retry_failed)
    return options.fresh or not is_over


@dataclass
class _Rounds:
    """Trains sets of trials one after the other: all at once without a search.

    Attributes:
        outcomes: of the trials that ran, the newest of each.
    """

    launch: Callable[[JobQueue, Watcher], dict[str, Outcome]]
    watcher: Watcher
    stop: StopFlag
    sweep: SweepFolder
    options: SessionOptions
    retries: int
    share: bool
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def train(self, trials: Sequence[Trial], *, pause_at: float | None = None, with_stopped: bool = False) -> bool:
        """Trains what is left of ``trials``; whether anything may start after it.

        Args:
            pause_at: share of the training after which trials are left as they are; None trains to the end.
            with_stopped: go on with trials that a search has stopped early.
        """
        jobs = JobQueue(
            [self._job(trial, pause_at) for trial in seed_by_seed(trials) if self._is_left(trial, with_stopped)],
            retries=self.retries,
            watcher=self.watcher,
            on_change=self.sweep.write_results,
            fail_fast=self.options.fail_fast,
            share=self.share,
        )
        self.sweep.write_results()
        self.outcomes |= self.launch(jobs, self.watcher)
        self.sweep.write_results()
        return self.stop.signum is None and not jobs.halted

    def _job(self, trial: Trial, pause_at: float | None) -> Job:
        folder = self.sweep.trial(trial.name).path
        threads = trial.config.run.threads
        return Job(trial=trial, folder=folder, devices=(self.options.device,), threads=threads, pause_at=pause_at)

    def _is_left(self, trial: Trial, with_stopped: bool) -> bool:
        state = self.sweep.trial(trial.name).state()
        if state is TrialState.FAILED:
            return self.options.retry_failed and trial.name not in self.outcomes
        return not state.is_final or (state is TrialState.STOPPED and with_stopped)


def seed_by_seed(trials: Sequence[Trial]) -> list[Trial]:
    """Sorts the first seed of every arm to the front: a sweep that is stopped half-way has whole pairs to compare."""
    order = {seed: place for place, seed in enumerate(dict.fromkeys(trial.seed for trial in trials))}
    return sorted(trials, key=lambda trial: order[trial.seed])


def _count_final(experiment: Experiment, sweep: SweepFolder, retry_failed: bool) -> tuple[int, int]:
    """How many of the trials known so far are done, and how many failed or were stopped and stay so."""
    counts = Counter(sweep.trial(trial.name).state() for trial in known_trials(experiment, sweep))
    failed = 0 if retry_failed else counts[TrialState.FAILED]
    stopped = counts[TrialState.STOPPED] if leaves_stopped(experiment.config) else 0
    return counts[TrialState.DONE], failed + stopped
