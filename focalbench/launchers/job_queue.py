"""The jobs of one run, wherever they are trained: which wait, which another process has, how each ended."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from focalbench.experiment.search import score_at
from focalbench.launchers.job import Job, Outcome
from focalbench.records.state import TrialState
from focalbench.records.trial import TrialFolder, TrialStatus
from focalbench.runtime import StopFlag
from focalbench.tags import MEAN_AP

POLL_S = 0.2
"""How long a workplace waits for a report before it looks at everything else."""
_BUSY_POLL_S = 2.0
_STOP_GRACE_S = 120.0


class Watcher(Protocol):
    """Who shows the progress; ``focalbench.progress.sweep.SweepDisplay`` is one."""

    def trial_started(self, name: str) -> None: ...
    def trial_phase(self, name: str, phase: str) -> None: ...
    def trial_progress(self, name: str, step: int, steps: int, values: Mapping[str, float | None]) -> None: ...
    def trial_finished(self, name: str, state: str, values: Mapping[str, float | None]) -> None: ...
    def message(self, text: str) -> None: ...
    def sweep_grew(self, num_trials: int) -> None: ...
    def standing(self, lines: Sequence[str]) -> None: ...
    def stopping(self) -> None: ...


class JobQueue:
    """What a workplace asks for the next job and tells what became of it.

    Args:
        retries: how often a job whose process died is tried again.
        on_change: called when a trial has begun or ended, for the table of the sweep.
        fail_fast: no new trial starts after the first failure.
        share: whether a trial that another process trains is waited for (a sweep) or refused (a single trial).

    Attributes:
        outcomes: of the jobs that have ended, by trial.
        halted: whether a failure has ended the run for what has not started.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        *,
        retries: int,
        watcher: Watcher,
        on_change: Callable[[], None],
        fail_fast: bool = False,
        share: bool = True,
    ) -> None:
        self._waiting = deque(jobs)
        self._busy: list[Job] = []
        self._watcher, self._on_change = watcher, on_change
        self._fail_fast, self._share = fail_fast, share
        self._retries = retries
        self._deaths: dict[str, int] = {}
        self._last_words: dict[str, Mapping[str, Any]] = {}
        self._begun: set[str] = set()
        self._failed_before = {job.trial.name: status for job in jobs if (status := _failure(job)) is not None}
        self.outcomes: dict[str, Outcome] = {}
        self.halted = False

    def is_open(self) -> bool:
        """Tells whether there is a job to start, now or when another process lets go of it."""
        return bool(self._waiting or self._busy)

    def start_no_more(self) -> None:
        """Forgets the jobs that wait."""
        self._waiting.clear()
        self._busy.clear()

    def take(self) -> Job | None:
        """Returns the next job that no other process has in hand or has ended meanwhile; None when there is none."""
        while self._waiting:
            job = self._waiting.popleft()
            outcome = self._ended_elsewhere(job)
            if outcome is not None:
                self._record(job, outcome)
            elif TrialFolder(job.folder).is_locked():
                self._leave_to_other(job)
            else:
                return job
        return None

    def hear(self, job: Job, report: Mapping[str, Any]) -> bool:
        """Takes in what the worker of ``job`` says; whether that was the job's end."""
        if report["event"] == "progress":
            if job.trial.name not in self._begun:
                self._begun.add(job.trial.name)
                self._on_change()
            self._watcher.trial_progress(report["name"], report["step"], report["steps"], report["values"])
        elif report["event"] == "phase":
            self._watcher.trial_phase(report["name"], report["phase"])
        elif report["event"] == "warning":
            self._watcher.message(f"warning: {report['message']}")
        elif report["event"] == "lost":
            self._last_words.setdefault(job.trial.name, report)  # what other ranks say after it only follows from it
        elif report["event"] == "finished":
            self._ended(job, report)
            return True
        return False

    def died(self, job: Job, how: str, log: Path) -> None:
        """Takes in that the process that trained ``job`` is gone: again from the checkpoint, or given up.

        Args:
            how: it ended, such as "its process died (signal 9)"; what it said itself before is better.
            log: where the process may have said why.
        """
        name = job.trial.name
        self._deaths[name] = self._deaths.get(name, 0) + 1
        said = self._last_words.pop(name, {})
        reason = said.get("error", how)
        if said.get("may_go_on", True) and self._deaths[name] <= self._retries:
            self._watcher.message(f"warning: {name}: {reason}; resuming from its checkpoint")
            self._waiting.appendleft(job)
            return
        error = f"{reason}; see {log}" if said else f"{how}; out of memory? See {log}"
        TrialFolder(job.folder).write_status(job.trial, TrialState.FAILED, error=error)
        self._record(job, Outcome(TrialState.FAILED, error, said.get("exit_code", 3), values={}))

    def look_at_busy(self) -> None:
        """Queues again the trials that another process had: done by now, or free again."""
        for job in list(self._busy):
            if not TrialFolder(job.folder).is_locked():
                self._busy.remove(job)
                self._waiting.append(job)

    def _ended_elsewhere(self, job: Job) -> Outcome | None:
        """How another process has ended the job since this one looked, if one has."""
        folder = TrialFolder(job.folder)
        result = folder.result()
        if result is not None:
            return Outcome(state=TrialState.DONE, error=None, exit_code=0, values={MEAN_AP: result.mean_ap})
        if job.pause_at is not None and score_at(folder, job.pause_at) is not None:
            return Outcome(state="paused", error=None, exit_code=0, values={})
        failure = _failure(job)
        if failure is not None and failure != self._failed_before.get(job.trial.name):
            return Outcome(state=TrialState.FAILED, error=failure.error, exit_code=3, values={})
        return None

    def _leave_to_other(self, job: Job) -> None:
        """Waits for the process that trains the job, or says that there is one."""
        # What is left of a worker that died may hold the trial until its next step.
        if self._share or job.trial.name in self._deaths:
            self._watcher.message(f"{job.trial.name}: another process is training it; waiting")
            self._busy.append(job)
            return
        fault = TrialFolder(job.folder).busy()
        self._record(job, Outcome(state="busy", error=str(fault), exit_code=fault.exit_code, values={}))

    def _ended(self, job: Job, report: Mapping[str, Any]) -> None:
        if report["state"] == "busy":
            self._leave_to_other(job)
            return
        state, error = report["state"], report.get("error")
        self._record(job, Outcome(state, error, report.get("exit_code", 0), report.get("values", {})))

    def _record(self, job: Job, outcome: Outcome) -> None:
        self.outcomes[job.trial.name] = outcome
        self._watcher.trial_finished(job.trial.name, outcome.state, outcome.values)
        if outcome.error:
            self._watcher.message(f"{job.trial.name}: {outcome.error}")
        self._on_change()
        if outcome.state == TrialState.FAILED and self._fail_fast:
            self.halted = True
            self.start_no_more()


def _failure(job: Job) -> TrialStatus | None:
    """The status of a job that has failed, else None."""
    status = TrialFolder(job.folder).status()
    return status if status.state is TrialState.FAILED else None


class Workplace(ABC):
    """Where jobs are trained: the slots of this machine, or a cluster.

    Args:
        queue: gives the jobs and takes in how they end.
        watcher: told when a trial starts.
    """

    def __init__(self, queue: JobQueue, watcher: Watcher) -> None:
        self._queue, self._watcher = queue, watcher

    def run(self, stop: StopFlag) -> dict[str, Outcome]:
        """Trains all jobs; returns how each ended. Jobs that never started because of a stop have no outcome."""
        stopping_since, looked_at_busy = None, time.monotonic()
        try:
            while self._is_at_work() or self._queue.is_open():
                if stop.signum is not None:
                    self._queue.start_no_more()
                    if stopping_since is None:
                        stopping_since = time.monotonic()
                        self._watcher.stopping()
                        self._ask_to_stop()
                    if time.monotonic() - stopping_since > _STOP_GRACE_S:
                        break
                elif time.monotonic() - looked_at_busy > _BUSY_POLL_S:
                    self._queue.look_at_busy()
                    looked_at_busy = time.monotonic()
                self._start_jobs()
                self._hear(stop)
        finally:
            self._kill()
        return self._queue.outcomes

    @abstractmethod
    def _is_at_work(self) -> bool:
        """Whether a worker is still there."""

    @abstractmethod
    def _start_jobs(self) -> None:
        """Hands jobs of the queue to whatever is free."""

    @abstractmethod
    def _hear(self, stop: StopFlag) -> None:
        """Waits ``POLL_S`` for reports and passes them to the queue; deaths after a stop are none of its business."""

    @abstractmethod
    def _ask_to_stop(self) -> None:
        """Tells every worker to write a checkpoint and end."""

    @abstractmethod
    def _kill(self) -> None:
        """Ends what is still there, at once."""
