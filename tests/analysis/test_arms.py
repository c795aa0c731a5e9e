"""Trials by arm, finished or not, also where one name has stood for several configurations."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from focalbench.analysis.arms import group_arms, trials_by_arm
from focalbench.analysis.sweep_progress import summarise_sweeps
from focalbench.board.curves import group_trials
from focalbench.config.identity import IDENTITY_VERSION
from focalbench.records.reader import read_trials
from focalbench.records.sweep import SweepFolder

Write = Callable[..., Path]


def _two_lengths(write_trial: Write) -> None:
    """A sweep that was run a second time with another number of epochs, and not to its end."""
    longer: dict[str, Any] = {"settings": {"optim": {"epochs": 9, "batch_size": 4}}}
    for seed, value in enumerate((0.5, 0.6)):
        write_trial(f"r/focal-s{seed}-0000000{seed}", arm="focal", seed=seed, value=value)
    write_trial("r/focal-s0-00000002", arm="focal", value=0.9, result={"steps": 99}, **longer)
    write_trial("r/focal-s1-00000003", arm="focal", seed=1, status={"state": "failed"}, **longer)
    write_trial("r/ce-s0-00000004")


def test_one_name_for_two_configurations_is_two_arms(write_trial: Write, tmp_path: Path) -> None:
    _two_lengths(write_trial)
    trials = read_trials([tmp_path / "r"])
    found = {arm: [trial.seed for trial in of_arm] for arm, of_arm in trials_by_arm(trials).items()}
    assert found == {"focal (optim.epochs=2)": [0, 1], "focal (optim.epochs=9)": [0, 1], "ce": [0]}
    assert {arm.label for arm in group_arms(trials)[0]} == found.keys()


def test_lists_and_curves_keep_them_apart(write_trial: Write, tmp_path: Path) -> None:
    _two_lengths(write_trial)
    (summary,) = summarise_sweeps(tmp_path)
    assert (summary.num_arms, summary.best_arm, summary.best_n) == (3, "focal (optim.epochs=9)", 1)
    assert summary.best_mean_ap == 0.9
    curves = group_trials(read_trials([tmp_path / "r"]))
    assert {arm: sorted(seeds) for arm, seeds in curves.items()} == {
        "focal (optim.epochs=2)": [0, 1],
        "focal (optim.epochs=9)": [0],
        "ce": [0],
    }


def test_what_waits_belongs_to_the_arm_of_its_name(write_trial: Write, tmp_path: Path) -> None:
    write_trial("r/focal-s0-aa", arm="focal", result={"config_hash": "aa"})
    rows = [
        {"name": f"focal-s{seed}-{digest}", "arm": "focal", "seed": seed, "hash": digest, "differs": {}}
        for seed, digest in enumerate(("aa", "bb"))
    ]
    (tmp_path / "r" / SweepFolder.LIST).write_text(json.dumps({"identity": IDENTITY_VERSION, "trials": rows}))
    (found,) = trials_by_arm(read_trials([tmp_path / "r"])).items()
    assert found[0] == "focal"
    assert [trial.seed for trial in found[1]] == [0, 1]


def test_what_waits_belongs_to_the_last_of_several_arms_of_its_name(write_trial: Write, tmp_path: Path) -> None:
    _two_lengths(write_trial)
    row = {"name": "focal-s9-ff", "arm": "focal", "seed": 9, "hash": "ff", "differs": {}}
    (tmp_path / "r" / SweepFolder.LIST).write_text(json.dumps({"identity": IDENTITY_VERSION, "trials": [row]}))
    found = {arm: [trial.seed for trial in of_arm] for arm, of_arm in trials_by_arm(read_trials([tmp_path])).items()}
    assert len(found) == 3
    assert sorted(map(len, found.values())) == [1, 2, 3]


def test_other_data_make_another_arm(write_trial: Write, tmp_path: Path) -> None:
    write_trial("r/focal-s0-00000000", arm="focal")
    write_trial("r/focal-s1-00000001", arm="focal", seed=1, result={"data_fingerprint": ["cc", "bb"]})
    write_trial("r/focal-s2-00000002", arm="focal", seed=2, status={"state": "running"})
    trials = read_trials([tmp_path / "r"])
    assert list(trials_by_arm(trials)) == [arm.label for arm in group_arms(trials)[0]]
    assert summarise_sweeps(tmp_path)[0].num_arms == 2
