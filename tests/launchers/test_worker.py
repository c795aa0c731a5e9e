"""What a worker says of the jobs it is given."""

import io
import json
import queue
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from focalbench.config.load import load_config
from focalbench.errors import DeviceLostError
from focalbench.experiment import trial as trial_module
from focalbench.launchers import worker
from focalbench.launchers.job import Job
from focalbench.launchers.worker import Reporter, run_job
from focalbench.runtime import StopFlag


def test_a_fault_of_focalbench_itself_names_the_log_that_has_its_traceback(
    write_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def broken(*arguments: object) -> None:
        raise KeyError("boxes")

    monkeypatch.setattr(trial_module, "_prepare", broken)
    (trial,) = load_config(write_config()).trials
    job = Job(trial=trial, folder=tmp_path / trial.name, devices=("cpu",), threads=1, log=tmp_path / "workers.log")
    said = io.StringIO()
    assert not run_job(job, StopFlag(), Reporter(said))
    *phases, report = map(json.loads, said.getvalue().splitlines())
    assert [(phase["event"], phase["phase"]) for phase in phases] == [
        ("phase", "loading torch"),
        ("phase", "reading data"),
    ]
    assert (report["state"], report["exit_code"]) == ("failed", 1)
    words = f"KeyError: 'boxes': a bug in focalbench itself; its traceback is in {tmp_path / 'workers.log'}"
    assert report["error"] == words
    assert json.loads((job.folder / "status.json").read_text())["error"] == words
    assert "Traceback" in capsys.readouterr().err


def test_a_worker_that_cannot_read_its_job_ends(tmp_path: Path) -> None:
    """Else its launcher, of another version, would wait for ever."""
    process = subprocess.Popen(
        [sys.executable, "-m", "focalbench.launchers.worker"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write('{"name": "from the future"}\n')
        process.stdin.flush()
        assert process.wait(timeout=60) == 1
        assert "validation errors for Job" in process.stderr.read()


def _run(
    write_config: Callable[..., Path], tmp_path: Path, device: str = "cpu"
) -> tuple[bool | None, list[dict[str, Any]], Job]:
    """What ``run_job`` returns, None where it raises DeviceLostError, and what the launcher hears after the phases."""
    (trial,) = load_config(write_config()).trials
    job = Job(trial=trial, folder=tmp_path / trial.name, devices=(device,), threads=1)
    said, ended = io.StringIO(), None
    with suppress(DeviceLostError):
        ended = run_job(job, StopFlag(), Reporter(said))
    reports = [json.loads(line) for line in said.getvalue().splitlines()]
    return ended, [report for report in reports if report["event"] != "phase"], job


def _raise(fault: Exception) -> Callable[..., None]:
    def prepare(*arguments: object) -> None:
        raise fault

    return prepare


def test_a_gpu_that_is_lost_is_told_and_leaves_the_trial_to_another_process(
    write_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    fault = torch.AcceleratorError("CUDA error: unspecified launch failure\nmore")
    monkeypatch.setattr(trial_module, "_prepare", _raise(fault))
    ended, reports, job = _run(write_config, tmp_path)
    assert ended is None
    (report,) = reports
    assert (report["event"], report["may_go_on"], report["device_is_gone"]) == ("lost", True, False)
    assert "lost to this process: CUDA error: unspecified launch failure" in report["error"]
    assert "Traceback" in capsys.readouterr().err
    assert json.loads((job.folder / "status.json").read_text())["state"] == "interrupted"


def test_a_gpu_that_is_not_there_any_more_is_told(write_config: Callable[..., Path], tmp_path: Path) -> None:
    ended, (report,), _ = _run(write_config, tmp_path, device="cuda:900")
    assert ended is None
    assert report["device_is_gone"]
    assert report["error"].startswith("cuda:900 is gone: ")


def test_memory_that_runs_out_is_the_users_to_mend_and_names_the_keys(
    write_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_module, "_prepare", _raise(torch.OutOfMemoryError("CUDA out of memory. Tried")))
    ended, (report,), job = _run(write_config, tmp_path)
    assert ended is False
    assert (report["event"], report["state"], report["exit_code"]) == ("finished", "failed", 2)
    words = "cpu is out of memory: CUDA out of memory. Tried; set run.threads above 1 (fewer trials side by side), "
    assert report["error"] == words + "optim.batch_size below 4 or data.image_size below 64"
    assert json.loads((job.folder / "status.json").read_text())["error"] == report["error"]


def test_a_worker_ends_with_its_gpu_and_lets_go_of_memory_between_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    jobs: queue.Queue[str | None] = queue.Queue()
    for job in ("fits", "too large", "loses the GPU", "never"):
        jobs.put(job)

    def run(job: str, *arguments: object) -> None:
        events.append(job)
        if job == "loses the GPU":
            raise DeviceLostError("cuda:0 is lost")

    def end() -> None:
        raise SystemExit(1)

    monkeypatch.setattr(worker.Job, "from_line", lambda line: line)
    monkeypatch.setattr(worker, "open_reporter", lambda: None)
    monkeypatch.setattr(worker, "receive_jobs", lambda stop: jobs)
    monkeypatch.setattr(worker, "run_job", run)
    monkeypatch.setattr(worker, "end_at_once", end)
    monkeypatch.setattr(worker, "release_memory", lambda: events.append("released"))
    with pytest.raises(SystemExit):
        worker.main()
    assert events == ["fits", "released", "too large", "released", "loses the GPU"]


def test_a_stdin_that_ends_while_the_worker_does_leaves_no_traceback() -> None:
    """Python that is shutting down starts no thread."""
    code = (
        "import atexit, os, sys, time\n"
        "from focalbench.launchers.worker import receive_jobs\n"
        "from focalbench.runtime import StopFlag\n"
        "reads, writes = os.pipe()\n"
        "sys.stdin = open(reads)\n"
        "jobs = receive_jobs(StopFlag())\n"
        "atexit.register(lambda: (os.close(writes), jobs.get(), time.sleep(0.1)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
