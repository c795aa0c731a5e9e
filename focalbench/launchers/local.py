"""Trials on this machine: one worker process per slot, each with its own threads or GPU."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from focalbench.experiment.trial_files import busy, finished_result, is_locked, status_of, write_status
from focalbench.launchers.job import Job, Outcome
from focalbench.runtime import StopFlag, has_gpu_driver

LOG_FILE = "workers.log"
_POLL_S = 0.2
_BUSY_POLL_S = 2.0
_STOP_GRACE_S = 120.0


class Watcher(Protocol):
    """Who shows the progress; ``focalbench.console.SweepDisplay`` is one."""

    def trial_started(self, name: str) -> None: ...
    def trial_progress(self, name: str, step: int, steps: int, values: Mapping[str, float | None]) -> None: ...
    def trial_finished(self, name: str, state: str, values: Mapping[str, float | None]) -> None: ...
    def message(self, text: str) -> None: ...


@dataclass(frozen=True)
class Slots:
    """How many trials run side by side, each on which device and with how many threads."""

    devices: tuple[str, ...]
    threads: int


def plan_slots(num_trials: int, device: str, trials_per_device: int) -> Slots:
    """One slot a core on a CPU, ``trials_per_device`` on each GPU; the cores are shared out evenly as threads.

    It depends on the size of the sweep and not on what is left of it, so that a trial that goes on later has the same
    threads.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = _gpus(device)
    devices = [gpu for _ in range(trials_per_device) for gpu in gpus] if gpus else ["cpu"] * cores
    devices = devices[: max(1, num_trials)]
    return Slots(tuple(devices), max(1, cores // len(devices)))


def _gpus(device: str) -> list[str]:
    """Names of the GPUs to use; empty for a CPU."""
    if device == "cpu" or (device == "auto" and not has_gpu_driver()):
        return []  # without waiting for torch to load
    from focalbench.runtime import resolve_device

    first = str(resolve_device(device))
    if first == "cpu" or device.startswith("cuda:"):
        return [] if first == "cpu" else [first]
    import torch

    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


class _Worker:
    """One worker process and the thread that reads its reports."""

    def __init__(self, inbox: queue.Queue[tuple[_Worker, dict[str, Any] | None]], log: Path, threads: int) -> None:
        self.job: Job | None = None
        self.has_begun = False
        # OpenMP reads its number of threads when torch loads; a user's own setting must not split two cores four ways.
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "focalbench.launchers.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                start_new_session=True,
            )
        threading.Thread(target=self._read, args=(inbox,), daemon=True).start()

    def _read(self, inbox: queue.Queue[tuple[_Worker, dict[str, Any] | None]]) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as reports:
            for line in reports:
                with contextlib.suppress(ValueError):  # a line torn by a kill; the end of the stream tells the rest
                    inbox.put((self, json.loads(line)))
        self.process.wait()
        inbox.put((self, None))

    def give(self, job: Job) -> None:
        """Hands over a job; a worker that died meanwhile is noticed by its reader."""
        self.job, self.has_begun = job, False
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(job.to_json().encode() + b"\n")
            self.process.stdin.flush()

    def close(self) -> None:
        """No more jobs: the worker ends by itself."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()


class LocalRun:
    """Drives workers until every job has an outcome or a stop is asked for.

    Args:
        on_change: called when a trial has begun or ended, for the books of the sweep.
        fail_fast: no new trial starts after the first failure.
        share: whether a trial that another process trains is waited for (a sweep) or refused (a single trial).
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        slots: Slots,
        *,
        retries: int,
        stop: StopFlag,
        watcher: Watcher,
        log_folder: Path,
        on_change: Callable[[], None],
        fail_fast: bool = False,
        share: bool = True,
    ) -> None:
        self._waiting = deque(jobs)
        self._busy: list[Job] = []
        self._slots, self._stop, self._watcher = slots, stop, watcher
        self._log = log_folder / LOG_FILE
        self._on_change, self._fail_fast, self._share = on_change, fail_fast, share
        self._tries_left = {job.trial.name: retries for job in jobs}
        self._failed_before = {job.trial.name: status for job in jobs if _has_failed(status := status_of(job.folder))}
        self._inbox: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        self._idle = list(slots.devices)
        self._devices: dict[_Worker, str] = {}
        self.outcomes: dict[str, Outcome] = {}

    def run(self) -> dict[str, Outcome]:
        """Trains all jobs; returns how each ended. Jobs that never started because of a stop have no outcome."""
        stopping_since, looked_at_busy = None, time.monotonic()
        try:
            while self._devices or self._waiting or self._busy:
                if self._stop.signum is not None:
                    self._waiting.clear()
                    self._busy.clear()
                    if stopping_since is None:
                        stopping_since = time.monotonic()
                        self._signal_workers()
                    if time.monotonic() - stopping_since > _STOP_GRACE_S:
                        break
                elif time.monotonic() - looked_at_busy > _BUSY_POLL_S:
                    self._look_at_busy()
                    looked_at_busy = time.monotonic()
                self._start_jobs()
                with contextlib.suppress(queue.Empty):
                    self._handle(*self._inbox.get(timeout=_POLL_S))
        finally:
            for worker in self._devices:
                worker.process.kill()
        return self.outcomes

    def _start_jobs(self) -> None:
        while self._idle and (job := self._take_job()) is not None:
            worker = _Worker(self._inbox, self._log, self._slots.threads)
            self._devices[worker] = self._idle.pop(0)
            self._give(job, worker)

    def _next_job(self, worker: _Worker) -> None:
        """The next job on the worker's device, or the end of the worker."""
        worker.job = None
        job = self._take_job()
        if job is None:
            worker.close()
        else:
            self._give(job, worker)

    def _give(self, job: Job, worker: _Worker) -> None:
        self._watcher.trial_started(job.trial.name)
        worker.give(Job(job.trial, job.folder, self._devices[worker], self._slots.threads))

    def _take_job(self) -> Job | None:
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

    def _ended_elsewhere(self, job: Job) -> Outcome | None:
        """How another process has ended the job since this one looked, if one has."""
        result = finished_result(job.folder)
        if result is not None:
            return Outcome("done", None, 0, {"val/mAP": result.get("val/mAP")})
        status = status_of(job.folder)
        if _has_failed(status) and status != self._failed_before.get(job.trial.name):
            return Outcome("failed", status.get("error"), 3, {})
        return None

    def _leave_to_other(self, job: Job) -> None:
        """Waits for the process that trains the job, or says that there is one."""
        if self._share:
            self._watcher.message(f"{job.trial.name}: another process is training it; waiting")
            self._busy.append(job)
            return
        fault = busy(job.folder)
        self._record(job, Outcome("busy", str(fault), fault.exit_code, {}))

    def _handle(self, worker: _Worker, report: dict[str, Any] | None) -> None:
        if report is None:
            self._worker_ended(worker)
        elif report["event"] == "progress":
            if worker.job is not None and not worker.has_begun:
                worker.has_begun = True
                self._on_change()
            self._watcher.trial_progress(report["name"], report["step"], report["steps"], report["values"])
        elif report["event"] == "warning":
            self._watcher.message(f"warning: {report['message']}")
        elif report["event"] == "finished" and worker.job is not None:
            self._job_ended(worker.job, report)
            self._next_job(worker)

    def _job_ended(self, job: Job, report: Mapping[str, Any]) -> None:
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
            self._waiting.clear()

    def _worker_ended(self, worker: _Worker) -> None:
        """A worker that ended with a job in hand died: try again from the checkpoint, or give up."""
        self._idle.append(self._devices.pop(worker))
        worker.close()
        job = worker.job
        if job is None or self._stop.signum is not None:
            return
        name, code = job.trial.name, worker.process.returncode
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        if self._tries_left[name] > 0:
            self._tries_left[name] -= 1
            self._watcher.message(f"warning: {name}: its process died ({how}); going on from its checkpoint")
            self._waiting.appendleft(job)
            return
        error = f"its process died ({how}; out of memory?); see {self._log}"
        write_status(job.folder, job.trial, "failed", error=error)
        self._record(job, Outcome("failed", error, 3, {}))

    def _look_at_busy(self) -> None:
        """Trials that another process had: done by now, or free again."""
        for job in list(self._busy):
            if not is_locked(job.folder):
                self._busy.remove(job)
                self._waiting.append(job)

    def _signal_workers(self) -> None:
        for worker in self._devices:
            if worker.process.poll() is None:
                worker.process.terminate()


def _has_failed(status: Mapping[str, Any]) -> bool:
    return status.get("state") == "failed"
