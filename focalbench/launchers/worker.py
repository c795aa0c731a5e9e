"""A worker process: reads jobs as lines on stdin, trains them in turn, reports in JSON lines on stdout.

When stdin ends the launcher is gone or has no more jobs: a trial under way is stopped at its next step with a
checkpoint. So no worker outlives its launcher, however that ended.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, TextIO

from focalbench.devices import resolve_device
from focalbench.errors import (
    BusyError,
    ConfigError,
    DeviceLostError,
    FocalbenchError,
    InterruptedTrial,
    RankLostError,
)
from focalbench.launchers.job import Job
from focalbench.records.state import TrialState
from focalbench.records.trial import TrialFolder
from focalbench.runtime import StopFlag, prepare_process, quick_imports, release_memory, set_threads, stop_on_signals
from focalbench.tags import MEAN_AP

if TYPE_CHECKING:
    import torch

_GRACE_S = 60.0  # a stop that takes longer than this hangs


class Reporter:
    """JSON lines to the launcher; silence once it is gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def send(self, event: str, name: str, **facts: Any) -> None:
        try:
            self._stream.write(json.dumps({"event": event, "name": name, **facts}) + "\n")
            self._stream.flush()
        except OSError:
            return  # the launcher died; the end of stdin stops the trial


def main() -> None:
    """Runs ``python -m focalbench.launchers.worker``."""
    prepare_process()
    reporter = open_reporter()
    with stop_for_launcher() as stop:
        jobs = receive_jobs(stop)
        while (line := jobs.get()) is not None and stop.signum is None:
            # What cannot be read, from a launcher of another version, ends this process: the launcher sees that.
            try:
                run_job(Job.from_line(line), stop, reporter)
            except DeviceLostError:
                end_at_once()
            release_memory()


def open_reporter() -> Reporter:
    """Takes stdout for the reports; whatever a library prints goes to stderr instead."""
    reports = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return Reporter(reports)


@contextmanager
def stop_for_launcher() -> Iterator[StopFlag]:
    """Within the block SIGTERM asks for a stop, and ^C does not."""
    with stop_on_signals(StopFlag()) as stop:
        # A terminal sends ^C to the whole group; the launcher alone decides, and tells workers by SIGTERM.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        yield stop


def receive_jobs(stop: StopFlag) -> queue.Queue[str | None]:
    """Returns the jobs as they come in on stdin, a line each, and None at its end, which also asks for a stop."""
    jobs: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            jobs.put(line)
        jobs.put(None)
        stop_or_exit(stop)

    threading.Thread(target=read, daemon=True).start()
    return jobs


def end_at_once() -> None:
    """Ends this process without taking leave: of a GPU that answers no more, or of ranks that may be gone or wait."""
    sys.stderr.flush()
    os._exit(1)


def stop_or_exit(stop: StopFlag) -> None:
    """Asks for a stop; a process that is still there after a minute hangs, and ends at once.

    Call it last, in a daemon thread: Python that is shutting down, as this process may be, starts no other thread.
    """
    stop.request(signal.SIGTERM)
    time.sleep(_GRACE_S)
    os._exit(1)


@cache
def load_training() -> None:
    """Imports what every job needs; that takes seconds."""
    with quick_imports():
        import focalbench.experiment.trial  # noqa: F401


def run_job(job: Job, stop: StopFlag, reporter: Reporter) -> bool:
    """Trains one job, on the first of its devices; every fault becomes a report, but for the loss of another rank: to
    the launcher that is the death of all. Says whether the trial came as far as it should.

    Raises:
        DeviceLostError: when nothing can be trained in this process any more; the launcher knows why.
    """
    name, pause = job.trial.name, StopFlag(stop)
    reporter.send("phase", name, phase="loading torch")
    load_training()
    from focalbench.experiment.trial import run_trial

    reporter.send("phase", name, phase="reading data")

    def progress(step: int, steps: int, values: Mapping[str, float]) -> None:
        if job.pause_at is not None and MEAN_AP in values and job.pause_at * steps <= step < steps:
            pause.request(signal.SIGTERM)
        shown = {key: value for key, value in values.items() if value == value and abs(value) != float("inf")}
        reporter.send("progress", name, step=step, steps=steps, values=shown)

    def warn(message: str) -> None:
        reporter.send("warning", name, message=message)

    set_threads(job.threads)
    try:
        require_device(job.devices[0])
        result = run_trial(job.trial, job.folder, device=job.devices[0], stop=pause, progress=progress, warn=warn)
        shown = {} if result.mean_ap is None else {MEAN_AP: result.mean_ap}
        reporter.send("finished", name, state=TrialState.DONE, values=shown)
        return True
    except RankLostError:
        traceback.print_exc()
    except DeviceLostError as fault:
        traceback.print_exc()
        report_loss(reporter, name, fault)
        raise
    except InterruptedTrial as fault:
        if pause.signum is not None and stop.signum is None:
            reporter.send("finished", name, state="paused")
            return True
        reporter.send("finished", name, state=TrialState.INTERRUPTED, error=str(fault), exit_code=fault.exit_code)
    except BusyError as fault:
        reporter.send("finished", name, state="busy", error=str(fault), exit_code=fault.exit_code)
    except FocalbenchError as fault:
        reporter.send("finished", name, state=TrialState.FAILED, error=str(fault), exit_code=fault.exit_code)
    except Exception as fault:  # a fault of focalbench itself: the trace goes to the log, the sweep goes on
        traceback.print_exc()
        reporter.send("finished", name, state=TrialState.FAILED, error=_own_fault(job, fault), exit_code=1)
    return False


def require_device(name: str) -> torch.device:
    """Returns the device that the launcher has found and gives.

    Raises:
        DeviceLostError: when it is not there any more.
    """
    try:
        return resolve_device(name)
    except ConfigError as fault:
        raise DeviceLostError(f"{name} is gone: {fault}", gone=True) from fault


def report_loss(reporter: Reporter, name: str, fault: FocalbenchError, *, speaker: str = "") -> None:
    """Tells the launcher why this process is about to end; it tries again unless that comes to the same."""
    lost = isinstance(fault, DeviceLostError)
    gone = isinstance(fault, DeviceLostError) and fault.gone
    reporter.send(
        "lost", name, error=f"{speaker}{fault}", exit_code=fault.exit_code, may_go_on=lost, device_is_gone=gone
    )


def _own_fault(job: Job, fault: Exception) -> str:
    """What to say of a fault in focalbench itself; in the trial's status it stands too, for whoever looks later."""
    place = f"; its traceback is in {job.log}" if job.log is not None else ""
    error = f"{type(fault).__name__}: {fault}: a bug in focalbench itself{place}"
    with suppress(FocalbenchError):
        TrialFolder(job.folder).write_status(job.trial, TrialState.FAILED, error=error)
    return error


if __name__ == "__main__":
    main()
