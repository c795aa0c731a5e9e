"""What a worker says of the jobs it is given."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from focalbench.config.load import load_config
from focalbench.experiment import trial as trial_module
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
    words = f"KeyError: 'boxes': a fault in focalbench itself; its traceback is in {tmp_path / 'workers.log'}"
    assert report["error"] == words
    assert json.loads((job.folder / "status.json").read_text())["error"] == words
    assert "Traceback" in capsys.readouterr().err


def test_a_worker_that_cannot_read_its_job_ends(tmp_path: Path) -> None:
    """Else its launcher, of another version, would wait for ever."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "focalbench.launchers.worker"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with worker:
        assert worker.stdin is not None
        assert worker.stderr is not None
        worker.stdin.write('{"name": "from the future"}\n')
        worker.stdin.flush()
        assert worker.wait(timeout=60) == 1
        assert "validation errors for Job" in worker.stderr.read()
