"""A trial on several devices: a rank that dies costs one try, a stop reaches all ranks, none outlives its launcher."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from focalbench.config.load import load_config
from focalbench.config.sweep import Trial
from focalbench.errors import DeviceLostError, DeviceMemoryError
from focalbench.launchers import rank as rank_module
from focalbench.launchers.job import Job
from focalbench.launchers.job_queue import JobQueue
from focalbench.launchers.local import LocalRun, Slots
from focalbench.launchers.process import _command
from focalbench.launchers.worker import Reporter
from focalbench.records.metrics import read_metrics
from focalbench.records.trial import TrialFolder
from focalbench.runtime import StopFlag
from focalbench.storage import read_json

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


@pytest.mark.slow
@_LINUX
def test_a_rank_that_is_killed_costs_one_try(write_config: Write, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill(step: int) -> None:
        if step >= 4 and not killed:
            first, second = _ranks_below(run._workers[0].process.pid)
            killed.extend([first, second])
            os.kill(second, signal.SIGKILL)

    watcher = _Watcher(kill)
    own = Path(__file__).parents[1] / "own_late_loss.py"  # every process of the trial has to execute it
    (trial,) = load_config(write_config(f"plugins: ['{own}']"), ["loss={name: late}"]).trials
    run = _launch(trial, tmp_path / "o", watcher)
    (outcome,) = run.run(StopFlag()).values()
    assert killed
    assert outcome.state == "done", (outcome, (tmp_path / "o" / "workers.log").read_text()[-3000:])
    assert any("its process died" in message and "resuming" in message for message in watcher.messages)
    folder = tmp_path / "o" / trial.name
    assert [line["step"] for line in read_metrics(folder) if "train/loss" in line] == [2, 4, 6]
    assert read_json(folder / "result.json")["devices"] == 2
    _wait_until_gone(killed)


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_fault_of_all_ranks_is_reported_once_and_not_tried_again(write_config: Write, tmp_path: Path) -> None:
    (trial,) = load_config(write_config("sweep: {list: [{name: bad, loss.alpha: [0.1, 0.2]}]}")).trials
    watcher = _Watcher(lambda step: None)
    (outcome,) = _launch(trial, tmp_path / "o", watcher).run(StopFlag()).values()
    assert (outcome.state, outcome.exit_code) == ("failed", 2)
    assert "alpha" in str(outcome.error)
    assert len(watcher.messages) == 1


@pytest.mark.slow
@_LINUX
def test_ranks_end_when_launcher_and_agent_are_killed(write_config: Write, tmp_path: Path) -> None:
    text = write_config().read_text().replace("steps: 6", "steps: 100000")
    text = text.replace("run: {", "run: {device: cpu, devices: 2, ")
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


class _Ended(BaseException):
    """In the place of the end of the process."""


@pytest.fixture
def second_rank(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], io.StringIO]:
    """This process as the second of two ranks on GPUs that torch shows; what it does, in order, and what it reports."""
    did, said = [], io.StringIO()

    @contextmanager
    def joined(device_type: str) -> Iterator[None]:
        did.append(f"join by {device_type}")
        yield

    def end() -> None:
        raise _Ended

    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(sys, "argv", ["rank", "cuda:2", "cuda:3"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: did.append(f"set {device}"))
    monkeypatch.setattr("focalbench.ranks.joined", joined)
    monkeypatch.setattr("focalbench.ranks.rank", lambda: 1)
    monkeypatch.setattr(rank_module, "open_reporter", lambda: Reporter(said))
    monkeypatch.setattr(rank_module, "end_at_once", end)
    monkeypatch.setattr(rank_module, "_FIRST_SPEAKS_S", 0.0)
    monkeypatch.setattr(rank_module, "_train_one", lambda stop, reporter: did.append("train"))
    return did, said


def test_a_rank_takes_its_gpu_before_it_speaks_to_the_others(second_rank: tuple[list[str], io.StringIO]) -> None:
    did, said = second_rank
    rank_module.main()
    assert did == ["set cuda:3", "join by cuda", "train"]
    assert not said.getvalue()


def test_a_rank_whose_gpu_is_gone_says_so_and_ends(
    second_rank: tuple[list[str], io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    did, said = second_rank
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(_Ended):
        rank_module.main()
    assert did == []
    report = json.loads(said.getvalue())
    assert (report["event"], report["device_is_gone"]) == ("lost", True)
    assert report["error"].startswith("rank 1: cuda:3 is gone: device: cuda:3: this machine has 3")


@pytest.mark.parametrize(
    ("fault", "may_go_on"), [(DeviceMemoryError("cuda:3 is out of memory"), False), (DeviceLostError("cuda:3"), True)]
)
def test_why_a_rank_that_is_not_the_first_cannot_go_on_reaches_the_launcher(
    second_rank: tuple[list[str], io.StringIO],
    monkeypatch: pytest.MonkeyPatch,
    write_config: Write,
    tmp_path: Path,
    fault: Exception,
    may_go_on: bool,
) -> None:
    def fail(*arguments: object, **keywords: object) -> None:
        raise fault

    monkeypatch.setattr("focalbench.experiment.trial.follow_trial", fail)
    (trial,) = load_config(write_config()).trials
    job = Job(trial=trial, folder=tmp_path / "t", devices=("cuda:2", "cuda:3"), threads=1)
    assert not rank_module._follow(job, StopFlag(), Reporter(second_rank[1]))
    report = json.loads(second_rank[1].getvalue())
    assert (report["event"], report["name"], report["may_go_on"]) == ("lost", trial.name, may_go_on)
    assert report["error"] == f"rank 1: {fault}"


def test_the_agent_hands_every_rank_the_devices_of_all() -> None:
    assert _command(("cuda:2", "cuda:3"))[-3:] == ["focalbench.launchers.rank", "cuda:2", "cuda:3"]
    assert "--nproc-per-node=2" in _command(("cuda:2", "cuda:3"))
