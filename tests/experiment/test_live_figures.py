"""Figures during training cost no more than their budget and change nothing."""

from typing import Any

import numpy as np
import pytest
import torch

from focalbench.experiment import live_figures
from focalbench.experiment.live_figures import TAG, LiveLossFigures
from focalbench.trained.trial import TrainedTrial, load_trained
from focalbench.training.evaluate import same_shape
from focalbench.training.loop import StepSettings


class _Pictures:
    """A tracker that keeps what it is given."""

    def __init__(self) -> None:
        self.given: list[tuple[int, str, np.ndarray]] = []

    def images(self, step: int, tag: str, image: np.ndarray) -> None:
        self.given.append((step, tag, image))


@pytest.fixture(scope="module")
def loaded(trained: Any) -> TrainedTrial:
    return load_trained(trained.folder, device="cpu")


def _figures(loaded: TrainedTrial, **options: Any) -> LiveLossFigures:
    settings = StepSettings(torch.device("cpu"), torch.float32, clip_norm=None)
    return LiveLossFigures(loaded.data(), batch_size=4, settings=settings, **options)


def test_a_picture_is_logged_and_the_training_is_left_alone(loaded: TrainedTrial) -> None:
    pictures, figures = _Pictures(), _figures(loaded)
    loaded.model.train()
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    criterion = {name: value.clone() for name, value in loaded.criterion.state_dict().items()}
    random = torch.get_rng_state()
    assert figures.log(pictures, 40, loaded.model, loaded.criterion, train_seconds=1e4)
    assert loaded.model.training
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items())
    assert all(torch.equal(value, criterion[name]) for name, value in loaded.criterion.state_dict().items())
    loaded.model.eval()
    ((step, tag, picture),) = pictures.given
    assert (step, tag, picture.dtype) == (40, TAG, np.uint8)
    assert picture.std() > 10


def test_pictures_stop_where_the_budget_ends(loaded: TrainedTrial, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 3))  # each picture takes 3 seconds
    monkeypatch.setattr(live_figures.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(LiveLossFigures, "_picture", lambda self, histogram, step: np.zeros((2, 2, 3), np.uint8))
    pictures, figures = _Pictures(), _figures(loaded)
    made = [
        figures.log(pictures, step, loaded.model, loaded.criterion, train_seconds=step) for step in range(0, 601, 50)
    ]
    assert 3 * sum(made) <= 0.02 * 600
    assert [step for step, _, _ in pictures.given] == [50, 300, 450, 600]


def test_the_sample_is_spread_over_the_set(loaded: TrainedTrial) -> None:
    assert _figures(loaded, num_images=3)._indices.tolist() == [0, 2, 5]
    assert len(_figures(loaded, num_images=100)._indices) == 6


def test_on_a_gpu_all_batches_have_one_shape_and_what_fills_them_is_not_counted(
    loaded: TrainedTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures, sizes = _figures(loaded), []
    plain = figures._measure(loaded.model, loaded.criterion)
    gpu = torch.device("cuda")
    monkeypatch.setattr(live_figures, "same_shape", lambda indices, size, _: same_shape(indices, size, gpu))
    with loaded.model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0]))):
        padded = figures._measure(loaded.model, loaded.criterion)
    assert sizes == [4, 4]  # six images
    assert padded.positives.sum() == plain.positives.sum()
    assert padded.negatives.sum() == plain.negatives.sum()
