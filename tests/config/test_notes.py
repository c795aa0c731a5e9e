"""Remarks on configurations that are valid but probably not meant."""

import json

import pytest

from focalbench.config.notes import notes
from focalbench.config.schema import ExperimentConfig
from focalbench.config.sweep import expand


def notes_of(**data):
    config = ExperimentConfig.model_validate_json(json.dumps(data))
    return notes(config, expand(config))


@pytest.fixture(autouse=True)
def data_folder(monkeypatch):
    monkeypatch.setenv("FOCALBENCH_DATA", "/data")


def test_defaults_need_no_remark():
    assert notes_of() == []


def test_one_seed_is_remarked_only_where_arms_are_compared():
    grid = {"loss.gamma": [1, 2]}
    assert any("one seed" in note for note in notes_of(sweep={"grid": grid}))
    assert notes_of(sweep={"grid": grid, "seeds": [0, 1]}) == []
    assert notes_of(sweep={"seeds": [0]}) == []


def test_each_remark_is_made_once_for_a_sweep():
    found = notes_of(data={"name": "voc", "image_size": [100, 128]}, sweep={"seeds": [0, 1, 2]})
    assert len(found) == 1
    assert "data.image_size" in found[0]


def test_missing_root(monkeypatch):
    monkeypatch.delenv("FOCALBENCH_DATA")
    assert any(note.startswith("data.root") for note in notes_of())
    assert notes_of(data={"name": "synthetic"}) == []
    assert notes_of(data={"name": "voc", "root": "x"}) == []


def test_weights_and_ema():
    assert "tiny" in notes_of(model={"name": "retinanet", "backbone": "tiny", "weights": "imagenet"})[0]
    assert "optim.ema" in notes_of(optim={"name": "sgd", "steps": 200, "ema": 0.9999})[0]
    assert notes_of(optim={"name": "sgd", "steps": 2000, "ema": 0.99}) == []
