"""A trial's pictures: which evaluations write some, and a batch that shows what is trained on and changes nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from focalbench.config.load import load_config
from focalbench.data.transforms import MEAN, STD, normalise, pixels_of
from focalbench.errors import InterruptedTrial
from focalbench.experiment import build, events, pictures, trial
from focalbench.experiment.pictures import BATCH_TAG, picture_steps, write_batch_picture, write_val_pictures
from focalbench.experiment.trial import run_trial
from focalbench.figures import batch as batch_figure
from focalbench.records.result import TrialResult
from focalbench.runtime import StopFlag
from focalbench.trained.trial import load_trained
from focalbench.training.checkpoint import load_newest
from focalbench.training.evaluate import same_shape
from focalbench.training.loop import StepSettings

CPU = torch.device("cpu")


@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 19, 300])
def test_at_most_ten_evaluations_write_pictures_the_first_and_the_last_among_them(count: int) -> None:
    steps = [7 * number for number in range(1, count + 1)]
    chosen = sorted(picture_steps(reversed(steps)))
    assert len(chosen) == min(10, count)
    assert {steps[0], steps[-1]} <= set(chosen) <= set(steps)
    gaps = np.diff(chosen)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 7


def test_a_picture_is_normalisation_taken_back() -> None:
    images = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    assert torch.equal(pixels_of(normalise(images)), images.permute(0, 2, 3, 1))
    assert pixels_of(torch.tensor([[[[9.0]], [[0.0]], [[-9.0]]]])).flatten().tolist() == [255, round(MEAN[1]), 0]
    assert len(STD) == 3


def _config(write_config: Any, *lines: str) -> Any:
    return load_config(write_config(), ["run.checkpoint_every=1000", *lines]).trials[0]


@pytest.mark.parametrize("device", [CPU, pytest.param(torch.device("cuda"), marks=pytest.mark.gpu)])
@pytest.mark.parametrize("limit", [2, 9])
def test_the_images_are_those_of_the_batch(write_config: Any, limit: int, device: torch.device) -> None:
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    config = _config(write_config).config
    data = build.build_data(config)
    batches = build.build_batches(config, data.train, device)
    images, targets = batches(0)
    shown, learned, difficult = batches.first_images(0, limit)
    number = min(limit, config.optim.batch_size)
    assert torch.equal(shown, images[:number])
    width = learned.labels.shape[1]
    assert torch.equal(learned.labels, targets.labels[:number, :width])
    assert torch.equal(learned.boxes, targets.boxes[:number, :width])
    assert (difficult.labels == -1).all()
    assert torch.equal(batches(0)[0], images)
    assert torch.equal(batches(1)[0], build.build_batches(config, data.train, device)(1)[0])


class _Pictures:
    def __init__(self) -> None:
        self.given: list[tuple[int, str, np.ndarray]] = []

    def images(self, step: int, tag: str, image: np.ndarray) -> None:
        self.given.append((step, tag, image))


def test_difficult_objects_are_shown_as_not_learned(write_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(write_config, "data.augment={flip: 0, crop: false, color: false}").config
    data = build.build_data(config).train
    (index, *_) = build.build_batches(config, data, CPU)._indices(0)
    learned = len(data.records[index].boxes)
    data.records[index].difficult[0] = True
    data.__post_init__()
    drawn: list[Any] = []
    monkeypatch.setattr(
        "focalbench.experiment.pictures.draw_batch",
        lambda images, *rest: drawn.extend(images) or batch_figure.draw_batch(images, *rest),
    )
    pictures = _Pictures()
    write_batch_picture(pictures, build.build_batches(config, data, CPU), data.classes)
    ((step, tag, picture),) = pictures.given
    assert (step, tag, picture.shape[1], picture.dtype) == (0, BATCH_TAG, 960, np.uint8)
    assert len(drawn[0].boxes) == learned - 1
    assert drawn[0].ignored.shape == (1, 4)
    assert not drawn[1].ignored.size


def _train(config: Any, folder: Path) -> tuple[TrialResult, dict[str, Any]]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        quiet: dict[str, Any] = {"progress": lambda *_: None, "warn": lambda _: None}
        result = run_trial(config, folder, device="cpu", stop=StopFlag(), **quiet)
    finally:
        torch.set_num_threads(before)
    checkpoint = load_newest(folder / "checkpoints")
    assert checkpoint is not None
    return result, checkpoint


def test_pictures_leave_the_training_as_it_is(
    write_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(write_config)
    with_pictures, one = _train(config, tmp_path / "with")
    monkeypatch.setattr(trial, "write_batch_picture", lambda *_: None)
    monkeypatch.setattr(trial, "picture_steps", lambda _: frozenset())
    without, other = _train(config, tmp_path / "without")
    assert with_pictures.mean_ap == without.mean_ap
    assert one["model"].keys() == other["model"].keys()
    assert all(torch.equal(value, other["model"][name]) for name, value in one["model"].items())
    assert torch.equal(one["rng"]["torch"], other["rng"]["torch"])


def test_a_resumed_training_writes_the_pictures_of_an_undisturbed_one(
    write_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(write_config, "optim.steps=13", "data.num_train=4")
    drawn: list[int] = []
    monkeypatch.setattr(trial, "write_batch_picture", lambda *_: drawn.append(0))
    monkeypatch.setattr(events, "write_val_pictures", lambda tracker, step, *_: drawn.append(step))
    _train(config, tmp_path / "whole")
    whole = drawn.copy()
    drawn.clear()
    flag = StopFlag()

    def stop(step: int, *_: Any) -> None:
        if step >= 6:
            flag.request(15)

    with pytest.raises(InterruptedTrial):
        run_trial(config, tmp_path / "resumed", device="cpu", stop=flag, progress=stop, warn=lambda _: None)
    _train(config, tmp_path / "resumed")
    assert sorted(set(drawn)) == whole
    assert (whole[0], whole[-1], len(whole)) == (0, 13, 1 + 10)


def test_on_a_gpu_the_pictures_come_from_a_batch_of_the_evaluations_shape(
    trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_trained(trained.folder, device="cpu")
    settings, sizes, found = StepSettings(CPU, torch.float32, clip_norm=None), [], []

    def write(batch_size: int) -> list[str]:
        detection = replace(loaded.settings, batch_size=batch_size)
        tracker = _Pictures()
        write_val_pictures(tracker, 7, loaded.model, loaded.data(), detection, settings)
        return [tag for _, tag, _ in tracker.given]

    with loaded.model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0]))):
        found.append(write(5))
        gpu = torch.device("cuda")
        monkeypatch.setattr(pictures, "same_shape", lambda indices, size, _: same_shape(indices, size, gpu))
        found += [write(5), write(3)]
    assert sizes == [4, 5, 3, 3]
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 4
