"""Every experiment that ships is valid, and is run in a small form by hand before a release (docs/results.md)."""

import re
import shlex
from pathlib import Path

import pytest

from focalbench.config.load import load_config
from focalbench.config.sweep import expand

_FOLDER = Path(__file__).parent.parent / "experiments"
_FILES = sorted(_FOLDER.glob("*.yaml"))
_SMALL_FORM = re.compile(r"^# Small form \(generated images, two cores\):\n((?:#   -s .*\n)+)", re.MULTILINE)


def _head(path: Path) -> str:
    return "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))


def _small_form(path: Path) -> list[str]:
    """The settings of the header's small form, as ``KEY=VALUE``."""
    (lines,) = _SMALL_FORM.findall(_head(path))
    return [word for word in shlex.split(lines.replace("#", "")) if word != "-s"]


def test_the_folder_is_found() -> None:
    assert "quickstart.yaml" in {path.name for path in _FILES}


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.name)
def test_an_experiment_is_valid_and_says_its_command(path: Path) -> None:
    trials = expand(load_config(path))
    assert trials
    assert f"focalbench run experiments/{path.name}" in _head(path)


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.name)
def test_arms_differ_in_nothing_but_what_the_sweep_names(path: Path) -> None:
    trials = expand(load_config(path))
    seeds = {trial.arm: set() for trial in trials}
    for trial in trials:
        seeds[trial.arm].add(trial.seed)
    assert len({frozenset(found) for found in seeds.values()}) == 1  # paired: every arm has every seed


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.name)
def test_the_small_form_has_all_arms_and_needs_neither_data_nor_a_gpu(path: Path) -> None:
    full, small = expand(load_config(path)), expand(load_config(path, _small_form(path)))
    assert {trial.arm for trial in small} == {trial.arm for trial in full}
    for trial in small:
        config = trial.config
        assert (trial.seed, config.data.name, config.model.backbone) == (0, "synthetic", "tiny")
        assert config.model.weights == "none"
        assert config.data.image_size <= 128
        assert (config.optim.steps or 0) <= 150


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.name)
def test_commands_in_the_header_name_arms_and_folders_that_exist(path: Path) -> None:
    config = load_config(path)
    arms = {trial.arm for trial in expand(config)}
    for folder, baseline in re.findall(r"focalbench compare runs/(\S+) --baseline (\S+)", _head(path)):
        assert folder == config.name
        assert baseline in arms
