"""A sweep's life from outside: killed, shared by two processes, moved and grown, it ends as if nothing had happened."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

Write = Callable[..., Path]
_SWEEP = "sweep: {seeds: [0], grid: {loss.gamma: [0.5, 1, 2]}}"
_OWN = f"""\
plugins: ['{Path(__file__).parents[1] / "own_late_loss.py"}']
sweep:
  list:
    - {{name: focal, loss: {{name: focal, gamma: 1}}}}
    - {{name: late, loss: {{name: late, gamma: {{schedule: linear, values: [0, 2]}}}}}}
"""
_STEPS = 16


def _start(config: Path, out: Path) -> subprocess.Popen[str]:
    """``focalbench run`` on one core, and so with one worker: starting workers is what takes time here."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(cores)[os.getpid() % len(cores)]})
    try:
        command = [sys.executable, "-m", "focalbench", "run", str(config), "--out", str(out), "--device", "cpu"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        os.sched_setaffinity(0, cores)


def _finish(process: subprocess.Popen[str]) -> str:
    """Waits for the end; returns what was said on stderr."""
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stdout + stderr
    return stderr


@pytest.fixture
def slow(write_config: Write) -> Path:
    """Three trials with a checkpoint at every step: long enough to be killed in the middle."""
    return _slow(write_config, _SWEEP)


@pytest.fixture
def slow_with_own(write_config: Write) -> Path:
    """Two trials of the same length, one with a loss that a plugin brings."""
    return _slow(write_config, _OWN)


def _slow(write_config: Write, sweep: str) -> Path:
    text = write_config().read_text()
    return write_config(sweep, text=text.replace("steps: 6", f"steps: {_STEPS}").replace("every: 1", "every: 3"))


def _children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found


def _kill_all(launcher: subprocess.Popen[str]) -> None:
    """SIGKILL to the launcher and its workers; none can write a last word."""
    workers = _children(launcher.pid)
    for pid in (launcher.pid, *workers):
        os.kill(pid, signal.SIGKILL)
    launcher.communicate()


def _steps_done(out: Path) -> int:
    """Steps of all trials by their checkpoints' status."""
    return sum(json.loads(path.read_text()).get("step", 0) for path in out.glob("*/status.json"))


def test_killed_three_times_a_sweep_ends_with_the_results_of_one_never_killed(
    slow_with_own: Path, tmp_path: Path
) -> None:
    _finish(_start(slow_with_own, tmp_path / "whole"))
    expected = (tmp_path / "whole" / "results.csv").read_bytes()
    chance, out = random.Random(0), tmp_path / "killed"
    for number in range(3):
        launcher = _start(slow_with_own, out)
        before = _steps_done(out)
        # One kill comes while everything starts, two once training has gone on.
        while number % 2 == 0 and _steps_done(out) == before and launcher.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        assert launcher.poll() is None, "the sweep ended before it could be killed: too short for this test"
        _kill_all(launcher)
    _finish(_start(slow_with_own, out))
    assert (out / "results.csv").read_bytes() == expected
    for path in out.glob("*/metrics.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["step"] for line in lines if "train/loss" in line] == list(range(2, _STEPS + 1, 2))


def test_two_processes_share_a_sweep_and_do_no_trial_twice(slow: Path, tmp_path: Path) -> None:
    out = tmp_path / "shared"
    both = [_start(slow, out), _start(slow, out)]
    said = [_finish(process) for process in both]
    trained = Counter(
        name for text in said for name in re.findall(rf"^(\S+): step {_STEPS} of {_STEPS}", text, re.MULTILINE)
    )
    names = {path.parent.name for path in out.glob("*/result.json")}
    assert len(names) == 3
    assert trained == dict.fromkeys(names, 1)
    assert all("3 of 3 done" in text for text in said)
    assert (out / "results.csv").read_text().count(",done,") == 3
