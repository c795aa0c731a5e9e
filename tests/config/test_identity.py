"""Which trials are the same, and what follows from the one table that says so."""

import hashlib
import json

import pytest

from focalbench.config.dump import dump_yaml
from focalbench.config.faults import all_keys
from focalbench.config.identity import (
    EFFECTS,
    UNLESS_SET,
    Effect,
    arm_hash,
    can_be_swept,
    config_hash,
    effect_of,
    keeps_network,
    keeps_trial,
)
from focalbench.config.load import load_config
from focalbench.config.schema import ExperimentConfig
from focalbench.config.sweep import expand


@pytest.fixture
def load(tmp_path):
    """Reads a configuration from text."""

    def load(text="seed: 0", *overrides):
        path = tmp_path / "exp.yaml"
        path.write_text(text)
        return load_config(path, overrides).config

    return load


def test_every_key_has_one_entry_and_every_entry_a_key():
    keys = set(all_keys())
    assert set(EFFECTS) <= keys
    leaves = {key for key in keys if not any(other.startswith(f"{key}.") for other in keys)}
    for leaf in leaves:
        above = [entry for entry in EFFECTS if f"{leaf}.".startswith(f"{entry}.")]
        assert len(above) == 1, f"{leaf}: say in config/identity.py what it changes; found {above}"


def test_a_key_below_a_section_of_the_table_has_its_effect_and_an_unknown_one_counts():
    assert effect_of("loss.gamma.values") == effect_of("loss") == Effect.RESULT
    assert effect_of("run.retries") == Effect.TIME
    assert effect_of("runs.retries") == effect_of("optim.of_a_later_version") == effect_of("") == Effect.RESULT


@pytest.mark.parametrize(
    ("key", "same_trial", "same_network", "swept"),
    [
        ("name", True, True, False),
        ("run.device", True, True, False),
        ("sweep.seeds", True, True, False),
        ("data.cache_dir", True, True, False),
        ("data.root", True, True, True),
        ("run.threads", False, False, False),
        ("eval.every", True, True, False),
        ("eval.batch_size", True, True, False),
        ("eval.score_thresh", False, True, True),
        ("data.val", False, True, True),
        ("data.train", False, False, True),
        ("optim.precision", False, False, True),
        ("model.norm", False, False, True),
        ("loss.gamma", False, False, True),
        ("data.augment.flip", False, False, True),
    ],
)
def test_rules_that_follow_from_the_table(key, same_trial, same_network, swept):
    assert (keeps_trial(key), keeps_network(key), can_be_swept(key)) == (same_trial, same_network, swept)


def test_hash_ignores_key_order_defaults_spelled_out_and_number_form(load):
    short = load("loss: {gamma: 2}\noptim: {lr: 0.01}\n")
    long = load("optim: {momentum: 0.9, lr: 1e-2, name: sgd}\nloss: {alpha: 0.25, name: focal, gamma: 2.0}\n")
    full = load(dump_yaml(short))
    assert config_hash(short) == config_hash(long) == config_hash(full)
    assert len(config_hash(short)) == 8
    int(config_hash(short), 16)


@pytest.mark.parametrize(
    "override",
    [
        "name=b",
        "run.retries=5",
        "run.launcher=ray",
        "data.root=/x",
        "data.cache=ram",
        "data.cache_dir=/x",
        "eval.every=3",
        "eval.batch_size=3",
    ],
)
def test_hash_leaves_out_what_cannot_change_a_result(load, override):
    assert config_hash(load("seed: 0", override)) == config_hash(load())


def test_hash_covers_what_can_change_a_result(load):
    different = [
        "seed=1",
        "loss.gamma=1",
        "optim.precision=fp32",
        "optim.warmup_power=4",
        "run.threads=2",
        "data.val=[2007/val]",
        "eval.score_thresh=0.1",
        "model.norm=sync",
    ]
    hashes = {config_hash(load("seed: 0", override)) for override in different}
    assert len(hashes | {config_hash(load())}) == len(different) + 1


def test_arm_hash_is_equal_for_all_seeds(load):
    assert arm_hash(load()) == arm_hash(load("seed: 5"))
    assert arm_hash(load()) != arm_hash(load("loss: {gamma: 1}"))


def test_hash_is_the_canonical_json_of_the_resolved_config(load):
    config = load("seed: 3")
    data = json.loads(config.model_dump_json())
    for key in ("name", "plugins", "sweep"):
        del data[key]
    data["run"] = {"threads": data["run"]["threads"]}
    for key in ("root", "cache", "cache_dir"):
        del data["data"][key]
    for key in ("every", "batch_size"):
        del data["eval"][key]
    del data["model"]["trainable_stages"], data["data"]["other_classes"], data["data"]["sample_range"]
    del data["model"]["fpn_norm"], data["optim"]["backbone_lr"]
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"))
    assert config_hash(config) == hashlib.sha256(canonical.encode()).hexdigest()[:8]


def test_a_key_that_counts_where_it_is_set_leaves_other_trials_what_they_were(load):
    assert (config_hash(ExperimentConfig()), arm_hash(ExperimentConfig())) == ("5881f6bc", "6a8526cf")
    loaded = "model: {weights: a.pth}"
    assert config_hash(load(loaded)) == config_hash(load(loaded, "model.trainable_stages=null"))
    assert config_hash(load(loaded)) != config_hash(load(loaded, "model.trainable_stages=2"))
    yolo = "model: {name: yolov2}"
    assert (config_hash(load(yolo)), arm_hash(load(yolo))) == ("13c1304b", "4c64737d")
    assert set(UNLESS_SET) <= set(all_keys())


@pytest.fixture
def spellings(tmp_path, monkeypatch):
    """One folder under four names; the current folder is the one around it."""
    (tmp_path / "VOCdevkit").mkdir()
    (tmp_path / "link").symlink_to("VOCdevkit")
    monkeypatch.chdir(tmp_path)
    return [f"{tmp_path}/VOCdevkit", f"{tmp_path}/VOCdevkit/", "VOCdevkit", "link"]


def swept(roots, **data):
    """The trials of a sweep over ``roots``."""
    sections = {"data": {"name": "voc", **data}, "sweep": {"grid": {"data.root": roots}}}
    return expand(ExperimentConfig.model_validate_json(json.dumps(sections)))


def test_another_spelling_or_place_of_the_data_is_the_same_trial(load, spellings, monkeypatch):
    trials = [expand(load(f"data: {{root: {root}}}"))[0] for root in [*spellings, "/mnt/elsewhere"]]
    monkeypatch.setenv("FOCALBENCH_DATA", spellings[0])
    assert len({trial.name for trial in [*trials, *expand(load())]}) == 1


def test_in_a_sweep_over_roots_another_spelling_is_the_same_trial(spellings, monkeypatch):
    hashes = {trial.hash for root in spellings for trial in swept([root])}
    monkeypatch.setenv("FOCALBENCH_DATA", spellings[0])
    assert hashes == {trial.hash for trial in swept([None])}
    assert len(hashes) == 1
    assert len(swept(spellings)) == 1


def test_a_sweep_over_roots_has_a_trial_for_each_whatever_others_are_added():
    two = {trial.arm: trial.hash for trial in swept(["/a", "/b"])}
    three = {trial.arm: trial.hash for trial in swept(["/c", "/b", "/a"], root="/d")}
    assert list(two) == ["root=_a", "root=_b"]
    assert two.items() < three.items()
    assert len(set(three.values())) == 3


def test_a_home_folder_may_be_written_short(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert swept(["~/VOCdevkit"])[0].hash == swept(["/home/me/VOCdevkit"])[0].hash


def test_a_root_in_a_section_that_is_replaced_counts_as_one_that_is_set(monkeypatch):
    monkeypatch.delenv("FOCALBENCH_DATA", raising=False)
    entries = [{"data": {"name": "voc", "root": root}} for root in ("/a", "/b")]
    sweep = {"list": [*entries, {"data": {"name": "voc"}}, {"data": {"name": "synthetic"}}]}
    trials = expand(ExperimentConfig.model_validate_json(json.dumps({"sweep": sweep})))
    assert len({trial.hash for trial in trials}) == len({trial.arm for trial in trials}) == 4
    assert trials[0].hash == swept(["/a"])[0].hash


def test_roots_that_read_alike_in_a_folders_name_are_told_apart():
    first, second = swept(["/a/b", "/a_b"])
    assert first.arm == "root=_a_b"
    assert second.arm.startswith("root=_a_b-")
