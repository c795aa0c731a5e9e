"""A trial's first steps timed as they will run: with as many beside it as share the processor."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from focalbench.config.sweep import Trial
from focalbench.errors import DeviceMemoryError
from focalbench.experiment.rehearsal import Rehearsal, rehearse
from focalbench.launchers.job import Job
from focalbench.launchers.local import Slots
from focalbench.runtime import prepare_process


def rehearse_side_by_side(trial: Trial, slots: Slots) -> Rehearsal:
    """Times ``trial`` once for each slot of a processor, all at the same time: they share memory and caches. On GPUs
    once alone.

    Raises:
        FocalbenchError: whatever the trial itself would fail with at its start.
    """
    devices = [group[0] for group in slots.devices]
    if len(devices) == 1 or devices[0] != "cpu":
        return rehearse(trial, devices[0], slots.threads)
    line = Job(trial=trial, folder=Path(), devices=("cpu",), threads=slots.threads).to_line()
    fresh = multiprocessing.get_context("spawn")  # a fork of a process that has used its threads may hang
    try:
        with ProcessPoolExecutor(len(devices), mp_context=fresh, initializer=prepare_process) as pool:
            timed = list(pool.map(_rehearse, [line] * len(devices)))
    except BrokenProcessPool as fault:
        raise DeviceMemoryError(
            f"{len(devices)} trials side by side: the system killed one, which usually means too little memory; a "
            "larger run.threads trains fewer at a time"
        ) from fault
    return replace(timed[0], step_s=fmean(one.step_s for one in timed), image_s=fmean(one.image_s for one in timed))


def _rehearse(line: str) -> Rehearsal:
    job = Job.from_line(line)
    return rehearse(job.trial, job.devices[0], job.threads)
