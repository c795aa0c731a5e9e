"""A few steps and a part of an evaluation, timed: what a training will take before any like it has finished."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch

from focalbench.config.schema import ExperimentConfig
from focalbench.config.sweep import Trial
from focalbench.data.dataset import DetectionData
from focalbench.device_faults import device_faults
from focalbench.devices import resolve_device, resolve_precision, set_determinism, use_device
from focalbench.experiment import build
from focalbench.experiment.build_loss import build_criterion
from focalbench.experiment.memory import ways_out
from focalbench.plugins.loading import load_plugins, plugin_faults
from focalbench.runtime import seed_everything, set_threads
from focalbench.training.evaluate import detect
from focalbench.training.loop import StepSettings, TrainState, train_step
from focalbench.training.optim import set_learning_rate

_STEPS = 10
_WARM_UP = {"cpu": 3, "cuda": 12}  # cuDNN searches for its algorithms in the first steps
_TRAINING_IMAGES, _VAL_IMAGES, _FEW = 96, 48, 4
START_S = 3.0
"""Of a trial beside its steps and evaluations: its files, pictures, the checks of the untrained network."""


@dataclass(frozen=True)
class Rehearsal:
    """What was timed.

    Attributes:
        num_train: training images of the whole set.
        num_val: images of an evaluation.
        step_s: seconds of a step.
        image_s: seconds of an image that is evaluated.
    """

    num_train: int
    num_val: int
    step_s: float
    image_s: float

    def seconds(self, config: ExperimentConfig) -> float:
        """Returns what a whole training takes: its steps and all evaluations."""
        plan = build.build_plan(config, self.num_train)
        evaluations = len(plan.eval_steps) * self.num_val * self.image_s
        return START_S + plan.total_steps * self.step_s + evaluations


def rehearse(trial: Trial, device: str, threads: int) -> Rehearsal:
    """Trains ``trial`` for a few steps on a few images of its set, and evaluates some; nothing is written.

    Args:
        device: cpu, cuda or cuda:N, as for the trial itself.
        threads: of this process, on a CPU.

    Raises:
        FocalbenchError: whatever the trial itself would fail with at its start.
    """
    config, where = trial.config, resolve_device(device)
    set_threads(threads)
    with plugin_faults(), device_faults(str(where), lambda: ways_out(config, where.type)):
        use_device(where)
        load_plugins(trial.plugins)
        set_determinism(config.run.deterministic)
        seed_everything(config.seed)
        data = _load(config)
        few = build.DataSets(_some(data.train, _TRAINING_IMAGES), _some(data.val, _VAL_IMAGES))
        settings = StepSettings(where, resolve_precision(config.optim.precision, where), config.optim.clip_norm)
        # Steps take as long with random weights, and nothing is downloaded.
        model = build.build_model(config, len(data.train.classes), data.train, pretrained=False)
        state = build.build_state(config, model, build_criterion(config, model, data.train), settings)
        step_s = _time_steps(config, state, few.train, settings)
        image_s = _time_evaluation(config, state, few.val, settings)
    return Rehearsal(len(data.train), len(data.val), step_s, image_s)


def _load(config: ExperimentConfig) -> build.DataSets:
    """Both sides without their pixels: a cache is for the training to fill."""
    return build.build_data(config.model_copy(update={"data": config.data.model_copy(update={"cache": "none"})}))


def _some(data: DetectionData, num_images: int) -> DetectionData:
    """At most so many images, spread over the set, in memory."""
    chosen = np.unique(np.linspace(0, len(data) - 1, min(len(data), num_images)).astype(np.int64))
    records = tuple(data.records[index] for index in chosen)
    return dataclasses.replace(data, images=data.images[chosen], records=records, cache="ram")


def _time_steps(config: ExperimentConfig, state: TrainState, train: DetectionData, settings: StepSettings) -> float:
    """Seconds of a step: the mean, since what makes some slower is part of a training too."""
    batches = build.build_batches(config, train, settings.device)
    set_learning_rate(state.optimizer, config.optim.lr * 1e-3)  # as at the start of the warm-up: it must not diverge
    state.model.train()
    times = []
    for step in range(_WARM_UP[settings.device.type] + _STEPS):
        began = time.perf_counter()
        train_step(state, *batches(step), settings)
        _wait(settings.device)
        times.append(time.perf_counter() - began)
    return fmean(times[-_STEPS:])


def _time_evaluation(config: ExperimentConfig, state: TrainState, val: DetectionData, settings: StepSettings) -> float:
    """Seconds an image, at a threshold that leaves a network that has learnt nothing about as much to sort out as
    another has at the configured one: half of the detections that an image may have.
    """
    model, chosen = state.evaluated_model(), build.detection_settings(config)

    def timed(data: DetectionData, score_thresh: float) -> tuple[float, np.ndarray]:
        began = time.perf_counter()
        given = dataclasses.replace(chosen, score_thresh=score_thresh)
        found = detect(model, data, given, device=settings.device, precision=settings.precision)
        return (time.perf_counter() - began) / len(data), found["score"]

    _, scores = timed(_some(val, _FEW), 0.0)
    threshold = float(np.median(scores)) if len(scores) else 0.0
    timed(_some(val, chosen.batch_size), threshold)  # the first batch of a shape takes longer
    return timed(val, threshold)[0]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
