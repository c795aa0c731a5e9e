"""Every experiment that ships is valid; scripts/small_forms.py runs them all before a release (docs/results.md)."""

import re
from pathlib import Path

import pytest
from small_forms import FILES, command, head_of, small_form

from focalbench.config.load import load_config


def test_the_folder_is_found() -> None:
    assert "quickstart.yaml" in {path.name for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_experiment_is_valid_and_says_its_command(path: Path) -> None:
    trials = load_config(path).trials
    assert trials
    assert f"focalbench run experiments/{path.name}" in head_of(path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_arms_differ_in_nothing_but_what_the_sweep_names(path: Path) -> None:
    trials = load_config(path).trials
    seeds = {trial.arm: set() for trial in trials}
    for trial in trials:
        seeds[trial.arm].add(trial.seed)
    assert len({frozenset(found) for found in seeds.values()}) == 1  # paired: every arm has every seed


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_small_form_has_all_arms_and_needs_neither_data_nor_a_gpu(path: Path) -> None:
    full, small = load_config(path).trials, load_config(path, small_form(path)).trials
    assert {trial.arm for trial in small} == {trial.arm for trial in full}
    for trial in small:
        config = trial.config
        assert (trial.seed, config.data.name, config.model.backbone) == (0, "synthetic", "tiny")
        assert config.model.weights == "none"
        assert config.data.image_size <= 128
        assert (config.optim.steps or 0) <= 150


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_commands_in_the_header_name_arms_and_folders_that_exist(path: Path) -> None:
    experiment = load_config(path)
    arms = {trial.arm for trial in experiment.trials}
    for folder, baseline in re.findall(r"focalbench compare runs/(\S+) --baseline (\S+)", head_of(path)):
        assert folder == experiment.config.name
        assert baseline in arms


def test_the_command_of_a_small_form_can_be_given_further_settings(tmp_path: Path) -> None:
    words = command(FILES[0], tmp_path, ["sweep.seeds=[0,1]"])
    assert words[3:5] == ["run", f"experiments/{FILES[0].name}"]
    assert words[-2:] == ["-s", "sweep.seeds=[0,1]"]
    assert words[words.index("--out") + 1] == str(tmp_path / FILES[0].stem)
