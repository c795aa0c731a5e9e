"""Trials on disk: found wherever they lie, known by their content, never a traceback."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from focalbench.errors import DataError
from focalbench.records.reader import read_trial, read_trials

Write = Callable[..., Path]


def test_trials_are_found_below_any_path_and_once(write_arms: Write, tmp_path: Path) -> None:
    run = write_arms({"ce": [0.5, 0.6], "focal": [0.6, 0.7]})
    assert len(read_trials([run])) == 4
    assert len(read_trials([tmp_path])) == 4
    one = next(run.iterdir())
    assert len(read_trials([one])) == 1
    assert len(read_trials([run, one, tmp_path / "runs"])) == 4
    os.symlink(run, tmp_path / "link")
    assert len(read_trials([tmp_path / "link", run])) == 4


def test_identity_comes_from_the_content_not_from_the_folder(write_trial: Write) -> None:
    path = write_trial("runs/a/focal-s3-12345678", arm="focal", seed=3)
    moved = path.rename(path.parent / "renamed by hand")
    (trial,) = read_trials([moved])
    assert (trial.arm, trial.seed, trial.counts) == ("focal", 3, True)


def test_order_is_that_of_the_sweep_and_missing_trials_are_listed(write_trial: Write, tmp_path: Path) -> None:
    write_trial("runs/a/b", arm="second", result={"config_hash": "bbbbbbbb"})
    write_trial("runs/a/z", arm="first", result={"config_hash": "aaaaaaaa"})
    listed = (("z", "a"), ("b", "b"), ("new", "c"))
    rows = [{"name": name, "arm": name, "seed": 0, "hash": 8 * letter} for name, letter in listed]
    (tmp_path / "runs/a/sweep.json").write_text(json.dumps({"trials": rows}))
    trials = read_trials([tmp_path / "runs/a"])
    assert [trial.arm for trial in trials] == ["first", "second", "new"]
    assert trials[2].state == "new"
    assert not trials[2].counts
    assert [trial.arm for trial in read_trials([tmp_path / "runs/a/z"])] == ["first"]


@pytest.mark.parametrize(
    ("paths", "states"),
    [
        (["runs/a"], {"a": "done", "b": "done", "c": "new"}),
        (["runs/a", "runs/a"], {"a": "done", "b": "done", "c": "new"}),
        (["runs/a", "runs/a/b"], {"a": "done", "b": "done", "c": "new"}),
        (["runs/a/b", "runs/a"], {"a": "done", "b": "done", "c": "new"}),
        (["runs", "runs/a"], {"a": "done", "b": "done", "c": "new"}),
        (["link", "runs"], {"a": "done", "b": "done", "c": "new"}),
        (["runs/a/a", "runs/a/b"], {"a": "done", "b": "done"}),
    ],
)
def test_a_sweep_that_is_given_twice_is_listed_once(
    write_trial: Write, tmp_path: Path, paths: list[str], states: dict[str, str]
) -> None:
    for letter in "ab":
        write_trial(f"runs/a/{letter}", arm=letter, result={"config_hash": 8 * letter})
    rows = [{"name": letter, "arm": letter, "seed": 0, "hash": 8 * letter} for letter in "abc"]
    (tmp_path / "runs/a/sweep.json").write_text(json.dumps({"trials": rows}))
    os.symlink(tmp_path / "runs/a", tmp_path / "link")
    trials = read_trials([tmp_path / path for path in paths])
    assert sorted((trial.arm, trial.state) for trial in trials) == sorted(states.items())


def test_the_trials_still_to_come_are_listed_beside_the_first(write_trial: Write, tmp_path: Path) -> None:
    write_trial("runs/a/a", arm="a", result={"config_hash": "aaaaaaaa"})
    rows = [{"name": letter, "arm": letter, "seed": 0, "hash": 8 * letter} for letter in "abc"]
    (tmp_path / "runs/a/sweep.json").write_text(json.dumps({"trials": rows}))
    assert [trial.state for trial in read_trials([tmp_path / "runs/a"])] == ["done", "new", "new"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"status": {"state": "failed", "step": 7, "error": "DivergedError: loss is nan\nlr 5"}},
            "failed at step 7: Div",
        ),
        ({"status": {"state": "running", "step": 3, "steps": 50}}, "running at step 3 of 50"),
        ({"status": {"state": "failed", "step": 0, "steps": 50, "error": "diverged at step 4"}}, "failed: diverged at"),
        ({"status": {"state": "interrupted"}}, "interrupted"),
        ({"remove": "result.json"}, "no result.json"),
        ({"tear": "result.json"}, "result.json cannot be read"),
        ({"tear": "status.json"}, "status.json cannot be read"),
        ({"write": ("result.json", "[1, 2]")}, "result.json is not a JSON object"),
        ({"write": ("result.json", '{"loss": 3}')}, "another version"),
        ({"write": ("config.yaml", "a: [1")}, "config.yaml cannot be read"),
        ({"write": ("config.yaml", "- 1")}, "config.yaml is not a mapping"),
        ({"write": ("config.yaml", "!!python/object/apply:os.system ['false']")}, "config.yaml cannot be read"),
    ],
)
def test_trials_that_do_not_count_say_why(write_trial: Write, change: dict, words: str) -> None:
    path = write_trial("runs/a/t", status=change.get("status"))
    if "remove" in change:
        (path / change["remove"]).unlink()
    if "tear" in change:
        content = (path / change["tear"]).read_text()
        (path / change["tear"]).write_text(content[: len(content) // 2])
    if "write" in change:
        name, content = change["write"]
        (path / name).write_text(content)
    (trial,) = read_trials([path])
    assert not trial.counts
    assert words in trial.reason
    assert "\n" not in trial.reason


def test_a_trial_without_status_or_config_still_counts(write_trial: Write) -> None:
    path = write_trial("runs/a/t", arm="focal", seed=2)
    (path / "status.json").unlink()
    (path / "config.yaml").unlink()
    (trial,) = read_trials([path])
    assert trial.counts
    assert (trial.arm, trial.seed) == ("focal", 2)


def test_a_trial_that_names_no_arm_is_labelled_by_its_folder(write_trial: Write) -> None:
    path = write_trial("runs/a/gamma=2-s4-754a7108", seed=4, result={"arm": None, "seed": None})
    (path / "status.json").write_text('{"state": "done"}')
    (trial,) = read_trials([path])
    assert (trial.arm, trial.seed, trial.counts) == ("gamma=2", 4, True)


def test_no_trials_are_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_trials([tmp_path / "missing"])
    with pytest.raises(DataError, match="no trials here"):
        read_trials([tmp_path])
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"):
        read_trials([tmp_path / "file"])


def test_values_come_from_the_result_then_from_the_log(write_trial: Write) -> None:
    log = [
        {"step": 1, "train/loss": 2.0, "val/mAP": 0.1},
        {"step": 2, "train/loss": 1.5},
        {"step": 3, "train/loss": None},
    ]
    path = write_trial("runs/a/t", value=0.7, log=log)
    (trial,) = read_trials([path])
    assert trial.value("val/mAP") == trial.value("mAP") == 0.7
    assert trial.value("AP/cat") == 0.7
    assert trial.value("AP/dog") is None
    assert trial.value("train/loss") == 1.5
    assert trial.value("time") == 100.0
    assert trial.value("arm") is None
    assert trial.value("nothing") is None
    assert {"val/mAP", "AP/cat", "train/loss", "wall_s"} <= trial.metric_names()


def test_an_undefined_result_is_not_replaced_by_an_older_logged_value(write_trial: Write) -> None:
    path = write_trial("runs/a/t", value=None, log=[{"step": 1, "val/mAP": 0.4}])
    (trial,) = read_trials([path])
    assert trial.value("val/mAP") is None
    (path / "result.json").write_text((path / "result.json").read_text().replace("null", "NaN"))
    (trial,) = read_trials([path])
    assert trial.value("val/mAP") is None
    assert math.isnan(trial.result.mean_ap)


@pytest.mark.parametrize(
    "text",
    ["a: " + "[" * 300_000, "a: &a {b: 1}\nc: *a\n", "a: !!python/name:os.system", "a: [1"],
    ids=["deep", "alias", "tag", "cut"],
)
def test_a_strangers_configuration_is_read_without_trust(write_trial: Write, text: str) -> None:
    folder = write_trial("runs/a/t")
    (folder / "config.yaml").write_text(text)
    (trial,) = read_trials([folder])
    assert trial.state == "unreadable"
    assert trial.reason.startswith("config.yaml cannot be read: ")


@pytest.mark.parametrize("name", ["result.json", "config.yaml", "status.json"])
def test_a_fifo_in_a_strangers_folder_is_not_waited_for(write_trial: Write, name: str) -> None:
    folder = write_trial("runs/a/t")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    (trial,) = read_trials([folder])
    assert "is not a regular file" in trial.reason


def test_a_damaged_log_leaves_the_result_usable(write_trial: Write) -> None:
    path = write_trial("runs/a/t", value=0.7)
    (path / "metrics.jsonl").write_text('broken\n{"step": 1}\n')
    (trial,) = read_trials([path])
    assert trial.value("val/mAP") == 0.7
    assert trial.value("train/loss") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\nseed: 7\nloss: {gamma: 2.0}\n", {"name": "a", "seed": 7, "loss": {"gamma": 2.0}}),
        ("seed: 0\nname: a\n", {"seed": 0, "name": "a"}),
        ("name: |\n  a\n  seed: 3\nseed: 4\n", {"name": "a\nseed: 3\n", "seed": 4}),
        ("name: 'a\n\n  seed: 3'\n", {"name": "a\nseed: 3"}),
        ("name: a\nseed: 0x10\n", {"name": "a", "seed": 16}),
        ("data:\n  seed: 3\n", {"data": {"seed": 3}}),
    ],
)
def test_a_seed_is_read_where_it_stands_and_the_rest_is_shared(
    write_trial: Callable[..., Path], text: str, expected: dict
) -> None:
    for number in range(2):
        trial = write_trial(f"runs/a/{number}")
        (trial / "config.yaml").write_text(text)
        found = read_trial(trial).config
        assert found == expected
        assert list(found) == list(expected)


def test_a_trial_that_may_not_be_read_is_told_and_the_others_are_there(write_trial, tmp_path, monkeypatch):
    locked = write_trial("runs/t/focal-s0-aa", arm="focal")
    write_trial("runs/t/ce-s0-bb", arm="ce")
    row = {"name": "focal-s0-aa", "arm": "focal", "seed": 0, "hash": "aa", "differs": {}}
    (locked.parent / "sweep.json").write_text(json.dumps({"trials": [row]}))
    (tmp_path / "runs" / "lost+found").mkdir()
    opened, access = os.open, os.access

    def refuse(path):
        if Path(path).parent == locked:
            raise PermissionError(13, "Permission denied", str(path))

    unreadable = {str(locked), str(tmp_path / "runs" / "lost+found")}
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) not in unreadable and access(path, mode))
    monkeypatch.setattr(
        os, "open", lambda path, *arguments, **options: refuse(path) or opened(path, *arguments, **options)
    )
    found = {trial.name: trial for trial in read_trials([tmp_path])}
    assert found["ce-s0-bb"].counts
    assert len(found) == 2
    assert "cannot be read: " in found["focal-s0-aa"].reason
    assert "Permission denied" in found["focal-s0-aa"].reason
