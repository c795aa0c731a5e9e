"""The data folder from the configuration or the environment."""

from pathlib import Path

import pytest

from focalbench.config.data import SyntheticData, VocData
from focalbench.config.paths import data_root
from focalbench.config.schema import ExperimentConfig
from focalbench.errors import ConfigError


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("FOCALBENCH_DATA", raising=False)


def test_root_of_the_file_wins_over_the_environment(monkeypatch):
    config = ExperimentConfig(data=VocData(root="a/b"))
    assert data_root(config) == Path("a/b")
    monkeypatch.setenv("FOCALBENCH_DATA", "/env")
    assert data_root(config) == Path("a/b")
    assert data_root(ExperimentConfig()) == Path("/env")
    assert data_root(ExperimentConfig(data=SyntheticData())) == Path("/env")


def test_missing_root_says_the_ways_out(monkeypatch):
    for value in (None, ""):
        if value is not None:
            monkeypatch.setenv("FOCALBENCH_DATA", value)
        with pytest.raises(ConfigError, match=r"data\.root.*-s data\.root=DIR.*FOCALBENCH_DATA"):
            data_root(ExperimentConfig())


def test_home_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert data_root(ExperimentConfig(data=VocData(root="~/voc"))) == Path("/home/me/voc")
