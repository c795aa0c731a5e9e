"""Whatever a file holds: a configuration, or a ConfigError of at most twenty lines that names the file."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from focalbench.config.dump import dump_yaml
from focalbench.config.faults import all_keys
from focalbench.config.load import load_config
from focalbench.errors import ConfigError

EXPERIMENTS = sorted((Path(__file__).parents[2] / "experiments").glob("*.yaml"))

KEYS = st.sampled_from([*all_keys(), *{key.rpartition(".")[2] for key in all_keys()}]) | st.text(max_size=5)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["ce", "focal", "adamw", "yolov2", "synthetic", "auto", "voc", "step", "tiny"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
SECTIONS = st.sampled_from(["name", "seed", "data", "model", "loss", "optim", "eval", "run", "sweep"])
SWEEP = st.fixed_dictionaries(
    {},
    optional={
        "seeds": st.lists(st.integers(-1, 3), max_size=3),
        "grid": st.dictionaries(KEYS, st.lists(SCALARS, max_size=3), max_size=2),
        "zip": st.dictionaries(KEYS, st.lists(SCALARS, max_size=2), max_size=2),
        "list": st.lists(st.dictionaries(KEYS, VALUES, max_size=3), max_size=2),
        "random": VALUES,
        "exclude": st.lists(st.dictionaries(KEYS, VALUES, max_size=2), max_size=2),
    },
)


def check(path, overrides=()):
    try:
        experiment = load_config(path, overrides)
    except ConfigError as error:
        lines = str(error).splitlines()
        assert 0 < len(lines) <= 20
        assert path.name in lines[0] or lines[0].startswith("-s "), lines[0]
        return
    assert experiment.trials
    path.write_text(dump_yaml(experiment.config), encoding="utf-8")
    assert load_config(path) == experiment


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "fuzz.yaml"


@settings(max_examples=150, deadline=None)
@given(data=st.dictionaries(SECTIONS | KEYS, VALUES, max_size=4) | st.fixed_dictionaries({"sweep": SWEEP}))
def test_any_yaml_mapping(path, data):
    path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8", errors="replace")
    check(path)


@settings(max_examples=100, deadline=None)
@given(raw=st.binary(max_size=60) | st.text("{}[]:,-&*!|>'\"#%@` \n\ta1.", max_size=40).map(str.encode))
def test_any_bytes(path, raw):
    path.write_bytes(raw)
    check(path)


@settings(max_examples=100, deadline=None)
@given(key=KEYS | st.text(max_size=10), value=st.text(max_size=10) | SCALARS.map(str))
def test_any_override(path, key, value):
    path.write_text("name: x\nloss: {name: focal}\nsweep: {grid: {loss.gamma: [1]}}\n")
    check(path, [f"{key}={value}"])


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_shipped_experiments_are_valid(path):
    trials = load_config(path).trials
    assert len({trial.name for trial in trials}) == len(trials)
    assert {trial.config.name for trial in trials} == {load_config(path).config.name}


def test_there_are_experiments_to_check():
    assert {"quickstart", "bccd", "gamma_alpha", "voc07", "voc0712"} <= {path.stem for path in EXPERIMENTS}
