"""Workers: a crash costs one try, a stop leaves checkpoints, nothing outlives its launcher."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from focalbench.config.load import load_config
from focalbench.errors import ConfigError
from focalbench.launchers.job import Job
from focalbench.launchers.job_queue import JobQueue
from focalbench.launchers.local import (
    LocalRun,
    Slots,
    plan_slots,
    report_idle_cores,
    report_unused_gpus,
    slots_of,
)
from focalbench.records.metrics import read_metrics
from focalbench.records.trial import TrialFolder
from focalbench.runtime import StopFlag
from focalbench.training.checkpoint import load_newest

Write = Callable[..., Path]


class _Watcher:
    def __init__(self, on_progress: Callable[[str, int], None] = lambda name, step: None) -> None:
        self.messages: list[str] = []
        self.finished: dict[str, str] = {}
        self._on_progress = on_progress

    def trial_phase(self, name: str, phase: str) -> None:
        self.messages.append(f"{name} {phase}")

    def stopping(self) -> None:
        self.messages.append("stopping")

    def trial_started(self, name: str) -> None:
        self.messages.append(f"{name} started")

    def trial_progress(self, name: str, step: int, steps: int, values: Mapping[str, float | None]) -> None:
        self._on_progress(name, step)

    def trial_finished(self, name: str, state: str, values: Mapping[str, float | None]) -> None:
        self.finished[name] = state

    def message(self, text: str) -> None:
        self.messages.append(text)


def _launch(
    path: Path,
    out: Path,
    watcher: _Watcher,
    *,
    retries: int = 1,
    slots: int = 2,
    num_ranks: int = 1,
) -> LocalRun:
    trials = load_config(path).trials
    jobs = [Job(trial=trial, folder=out / trial.name, devices=("cpu",), threads=1) for trial in trials]
    out.mkdir(parents=True, exist_ok=True)
    queue = JobQueue(jobs, retries=retries, watcher=watcher, on_change=lambda: None)
    devices = (("cpu",) * num_ranks,) * slots
    return LocalRun(queue, Slots(devices, 1), watcher=watcher, log_folder=out)


def test_a_failing_trial_does_not_stop_the_rest(write_config: Write, tmp_path: Path) -> None:
    config = write_config("sweep: {list: [{name: bad, loss.alpha: [0.1, 0.2]}, {name: good, loss.gamma: 1}]}")
    watcher = _Watcher()
    outcomes = _launch(config, tmp_path / "o", watcher, slots=1).run(StopFlag())
    assert sorted(outcome.state for outcome in outcomes.values()) == ["done", "failed"]
    (bad,) = (outcome for outcome in outcomes.values() if outcome.state == "failed")
    assert bad.exit_code == 2
    assert "alpha" in str(bad.error)


def test_a_killed_worker_is_replaced_and_the_trial_goes_on(write_config: Write, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill(name: str, step: int) -> None:
        if step >= 4 and not killed:
            (worker,) = run._workers
            killed.append(worker.process.pid)
            worker.process.kill()

    watcher = _Watcher(kill)
    run = _launch(write_config(), tmp_path / "o", watcher, slots=1)
    (outcome,) = run.run(StopFlag()).values()
    assert killed
    assert outcome.state == "done"
    assert any("signal 9" in message for message in watcher.messages)
    lines = read_metrics(next((tmp_path / "o").glob("*/metrics.jsonl")).parent)
    training = [line["step"] for line in lines if "train/loss" in line]
    assert training == [2, 4, 6]  # nothing lost, nothing doubled


def test_a_worker_that_always_dies_is_given_up(write_config: Write, tmp_path: Path) -> None:
    def kill(name: str, step: int) -> None:
        for worker in run._workers:
            worker.process.kill()

    run = _launch(write_config(), tmp_path / "o", _Watcher(kill), retries=0, slots=1)
    ((name, outcome),) = run.run(StopFlag()).items()
    assert (outcome.state, outcome.exit_code) == ("failed", 3)
    assert TrialFolder(tmp_path / "o" / name).state() == "failed"


def test_a_worker_that_dies_before_it_makes_the_folder_fails_its_trial(write_config: Write, tmp_path: Path) -> None:
    class KillsAtStart(_Watcher):
        def trial_started(self, name: str) -> None:
            for worker in run._workers:
                worker.process.kill()

    run = _launch(write_config(), tmp_path / "o", KillsAtStart(), retries=1, slots=1)
    ((name, outcome),) = run.run(StopFlag()).items()
    assert (outcome.state, outcome.exit_code) == ("failed", 3)
    assert TrialFolder(tmp_path / "o" / name).state() == "failed"


def test_a_stop_leaves_a_checkpoint_from_which_the_same_run_follows(write_config: Write, tmp_path: Path) -> None:
    stop = StopFlag()

    def request(name: str, step: int) -> None:
        if step >= 2:
            stop.request(signal.SIGTERM)

    path, watcher = write_config(), _Watcher(request)
    run = _launch(path, tmp_path / "o", watcher, slots=1)
    ((name, outcome),) = run.run(stop).items()
    assert outcome.state == "interrupted"
    assert watcher.messages[:4] == [f"{name} started", f"{name} loading torch", f"{name} reading data", "stopping"]
    assert watcher.messages[4:] == [f"{name}: {outcome.error}"]
    _launch(path, tmp_path / "o", _Watcher(), slots=1).run(StopFlag())
    assert TrialFolder(tmp_path / "o" / name).state() == "done"


def test_workers_end_when_their_launcher_is_killed(write_config: Write, tmp_path: Path) -> None:
    config = write_config(text=write_config().read_text().replace("steps: 6", "steps: 100000"))
    out = tmp_path / "o"
    launcher = subprocess.Popen(
        [sys.executable, "-m", "focalbench", "run", str(config), "--out", str(out)], stderr=subprocess.DEVNULL
    )
    pid = _wait_for_running(out)
    launcher.kill()
    launcher.wait()
    deadline = time.monotonic() + 30
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(pid)
    status = json.loads(next(out.glob("*/status.json")).read_text())
    assert status["state"] == "interrupted"


def _wait_for_running(out: Path) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in out.glob("*/status.json"):
            status = json.loads(path.read_text())
            if status["step"] > 0:
                return int(status["pid"])
        time.sleep(0.1)
    pytest.fail("the trial did not start within a minute")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]


def _slots(num_trials: int, device: str, per_device: int, devices_per_trial: int = 1, threads: int = 1) -> Slots:
    return plan_slots(num_trials, device, per_device, devices_per_trial, threads)


def test_a_trial_has_the_threads_that_its_configuration_says_whatever_else_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert _slots(1, "cpu", 1) == Slots((("cpu",),), 1)
    assert _slots(100, "cpu", 1) == Slots((("cpu",),) * 8, 1)
    assert _slots(1, "cpu", 1, threads=3) == Slots((("cpu",),), 3)
    assert _slots(100, "cpu", 1, threads=3) == Slots((("cpu",),) * 2, 3)
    assert _slots(100, "cpu", 1, threads=16) == Slots((("cpu",),), 16)
    assert _slots(100, "cpu", 1, devices_per_trial=2, threads=2) == Slots((("cpu", "cpu"),) * 2, 2)
    assert _slots(100, "cpu", 1, devices_per_trial=2, threads=8) == Slots((("cpu", "cpu"),), 8)


def test_a_trial_ends_with_the_same_bits_alone_and_beside_another(write_config: Write, tmp_path: Path) -> None:
    experiment = load_config(write_config("sweep: {grid: {loss.gamma: [1, 2]}}"))
    weights, threads = [], []
    for trials in (experiment.trials[:1], experiment.trials):
        out, watcher = tmp_path / str(len(trials)), _Watcher()
        out.mkdir()
        jobs = [Job(trial=trial, folder=out / trial.name, devices=("cpu",), threads=1) for trial in trials]
        queue = JobQueue(jobs, retries=0, watcher=watcher, on_change=lambda: None)
        slots = slots_of(experiment.config, "cpu", len(trials))
        LocalRun(queue, slots, watcher=watcher, log_folder=out).run(StopFlag())
        folder = TrialFolder(out / trials[0].name)
        result, checkpoint = folder.result(), load_newest(folder.checkpoints)
        assert result is not None
        assert checkpoint is not None
        weights.append(checkpoint["model"])
        threads.append(result.environment["threads"])
    assert threads == [1, 1]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_idle_cores_are_told_with_the_way_to_use_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    told: list[str] = []
    for slots in (_slots(2, "cpu", 1), _slots(5, "cpu", 1), Slots((("cuda:0",),), 8)):
        report_idle_cores(slots, told.append)
    (hint,) = told
    assert hint.startswith("2 trials on 2 of 8 cores: -s run.threads=4 is faster")


def test_a_trial_on_several_devices_takes_a_slot_of_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert _slots(1, "cpu", 1, devices_per_trial=2) == Slots((("cpu", "cpu"),), 1)
    assert _slots(100, "cpu", 1, devices_per_trial=3) == Slots((("cpu",) * 3,) * 2, 1)
    monkeypatch.setattr("focalbench.launchers.local._gpus", lambda device: [f"cuda:{i}" for i in range(4)])
    pairs = (("cuda:0", "cuda:1"), ("cuda:2", "cuda:3"))
    assert _slots(100, "auto", 2, devices_per_trial=2) == Slots(pairs * 2, 1)
    with pytest.raises(
        ConfigError, match=r"run.devices: 5: run.device auto means 4 GPUs on this machine; use at most 4"
    ):
        _slots(1, "auto", 1, devices_per_trial=5)


# Speaks as a worker does, without torch. The trial's arm says what becomes of it; NOTES keeps who trained what where.
_PRETENDED_WORKER = """
import json, os, sys
for line in sys.stdin:
    job = json.loads(line)
    name, device = job["trial"]["name"], job["devices"][0]
    with open(NOTES, "a") as notes:
        notes.write(f"{os.getpid()} {device} {name}\\n")
    say = lambda **report: print(json.dumps({"name": name, **report}), flush=True)
    lost = {"event": "lost", "exit_code": 3, "may_go_on": True, "device_is_gone": device == "cuda:1"}
    if name.startswith("asserts") or device == "cuda:1":
        say(**lost, error=f"{device} is lost")
        say(**lost, error="what another rank says of it")
        os._exit(1)
    if name.startswith("large"):
        say(**{**lost, "exit_code": 2, "may_go_on": False}, error="rank 1: cuda:0 is out of memory")
        os._exit(1)
    say(event="finished", state="done", values={})
"""


def _pretend(
    monkeypatch: pytest.MonkeyPatch, path: Path, out: Path, watcher: _Watcher, devices: tuple[tuple[str, ...], ...]
) -> tuple[LocalRun, Callable[[], list[list[str]]]]:
    """A run whose workers are ``_PRETENDED_WORKER``, and what reads their notes: process, device, arm."""
    notes = out / "notes"
    out.mkdir()
    code = _PRETENDED_WORKER.replace("NOTES", repr(str(notes)))
    monkeypatch.setattr("focalbench.launchers.process._command", lambda devices: [sys.executable, "-c", code])
    jobs = [Job(trial=t, folder=out / t.name, devices=("auto",), threads=1) for t in load_config(path).trials]
    queue = JobQueue(jobs, retries=1, watcher=watcher, on_change=lambda: None)
    run = LocalRun(queue, Slots(devices, 1), watcher=watcher, log_folder=out)
    return run, lambda: [line.split("-")[0].split() for line in notes.read_text().splitlines()]


def test_a_trial_that_loses_its_gpu_each_time_is_given_up_with_the_reason_and_the_next_has_a_fresh_process(
    monkeypatch: pytest.MonkeyPatch, write_config: Write, tmp_path: Path
) -> None:
    path = write_config("sweep: {list: [{name: asserts, loss.gamma: 1}, {name: good, loss.gamma: 3}]}")
    watcher = _Watcher()
    run, notes = _pretend(monkeypatch, path, tmp_path / "o", watcher, (("cuda:0",),))
    bad, good = run.run(StopFlag()).values()
    assert good.state == "done"
    assert (bad.state, bad.exit_code) == ("failed", 3)
    assert bad.error == f"cuda:0 is lost; see {tmp_path / 'o' / 'workers.log'}"
    assert any(
        "asserts" in text and "cuda:0 is lost; resuming from its checkpoint" in text for text in watcher.messages
    )
    assert [arm for _, _, arm in notes()] == ["asserts", "asserts", "good"]
    assert len({process for process, _, _ in notes()}) == 3
    (folder,) = (tmp_path / "o").glob("asserts*")
    assert json.loads((folder / "status.json").read_text())["error"] == bad.error


def test_a_rank_without_memory_fails_its_trial_at_once_in_its_own_words(
    monkeypatch: pytest.MonkeyPatch, write_config: Write, tmp_path: Path
) -> None:
    path = write_config("sweep: {list: [{name: large, loss.gamma: 1}]}")
    run, notes = _pretend(monkeypatch, path, tmp_path / "o", _Watcher(), (("cuda:0",),))
    (outcome,) = run.run(StopFlag()).values()
    assert (outcome.state, outcome.exit_code) == ("failed", 2)
    assert str(outcome.error).startswith("rank 1: cuda:0 is out of memory; see ")
    assert len(notes()) == 1


def test_where_a_gpu_has_gone_no_further_trial_is_put_while_there_are_others(
    monkeypatch: pytest.MonkeyPatch, write_config: Write, tmp_path: Path
) -> None:
    path, watcher = write_config("sweep: {grid: {loss.gamma: [1, 2, 3, 4]}}"), _Watcher()
    run, notes = _pretend(monkeypatch, path, tmp_path / "o", watcher, (("cuda:0",), ("cuda:1",)))
    assert {outcome.state for outcome in run.run(StopFlag()).values()} == {"done"}
    assert [device for _, device, _ in notes()].count("cuda:1") == 1
    assert "warning: cuda:1: no more trials are started there" in watcher.messages


def test_the_last_gpu_of_all_is_tried_until_every_trial_is_given_up(
    monkeypatch: pytest.MonkeyPatch, write_config: Write, tmp_path: Path
) -> None:
    path = write_config("sweep: {grid: {loss.gamma: [1, 2]}}")
    run, notes = _pretend(monkeypatch, path, tmp_path / "o", _Watcher(), (("cuda:1",),))
    assert {outcome.state for outcome in run.run(StopFlag()).values()} == {"failed"}
    assert len(notes()) == 4


def test_a_processor_that_trains_beside_a_gpus_driver_is_told_once_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setattr("focalbench.launchers.local.why_no_gpu", lambda: "the driver is too old")
    for driver in (False, True):
        monkeypatch.setattr("focalbench.launchers.local.has_gpu_driver", lambda found=driver: found)
        for device in ("auto", "cpu"):
            report_unused_gpus(Slots((("cpu",),), 1), device, told.append)
        report_unused_gpus(Slots((("cuda:0",),), 1), "auto", told.append)
    (line,) = told
    assert line.startswith(
        "warning: training on the processor, although a GPU driver is installed: the driver is too old; "
    )


def test_each_gpu_that_is_visible_is_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr("focalbench.launchers.local.has_gpu_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert _slots(100, "auto", 1) == Slots((("cuda:0",), ("cuda:1",)), 4)
    assert _slots(100, "cuda:1", 1) == Slots((("cuda:1",),), 8)
    words = (
        r"run.devices: 3: run.device cuda means 2 GPUs on this machine, with CUDA_VISIBLE_DEVICES='4,6'; use at most 2"
    )
    with pytest.raises(ConfigError, match=words):
        _slots(1, "cuda", 1, devices_per_trial=3)
