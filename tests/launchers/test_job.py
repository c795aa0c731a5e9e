"""A job survives its journey to a worker."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from focalbench.config.identity import config_hash
from focalbench.config.load import load_config
from focalbench.config.schema import ExperimentConfig
from focalbench.config.sweep import Trial, expand
from focalbench.launchers.job import Job


def _job(trial: Trial, folder: Path = Path("runs/t")) -> Job:
    return Job(trial=trial, folder=folder, devices=("cpu",), threads=1)


def test_a_job_comes_back_as_it_was_sent(write_config: Callable[..., Path]) -> None:
    path = write_config("sweep: {list: [{name: 'balanced ce', loss: {name: balanced_ce, alpha: auto}}]}")
    (trial,) = load_config(path).trials
    folder, log = Path("runs/with space/\u00fc\n"), Path("runs/workers.log")
    job = Job(trial=trial, folder=folder, devices=("cuda:1", "cuda:2"), threads=3, pause_at=0.5, log=log)
    line = job.to_line()
    assert line.isascii()
    assert line.isprintable()
    assert Job.from_line(line) == job


def test_a_folder_whose_name_is_no_utf8_comes_back_too() -> None:
    (trial,) = expand(ExperimentConfig())
    job = _job(trial, Path(os.fsdecode(b"runs/\xff")))
    assert Job.from_line(job.to_line()) == job


_NUMBERS = st.integers(0, 5) | st.floats(0, 5)
_LOSSES = st.one_of(
    st.fixed_dictionaries({"name": st.just("focal"), "gamma": _NUMBERS, "alpha": st.none() | st.just("auto")}),
    st.fixed_dictionaries({"name": st.just("balanced_ce"), "alpha": st.lists(st.floats(0, 1), min_size=1, max_size=3)}),
    st.lists(_NUMBERS, min_size=2, max_size=4).map(
        lambda values: {"name": "softmax_focal", "gamma": {"schedule": "cosine", "values": values}}
    ),
)


@given(
    loss=_LOSSES,
    image_size=st.integers(32, 4096) | st.lists(st.integers(32, 4096), min_size=2, max_size=2),
    warmup_steps=st.integers(0, 5) | st.floats(0, 1, exclude_min=True, exclude_max=True),
    lr=st.floats(1e-12, 100),
    seed=st.integers(0, 2**31 - 1),
)
def test_nothing_in_a_configuration_changes_on_the_way(
    loss: dict, image_size: object, warmup_steps: float, lr: float, seed: int
) -> None:
    sections = {
        "data": {"name": "voc", "root": "/a", "image_size": image_size},
        "optim": {"name": "sgd", "lr": lr, "warmup_steps": warmup_steps},
        "sweep": {"seeds": [seed], "list": [{"loss": loss}]},
    }
    (trial,) = expand(ExperimentConfig.model_validate_json(json.dumps(sections)))
    found = Job.from_line(_job(trial).to_line()).trial
    assert found == trial
    assert found.config.model_dump_json() == trial.config.model_dump_json()
    assert config_hash(found.config, found.differs) == trial.hash


@pytest.mark.parametrize(
    "change", [{"trial": None}, {"folder": 3}, {"devices": "cpu"}, {"threads": "many"}, {"new_key": 1}]
)
def test_a_job_of_another_version_is_refused(change: dict) -> None:
    (trial,) = expand(ExperimentConfig())
    line = json.dumps(json.loads(_job(trial).to_line()) | change)
    with pytest.raises(ValueError, match=next(iter(change))):
        Job.from_line(line)
