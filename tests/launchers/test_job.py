"""A job survives its journey to a worker."""

from collections.abc import Callable
from pathlib import Path

from focalbench.config.load import load_config
from focalbench.config.sweep import expand
from focalbench.launchers.job import Job


def test_a_job_comes_back_as_it_was_sent(write_config: Callable[..., Path]) -> None:
    path = write_config("sweep: {list: [{name: 'balanced ce', loss: {name: balanced_ce, alpha: auto}}]}")
    (trial,) = expand(load_config(path))
    job = Job(trial, Path("runs/with space/ü"), ("cuda:1", "cuda:2"), 3, pause_at=0.5, log=Path("runs/workers.log"))
    line = job.to_json()
    assert "\n" not in line
    assert Job.from_json(line) == job
