"""Sections of plugins: keys as in the signature, everywhere where a built-in section's are."""

import json

import pytest

from focalbench.config.dump import dump_yaml
from focalbench.config.json_schema import json_schema
from focalbench.config.load import load_config, read_config, schema_of_plugins
from focalbench.config.schema import ExperimentConfig
from focalbench.config.sweep import Trial
from focalbench.errors import ConfigError, PluginError
from focalbench.launchers.job import Job
from focalbench.tracking.hparams import Column, columns_of

_HEAD = """\
from typing import Annotated, Literal
import torch
from pydantic import Field
import focalbench as fb

"""
_CLASS_FORM = (
    _HEAD
    + """\
@fb.loss("own")
class Own(fb.losses.ClassificationLoss):
    \"\"\"A class.\"\"\"

    activation = "softmax"

    def __init__(self, num_classes, *, gamma: Annotated[fb.losses.Schedulable, Field(ge=0)] = 1.0, cut: float = 0.5,
                 counts=None):
        super().__init__(num_classes, counts)
        self.keep("gamma", gamma)
"""
)
_TRACKERS = (
    _HEAD
    + """\
@fb.tracker("csv")
class Csv(fb.tracking.Tracker):
    def __init__(self, trial, *, every: Annotated[int, Field(ge=1)] = 1): ...

@fb.tracker("silent")
def silent(trial):
    return fb.tracking.Tracker()
"""
)
_DETECTOR = (
    _HEAD
    + """\
class Own(fb.losses.DetectionLoss):
    def __init__(self, classification, *, hardness: float = 1.0, **options):
        super().__init__(classification, **options)

@fb.detector("own", criterion=Own, canvas_multiple=48)
class Net(fb.models.Detector):
    def __init__(self, num_classes, *, activation="sigmoid", pre_nms_top=100, depth: int = 2, prior_prob: float = 0.1):
        super().__init__(num_classes, activation=activation, pre_nms_top=pre_nms_top)
"""
)


def load(*overrides: str, text: str = "plugins: [mine.py]\nloss: {name: my_focal}\n"):
    with open("exp.yaml", "w") as file:
        file.write(text)
    return load_config("exp.yaml", overrides)


def resolved_loss(*overrides: str, **options) -> dict:
    (trial,) = load(*overrides, **options).trials
    return trial.config.loss.model_dump()


def test_keys_defaults_and_what_all_losses_share(plugin):
    plugin()
    section = resolved_loss()
    assert len(section.pop("source")) == 16
    assert section == {
        "name": "my_focal", "gamma": 2.0, "alpha": 0.25,
        "weight": 1.0, "match_scale": False, "apply_to": "class", "activation": "sigmoid",
    }  # fmt: skip
    (trial,) = load("loss.gamma=1").trials
    assert trial.config.loss.parameters() == {"gamma": 1.0, "alpha": 0.25}


def test_a_float_takes_a_schedule_and_alpha_auto(plugin):
    plugin()
    schedule = {"schedule": "linear", "values": [0.0, 2.0], "at": None}
    assert resolved_loss("loss.gamma={schedule: linear, values: [0, 2]}")["gamma"] == schedule
    assert resolved_loss("loss.alpha=auto")["alpha"] == "auto"
    with pytest.raises(ConfigError, match="gamma takes a number or a schedule"):
        load("loss.gamma=auto")
    with pytest.raises(ConfigError, match=r"loss\.gamma\.values\[1\]: should be at least 0, not -1"):
        load("loss.gamma={schedule: linear, values: [0, -1]}")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("loss.gama=1", "loss.gama: unknown key; did you mean 'gamma'"),
        ("loss.gamma=-1", "loss.gamma: should be at least 0, not -1"),
        ("loss.alpha=2", "loss.alpha: should be at most 1, not 2"),
        ("loss.name=my_vocal", "did you mean 'my_focal'"),
        ("loss.source=0123456789abcdef", "loss.source: is .* in mine.py, not 0123456789abcdef: focalbench writes"),
        ("plugins=[]", "loss.name: should be one of ce, "),
        ("plugins=[mien.py]", r"plugins\[0\]: mien.py: no such file; did you mean mine.py"),
        ("plugins=mine.py", "plugins: should be a list, not 'mine.py'"),
        ("sweep.grid={plugins: [[mine.py]]}", "'plugins' cannot be swept"),
    ],
)
def test_a_fault_is_told_as_for_a_built_in_loss(plugin, override, words):
    plugin()
    with pytest.raises(ConfigError, match=words):
        load(override)


def test_a_fault_of_a_file_is_told_with_the_line_that_names_it(plugin):
    plugin("1 / 0\n")
    with pytest.raises(ConfigError, match=r"exp\.yaml:1:11: plugins\[0\]: mine\.py:1: ZeroDivisionError"):
        load()


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ("temperature", "temperature has no default, which every key needs"),
        ("device: torch.device = torch.device('cpu')", "device is a device, which YAML does not have"),
        ("table=None", "table needs a type, such as table: float = 1.0"),
        ("table: dict = {}", "table is a dict, which YAML does not have"),
        ("gamma: Annotated[float, Field(ge=0)] = -1.0", "its own default -1.0 is refused"),
        ("weight: float = 1.0", "weight is a key that focalbench itself uses here"),
        ("source: str = 'x'", "source is a key that focalbench itself uses here"),
        ("gamma: Undefined = 1.0", "an annotation cannot be read"),
    ],
)
def test_a_parameter_that_cannot_be_a_key_is_refused(plugin, parameters, words):
    text = f'{_HEAD}from __future__ import annotations\n@fb.loss("own")\ndef own(x, y, *, {parameters}): ...\n'
    plugin("from __future__ import annotations\n" + text.replace("from __future__ import annotations\n", ""))
    with pytest.raises(PluginError, match=rf"mine\.py:\d+: own: .*{words}"):
        schema_of_plugins(["mine.py"])


def test_one_name_in_two_plugins_is_refused_and_one_plugin_may_be_named_twice(plugin):
    plugin()
    plugin(f'{_HEAD}@fb.loss("my_focal")\ndef f(x, y): ...\n', "other.py")
    with pytest.raises(PluginError, match=r"other\.py:6: the loss my_focal is defined at mine\.py:8 too"):
        schema_of_plugins(["mine.py", "other.py"])
    assert schema_of_plugins(["mine.py", "mine.py"])


def test_names_of_built_in_parts_are_taken(plugin):
    plugin(f'{_HEAD}@fb.loss("focal")\ndef f(x, y): ...\n')
    with pytest.raises(PluginError, match=r"mine\.py:6: the loss focal is built in: give yours another name"):
        schema_of_plugins(["mine.py"])


def test_types_that_yaml_has_are_kept_and_one_without_annotation_is_that_of_its_default(plugin):
    keys = "kind: Literal['a', 'b'] = 'a', sides: tuple[float, float] = (1, 2), top: int | None = None, bins=30"
    plugin(f'{_HEAD}@fb.loss("my_focal")\ndef f(x, y, *, {keys}): ...\n')
    section = resolved_loss("loss.sides=[3, 4]")
    assert {key: section[key] for key in ("kind", "sides", "top", "bins")} == {
        "kind": "a", "sides": [3.0, 4.0], "top": None, "bins": 30,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"loss\.bins: should be a whole number"):
        load("loss.bins=1.5")


def test_a_class_says_itself_which_numbers_move(plugin):
    plugin(_CLASS_FORM)
    text = "plugins: [mine.py]\nloss: {name: own}\n"
    assert resolved_loss("loss.gamma={schedule: step, values: [0, 1]}", text=text)["activation"] == "softmax"
    with pytest.raises(ConfigError, match=r"loss\.cut: should be a number"):
        load("loss.cut={schedule: step, values: [0, 1]}", text=text)


def test_trackers_are_named_alone_or_with_keys_and_belong_to_no_identity(plugin):
    plugin(_TRACKERS)
    text = "plugins: [mine.py]\nrun: {trackers: [silent, {name: csv, every: 2}]}\n"
    (trial,) = load(text=text).trials
    assert [(section.name, section.model_extra) for section in trial.config.run.trackers] == [
        ("silent", {}), ("csv", {"every": 2}),
    ]  # fmt: skip
    assert [source.name for source in trial.plugins] == ["mine.py"]
    assert trial.hash == load(text="seed: 0").trials[0].hash
    for override, words in {
        "run.trackers=[cvs]": "run.trackers.*should be one of csv, silent, not 'cvs'; did you mean 'csv'",
        "run.trackers=[{name: csv, every: 0}]": r"run.trackers\[0\].every: should be at least 1",
        "plugins=[]": r"run.trackers\[0\]: no such tracker, and nothing in `plugins` provides it",
    }.items():
        with pytest.raises(ConfigError, match=words):
            load(override, text=text)


def test_a_detector_has_the_keys_of_network_and_criterion(plugin):
    plugin(_DETECTOR)
    text = "plugins: [mine.py]\nmodel: {name: own, depth: 3}\ndata: {image_size: 96}\n"
    section = load(text=text).trials[0].config.model.model_dump(exclude={"source"})
    assert section == {
        "name": "own", "depth": 3, "prior_prob": 0.1, "hardness": 1.0,
        "pos_iou": 0.5, "neg_iou": 0.4, "box_weight": 1.0, "box_beta": 0.1,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"data\.image_size: should be a multiple of 48 for own"):
        load("data.image_size=64", text=text)
    with pytest.raises(ConfigError, match=r"loss\.apply_to: 'both' needs model yolov2: own has no objectness"):
        load("loss.apply_to=both", text=text)


_SWEEP = """\
plugins: [mine.py]
sweep:
  seeds: 2
  list: [{name: ce, loss: {name: ce}}]
  grid: {loss.name: [focal, my_focal]}
"""


def hashes() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for trial in load(text=_SWEEP).trials:
        found.setdefault(trial.arm, []).append(trial.hash)
    return found


def test_an_edit_makes_other_trials_of_the_arms_that_use_the_plugin_alone(plugin, tmp_path):
    plugin()
    first = hashes()
    plain = load(text="sweep: {seeds: 2, list: [{name: ce, loss: {name: ce}}]}").trials
    assert first["ce"] == [trial.hash for trial in plain]
    (tmp_path / "mine.py").write_text((tmp_path / "mine.py").read_text() + "# a comment\n")
    second = hashes()
    assert second["ce"] == first["ce"]
    assert second["loss=focal"] == first["loss=focal"]
    assert not set(second["loss=my_focal"]) & set(first["loss=my_focal"])


def test_only_trials_that_use_a_plugin_carry_its_source(plugin):
    plugin()
    assert {trial.arm: len(trial.plugins) for trial in load(text=_SWEEP).trials} == {
        "ce": 0, "loss=my_focal": 1, "loss=focal": 0,
    }  # fmt: skip


def test_a_trial_travels_and_is_read_without_its_plugin(plugin, tmp_path, monkeypatch):
    plugin()
    trial = load("loss.gamma={schedule: linear, values: [0, 2]}").trials[0]
    job = Job(trial=trial, folder=tmp_path, devices=("cpu",), threads=1)
    (tmp_path / "mine.py").unlink()
    assert Job.from_line(job.to_line()) == job
    (tmp_path / "config.yaml").write_text(dump_yaml(trial.config))
    monkeypatch.setattr("focalbench.plugins.loading.load_plugins", lambda sources: pytest.fail("executed"))
    assert read_config(tmp_path / "config.yaml") == trial.config


def test_the_resolved_configuration_can_be_run_again(plugin):
    plugin()
    first = load(text=_SWEEP)
    with open("again.yaml", "w") as file:
        file.write(dump_yaml(first.config))
    assert [trial.hash for trial in load_config("again.yaml").trials] == [trial.hash for trial in first.trials]


def test_a_name_that_no_plugin_brings_is_refused_though_the_section_says_its_source(plugin):
    plugin()
    text = "loss: {name: gone, source: 0123456789abcdef, activation: sigmoid}\n"
    with pytest.raises(ConfigError, match=r"loss.name: is not built in, and nothing in `plugins` provides"):
        load(text=text)
    with pytest.raises(ConfigError, match=r"should be one of ce, .*my_focal, not 'gone'"):
        load(text="plugins: [mine.py]\n" + text)


def test_editors_and_hparams_know_the_keys(plugin):
    plugin()
    schema = json_schema(schema_of_plugins(["mine.py"]))
    section = schema["definitions"]["loss_my_focal"]["properties"]
    assert section["gamma"]["anyOf"][0] == {"minimum": 0, "type": "number"}
    assert "loss_my_focal" not in json.dumps(json_schema())
    ce = next(trial for trial in load(text=_SWEEP).trials if trial.arm == "ce")
    columns = columns_of(ExperimentConfig.model_json_schema(), ce.plugin_schema)
    assert "my_focal" in columns["loss.name"].values
    assert columns["loss.source"] == Column("string", columns["loss.source"].values)


def test_a_trial_without_plugins_has_no_trace_of_them(plugin):
    trial = load(text="seed: 0").trials[0]
    assert type(trial.config) is ExperimentConfig
    assert (trial.plugins, trial.plugin_schema, trial.config.plugins) == ((), {}, ())
    assert isinstance(trial, Trial)
