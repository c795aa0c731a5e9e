"""One call of ``focalbench run``: the books are opened, the data checked, what is left to do is launched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from focalbench.config.schema import ExperimentConfig
from focalbench.config.sweep import Trial
from focalbench.data.check import check_data, raise_for_errors
from focalbench.data.faults import summarise
from focalbench.errors import BusyError, ConfigError
from focalbench.experiment.attendance import attend
from focalbench.experiment.locations import cache_dir, class_setting, data_location
from focalbench.experiment.sweep import TO_DO, open_sweep, trial_state, write_results
from focalbench.experiment.trial_files import finished_result
from focalbench.launchers.job import Job, Outcome
from focalbench.launchers.ledger import Ledger, Watcher
from focalbench.launchers.local import LocalRun, plan_slots
from focalbench.runtime import StopFlag, stop_on_signals

_WARNING_LINES = 6  # of a data set's warnings; `focalbench data check` shows more


@dataclass(frozen=True)
class SessionOptions:
    """The switches of ``focalbench run``."""

    device: str
    fresh: bool = False
    retry_failed: bool = False
    fail_fast: bool = False


@dataclass(frozen=True)
class Session:
    """How all trials stand at the end.

    Attributes:
        states: done | failed | interrupted | busy | new, by trial.
        outcomes: of the trials that ran now.
        signum: the signal that stopped the session, or None.
    """

    states: dict[str, str]
    outcomes: dict[str, Outcome]
    signum: int | None

    @property
    def exit_code(self) -> int:
        """0 done, 3 when some failed, 128 + n after a signal; the failure's own code when nothing at all worked."""
        if self.signum is not None:
            return 128 + self.signum
        counts = Counter(self.states.values())
        codes = {outcome.exit_code for outcome in self.outcomes.values() if outcome.state != "done"}
        if counts["done"] == 0 and len(codes) == 1:
            return codes.pop()
        return 3 if counts["done"] < len(self.states) else 0


@contextmanager
def open_launcher(
    config: ExperimentConfig, device: str, num_trials: int, *, out: Path, stop: StopFlag
) -> Iterator[Callable[[Ledger, Watcher], dict[str, Outcome]]]:
    """What trains the jobs of a ledger, on this machine or on a cluster that is left when the block ends.

    Raises:
        ConfigError: when there are no such devices, no such cluster, or no Ray.
    """
    run = config.run
    if run.launcher == "local":
        slots = plan_slots(num_trials, device, run.trials_per_device, run.devices)
        yield lambda ledger, watcher: LocalRun(ledger, slots, stop=stop, watcher=watcher, log_folder=out).run()
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
        share = ray.plan_share(device, run.trials_per_device, run.devices)
        yield lambda ledger, watcher: ray.RayRun(ledger, share, stop=stop, watcher=watcher, log_folder=out).run()


def check_all_data(trials: Sequence[Trial], report: Callable[[str], None], stop: StopFlag | None = None) -> None:
    """Reads every split that any trial uses, before the first one starts.

    Raises:
        DataError: with all faults at once.
        InterruptedTrial: when ``stop`` is set meanwhile.
    """
    seen = set()
    for trial in trials:
        root, train, val = data_location(trial.config)
        classes = class_setting(trial.config)
        if (root, train, val, classes) in seen:
            continue
        seen.add((root, train, val, classes))
        found = check_data(root, train=train, val=val, classes=classes, cache_dir=cache_dir(trial.config), stop=stop)
        raise_for_errors(found)
        if found.warnings:
            for line in summarise(found.warnings, "warning", _WARNING_LINES):
                report(line)


def run_session(
    config: ExperimentConfig,
    trials: Sequence[Trial],
    out: Path,
    options: SessionOptions,
    make_watcher: Callable[[int, int], Watcher],
    report: Callable[[str], None],
) -> Session:
    """Trains what is not done yet.

    Args:
        make_watcher: (number of trials, number done before) to who shows the progress.
        report: takes lines of the log.

    Raises:
        FocalbenchError: for faults found before the first trial starts; nothing is half-written then.
        InterruptedTrial: when a signal arrives as early as that.
    """
    stop = StopFlag()
    with stop_on_signals(stop):
        check_all_data(trials, report, stop)
        with (
            open_launcher(config, options.device, len(trials), out=out, stop=stop) as launch,
            attend(out, fresh=options.fresh) as attendance,
        ):
            open_sweep(out, config.name, trials, alone=attendance.alone)
            attendance.admit_others()
            wanted = TO_DO | ({"failed"} if options.retry_failed else set())
            todo = [trial for trial in trials if trial_state(out / trial.name) in wanted]
            watcher = make_watcher(len(trials), _count_done(out, trials))
            ledger = Ledger(
                [Job(trial, out / trial.name, (options.device,), threads=1) for trial in todo],
                retries=config.run.retries,
                watcher=watcher,
                on_change=lambda: write_results(out),
                fail_fast=options.fail_fast,
                # A worker that a killed launcher left behind stops by itself.
                share=len(trials) > 1 or attendance.alone,
            )
            write_results(out)
            outcomes = launch(ledger, watcher)
            write_results(out)
    states = {trial.name: trial_state(out / trial.name) for trial in trials}
    busy = [outcome for outcome in outcomes.values() if outcome.state == "busy"]
    if busy:
        raise BusyError(busy[0].error or "another process is training this trial")
    return Session(states, outcomes, stop.signum)


def _count_done(out: Path, trials: Sequence[Trial]) -> int:
    return sum(finished_result(out / trial.name) is not None for trial in trials)
