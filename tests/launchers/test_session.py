"""In which order the trials of a sweep are trained."""

from collections.abc import Callable
from pathlib import Path

from focalbench.config.load import load_config
from focalbench.config.sweep import expand
from focalbench.launchers.session import seed_by_seed


def test_every_arm_gets_a_seed_before_any_gets_the_next(write_config: Callable[..., Path]) -> None:
    path = write_config("sweep: {seeds: [3, 1, 2], grid: {loss.gamma: [0, 1]}}")
    order = [(trial.seed, trial.arm) for trial in seed_by_seed(expand(load_config(path)))]
    assert order == [(seed, arm) for seed in (3, 1, 2) for arm in ("gamma=0", "gamma=1")]
