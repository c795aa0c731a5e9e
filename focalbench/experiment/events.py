"""What a trial writes down while it trains: log lines, evaluations, pictures, checkpoints, status."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from focalbench.config.sweep import Trial
from focalbench.data.dataset import DetectionData
from focalbench.device_faults import device_faults
from focalbench.experiment.live_figures import LiveLossFigures
from focalbench.experiment.memory import ways_out
from focalbench.experiment.pictures import write_val_pictures
from focalbench.losses.oracle import diagnose_stuck
from focalbench.metrics.voc import precision_recall
from focalbench.models.detector import Detector
from focalbench.ranks import alone
from focalbench.records.detections import write_detections
from focalbench.records.state import TrialState
from focalbench.records.trial import TrialFolder
from focalbench.runtime import StopFlag, rng_state
from focalbench.tags import BEST_MEAN_AP, CLASS_AP, IMAGES_PER_S, MEAN_AP, TRAIN_SECONDS
from focalbench.tracking.tracker import MatchedScores, Tracker
from focalbench.training.checkpoint import save_best, save_checkpoint
from focalbench.training.evaluate import DetectionSettings, Evaluation, FlatArrays, detect, score
from focalbench.training.loop import StepSettings, TrainState

# (step, steps, latest values) to whoever watches.
Progress = Callable[[int, int, Mapping[str, float]], None]


@dataclass
class TrialEvents:
    """Carries out what the loop calls for (``focalbench.training.loop.LoopEvents``).

    Attributes:
        identity: what a checkpoint must agree with to be resumed: configuration, classes, data.
        picture_steps: after which evaluations pictures are written.
        wall_s: seconds that the trial has taken so far.
        last: the newest evaluation, None before the first.
    """

    folder: TrialFolder
    trial: Trial
    tracker: Tracker
    val: DetectionData
    detection: DetectionSettings
    step_settings: StepSettings
    live_figures: LiveLossFigures
    picture_steps: frozenset[int]
    total_steps: int
    identity: dict[str, Any]
    wall_s: Callable[[], float]
    progress: Progress
    warn: Callable[[str], None]
    stop: StopFlag
    last: Evaluation | None = None
    _class_losses: list[float] = field(default_factory=list)
    _told_stuck: bool = False

    def log(self, state: TrainState, values: dict[str, float]) -> None:
        """Writes one line of the training curves."""
        scheduled = state.criterion.classification.scheduled()
        line = {f"train/{name}": value for name, value in {**values, **scheduled}.items()}
        line[IMAGES_PER_S] = state.step * self.trial.config.optim.batch_size / max(state.seconds, 1e-9)
        line[TRAIN_SECONDS] = state.seconds
        self.tracker.scalars(state.step, line)
        self.progress(state.step, self.total_steps, line)
        self._watch_for_collapse(state, values["cls"])

    def _watch_for_collapse(self, state: TrainState, class_loss: float) -> None:
        """Names, once, a loss that no longer moves: background collapse has a value of its own."""
        self._class_losses.append(class_loss / state.criterion.weight.item())
        diagnosis = None if self._told_stuck else diagnose_stuck(self._class_losses)
        if diagnosis is not None:
            self._told_stuck = True
            self.warn(f"{self.trial.name}: step {state.step}: {diagnosis}")

    def evaluate(self, state: TrainState) -> None:
        """Scores the network; writes numbers, curves, pictures and the detections themselves."""
        model, settings = state.evaluated_model(), self.step_settings
        detections = _detect(self, model)
        truth = self.val.ground_truth()
        self.last = score(detections, truth, self.val.classes, self.trial.config.eval.protocol)
        improved = self.last.mean_ap > state.best
        state.best = max(state.best, self.last.mean_ap) if math.isfinite(self.last.mean_ap) else state.best
        line = {MEAN_AP: self.last.mean_ap, BEST_MEAN_AP: state.best}
        line |= {f"{CLASS_AP}{name}": value for name, value in self.last.ap.items()}
        self.tracker.scalars(state.step, line)
        if state.step in self.picture_steps:
            self._write_curves(state.step, truth)
            with alone():
                write_val_pictures(self.tracker, state.step, model, self.val, self.detection, settings)
                is_last = state.step == self.total_steps
                self.live_figures.log(
                    self.tracker, state.step, model, state.criterion, math.inf if is_last else state.seconds
                )
        write_detections(
            self.folder.path,
            self.last.detections,
            truth,
            image_ids=[record.image_id for record in self.val.records],
            classes=self.val.classes,
        )
        self.tracker.flush()
        if improved:
            save_best(self.folder.checkpoints, {**self.identity, "step": state.step, "model": model.state_dict()})
        self.progress(state.step, self.total_steps, line)

    def checkpoint(self, state: TrainState) -> None:
        """Saves everything that the next step depends on, and the status that says how far the trial is."""
        self.tracker.flush()
        content = {**self.identity, **state.state_dict(), "rng": rng_state(self.step_settings.device)}
        content["wall_s"] = self.wall_s()
        keep = self.trial.config.run.keep_checkpoints
        save_checkpoint(self.folder.checkpoints, content, step=state.step, keep=keep)
        self.folder.write_status(self.trial, TrialState.RUNNING, step=state.step, steps=self.total_steps)

    def _write_curves(self, step: int, truth: dict[str, Any]) -> None:
        assert self.last is not None
        classes = self.val.classes
        curves = precision_recall(self.last.detections, truth, num_classes=len(classes))
        hits = {n: MatchedScores(c.score, c.is_tp, c.num_objects) for n, c in zip(classes, curves, strict=True)}
        self.tracker.pr_curves(step, hits)


@dataclass(frozen=True)
class FollowerEvents:
    """What ranks other than the first do when the loop calls: their share of an evaluation. They write nothing."""

    trial: Trial
    val: DetectionData
    detection: DetectionSettings
    step_settings: StepSettings
    stop: StopFlag

    def log(self, state: TrainState, values: dict[str, float]) -> None:
        """Leaves it to the first rank to log."""

    def evaluate(self, state: TrainState) -> None:
        """Detects on this rank's share of the images; the first one scores."""
        _detect(self, state.evaluated_model())

    def checkpoint(self, state: TrainState) -> None:
        """Leaves it to the first rank to save."""


def _detect(events: TrialEvents | FollowerEvents, model: Detector) -> FlatArrays:
    """This rank's detections on the evaluation images; where memory does not suffice, how to make that smaller."""
    device, precision = events.step_settings.device, events.step_settings.precision
    with device_faults(str(device), lambda: ways_out(events.trial.config, device.type, evaluating=True)):
        return detect(model, events.val, events.detection, device=device, precision=precision, stop=events.stop)
