"""A rank: one of the processes, each on a device of its own, that train one job together under torch's elastic agent.

The first one stands for all: it hears the launcher on stdin and reports to it; another one says only why it has to end.
All stop at the same step when any of them is told to, or when the agent is gone; when one dies, the agent ends the
others, and the launcher starts all anew from the last checkpoint.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback

from focalbench.device_faults import device_faults
from focalbench.devices import use_device
from focalbench.errors import DeviceError, DeviceLostError, FocalbenchError, InterruptedTrial
from focalbench.launchers.job import Job
from focalbench.launchers.worker import (
    Reporter,
    end_at_once,
    load_training,
    open_reporter,
    receive_jobs,
    report_loss,
    require_device,
    run_job,
    stop_for_launcher,
    stop_or_exit,
)
from focalbench.runtime import StopFlag, prepare_process, set_threads

_AGENT_POLL_S = 1.0
_FIRST_SPEAKS_S = 5.0  # the end of any rank ends the first one too, which may have the same fault to report


def main() -> None:
    """Runs ``python -m focalbench.launchers.rank DEVICE...``, one a rank."""
    prepare_process()
    reporter = open_reporter()
    with stop_for_launcher() as stop:
        load_training()
        from focalbench.ranks import joined

        own = int(os.environ["LOCAL_RANK"])
        device = sys.argv[1 + own]
        try:
            # Before the ranks speak to each other, which NCCL does through the current GPU.
            with device_faults(device, lambda: "free it (nvidia-smi shows what is using it)"):
                use_device(require_device(device))
        except DeviceError as fault:
            report_loss(reporter, "", fault, speaker=f"rank {own}: ")
            end_at_once()
        with joined(device.partition(":")[0]):
            _train_one(stop, reporter)


def _train_one(stop: StopFlag, reporter: Reporter) -> None:
    """Trains the one job of this rank, together with the others."""
    from focalbench.ranks import from_first, rank

    threading.Thread(target=_watch_agent, args=(stop,), daemon=True).start()
    line = receive_jobs(stop).get() if rank() == 0 else None
    job = from_first(None if line is None else Job.from_line(line))
    if job is None:
        return
    set_threads(job.threads)
    try:
        ended_well = run_job(job, stop, reporter) if rank() == 0 else _follow(job, stop, reporter)
    except DeviceLostError:
        ended_well = False
    if not ended_well:
        end_at_once()


def _watch_agent(stop: StopFlag) -> None:
    """Stops when the agent was killed: nobody would notice the death of a rank any more."""
    agent = os.getppid()
    while os.getppid() == agent:
        time.sleep(_AGENT_POLL_S)
    stop_or_exit(stop)


def _follow(job: Job, stop: StopFlag, reporter: Reporter) -> bool:
    """This rank's share of a job; whether it came to the end that all ranks come to."""
    from focalbench.experiment.trial import follow_trial
    from focalbench.ranks import rank

    try:
        follow_trial(job.trial, job.folder, device=job.devices[rank()], stop=stop)
    except InterruptedTrial:
        return True
    except FocalbenchError as fault:
        print(f"rank {rank()}: {fault}", file=sys.stderr)
        report_loss(reporter, job.trial.name, fault, speaker=f"rank {rank()}: ")
    except Exception:
        traceback.print_exc()
    else:
        return True
    time.sleep(_FIRST_SPEAKS_S)
    return False


if __name__ == "__main__":
    main()
