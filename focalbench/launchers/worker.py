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
import traceback
from collections.abc import Mapping
from typing import Any, TextIO

from focalbench.errors import BusyError, FocalbenchError, InterruptedTrial
from focalbench.launchers.job import Job
from focalbench.runtime import StopFlag, prepare_process, set_threads, stop_on_signals

_GRACE_S = 60.0  # a stop that takes longer than this hangs


class _Reporter:
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
    """Entry of ``python -m focalbench.launchers.worker``."""
    prepare_process()
    reports = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints must not end up among the reports
    reporter = _Reporter(reports)
    stop = StopFlag()
    jobs: queue.Queue[Job | None] = queue.Queue()
    threading.Thread(target=_read_jobs, args=(jobs, stop), daemon=True).start()
    with stop_on_signals(stop):
        # A terminal sends ^C to the whole group; the launcher alone decides, and tells workers by SIGTERM.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while (job := jobs.get()) is not None and stop.signum is None:
            _run(job, stop, reporter)


def _read_jobs(jobs: queue.Queue[Job | None], stop: StopFlag) -> None:
    for line in sys.stdin:
        jobs.put(Job.from_json(line))
    stop.request(signal.SIGTERM)
    jobs.put(None)
    timer = threading.Timer(_GRACE_S, os._exit, args=(1,))
    timer.daemon = True
    timer.start()


def _run(job: Job, stop: StopFlag, reporter: _Reporter) -> None:
    """Trains one job; every fault becomes a report."""
    from focalbench.experiment.trial import run_trial

    name = job.trial.name

    def progress(step: int, steps: int, values: Mapping[str, float]) -> None:
        shown = {key: value for key, value in values.items() if value == value and abs(value) != float("inf")}
        reporter.send("progress", name, step=step, steps=steps, values=shown)

    def warn(message: str) -> None:
        reporter.send("warning", name, message=message)

    set_threads(job.threads)
    try:
        result = run_trial(job.trial, job.folder, device=job.device, stop=stop, progress=progress, warn=warn)
        reporter.send("finished", name, state="done", values={"val/mAP": result["val/mAP"]})
    except InterruptedTrial as fault:
        reporter.send("finished", name, state="interrupted", error=str(fault), exit_code=fault.exit_code)
    except BusyError as fault:
        reporter.send("finished", name, state="busy", error=str(fault), exit_code=fault.exit_code)
    except FocalbenchError as fault:
        reporter.send("finished", name, state="failed", error=str(fault), exit_code=fault.exit_code)
    except Exception as fault:  # a fault of focalbench itself: the trace goes to the log, the sweep goes on
        traceback.print_exc()
        reporter.send("finished", name, state="failed", error=f"{type(fault).__name__}: {fault}", exit_code=1)


if __name__ == "__main__":
    main()
