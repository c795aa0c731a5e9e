"""Trials on the machines of a Ray cluster: Ray decides where and when, the rest is as on one machine.

Each trial is an actor on the node that Ray picks, and the actor keeps a worker process, one like those of the local
launcher. Checkpoints, results and logs go to the sweep's folder, which all nodes must see; only reports travel through
Ray. So whatever dies, worker, node or driver, a trial goes on from its newest checkpoint, wherever there is room.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from focalbench.errors import ConfigError
from focalbench.launchers.job import Job, Outcome
from focalbench.launchers.job_queue import POLL_S, JobQueue, Watcher, Workplace
from focalbench.launchers.process import WorkerProcess
from focalbench.records.state import TrialState
from focalbench.records.sweep import SweepFolder
from focalbench.records.trial import TrialFolder
from focalbench.runtime import StopFlag

LOG_FILE = "worker.log"
"""In each trial's folder: nodes that append to one file over a network overwrite each other."""
RAY_LOG_FILE = "ray.log"
"""In the sweep's folder: what Ray itself has to say."""

_CONNECT_S = 10.0
_VISIBLE_S = 60.0
_MOST_SUBMITTED = 256  # enough for Ray to see what is wanted; each waiting actor has a price
_OBJECT_STORE_BYTES = 100_000_000  # of a cluster of this machine alone: reports are small


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Within the block this process is a driver of the cluster at ``address``, else at RAY_ADDRESS, else of one that
    consists of this machine and ends with the block.

    Args:
        address: HOST:PORT, or "auto" for the cluster that this machine belongs to.

    Raises:
        ConfigError: when no cluster answers there, or it does not take this process.
    """
    where = address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
    if where is not None:
        _require_answer(where)
        options = {}
    with redirect_stdout(sys.stderr):  # Ray prints what happens to nodes, and stdout is for results
        try:
            ray.init(where or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as fault:
            lines = str(fault).strip().splitlines() or [type(fault).__name__]
            raise ConfigError(
                f"run.ray_address: {where or 'a cluster of this machine'}: Ray says: {lines[0]}"
            ) from fault
        try:
            yield
        finally:
            ray.shutdown()


def _require_answer(address: str) -> None:
    """Fails within seconds where Ray would try for minutes.

    Raises:
        ConfigError: for an address at which nothing listens, or of another kind.
    """
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise ConfigError(
            f"run.ray_address: {address}: should be HOST:PORT as `ray start --head` prints it, or auto, with the "
            "command run on a machine of the cluster"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as fault:
        raise ConfigError(
            f"run.ray_address: {address}: no Ray cluster answers there ({fault}); start one with `ray start --head`, "
            "correct run.ray_address or RAY_ADDRESS, or use run.launcher: local"
        ) from fault


@dataclass(frozen=True)
class Share:
    """What one trial takes of a node.

    Attributes:
        devices: as the trial sees them: Ray shows it no other GPUs than its own.
        num_gpus: below 1 where several trials share a GPU.
        num_cpus: a core for each thread.
    """

    devices: tuple[str, ...]
    num_gpus: float
    num_cpus: int


def plan_share(device: str, trials_per_device: int, devices_per_trial: int, threads: int) -> Share:
    """Returns the share of each trial, of the cluster that this process is connected to.

    Raises:
        ConfigError: when no node can ever give it.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = {kind: int(max((node.get(kind, 0) for node in nodes), default=0)) for kind in ("CPU", "GPU")}
    if device.startswith("cuda:"):
        raise ConfigError(f"run.device: {device}: in a cluster Ray chooses the GPU; use cuda or auto")
    if device == "cuda" and not most["GPU"]:
        raise ConfigError("run.device: cuda: no node of the Ray cluster has a GPU; use auto or cpu")
    kind = "CPU" if device == "cpu" or not most["GPU"] else "GPU"
    if devices_per_trial > most[kind]:
        raise ConfigError(
            f"run.devices: {devices_per_trial}: a trial stays on one node, and the largest of the Ray cluster has "
            f"{most[kind]} {kind}{'s'[: most[kind] != 1]}"
        )
    if kind == "CPU":  # on nodes with fewer cores than threads the trial is slower, and the same
        return Share(("cpu",) * devices_per_trial, 0, min(devices_per_trial * threads, most[kind]))
    if devices_per_trial > 1 and trials_per_device > 1:
        raise ConfigError(
            f"run.trials_per_device: {trials_per_device}: with run.devices above 1 Ray gives whole GPUs; use 1"
        )
    devices = tuple(f"cuda:{index}" for index in range(devices_per_trial))
    return Share(devices, devices_per_trial if devices_per_trial > 1 else 1 / trials_per_device, devices_per_trial)


class Trainer:
    """The actor: keeps one worker process, which stops by itself when the actor is gone."""

    def __init__(self) -> None:
        self._worker: WorkerProcess | None = None
        self._stopped = False

    def train(self, line: str, directory: str, variables: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Trains a job; yields where that happens, then what the worker reports, then how it died if it did.

        Args:
            line: the job.
            directory: the driver's current one, which relative paths in the configuration start from.
            variables: of the environment, for the worker.
        """
        job, host = Job.from_line(line), socket.gethostname()
        yield {"event": "placed", "host": host}
        fault = _storage_fault(job, directory)
        if fault:
            yield {"event": "finished", "state": "failed", "error": f"node {host}: {fault}", "exit_code": 2}
            return
        os.chdir(directory)
        job.folder.mkdir(exist_ok=True)
        ended = False
        self._worker = WorkerProcess(job.devices, job.threads, job.folder / LOG_FILE, variables)
        self._worker.give(job)
        if self._stopped:
            self.stop()
        for report in self._worker.reports():
            yield report
            if report["event"] == "finished":
                ended = True
                self._worker.close()
        if not ended:
            yield {"event": "died", "how": f"its process on {host} died ({self._worker.how_it_ended()})"}

    def stop(self) -> None:
        """Makes the worker write a checkpoint and end."""
        self._stopped = True
        if self._worker is not None and self._worker.process.poll() is None:
            self._worker.process.terminate()


def _storage_fault(job: Job, directory: str) -> str | None:
    """Why this node cannot train the job; None when it can."""
    if not (job.folder.parent / SweepFolder.LIST).exists():
        return f"{job.folder.parent} is not the sweep's folder here: --out should be on storage that all nodes share"
    if not Path(directory).is_dir():
        return f"{directory} is missing here: run the command in a folder that all nodes share"
    return None


@dataclass
class _Placement:
    """A job that was handed to Ray; ``host`` is None until a node has it."""

    job: Job
    actor: Any
    host: str | None = None
    ended: bool = False


class RayRun(Workplace):
    """Hands jobs to Ray."""

    def __init__(self, queue: JobQueue, share: Share, *, watcher: Watcher, log_folder: Path) -> None:
        super().__init__(queue, watcher)
        self._share = share
        self._log = log_folder / RAY_LOG_FILE
        self._placements: dict[Any, _Placement] = {}  # by the stream of their reports
        trainer: Any = ray.remote(Trainer)
        self._trainer = trainer.options(
            num_cpus=share.num_cpus, num_gpus=share.num_gpus, max_concurrency=2, max_restarts=0
        )
        self._variables = {key: value for key, value in os.environ.items() if key.startswith("FOCALBENCH_")}

    def run(self, stop: StopFlag) -> dict[str, Outcome]:
        """See ``Workplace.run``; what Ray prints meanwhile goes to a file."""
        with self._log.open("a", encoding="utf-8") as log, redirect_stdout(log):
            return super().run(stop)

    def _is_at_work(self) -> bool:
        return bool(self._placements)

    def _start_jobs(self) -> None:
        while len(self._placements) < _MOST_SUBMITTED and (job := self._queue.take()) is not None:
            sent = job.model_copy(update={"folder": job.folder.absolute(), "devices": self._share.devices})
            actor = self._trainer.remote()
            reports = actor.train.options(num_returns="streaming").remote(sent.to_line(), os.getcwd(), self._variables)
            self._placements[reports] = _Placement(sent, actor)

    def _hear(self, stop: StopFlag) -> None:
        if not self._placements:
            time.sleep(POLL_S)
            return
        streams: list[Any] = ray.wait(list(self._placements), timeout=POLL_S)[0]
        for reports in streams:
            placement = self._placements[reports]
            try:
                report: Any = ray.get(next(reports))
                self._take(placement, report, stop)
            except StopIteration:
                self._release(reports)
            except ray.exceptions.RayError as fault:
                self._release(reports)
                self._lost(placement, fault, stop)

    def _take(self, placement: _Placement, report: Mapping[str, Any], stop: StopFlag) -> None:
        job = placement.job
        if report["event"] == "placed":
            placement.host = report["host"]
            self._watcher.trial_started(job.trial.name)
        elif report["event"] == "died":
            placement.ended = True
            self._died(job, report["how"], stop)
        else:
            if report.get("state") == TrialState.DONE:
                _wait_until_visible(TrialFolder(job.folder))
            placement.ended = self._queue.hear(job, report) or placement.ended
            self._obey_halt()

    def _lost(self, placement: _Placement, fault: Exception, stop: StopFlag) -> None:
        """The actor is gone, with its node or alone."""
        if placement.ended:
            return
        first = str(fault).strip().splitlines()[0] if str(fault).strip() else type(fault).__name__
        where = "could not be started" if placement.host is None else f"on {placement.host} is gone"
        self._died(placement.job, f"its Ray worker {where} ({type(fault).__name__}: {first})", stop)

    def _died(self, job: Job, how: str, stop: StopFlag) -> None:
        if stop.signum is None:
            self._queue.died(job, how, job.folder / LOG_FILE)
            self._obey_halt()

    def _release(self, reports: Any) -> None:
        """Gives a placement's share of its node back."""
        placement = self._placements.pop(reports)
        with suppress(ray.exceptions.RayError):
            ray.kill(placement.actor)

    def _ask_to_stop(self) -> None:
        self._withdraw_waiting()
        for placement in self._placements.values():
            placement.actor.stop.remote()

    def _kill(self) -> None:
        for placement in self._placements.values():
            ray.kill(placement.actor)

    def _obey_halt(self) -> None:
        """After a failure that ends the run, no node shall start what it has not yet."""
        if self._queue.halted:
            self._withdraw_waiting()

    def _withdraw_waiting(self) -> None:
        """Takes back what no node has yet."""
        for reports in [key for key, placement in self._placements.items() if placement.host is None]:
            self._release(reports)


def _wait_until_visible(trial: TrialFolder) -> None:
    """Network file systems show a file that another node wrote after up to a minute, by their cache of names."""
    deadline = time.monotonic() + _VISIBLE_S
    while trial.result() is None and time.monotonic() < deadline:
        time.sleep(POLL_S)
