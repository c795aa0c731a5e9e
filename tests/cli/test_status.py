"""The commands ``ls`` and ``status``: sweeps seen from another terminal."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from focalbench.cli import status
from focalbench.records.plan import Look, SweepPlan
from focalbench.records.sweep import SweepFolder
from focalbench.records.sweep_lock import hold_sweep
from focalbench.records.trial import TrialFolder

Call = Callable[..., Any]


@pytest.fixture
def sweep(write_arms: Callable[..., Path], tmp_path: Path) -> Path:
    """Below runs/test of the current folder: two arms of two seeds that are done, and trials that are not."""
    run = write_arms({"ce": [0.5, 0.6], "γ=2-fokal": [0.8, 0.7]})
    (tmp_path / "cwd").mkdir(exist_ok=True)
    (tmp_path / "cwd" / "runs").symlink_to(tmp_path / "runs")
    return run


def write_unfinished(run: Path, name: str, lines: list[dict[str, Any]] | str = "", **entries: Any) -> Path:
    folder = run / name
    folder.mkdir()
    (folder / "config.yaml").write_text("name: test\n")
    (folder / "status.json").write_text(json.dumps({"arm": "ce", "seed": 2, **entries}))
    text = lines if isinstance(lines, str) else "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    return folder


LINES: list[dict[str, Any]] = [
    {"step": 10, "train/loss": 3.0, "perf/images_per_s": 50.0, "perf/time_s": 10.0},
    {"step": 10, "val/mAP": 0.25},
    {"step": 20, "train/loss": 2.0, "perf/images_per_s": 40.0, "perf/time_s": 20.0},
]


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_running_trial_has_its_figures_and_nothing_is_written(focalbench: Call, sweep: Path) -> None:
    folder = write_unfinished(sweep, "ce-s2-0badcafe", LINES, state="running", step=10, steps=100)
    with TrialFolder(folder).owned(), hold_sweep(sweep):
        before = files_of(sweep)
        done = focalbench("status", "test", "--json")
        shown = focalbench("status", "test")
        assert files_of(sweep) == before
    document = json.loads(done.out)
    (trial,) = [trial for trial in document["trials"] if trial["name"] == "ce-s2-0badcafe"]
    known = {"state": "running", "at_work": True, "killed": False, "step": 20, "steps": 100, "images_per_s": 40.0}
    assert known | {"mean_ap": 0.25, "loss": 2.0, "reason": ""} == {
        k: trial[k] for k in [*known, "mean_ap", "loss", "reason"]
    }
    assert trial["seconds_left"] == pytest.approx(80, rel=0.2)  # 20 s for 20 of 100 steps
    assert document["counts"] == {"done": 4, "running": 1, "waiting": 0, "killed": 0, "failed": 0, "stopped": 0}
    assert document["at_work"]
    assert (done.code, done.err) == (0, "")
    assert "runs/test: 4 of 5 trials done, 1 running; about 1 min " in shown.out
    row = next(line for line in shown.out.splitlines() if line.startswith("ce-s2 "))
    name, step, speed, _, *rest = row.split()
    assert [name, step, speed, *rest] == ["ce-s2", "20/100", "40.0", "1:20", "25.0", "2"]


def test_arms_come_with_the_best_mean_first_and_their_verdict(focalbench: Call, sweep: Path) -> None:
    document = json.loads(focalbench("status", sweep, "--json").out)
    assert [(arm["arm"], arm["n"], arm["verdict"]) for arm in document["arms"]] == [
        ("γ=2-fokal", 2, "not enough seeds"),
        ("ce", 2, None),
    ]
    assert document["baseline"] == "ce"
    assert document["arms"][0]["mean"] == pytest.approx(0.75)
    lines = focalbench("status", sweep).out.splitlines()
    arms = [line.split()[0] for line in lines if line.startswith(("ce ", "γ=2-fokal "))]
    assert arms == ["γ=2-fokal", "ce"]


def test_what_was_killed_failed_or_waits_is_told_apart(focalbench: Call, sweep: Path) -> None:
    write_unfinished(sweep, "killed-s0-0badcafe", LINES, state="running", step=10, steps=100)
    write_unfinished(sweep, "bad-s0-0badcafe", state="failed", step=4, error="loss is nan\nmore")
    write_unfinished(sweep, "later-s0-0badcafe", LINES, state="interrupted", step=20, steps=100)
    rows = [{"name": f"new-s{seed}", "arm": "new", "seed": seed, "hash": f"{seed:08x}"} for seed in range(3)]
    (sweep / "sweep.json").write_text(json.dumps({"trials": rows}))
    out = focalbench("status", "test").out
    assert "runs/test: 4 of 10 trials done, 4 waiting, 1 killed, 1 failed; nothing is running" in out
    assert "killed-s0-0badcafe: killed at step 20; the same command resumes it\n" in out
    assert "bad-s0-0badcafe: failed at step 4: loss is nan\n" in out
    with hold_sweep(sweep):  # who holds it will take the trial up again, or knows why not
        assert "killed-s0-0badcafe: killed at step 20\n" in focalbench("status", "test").out
    assert "no seed finished yet: new" in out
    assert json.loads(focalbench("status", "test", "--json").out)["seconds_left"] is None


def test_before_a_trial_has_finished_there_are_no_arms(focalbench: Call, tmp_path: Path) -> None:
    run = tmp_path / "r"
    run.mkdir()
    write_unfinished(run, "ce-s0-0badcafe", state="running")
    with TrialFolder(run / "ce-s0-0badcafe").owned():
        done = focalbench("status", run)
        document = json.loads(focalbench("status", run, "--json").out)
    assert "0 of 1 trials done, 1 running\n" in done.out
    assert "starting" in done.out
    assert (document["arms"], document["baseline"], document["seconds_left"]) == ([], None, None)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": "asleep"}', "\x00\xff"])
@pytest.mark.parametrize("file", ["status.json", "metrics.jsonl"])
def test_damaged_files_are_words_or_passed_over(focalbench: Call, sweep: Path, file: str, content: str) -> None:
    folder = write_unfinished(sweep, "odd-s0-0badcafe", LINES, state="running", steps=100)
    (folder / file).write_text(content)
    for arguments in (["status", "test"], ["status", "test", "--json"], ["ls"], ["ls", "--json"]):
        done = focalbench(*arguments)
        assert (done.code, done.err) == (0, "")
        assert done.out
    if file == "status.json":
        assert "odd-s0-0badcafe: status.json " in focalbench("status", "test").out
    else:
        assert "odd-s0-0badcafe: killed at step 0" in focalbench("status", "test").out


def test_a_torn_last_line_and_null_are_passed_over(focalbench: Call, sweep: Path) -> None:
    text = "".join(json.dumps(line) + "\n" for line in [*LINES, {"step": 30, "val/mAP": None}]) + '{"step": 40, "tra'
    write_unfinished(sweep, "odd-s0-0badcafe", text, state="running", steps=100)
    document = json.loads(focalbench("status", "test", "--json").out)
    (trial,) = [trial for trial in document["trials"] if trial["name"].startswith("odd")]
    assert (trial["step"], trial["mean_ap"], trial["loss"]) == (30, None, 2.0)


def test_the_lists_of_sweeps(focalbench: Call, sweep: Path, write_trial: Callable[..., Path]) -> None:
    older = write_trial("runs/old/ce-s0-0badcafe", value=None).parent
    for path in older.rglob("*"):
        os.utime(path, (time.time() - 7200,) * 2)
    folder = write_unfinished(sweep, "ce-s2-0badcafe", LINES, state="running", steps=100)
    with TrialFolder(folder).owned():
        documents = json.loads(focalbench("ls", "--json").out)
        lines = focalbench("ls").out.splitlines()
    assert [document["folder"] for document in documents] == ["runs/test", "runs/old"]
    assert documents[0]["best"] == {"arm": "γ=2-fokal", "mean": pytest.approx(0.75), "n": 2}
    assert documents[1]["best"] is None
    assert documents[0]["trials"]["running"] == 1
    assert documents[0]["trials"]["all"] == 5
    assert lines[0].split()[:6] == ["sweep", "done", "running", "failed", "all", "arms"]
    assert lines[2].split()[:9] == ["test", "4", "1", "0", "5", "2", "γ=2-fokal", "75.00", "2"]
    assert lines[3].split() == ["old", "1", "0", "0", "1", "1", "-", "-", "0", "2", "h", "0", "min", "ago"]
    assert json.loads(focalbench("ls", "runs/test", "--json").out)[0]["folder"] == "runs/test"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ls"], "runs: no such folder"),
        (["ls", "file"], "file: is a file"),
        (["ls", "empty"], "empty: no trials here"),
        (["status", "nope"], "nope: no such folder, and none below runs/; `focalbench ls` lists what is there"),
        (["status", "file"], "file: is a file"),
        (["status", "empty"], "empty: no trials here"),
        (["status", "several"], "several: holds 2 sweeps; name one of them"),
        (["status", "several", "--watch", "--json"], "--json prints one document"),
    ],
)
def test_bad_input_is_a_line_and_exit_code_two(
    focalbench: Call, write_trial: Callable[..., Path], tmp_path: Path, arguments: list[str], words: str
) -> None:
    for run in ("a", "b"):
        write_trial(f"cwd/several/{run}/ce-s0-0badcafe")
    (tmp_path / "cwd" / "empty").mkdir()
    (tmp_path / "cwd" / "file").touch()
    done = focalbench(*arguments)
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert len(done.err.splitlines()) == 1


def test_a_name_that_is_nearly_right_is_suggested(focalbench: Call, sweep: Path) -> None:
    assert "did you mean 'test'?" in focalbench("status", "tset").err


def test_a_trial_of_its_own_can_be_asked_for(focalbench: Call, sweep: Path) -> None:
    (document,) = json.loads(focalbench("status", next(sweep.glob("*ce-s0-*")), "--json").out)["trials"]
    assert (document["arm"], document["state"], document["mean_ap"]) == ("ce", "done", 0.5)


def test_watching_ends_when_nothing_is_at_work(focalbench: Call, sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_unfinished(sweep, "ce-s2-0badcafe", LINES, state="running", steps=100)
    trial = TrialFolder(folder)
    owner = trial.owned()
    owner.__enter__()
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            owner.__exit__(None, None, None)

    monkeypatch.setattr(status.time, "sleep", wait)
    done = focalbench("status", "test", "--watch")
    assert done.code == 0
    assert waits == [2.0] * 3
    lines = done.out.splitlines()
    assert lines[0] == "runs/test: 4 of 5 trials done, 1 running"  # once: nothing has changed
    resume = "nothing is running: the same `focalbench run` command resumes it"
    assert lines[1] == f"runs/test: 4 of 5 trials done, 1 killed; {resume}"


def test_watching_ends_quietly_at_control_c(focalbench: Call, sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with hold_sweep(sweep):
        monkeypatch.setattr(status.time, "sleep", interrupt)
        done = focalbench("status", "test", "--watch")
    assert (done.code, done.err) == (0, "")
    assert "4 of 4 trials done" in done.out


def test_a_folder_that_cannot_be_written_is_read_all_the_same(focalbench: Call, sweep: Path, tmp_path: Path) -> None:
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("needs root, to mount a folder")
    folder = write_unfinished(sweep, "ce-s2-0badcafe", LINES, state="running", steps=100)
    frozen = tmp_path / "frozen"
    frozen.mkdir()
    if subprocess.run(["mount", "--bind", "-o", "ro", sweep, frozen], capture_output=True).returncode:
        pytest.skip("may not mount a folder")
    try:
        with TrialFolder(folder).owned():
            assert "1 running" in focalbench("status", frozen).out
        assert "1 killed" in focalbench("status", frozen).out
        assert focalbench("ls", frozen).code == 0
    finally:
        subprocess.run(["umount", frozen], check=True)


def test_the_lock_is_asked_for_by_readers_without_a_right_to_write(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = TrialFolder(write_unfinished(sweep, "ce-s2-0badcafe", state="running"))
    flags = []
    opened = os.open
    with folder.owned():
        monkeypatch.setattr(os, "open", lambda path, flag, *rest: (flags.append(flag), opened(path, flag, *rest))[1])
        assert folder.is_locked()
    assert [flag & os.O_ACCMODE for flag in flags[:1]] == [os.O_RDONLY]


def test_200_trials_with_thousands_of_lines_answer_soon(
    focalbench: Call, write_arms: Callable[..., Path], tmp_path: Path
) -> None:
    """Bounds are wide: what they forbid is parsing a million lines, which takes ten times as long."""
    run = write_arms({f"arm{number}": [0.5 + seed / 100 for seed in range(30)] for number in range(5)})
    lines = "".join(
        json.dumps({"step": step, "train/loss": 2.0, "train/lr": 0.1, "perf/images_per_s": 9.0, "perf/time_s": step})
        + "\n"
        for step in range(5000)
    )
    for number in range(50):
        write_unfinished(run, f"late-s{number}-0badcafe", lines, state="running", arm="late", seed=number, steps=9999)
    began = time.monotonic()
    document = json.loads(focalbench("status", run, "--json").out)
    assert time.monotonic() - began < 5
    assert len(document["trials"]) == 200
    assert document["counts"]["killed"] == 50
    assert {trial["step"] for trial in document["trials"] if trial["killed"]} == {4999}
    assert "... and 30 more" in focalbench("status", run).out


@pytest.mark.parametrize("command", ["ls", "status"])
def test_torch_is_not_loaded(sweep: Path, tmp_path: Path, command: str) -> None:
    code = (
        "import sys; from focalbench import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print({'torch', 'matplotlib', 'scipy.stats'} & set(sys.modules), file=sys.stderr)"
    )
    arguments = [command] if command == "ls" else [command, "test"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path / "cwd", capture_output=True, text=True, timeout=60
    )
    assert "test" in done.stdout
    assert done.stderr == "set()\n"


def test_a_sweep_that_ends_by_itself_says_how_far_its_arms_are_from_a_word(
    focalbench: Call, write_arms: Callable[..., Path], tmp_path: Path
) -> None:
    ce = [0.70, 0.71, 0.69, 0.70, 0.72, 0.68, 0.70]
    run = write_arms({"ce": ce, "near": [v + d for v, d in zip(ce, (0.01, -0.01, 0.02, 0, 0.01, 0, 0), strict=True)]})
    seeds = tuple(range(10))
    plan = SweepPlan(seeds=seeds, until="decided", looks=(6, 8, 10), margin=0.01, baseline="ce")
    sweep = SweepFolder(run)
    sweep.open("test", ())
    sweep.declare(plan)
    assert "next look" not in focalbench("status", run).out
    sweep.record_look(Look(seeds=seeds[:6], words={"near": "undecided"}))
    shown = focalbench("status", run).out.splitlines()
    place = shown.index("after 6 seeds, the next look is at 8:")
    assert shown[place + 1].startswith("near: +0.50; called different at ")
