"""``focalbench run`` as a user types it: results, codes, messages, resuming."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pretended import finish

from focalbench.cli.run import _unfinished_lines
from focalbench.config.load import load_config
from focalbench.data.synthetic import synthesize
from focalbench.errors import InterruptedTrial
from focalbench.experiment.trial import run_trial
from focalbench.launchers import local
from focalbench.runtime import StopFlag

pytestmark = pytest.mark.slow

Call = Callable[..., Any]
Write = Callable[..., Path]
_SWEEP = "sweep: {seeds: [0], list: [{name: ce, loss: {name: ce}}, {name: focal, loss: {name: focal}}]}"


def _train(config: Path, out: Path, *overrides: str) -> None:
    """Trains what a worker would, without the seconds that one takes to start."""
    for trial in load_config(config, overrides).trials:
        run_trial(
            trial,
            out / trial.name,
            device="cpu",
            stop=StopFlag(),
            progress=lambda step, steps, values: None,
            warn=lambda message: None,
        )


def test_a_sweep_ends_with_a_table_and_says_how_to_see_the_curves(
    focalbench: Call, write_config: Write, tmp_path: Path
) -> None:
    out = tmp_path / "runs with space"
    command = [sys.executable, "-m", "focalbench", "run", str(write_config(_SWEEP)), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "one seed: no claim" in done.stdout
    assert "focalbench tensorboard" in done.stdout
    assert "#timeseries" in done.stdout
    assert "2 of 2 done" in done.stderr
    assert "Traceback" not in done.stderr
    again = focalbench("run", write_config(_SWEEP), "--out", out, "--json")
    assert [trial["state"] for trial in json.loads(again.out)["trials"]] == ["done", "done"]
    assert "started" not in again.err
    more = focalbench("run", write_config(_SWEEP.replace("[0]", "[0, 1]")), "--out", out, "--dry-run")
    assert re.search(r"about .* for 2 trials left to train, .* going by 2 finished", more.out)
    anew = focalbench("run", write_config(_SWEEP), "--out", out, "--fresh", "--dry-run", "--no-timing", "--json")
    assert [trial["state"] for trial in json.loads(anew.out)["trials"]] == ["new", "new"]


def test_a_data_set_that_changed_since_is_told(focalbench: Call, write_config: Write, tmp_path: Path) -> None:
    root = synthesize(tmp_path / "data", num_train=12, num_val=6, image_size=64)
    data = f"data={{name: voc, root: '{root}', train: [2007/train], val: [2007/val], image_size: 64}}"
    _train(write_config(), tmp_path / "o", data)
    command = ["run", write_config(), "-s", data, "--out", tmp_path / "o"]
    told = "the data has changed since 1 of 1 trials were trained, such as focal-s0-"
    unchanged = focalbench(*command)
    assert unchanged.code == 0, unchanged.err
    assert told not in unchanged.err
    listed = root / "VOC2007" / "ImageSets" / "Main" / "train.txt"
    listed.write_text("".join(listed.read_text().splitlines(keepends=True)[:6]))
    changed = focalbench(*command)
    assert changed.code == 0
    assert told in changed.err
    assert "--fresh trains all again" in changed.err


def test_some_failed_is_exit_code_3_and_retry_failed_tries_again(
    focalbench: Call, write_config: Write, tmp_path: Path
) -> None:
    _train(write_config("sweep: {list: [{name: good, loss.gamma: 1}]}"), tmp_path / "o")
    sweep = "sweep: {list: [{name: bad, loss.alpha: [0.1, 0.2]}, {name: good, loss.gamma: 1}]}"
    first = focalbench("run", write_config(sweep), "--out", tmp_path / "o")
    assert first.code == 3
    assert "alpha" in first.out
    second = focalbench("run", write_config(sweep), "--out", tmp_path / "o")
    assert second.code == 3
    assert "started" not in second.err
    third = focalbench("run", write_config(sweep), "--out", tmp_path / "o", "--retry-failed")
    assert third.err.count("started") == 1


def test_a_diverging_trial_names_step_lr_and_loss_and_exits_3(
    focalbench: Call, write_config: Write, tmp_path: Path
) -> None:
    config = write_config()
    options = ["-s", "optim.lr=100", "-s", "optim.clip_norm=null", "-s", "optim.name=sgd", "-s", "optim.steps=200"]
    done = focalbench("run", config, *options, "-s", "eval.every=null", "--out", tmp_path / "o")
    assert done.code == 3, done.out + done.err
    assert "diverged at step" in done.out
    assert "lr" in done.out
    assert "Traceback" not in done.out + done.err


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
        raise InterruptedTrial("stopped by SIGTERM while reading the images", 15)

    monkeypatch.setattr("focalbench.launchers.session.check_all_data", stop)


def test_a_signal_before_the_first_trial_keeps_fresh_for_the_next_time(
    focalbench: Call, write_config: Write, tmp_path: Path, stopped_early: None
) -> None:
    arguments = ["run", str(write_config()), "--out", str(tmp_path / "o"), "--fresh", "--json"]
    done = focalbench(*arguments)
    assert done.code == 143
    assert f"resume with: focalbench {shlex.join(arguments)}" in done.err
    document = json.loads(done.out)
    assert (document["exit_code"], [trial["state"] for trial in document["trials"]]) == (143, ["new"])


def test_of_an_unfinished_sweep_only_what_went_wrong_is_listed() -> None:
    rows = [{"name": f"t{i}", "state": "failed", "error": f"e{i}"} for i in range(25)]
    rows += [{"name": "u", "state": "new", "error": None}] * 700 + [{"name": "v", "state": "running", "error": None}]
    rows += [{"name": "w", "state": "done", "error": None}]
    lines = list(_unfinished_lines(rows))
    assert lines[:2] == ["t0: failed: e0", "t1: failed: e1"]
    assert lines[20:] == ["... and 5 more", "not finished: 700 new, 1 running"]
    assert list(_unfinished_lines(rows[-1:])) == []


def test_an_edited_sweep_is_compared_by_itself(focalbench: Call, write_config: Write, tmp_path: Path) -> None:
    for steps in (2, 3):
        overrides = [f"optim.steps={steps}", "optim.warmup_steps=1"]
        _train(write_config(_SWEEP), tmp_path / "o", *overrides)
        options = [word for override in overrides for word in ("-s", override)]
        done = focalbench("run", write_config(_SWEEP), *options, "--out", tmp_path / "o")
        assert done.code == 0, done.err
    assert "optim.steps" not in done.out
    assert "not comparable" not in done.out
    assert "one seed: no claim" in done.out
    assert "2 other trials in " in done.out


def test_a_set_with_nothing_to_measure_is_refused_before_training(
    focalbench: Call, write_config: Write, tmp_path: Path
) -> None:
    root = synthesize(tmp_path / "data", num_train=6, num_val=3, image_size=64)
    for name in (root / "VOC2007" / "ImageSets" / "Main" / "val.txt").read_text().split():
        path = root / "VOC2007" / "Annotations" / f"{name}.xml"
        path.write_text(path.read_text().replace("<difficult>0<", "<difficult>1<"))
    data = f"data={{name: voc, root: '{root}', train: [2007/train], val: [2007/val], image_size: 64}}"
    done = focalbench("run", write_config(_SWEEP), "-s", data, "--out", tmp_path / "o")
    assert done.code == 2
    assert "1 data error: nothing-to-measure" in done.err
    assert "mAP would be undefined for every arm" in done.err
    assert not (tmp_path / "o").exists()


def test_a_cache_folder_that_cannot_be_made_is_named(
    focalbench: Call, write_config: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FOCALBENCH_CACHE", str(tmp_path / "file" / "c"))
    done = focalbench("run", write_config(), "--out", tmp_path / "o")
    assert done.code in (2, 3)
    assert str(tmp_path / "file") in done.err + done.out
    assert "out of memory" not in done.err + done.out
    assert "Traceback" not in done.err


def test_dry_run_lists_and_touches_nothing(
    focalbench: Call, write_config: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("run", write_config(_SWEEP), "--out", tmp_path / "o", "--dry-run")
    done = focalbench(*command, "--no-timing")
    assert done.code == 0
    assert "2 trials" in done.out
    assert "loss.name=ce" in done.out
    assert "not known until the first has finished" in done.out
    monkeypatch.setattr(local, "num_cores", lambda: 1)
    timed = json.loads(focalbench(*command, "--json").out)["estimate"]
    assert (timed["num_left"], timed["num_known"], timed["num_measured"], timed["num_rehearsed"]) == (2, 2, 0, 1)
    assert 0 < timed["longest"] < timed["seconds"] < 60
    assert not (tmp_path / "o").exists()


def test_dry_run_says_why_no_step_could_be_timed(focalbench: Call, write_config: Write, tmp_path: Path) -> None:
    data = ["-s", "data.name=voc", "-s", "data.root=/nowhere"]
    done = focalbench("run", write_config(), *data, "--out", tmp_path / "o", "--dry-run")
    assert done.code == 0
    assert "how long they will take is not known: /nowhere: does not exist" in done.out


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
    focalbench: Call, write_config: Write, tmp_path: Path, option: str, names: str
) -> None:
    extra = ["-s", "data.name=voc"] if option.startswith("data.root") else []
    done = focalbench("run", write_config(), "-s", option, *extra, "--out", tmp_path / "o")
    assert done.code == 2, done.out + done.err
    assert names in done.err + done.out
    assert "Traceback" not in done.err
    assert len(done.err.splitlines()) <= 20


@pytest.mark.parametrize("switches", [(), ("--dry-run",)])
def test_a_folder_of_an_older_version_is_refused_in_one_line(
    focalbench: Call, write_config: Write, tmp_path: Path, switches: tuple[str, ...]
) -> None:
    row = {"name": "ce-s0-64f6b733", "arm": "ce", "seed": 0, "hash": "64f6b733", "differs": {}}
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "sweep.json").write_text(json.dumps({"name": "tiny", "trials": [row]}))
    done = focalbench("run", write_config(_SWEEP), "--out", tmp_path / "old", *switches)
    assert done.code == 2
    assert done.out == ""
    (line,) = done.err.splitlines()
    assert "another version of focalbench" in line
    assert "--fresh" in line
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["sweep.json"]


def _pretend(config: Path, out: Path) -> None:
    """Leaves what trainings would: what a look finds needs no network."""
    for trial in load_config(config).trials:
        value = 0.5 + trial.seed / 1000 + (0.1 + trial.seed / 5000) * (trial.arm == "gamma=2")
        finish(out, trial, value)


def test_a_sweep_that_ends_by_itself_says_how_it_ended_and_keeps_what_it_declared(
    focalbench: Call, write_config: Write, tmp_path: Path
) -> None:
    sweep = "sweep: {{until: decided, seeds: 6, max_seeds: 6, margin: {margin}, grid: {{loss.gamma: [0, 2]}}}}"
    config, out = write_config(sweep.format(margin=0.01)), tmp_path / "out"
    dry = focalbench("run", config, "--out", out, "--dry-run", "--no-timing")
    assert "sweep.until: at least 12 trials, at most 12; about 12 if no arm differs" in dry.out
    _pretend(config, out)
    done = focalbench("run", config, "--out", out)
    assert done.code == 0
    assert re.search(r"(every arm has a verdict|undecided after all 6 seeds: \S+): 12 of at most 12 trials", done.out)
    document = json.loads(focalbench("run", config, "--out", out, "--json").out)
    assert document["verdicts"].keys() == {"gamma=2"}
    assert document["added_seeds"] == []
    assert document["ending"].endswith("12 of at most 12 trials")
    other = focalbench("run", write_config(sweep.format(margin=0.02)), "--out", out)
    assert other.code == 2
    assert "sweep.margin: 0.02: " in other.err
    grown = write_config("sweep: {seeds: 7, grid: {loss.gamma: [0, 2]}}")
    _pretend(grown, out)
    by_hand = focalbench("run", grown, "--out", out, "--json")
    assert json.loads(by_hand.out)["added_seeds"] == [6]
    assert "seed 6: added by hand to a sweep that declared 6 seeds at most" in focalbench("compare", out).err


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
@pytest.mark.parametrize("inner", ["", "inner"])
def test_a_file_is_no_folder_for_a_sweep(
    write_config: Any, focalbench: Any, tmp_path: Path, inner: str, more: tuple[str, ...]
) -> None:
    (file := tmp_path / "file").touch()
    done = focalbench("run", write_config(), "--out", file / inner, *more)
    assert (done.code, done.err) == (2, f"{file}: is a file, not a folder; pass --out with another path\n")
