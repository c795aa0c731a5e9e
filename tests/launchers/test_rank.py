"""A trial on several devices: a rank that dies costs one try, a stop reaches all ranks, none outlives its launcher."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from focalbench.config.load import load_config
from focalbench.config.sweep import Trial
from focalbench.launchers.job import Job
from focalbench.launchers.job_queue import JobQueue
from focalbench.launchers.local import LocalRun, Slots
from focalbench.records.metrics import read_metrics
from focalbench.records.trial import TrialFolder
from focalbench.runtime import StopFlag
from focalbench.storage import read_json

pytestmark = pytest.mark.slow

Write = Callable[..., Path]
_LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


class _Watcher:
    def __init__(self, on_progress: Callable[[int], None]) -> None:
        self.messages: list[str] = []
        self._on_progress = on_progress

    def trial_phase(self, name: str, phase: str) -> None: ...
    def stopping(self) -> None: ...

    def trial_started(self, name: str) -> None: ...
    def trial_finished(self, name: str, state: str, values: Mapping[str, float | None]) -> None: ...

    def trial_progress(self, name: str, step: int, steps: int, values: Mapping[str, float | None]) -> None:
        self._on_progress(step)

    def message(self, text: str) -> None:
        self.messages.append(text)


def _launch(trial: Trial, out: Path, watcher: _Watcher, *, retries: int = 1) -> LocalRun:
    out.mkdir(exist_ok=True)
    job = Job(trial=trial, folder=out / trial.name, devices=("cpu", "cpu"), threads=1)
    queue = JobQueue([job], retries=retries, watcher=watcher, on_change=lambda: None, share=False)
    return LocalRun(queue, Slots((("cpu", "cpu"),), 1), watcher=watcher, log_folder=out)


def _ranks_below(agent: int) -> list[int]:
    """Process ids of the ranks of an agent, the first rank first."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (folder / "environ").read_text().split("\0")
        except OSError:
            continue
        if parent == agent:
            found[int(next(v for v in variables if v.startswith("RANK=")).removeprefix("RANK="))] = int(folder.name)
    return [found[rank] for rank in sorted(found)]


def _wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 30
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still there: {pids}"
        time.sleep(0.1)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@_LINUX
def test_a_rank_that_is_killed_costs_one_try(write_config: Write, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill(step: int) -> None:
        if step >= 4 and not killed:
            first, second = _ranks_below(run._workers[0].process.pid)
            killed.extend([first, second])
            os.kill(second, signal.SIGKILL)

    watcher = _Watcher(kill)
    (trial,) = load_config(write_config()).trials
    run = _launch(trial, tmp_path / "o", watcher)
    (outcome,) = run.run(StopFlag()).values()
    assert killed
    assert outcome.state == "done", (outcome, (tmp_path / "o" / "workers.log").read_text()[-3000:])
    assert any("its process died" in message and "going on" in message for message in watcher.messages)
    folder = tmp_path / "o" / trial.name
    assert [line["step"] for line in read_metrics(folder) if "train/loss" in line] == [2, 4, 6]
    assert read_json(folder / "result.json")["devices"] == 2
    _wait_until_gone(killed)


def test_a_stop_reaches_all_ranks_and_one_process_may_go_on(write_config: Write, tmp_path: Path) -> None:
    stop = StopFlag()
    watcher = _Watcher(lambda step: stop.request(signal.SIGTERM) if step >= 2 else None)
    (trial,) = load_config(write_config()).trials
    (outcome,) = _launch(trial, tmp_path / "o", watcher).run(stop).values()
    assert outcome.state == "interrupted"
    assert 2 <= read_json(tmp_path / "o" / trial.name / "status.json").get("step", 2) < 6
    from focalbench.experiment.trial import run_trial

    result = run_trial(
        trial, tmp_path / "o" / trial.name, device="cpu", stop=StopFlag(), progress=lambda step, steps, values: None
    )
    assert result.step == 6


def test_a_fault_of_all_ranks_is_reported_once_and_not_tried_again(write_config: Write, tmp_path: Path) -> None:
    (trial,) = load_config(write_config("sweep: {list: [{name: bad, loss.alpha: [0.1, 0.2]}]}")).trials
    watcher = _Watcher(lambda step: None)
    (outcome,) = _launch(trial, tmp_path / "o", watcher).run(StopFlag()).values()
    assert (outcome.state, outcome.exit_code) == ("failed", 2)
    assert "alpha" in str(outcome.error)
    assert len(watcher.messages) == 1


@_LINUX
def test_ranks_end_when_launcher_and_agent_are_killed(write_config: Write, tmp_path: Path) -> None:
    text = write_config().read_text().replace("steps: 6", "steps: 100000").replace("run: {", "run: {devices: 2, ")
    config = write_config(text=text)
    out = tmp_path / "o"
    launcher = subprocess.Popen(
        [sys.executable, "-m", "focalbench", "run", str(config), "--out", str(out)], stderr=subprocess.DEVNULL
    )
    first = _pid_of_running(out)
    agent = int(Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[1])
    ranks = _ranks_below(agent)
    assert first in ranks
    assert len(ranks) == 2
    os.kill(agent, signal.SIGKILL)
    launcher.kill()
    launcher.wait()
    _wait_until_gone(ranks)
    (trial,) = load_config(config).trials
    assert TrialFolder(out / trial.name).state() == "interrupted"


def _pid_of_running(out: Path) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in out.glob("*/status.json"):
            status = json.loads(path.read_text())
            if status["step"] > 0:
                return int(status["pid"])
        time.sleep(0.1)
    pytest.fail("the trial did not start within a minute")
