"""``validate``, ``show`` and ``schema``."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from focalbench.cli import app
from focalbench.config.load import load_config
from focalbench.errors import ConfigError

SWEEP = """
data: {name: synthetic}
sweep: {seeds: [0, 1, 2, 5], grid: {loss.gamma: [1, 2]}}
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(SWEEP)
    return path


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result


def test_validate_lists_arms_and_seeds(path):
    lines = call("validate", path).stdout.splitlines()
    assert lines[0] == f"{path}: valid; 8 trials: 2 arms, 4 seeds"
    assert [line.split() for line in lines[3:]] == [["gamma=1", "0-2", "5"], ["gamma=2", "0-2", "5"]]


def test_validate_of_one_trial_and_of_one_arm(path):
    assert call("validate", path, "-s", "sweep=null").stdout == f"{path}: valid; 1 trial\n"
    assert "2 trials: 1 arm, 2 seeds" in call("validate", path, "-s", "sweep={seeds: [0, 1]}").stdout


def test_validate_json_is_one_document(path):
    document = json.loads(call("validate", path, "--json").stdout)
    assert document["valid"] is True
    assert len(document["trials"]) == 8
    assert document["trials"][0]["arm"] == "gamma=1"
    assert document["trials"][0]["differs"] == {"loss.gamma": 1}


def test_validate_json_of_an_invalid_file_is_one_document_too(path):
    arguments = ["validate", str(path), "--json", "-s", "loss.gama=1", "-s", "optim.lr=-1"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 2
    document = json.loads(result.stdout)
    assert document["valid"] is False
    assert len(document["errors"]) == 2
    assert any("loss.gama: unknown key" in error for error in document["errors"])


def test_remarks_go_to_stderr(path):
    result = call("validate", path, "-s", "sweep.seeds=[0]")
    assert "one seed" in result.stderr
    assert "one seed" not in result.stdout


def test_show_is_the_resolved_file(path, tmp_path):
    text = call("show", path, "-s", "loss.gamma=5", "--set", "sweep=null").stdout
    assert yaml.safe_load(text)["loss"] == {
        "name": "focal", "weight": 1.0, "match_scale": False, "apply_to": "class", "gamma": 5.0, "alpha": 0.25
    }  # fmt: skip
    (tmp_path / "b.yaml").write_text(text)
    assert load_config(tmp_path / "b.yaml").config == load_config(path, ["loss.gamma=5", "sweep=null"]).config


def test_schema_is_json():
    assert json.loads(call("schema").stdout)["title"]


def test_faults_come_out_as_config_errors(tmp_path):
    for command in ("validate", "show"):
        with pytest.raises(ConfigError, match="no such file"):
            CliRunner().invoke(app, [command, str(tmp_path / "none.yaml")], catch_exceptions=False)
