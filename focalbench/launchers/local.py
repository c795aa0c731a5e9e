"""Trials on this machine: one worker per slot, each with its own threads, GPU or GPUs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from focalbench.config.schema import ExperimentConfig
from focalbench.devices import has_gpu_driver, num_gpus, resolve_device, visible_gpus, why_no_gpu
from focalbench.errors import ConfigError
from focalbench.launchers.job import Job
from focalbench.launchers.job_queue import POLL_S, JobQueue, Watcher, Workplace
from focalbench.launchers.process import WorkerProcess
from focalbench.runtime import StopFlag, num_cores

LOG_FILE = "workers.log"


@dataclass(frozen=True)
class Slots:
    """How many trials run side by side, each on which devices and with how many threads a device.

    Attributes:
        devices: for each slot the devices of one trial.
    """

    devices: tuple[tuple[str, ...], ...]
    threads: int


def plan_slots(num_trials: int, device: str, trials_per_device: int, devices_per_trial: int, threads: int) -> Slots:
    """Plans, on a CPU, as many slots of ``threads`` threads a device as there are cores for, one at least; on GPUs
    ``trials_per_device`` on each, with the cores shared out evenly as threads.

    Raises:
        ConfigError: when a trial asks for more devices than there are.
    """
    cores, gpus = num_cores(), _gpus(device)
    found = gpus or ["cpu"] * cores
    if devices_per_trial > len(found):
        kind = "GPU" if gpus else "core"
        seen = visible_gpus() if gpus else ""
        there = f"run.device {device} means {len(found)} {kind}{'s'[: len(found) > 1]} on this machine{seen}"
        raise ConfigError(f"run.devices: {devices_per_trial}: {there}; use at most {len(found)}")
    if not gpus:  # fewer cores than threads train the same trial more slowly
        found = found[: max(devices_per_trial, cores // threads)]
    starts = range(0, len(found) - devices_per_trial + 1, devices_per_trial)
    groups = [tuple(found[start : start + devices_per_trial]) for start in starts]
    slots = (groups * trials_per_device if gpus else groups)[: max(1, num_trials)]
    return Slots(tuple(slots), max(1, cores // sum(map(len, slots))) if gpus else threads)


def slots_of(config: ExperimentConfig, device: str, num_trials: int) -> Slots:
    """Returns the slots of a sweep with this configuration: see :func:`plan_slots`."""
    run = config.run
    return plan_slots(num_trials, device, run.trials_per_device, run.devices, run.threads)


def report_idle_cores(slots: Slots, report: Callable[[str], None]) -> None:
    """Says how to use the cores of a CPU where half of them or more have nothing to do."""
    processes, cores = sum(map(len, slots.devices)), num_cores()
    if slots.devices[0][0] == "cpu" and cores >= 2 * processes * slots.threads:
        trials = f"{len(slots.devices)} trial{'s'[: len(slots.devices) > 1]}"
        report(
            f"{trials} on {processes * slots.threads} of {cores} cores: -s run.threads={cores // processes} is "
            "faster, but trains other trials, as another number of threads rounds differently"
        )


def report_unused_gpus(slots: Slots, device: str, report: Callable[[str], None]) -> None:
    """Says why ``auto`` trains on a CPU where the driver of a GPU is there: that takes hours more."""
    if device == "auto" and slots.devices[0][0] == "cpu" and has_gpu_driver():
        report(
            f"warning: training on the processor, although a GPU driver is installed: {why_no_gpu()}; use "
            "--device cpu if that is intended"
        )


def _gpus(device: str) -> list[str]:
    """Names of the GPUs to use; empty for a CPU."""
    if device == "cpu" or (device == "auto" and not has_gpu_driver()):
        return []  # without waiting for torch to load
    first = str(resolve_device(device, "run.device"))
    if first == "cpu" or device.startswith("cuda:"):
        return [] if first == "cpu" else [first]
    return [f"cuda:{index}" for index in range(num_gpus())]


class _Worker(WorkerProcess):
    """A worker in a slot, and the thread that reads its reports."""

    def __init__(self, inbox: _Inbox, devices: tuple[str, ...], threads: int, log: Path) -> None:
        super().__init__(devices, threads, log)
        self.devices = devices
        self.job: Job | None = None
        self.lost_device = False
        threading.Thread(target=self._read, args=(inbox,), daemon=True).start()

    def _read(self, inbox: _Inbox) -> None:
        for report in self.reports():
            inbox.put((self, report))
        inbox.put((self, None))


_Inbox = Queue[tuple[_Worker, dict[str, Any] | None]]


class LocalRun(Workplace):
    """Drives workers on the slots of this machine."""

    def __init__(self, queue: JobQueue, slots: Slots, *, watcher: Watcher, log_folder: Path) -> None:
        super().__init__(queue, watcher)
        self._slots = slots
        self._log = log_folder / LOG_FILE
        self._inbox: _Inbox = Queue()
        self._idle = list(slots.devices)
        self._workers: list[_Worker] = []

    def _is_at_work(self) -> bool:
        return bool(self._workers)

    def _start_jobs(self) -> None:
        while self._idle and (job := self._queue.take()) is not None:
            worker = _Worker(self._inbox, self._idle.pop(0), self._slots.threads, self._log)
            self._workers.append(worker)
            self._give(job, worker)

    def _hear(self, stop: StopFlag) -> None:
        try:
            worker, report = self._inbox.get(timeout=POLL_S)
        except Empty:
            return
        if report is None:
            self._worker_ended(worker, stop)
        elif worker.job is not None:
            worker.lost_device |= report.get("device_is_gone", False)
            if self._queue.hear(worker.job, report):
                self._next_job(worker)

    def _next_job(self, worker: _Worker) -> None:
        """The next job on the worker's device, or the end of the worker; ranks take one job only."""
        worker.job = None
        job = self._queue.take() if len(worker.devices) == 1 else None
        if job is None:
            worker.close()
        else:
            self._give(job, worker)

    def _give(self, job: Job, worker: _Worker) -> None:
        worker.job = job
        self._watcher.trial_started(job.trial.name)
        worker.give(job, devices=worker.devices, threads=self._slots.threads)

    def _worker_ended(self, worker: _Worker, stop: StopFlag) -> None:
        """A worker that ended with a job in hand died."""
        self._workers.remove(worker)
        if worker.lost_device and (self._idle or self._workers):
            self._watcher.message(f"warning: {', '.join(worker.devices)}: no more trials are started there")
        else:
            self._idle.append(worker.devices)
        worker.close()
        if worker.job is not None and stop.signum is None:
            self._queue.died(worker.job, f"its process died ({worker.how_it_ended()})", self._log)

    def _ask_to_stop(self) -> None:
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.process.terminate()

    def _kill(self) -> None:
        for worker in self._workers:
            worker.process.kill()
