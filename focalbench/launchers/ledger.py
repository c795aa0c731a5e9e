"""The jobs of one run, wherever they are trained: which wait, which another process has, how each ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from focalbench.experiment.search import score_at
from focalbench.experiment.trial_files import busy, finished_result, is_locked, status_of, write_status
from focalbench.launchers.job import Job, Outcome


class Watcher(Protocol):
    """Who shows the progress; ``focalbench.progress.SweepDisplay`` is one."""

    def trial_started(self, name: str) -> None: ...
    def trial_progress(self, name: str, step: int, steps: int, values: Mapping[str, float | None]) -> None: ...
    def trial_finished(self, name: str, state: str, values: Mapping[str, float | None]) -> None: ...
    def message(self, text: str) -> None: ...


class Ledger:
    """What a launcher asks for the next job and tells what became of it.

    Args:
        retries: how often a job whose process died is tried again.
        on_change: called when a trial has begun or ended, for the books of the sweep.
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
        self._begun: set[str] = set()
        self._failed_before = {job.trial.name: status for job in jobs if _has_failed(status := status_of(job.folder))}
        self.outcomes: dict[str, Outcome] = {}
        self.halted = False

    def is_open(self) -> bool:
        """Whether there is a job to start, now or when another process lets go of it."""
        return bool(self._waiting or self._busy)

    def start_no_more(self) -> None:
        """Forgets the jobs that wait."""
        self._waiting.clear()
        self._busy.clear()

    def take(self) -> Job | None:
        """The next job that no other process has in hand or has ended meanwhile; None when there is none."""
        while self._waiting:
            job = self._waiting.popleft()
            outcome = self._ended_elsewhere(job)
            if outcome is not None:
                self._record(job, outcome)
            elif is_locked(job.folder):
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
        elif report["event"] == "warning":
            self._watcher.message(f"warning: {report['message']}")
        elif report["event"] == "finished":
            self._ended(job, report)
            return True
        return False

    def died(self, job: Job, how: str, log: Path) -> None:
        """The process that trained ``job`` is gone: again from the checkpoint, or given up.

        Args:
            how: it ended, such as "its process died (signal 9)".
            log: where the process may have said why.
        """
        name = job.trial.name
        self._deaths[name] = self._deaths.get(name, 0) + 1
        if self._deaths[name] <= self._retries:
            self._watcher.message(f"warning: {name}: {how}; going on from its checkpoint")
            self._waiting.appendleft(job)
            return
        error = f"{how}; out of memory? See {log}"
        write_status(job.folder, job.trial, "failed", error=error)
        self._record(job, Outcome("failed", error, 3, {}))

    def look_at_busy(self) -> None:
        """Trials that another process had: done by now, or free again."""
        for job in list(self._busy):
            if not is_locked(job.folder):
                self._busy.remove(job)
                self._waiting.append(job)

    def _ended_elsewhere(self, job: Job) -> Outcome | None:
        """How another process has ended the job since this one looked, if one has."""
        result = finished_result(job.folder)
        if result is not None:
            return Outcome("done", None, 0, {"val/mAP": result.get("val/mAP")})
        if job.pause_at is not None and score_at(job.folder, job.pause_at) is not None:
            return Outcome("paused", None, 0, {})
        status = status_of(job.folder)
        if _has_failed(status) and status != self._failed_before.get(job.trial.name):
            return Outcome("failed", status.get("error"), 3, {})
        return None

    def _leave_to_other(self, job: Job) -> None:
        """Waits for the process that trains the job, or says that there is one."""
        # What is left of a worker that died may hold the trial until its next step.
        if self._share or job.trial.name in self._deaths:
            self._watcher.message(f"{job.trial.name}: another process is training it; waiting")
            self._busy.append(job)
            return
        fault = busy(job.folder)
        self._record(job, Outcome("busy", str(fault), fault.exit_code, {}))

    def _ended(self, job: Job, report: Mapping[str, Any]) -> None:
        if report["state"] == "busy":
            self._leave_to_other(job)
            return
        outcome = Outcome(report["state"], report.get("error"), report.get("exit_code", 0), report.get("values", {}))
        self._record(job, outcome)

    def _record(self, job: Job, outcome: Outcome) -> None:
        self.outcomes[job.trial.name] = outcome
        self._watcher.trial_finished(job.trial.name, outcome.state, outcome.values)
        if outcome.error:
            self._watcher.message(f"{job.trial.name}: {outcome.error}")
        self._on_change()
        if outcome.state == "failed" and self._fail_fast:
            self.halted = True
            self.start_no_more()


def _has_failed(status: Mapping[str, Any]) -> bool:
    return status.get("state") == "failed"
