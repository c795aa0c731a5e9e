"""Every experiment that ships is valid, and is run in a small form by hand before a release (docs/results.md)."""

from pathlib import Path

import pytest

from focalbench.config.load import load_config
from focalbench.config.sweep import expand

_FOLDER = Path(__file__).parent.parent / "experiments"
_FILES = sorted(_FOLDER.glob("*.yaml"))


def test_the_folder_is_found() -> None:
    assert "quickstart.yaml" in {path.name for path in _FILES}


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.name)
def test_an_experiment_is_valid_and_says_its_command(path: Path) -> None:
    trials = expand(load_config(path))
    assert trials
    head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert f"focalbench run experiments/{path.name}" in head


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.name)
def test_arms_differ_in_nothing_but_what_the_sweep_names(path: Path) -> None:
    trials = expand(load_config(path))
    seeds = {trial.arm: set() for trial in trials}
    for trial in trials:
        seeds[trial.arm].add(trial.seed)
    assert len({frozenset(found) for found in seeds.values()}) == 1  # paired: every arm has every seed
