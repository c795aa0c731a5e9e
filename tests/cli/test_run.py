"""``focalbench run`` as a user types it: results, codes, messages, resuming."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from focalbench.cli import app
from focalbench.cli.run import _unfinished_lines
from focalbench.data.synthetic import synthesize
from focalbench.errors import InterruptedTrial

pytestmark = pytest.mark.slow

Write = Callable[..., Path]
_SWEEP = "sweep: {seeds: [0], list: [{name: ce, loss: {name: ce}}, {name: focal, loss: {name: focal}}]}"


def _focalbench(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "focalbench", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=300,
    )


def test_a_sweep_ends_with_a_table_and_says_how_to_see_the_curves(write_config: Write, tmp_path: Path) -> None:
    out = tmp_path / "runs with space"
    done = _focalbench("run", write_config(_SWEEP), "--out", out)
    assert done.returncode == 0, done.stderr
    assert "one seed: no claim" in done.stdout
    assert "tensorboard --logdir" in done.stdout
    assert "2 of 2 done" in done.stderr
    assert "Traceback" not in done.stderr
    again = _focalbench("run", write_config(_SWEEP), "--out", out, "--json")
    document = json.loads(again.stdout)
    assert [trial["state"] for trial in document["trials"]] == ["done", "done"]
    assert "started" not in again.stderr
    more = _focalbench("run", write_config(_SWEEP.replace("[0]", "[0, 1]")), "--out", out, "--dry-run")
    assert re.search(r"about .* for 2 trials left to train, .* going by 2 finished", more.stdout)
    anew = _focalbench("run", write_config(_SWEEP), "--out", out, "--fresh", "--dry-run", "--json")
    assert [trial["state"] for trial in json.loads(anew.stdout)["trials"]] == ["new", "new"]
    assert "Traceback" not in more.stderr


def test_a_data_set_that_changed_since_is_told(write_config: Write, tmp_path: Path) -> None:
    root = synthesize(tmp_path / "data", num_train=12, num_val=6, image_size=64)
    data = f"data={{name: voc, root: '{root}', train: [2007/train], val: [2007/val], image_size: 64}}"
    command = ["run", write_config(), "-s", data, "--out", tmp_path / "o"]
    told = "the data has changed since 1 of 1 trials were trained, such as focal-s0-"
    for _ in range(2):
        unchanged = _focalbench(*command)
        assert unchanged.returncode == 0, unchanged.stderr
        assert told not in unchanged.stderr
    listed = root / "VOC2007" / "ImageSets" / "Main" / "train.txt"
    listed.write_text("".join(listed.read_text().splitlines(keepends=True)[:6]))
    changed = _focalbench(*command)
    assert changed.returncode == 0
    assert told in changed.stderr
    assert "--fresh trains all anew" in changed.stderr


def test_some_failed_is_exit_code_3_and_retry_failed_tries_again(write_config: Write, tmp_path: Path) -> None:
    sweep = "sweep: {list: [{name: bad, loss.alpha: [0.1, 0.2]}, {name: good, loss.gamma: 1}]}"
    first = _focalbench("run", write_config(sweep), "--out", tmp_path / "o")
    assert first.returncode == 3
    assert "alpha" in first.stdout
    second = _focalbench("run", write_config(sweep), "--out", tmp_path / "o")
    assert second.returncode == 3
    assert "started" not in second.stderr
    third = _focalbench("run", write_config(sweep), "--out", tmp_path / "o", "--retry-failed")
    assert third.stderr.count("started") == 1


def test_a_diverging_trial_names_step_lr_and_loss_and_exits_3(write_config: Write, tmp_path: Path) -> None:
    config = write_config()
    options = ["-s", "optim.lr=100", "-s", "optim.clip_norm=null", "-s", "optim.name=sgd", "-s", "optim.steps=200"]
    done = _focalbench("run", config, *options, "-s", "eval.every=null", "--out", tmp_path / "o")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "diverged at step" in done.stdout
    assert "lr" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_a_checkpoint_its_code_and_the_way_on(
    write_config: Write, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    config = write_config(text=write_config().read_text().replace("steps: 6", "steps: 100000"))
    out = tmp_path / "o"
    command = [sys.executable, "-m", "focalbench", "run", str(config), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(out.glob("*/checkpoints/*.sha256")) and time.monotonic() < deadline:
        time.sleep(0.1)
    sent = time.monotonic()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert time.monotonic() - sent < 10
    assert process.returncode == code
    assert f"focalbench run {config} --out {out}" in stderr
    status = json.loads(next(out.glob("*/status.json")).read_text())
    assert status["state"] == "interrupted"


@pytest.fixture
def stopped_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM arrives while the data are checked."""

    def stop(*arguments: object, **options: object) -> None:
        raise InterruptedTrial("stopped by SIGTERM while the images were read", 15)

    monkeypatch.setattr("focalbench.launchers.session.check_all_data", stop)


def test_a_signal_before_the_first_trial_keeps_fresh_for_the_next_time(
    write_config: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_early: None
) -> None:
    arguments = ["run", str(write_config()), "--out", str(tmp_path / "o"), "--fresh", "--json"]
    monkeypatch.setattr(sys, "argv", ["focalbench", *arguments])
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 143
    assert f"go on with: focalbench {shlex.join(arguments)}" in done.stderr
    document = json.loads(done.stdout)
    assert (document["exit_code"], [trial["state"] for trial in document["trials"]]) == (143, ["new"])


def test_of_an_unfinished_sweep_only_what_went_wrong_is_listed() -> None:
    rows = [{"name": f"t{i}", "state": "failed", "error": f"e{i}"} for i in range(25)]
    rows += [{"name": "u", "state": "new", "error": None}] * 700 + [{"name": "v", "state": "running", "error": None}]
    rows += [{"name": "w", "state": "done", "error": None}]
    lines = list(_unfinished_lines(rows))
    assert lines[:2] == ["t0: failed: e0", "t1: failed: e1"]
    assert lines[20:] == ["... and 5 more", "not finished: 700 new, 1 running"]
    assert list(_unfinished_lines(rows[-1:])) == []


def test_an_edited_sweep_is_compared_by_itself(write_config: Write, tmp_path: Path) -> None:
    for steps in (2, 3):
        done = _focalbench("run", write_config(_SWEEP), "-s", f"optim.steps={steps}", "-s", "optim.warmup_steps=1",
                           "--out", tmp_path / "o")  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert "optim.steps" not in done.stdout
    assert "not comparable" not in done.stdout
    assert "one seed: no claim" in done.stdout
    assert "2 other trials in " in done.stdout


def test_an_undefined_map_is_told_and_the_run_is_done_all_the_same(write_config: Write, tmp_path: Path) -> None:
    root = synthesize(tmp_path / "data", num_train=6, num_val=3, image_size=64)
    listed = (root / "VOC2007" / "ImageSets" / "Main" / "val.txt").read_text().split()
    for name in listed:
        path = root / "VOC2007" / "Annotations" / f"{name}.xml"
        path.write_text(path.read_text().replace("<difficult>0<", "<difficult>1<"))
    data = f"data={{name: voc, root: '{root}', train: [2007/train], val: [2007/val], image_size: 64}}"
    done = _focalbench("run", write_config(), "-s", data, "--out", tmp_path / "o")
    assert done.returncode == 0, done.stderr
    assert "undefined (NaN)" in done.stderr
    assert "tensorboard --logdir" in done.stdout
    (trial,) = (tmp_path / "o").glob("*-s0-*")
    analysed = _focalbench("analyze", trial, "-o", tmp_path / "a", "--errors", "--json")
    assert analysed.returncode == 0, analysed.stderr
    assert json.loads(analysed.stdout)["errors"]["mAP"] is None


def test_a_cache_folder_that_cannot_be_made_is_named(write_config: Write, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = _focalbench("run", write_config(), "--out", tmp_path / "o", FOCALBENCH_CACHE=str(tmp_path / "file" / "c"))
    assert done.returncode in (2, 3)
    assert str(tmp_path / "file") in done.stderr + done.stdout
    assert "out of memory" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_dry_run_lists_and_touches_nothing(write_config: Write, tmp_path: Path) -> None:
    done = _focalbench("run", write_config(_SWEEP), "--out", tmp_path / "o", "--dry-run")
    assert done.returncode == 0
    assert "2 trials" in done.stdout
    assert "loss.name=ce" in done.stdout
    assert "not known before the first has finished" in done.stdout
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("option", "names"),
    [
        ("data.root=/nowhere/at/all", "/nowhere/at/all"),
        ("loss.gama=1", "gamma"),
        ("run.device=cuda:7", "cuda:7"),
        ("optim.precision=fp16", "fp16"),
        ("run.launcher=slurm", "run.launcher"),
        ("run.devices=1024", "run.devices"),
    ],
)
def test_the_users_fault_is_exit_code_2_in_few_lines(
    write_config: Write, tmp_path: Path, option: str, names: str
) -> None:
    extra = ["-s", "data.name=voc"] if option.startswith("data.root") else []
    done = _focalbench("run", write_config(), "-s", option, *extra, "--out", tmp_path / "o")
    assert done.returncode == 2, done.stdout + done.stderr
    assert names in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 20


@pytest.mark.parametrize("switches", [(), ("--dry-run",)])
def test_a_folder_of_an_older_version_is_refused_in_one_line(
    write_config: Write, tmp_path: Path, switches: tuple[str, ...]
) -> None:
    row = {"name": "ce-s0-64f6b733", "arm": "ce", "seed": 0, "hash": "64f6b733", "differs": {}}
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "sweep.json").write_text(json.dumps({"name": "tiny", "trials": [row]}))
    done = _focalbench("run", write_config(_SWEEP), "--out", tmp_path / "old", *switches)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "another version of focalbench" in line
    assert "--fresh" in line
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["sweep.json"]
