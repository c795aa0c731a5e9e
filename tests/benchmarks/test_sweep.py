"""The sweep and the separate runs do the same work, and the figures belong together."""

import json
import os
import random
from pathlib import Path

import pytest
import torch
from PIL import Image

from focalbench.benchmarks import sweep
from focalbench.benchmarks.plain_data import DecodedEachTime, collate
from focalbench.benchmarks.plain_run import run
from focalbench.benchmarks.process import call_module
from focalbench.benchmarks.sweep import sweep_config, write_photographs
from focalbench.config.sweep import expand
from focalbench.data.check import check_data
from focalbench.data.synthetic import CLASSES
from focalbench.errors import ConfigError, FocalbenchError


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sweep, "PHOTO_SIDE", 64)
    return write_photographs(tmp_path / "set", 20, 2)


def test_the_photographs_are_a_sound_data_set_of_jpeg_files(photographs: Path) -> None:
    report = check_data(photographs, train=("2007/train",), val=("2007/val",))
    assert not report.errors
    files = list((photographs / "VOC2007" / "JPEGImages").iterdir())
    assert len(files) == 22
    assert {file.suffix for file in files} == {".jpg"}
    with Image.open(files[0]) as image:
        assert (image.format, image.size) == ("JPEG", (64, 64))


def test_the_plain_way_decodes_afresh_and_keeps_boxes_on_the_canvas(photographs: Path) -> None:
    data = DecodedEachTime(photographs / "VOC2007", "train", sorted(CLASSES), (32, 48))
    torch.manual_seed(0)
    random.seed(0)
    images, boxes, labels = collate([data[index] for index in range(len(data))])
    assert images.shape == (20, 3, 32, 48)
    assert boxes.shape[:2] == labels.shape
    real = boxes[labels >= 0]
    assert len(real) > 20
    assert (real[:, 2:] > real[:, :2]).all()
    assert real.min() >= 0
    assert (real <= torch.tensor([48.0, 32, 48, 32])).all()
    assert not torch.equal(images[0], data[0][0])  # another draw


def test_the_plain_run_takes_all_its_steps(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from focalbench.benchmarks import plain_run

    taken: list[int] = []
    real = plain_run.train_step

    def counting(state, images, targets, settings):  # type: ignore[no-untyped-def]
        taken.append(len(images))
        return real(state, images[..., :64, :64], targets, settings)

    monkeypatch.setattr(plain_run, "train_step", counting)
    (first, *_) = expand(sweep_config(photographs, 2, 3))
    found = run(first.config, sorted(CLASSES), num_loaders=0, device="cpu")
    assert taken == [16, 16, 16]
    assert found["loss"] > 0
    assert found["step_s"] > 0


def test_the_trials_differ_in_gamma_alone(photographs: Path) -> None:
    trials = expand(sweep_config(photographs, 3, 5))
    assert [trial.differs for trial in trials] == [{"loss.gamma": value} for value in (0.0, 0.5, 1.0)]


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Plain runs of 10 s each, 8 in steps (half of it with loaders); a sweep of 5 s, 3 in steps."""
    calls: list[tuple[int, int]] = []

    def separate(trials, device, num_loaders):  # type: ignore[no-untyped-def]
        calls.append((len(trials), num_loaders))
        factor = len(trials) / (2 if num_loaders else 1)
        return 10.0 * factor, 8.0 * factor

    monkeypatch.setattr(sweep, "PHOTO_SIDE", 64)
    monkeypatch.setattr(sweep, "time_separate", separate)
    monkeypatch.setattr(sweep, "time_sweep", lambda config, folder, device, side_by_side: (5.0, 3.0))
    return calls


def test_every_trial_is_in_both_yardsticks_and_ratios_are_theirs_over_ours(clocks: list[tuple[int, int]]) -> None:
    result = sweep.bench_sweep(device="cpu", num_trials=5, num_train=16)
    assert clocks == [(2, 0), (2, 2), (3, 0), (3, 2)]
    assert result["ratios"] == {"separate runs": 10.0, "separate runs, 2 loading processes each": 5.0}
    assert result["step_ratios"]["separate runs"] == pytest.approx(40 / 3)
    assert result["wanted"] == {"separate runs": 4.0}
    json.dumps(result)


def test_growth_with_trials_is_told_per_trial(clocks: list[tuple[int, int]]) -> None:
    rows = sweep.bench_trials(device="cpu", counts=(1, 2))
    assert [row["seconds_per_trial"] for row in rows] == [5.0, 2.5]


def test_a_run_that_fails_is_reported_with_its_last_words() -> None:
    with pytest.raises(FocalbenchError, match=r"json\.tool ended with 1: .*Expecting"):
        call_module(["json.tool"], os.environ, "{")


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there")
def test_a_gpu_that_is_not_there_is_named_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="cuda:7"):
        sweep.bench_sweep(device="cuda:7")


@pytest.mark.slow
def test_whole_and_for_real(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "PHOTO_SIDE", 64)
    result = sweep.bench_sweep(device="cpu", num_trials=2, steps=1, num_loaders=0, num_train=16)
    assert set(result["seconds"]) == {"one sweep", "separate runs"}
    assert all(result["seconds"][name] > result["step_seconds"][name] > 0 for name in result["seconds"])
