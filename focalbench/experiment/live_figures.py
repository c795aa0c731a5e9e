"""Where the loss lies, in TensorBoard while a trial trains, within a budget of time."""

from __future__ import annotations

import time

import numpy as np
import torch

from focalbench.data.dataset import DetectionData
from focalbench.experiment.margins import count_margins
from focalbench.figures import figure_pixels
from focalbench.figures.loss_distribution import loss_distribution_figure
from focalbench.losses.criterion import Criterion
from focalbench.metrics.loss_histogram import MarginHistogram, figure_4_curves
from focalbench.models.detector import Detector
from focalbench.tracking.tracker import Tracker
from focalbench.training.evaluate import run_batch, same_shape
from focalbench.training.loop import StepSettings

TAG = "val/loss_distribution"
_FIRST_GUESS_S = 0.6  # of one picture, before one was made: matplotlib is imported then


class LiveLossFigures:
    """Makes one picture an evaluation, from a sample of the evaluation images, without augmentation.

    All pictures of a process together take at most ``budget`` of the training time so far: where evaluations follow
    each other quickly, some go without. Nothing that the training depends on changes.

    Args:
        data: the evaluation images.
        batch_size: images at once.
        settings: device and precision of the training.
        num_images: sample size; the images are spread over ``data`` and always the same.
        budget: share of the training time.
    """

    def __init__(
        self,
        data: DetectionData,
        *,
        batch_size: int,
        settings: StepSettings,
        num_images: int = 32,
        budget: float = 0.02,
    ) -> None:
        self._data = data
        self._batch_size, self._settings = batch_size, settings
        self._indices = np.unique(np.linspace(0, len(data) - 1, min(num_images, len(data))).round().astype(np.int64))
        self._budget = budget
        self._spent, self._last = 0.0, _FIRST_GUESS_S

    def log(self, tracker: Tracker, step: int, model: Detector, criterion: Criterion, train_seconds: float) -> bool:
        """Hands the picture of this moment to ``tracker``, unless the budget is spent; says whether it did.

        ``model``, the network that is evaluated, is left in the mode that it came in. After infinite
        ``train_seconds`` there is always a picture: what a finished training shows last.
        """
        if self._spent + self._last > self._budget * train_seconds:
            return False
        began = time.perf_counter()
        tracker.images(step, TAG, self._picture(self._measure(model, criterion), step))
        self._last = time.perf_counter() - began
        self._spent += self._last
        return True

    @torch.no_grad()
    def _measure(self, model: Detector, criterion: Criterion) -> MarginHistogram:
        was_training = model.training
        model.eval()
        histogram, device = MarginHistogram.empty(), self._settings.device
        batch_size = min(self._batch_size, len(self._data))
        for start in range(0, len(self._indices), batch_size):
            indices = self._indices[start : start + batch_size]
            images = self._data.normalised(same_shape(indices.tolist(), batch_size, device), device)
            outputs = run_batch(model, images, self._settings.precision).of_first(len(indices))
            targets = self._data.targets(indices).to(device)
            problem = criterion.class_problem(outputs, targets)
            histogram += count_margins(problem, criterion.classification.activation)
        model.train(was_training)
        return histogram

    def _picture(self, histogram: MarginHistogram, step: int) -> np.ndarray:
        curves = figure_4_curves(histogram.positives), figure_4_curves(histogram.negatives)
        return figure_pixels(loss_distribution_figure(*curves, title=f"where the loss lies, step {step}"))
