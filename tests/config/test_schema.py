"""The configuration's models: documented, frozen, bounded, consistent."""

import json
from itertools import product

import pytest
from pydantic import ValidationError

from focalbench.config.base import Section
from focalbench.config.faults import BRANCHES, all_keys, default_name, models_in, variants
from focalbench.config.optim import AdamWConfig, SgdConfig
from focalbench.config.schema import ExperimentConfig


def every_model(model=ExperimentConfig):
    found = {model}
    for field in model.model_fields.values():
        for inner in models_in(field.annotation):
            found |= every_model(inner)
    return found


def validated(**data):
    return ExperimentConfig.model_validate_json(json.dumps(data), strict=True)


def test_every_key_is_documented_and_every_model_is_frozen_and_closed():
    for model in every_model():
        assert model.__doc__ or model.__name__.startswith("_"), model
        assert model.model_config["frozen"], model
        assert model.model_config["extra"] == "forbid", model
        for key, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{key}"


def test_defaults_are_valid_by_their_own_rules():
    for branch in BRANCHES:
        for name, model in variants(branch).items():
            fields = {key: field for key, field in model.model_fields.items() if not field.is_required()}
            assert model.model_validate(model().model_dump(include=set(fields))) == model(), (branch, name)


def test_contract_example_is_valid():
    config = validated(
        name="gamma-alpha",
        seed=0,
        data={
            "name": "voc",
            "root": "data/VOCdevkit",
            "train": ["2007/trainval"],
            "val": ["2007/test"],
            "classes": "auto",
            "image_size": 320,
            "cache": "auto",
            "augment": {"flip": 0.5, "crop": True, "color": True},
        },
        model={"name": "retinanet", "backbone": "resnet18", "weights": "none", "prior_prob": 0.01},
        loss={"name": "focal", "gamma": 2.0, "alpha": 0.25, "weight": 1.0, "match_scale": False},
        optim={
            "name": "sgd",
            "lr": 0.01,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "schedule": "cosine",
            "warmup_steps": 100,
            "epochs": 12,
            "batch_size": 16,
            "clip_norm": 10.0,
            "precision": "auto",
            "ema": None,
        },
        eval={"every": 1, "protocol": "voc07", "score_thresh": 0.05, "nms_thresh": 0.5, "max_detections": 100},
        run={
            "launcher": "local",
            "devices": 1,
            "trials_per_device": 1,
            "retries": 2,
            "keep_checkpoints": 2,
            "on_divergence": "stop",
        },
    )
    defaults = ExperimentConfig(name="gamma-alpha").model_dump()
    defaults["data"]["root"] = "data/VOCdevkit"
    assert config.model_dump() == defaults  # the contract's example is also the list of defaults


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ({"optim": {"name": "sgd", "epochs": 3, "steps": 5}}, "steps"),
        ({"optim": {"name": "sgd", "epochs": None, "steps": None}}, "epochs"),
        ({"optim": {"name": "sgd", "steps": 50, "warmup_steps": 50}}, "warmup_steps"),
        ({"optim": {"name": "sgd", "schedule": "one_cycle", "warmup_power": 4}}, "warmup_power"),
        ({"optim": {"name": "adamw", "warmup_power": 1}}, "warmup_power"),
        ({"optim": {"name": "sgd", "milestones": [0.9, 0.5]}}, "milestones"),
        ({"model": {"name": "retinanet", "pos_iou": 0.3}}, "neg_iou"),
        ({"model": {"name": "retinanet", "norm": "frozen"}}, "norm"),
        ({"model": {"name": "yolov2", "multiscale": [608, 320]}}, "multiscale"),
        ({"model": {"name": "yolov2"}, "data": {"name": "voc", "image_size": 300}}, "data.image_size"),
        ({"loss": {"name": "focal", "apply_to": "objectness"}}, "loss.apply_to"),
        ({"data": {"name": "voc", "train": ["2007/a"], "val": ["2007/a"]}}, "val"),
        ({"data": {"name": "voc", "augment": {"scale": [2, 1]}}}, "scale"),
    ],
)
def test_keys_that_contradict_each_other(data, key):
    with pytest.raises(ValidationError) as caught:
        validated(**data)
    (detail,) = caught.value.errors()
    assert detail["ctx"]["key"] == key


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("data", "image_size", 8192),
        ("data", "image_size", 16),
        ("data", "image_size", [320]),
        ("data", "image_size", [320, 320, 320]),
        ("data", "train", []),
        ("data", "train", ["trainval"]),
        ("data", "train", ["2007/../../etc"]),
        ("data", "train", ["2007/a", "2007/a"]),
        ("data", "classes", []),
        ("data", "classes", ["a", "a"]),
        ("data", "classes", ["a/b"]),
        ("data", "classes", "coco"),
        ("data", "augment", {"flip": 1.1}),
        ("model", "prior_prob", 0),
        ("model", "prior_prob", 1),
        ("model", "anchor_ratios", []),
        ("model", "fpn_channels", 10**6),
        ("loss", "gamma", -1),
        ("loss", "alpha", 1.5),
        ("loss", "weight", 0),
        ("optim", "lr", 0),
        ("optim", "lr", 1e9),
        ("optim", "momentum", 1),
        ("optim", "batch_size", 10**6),
        ("optim", "batch_size", 0),
        ("optim", "batch_size", 1.5),
        ("optim", "epochs", 10**12),
        ("optim", "warmup_steps", -1),
        ("optim", "warmup_steps", 1.5),
        ("optim", "warmup_power", 0),
        ("optim", "ema", 1),
        ("optim", "clip_norm", 0),
        ("eval", "max_detections", 10**9),
        ("eval", "score_thresh", 2),
        ("eval", "every", 0),
        ("run", "devices", 0),
        ("run", "device", "cuda:x"),
        ("run", "device", "tpu"),
        ("run", "retries", -1),
    ],
)
def test_values_out_of_range(section, key, value):
    inner = {"name": default_name(section)} if section in BRANCHES else {}
    with pytest.raises(ValidationError) as caught:
        validated(**{section: {**inner, key: value}})
    assert any(key in detail["loc"] or detail["ctx"].get("key") == key for detail in caught.value.errors())


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("section", "key"), [("optim", "lr"), ("loss", "gamma"), ("loss", "weight"), ("data", "flip")])
def test_numbers_that_are_not_finite(section, key, number):
    inner = {"augment": {"flip": number}} if key == "flip" else {key: number}
    with pytest.raises(ValidationError):
        validated(**{section: {"name": default_name(section), **inner}})


def test_names_that_could_leave_the_runs_folder_are_refused():
    for name in ("../x", "a/b", "", ".hidden", "a b", "x" * 101, "-s"):
        with pytest.raises(ValidationError):
            validated(name=name)


@pytest.mark.parametrize("optimizer", [SgdConfig, AdamWConfig])
def test_length_of_training_is_twelve_epochs_unless_given(optimizer):
    assert (optimizer().epochs, optimizer().steps) == (12, None)
    assert (optimizer(steps=5, warmup_steps=0).epochs, optimizer(epochs=3).epochs) == (None, 3)


def test_warmup_may_be_a_share_of_the_training():
    assert validated(optim={"name": "sgd", "warmup_steps": 0.15}).optim.warmup_steps == 0.15
    assert validated(optim={"name": "sgd", "warmup_steps": 0}).optim.warmup_steps == 0


def test_default_of_each_branch_is_one_of_its_variants():
    for branch in BRANCHES:
        assert default_name(branch) in variants(branch)


def test_sections_share_one_base():
    assert all(issubclass(model, Section) for model in every_model())
    assert issubclass(ExperimentConfig, Section)
    assert {"loss.gamma", "optim.lr", "data.augment.flip", "sweep.random.num"} <= set(all_keys())


def test_no_two_variants_give_one_key_two_meanings_of_type():
    """A key kept when a section changes its variant must mean the same there: same name, overlapping types."""
    for branch, key in product(BRANCHES, ["weights", "prior_prob", "lr", "weight_decay", "schedule"]):
        docs = {m.model_fields[key].annotation for m in variants(branch).values() if key in m.model_fields}
        assert len(docs) <= 1, (branch, key)
