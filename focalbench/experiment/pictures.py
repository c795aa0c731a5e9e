"""Which pictures a trial writes, and when: a training batch at its start, images of the evaluation set now and then."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from focalbench.data.dataset import DetectionData
from focalbench.data.transforms import pixels_of
from focalbench.experiment.batches import AugmentedBatches
from focalbench.figures.batch import TrainingImage, draw_batch
from focalbench.figures.detections import draw_detections
from focalbench.models.detector import Detector
from focalbench.structures import Detections
from focalbench.tracking.tracker import Tracker
from focalbench.training.evaluate import DetectionSettings, detect_batch, same_shape
from focalbench.training.loop import StepSettings

BATCH_TAG = "train/batch"
_NUM_BATCH_IMAGES = 9
_NUM_VAL_IMAGES = 4
_MOST_EVALUATIONS = 10  # TensorBoard shows the last ten pictures of a tag


def picture_steps(eval_steps: Iterable[int]) -> frozenset[int]:
    """Returns after which of a training's evaluations pictures and curves are written: at most ten, spread evenly from
    the first to the last, which bounds what a trial takes on the disk. They follow from the plan alone, so a resumed
    training writes those of an undisturbed one.
    """
    steps = sorted(eval_steps)
    chosen = np.linspace(0, len(steps) - 1, min(_MOST_EVALUATIONS, len(steps))).round().astype(int)
    return frozenset(steps[index] for index in chosen)


def write_batch_picture(tracker: Tracker, batches: AugmentedBatches, classes: tuple[str, ...]) -> None:
    """Hands ``tracker`` the first images of the first batch, augmented, with what is to be learned."""
    images, targets, difficult = batches.first_images(0, _NUM_BATCH_IMAGES)
    shown = [
        TrainingImage(
            pixels.numpy(), boxes[labels >= 0].numpy(), labels[labels >= 0].numpy(), hard[hard_labels >= 0].numpy()
        )
        for pixels, boxes, labels, hard, hard_labels in zip(
            pixels_of(images),
            targets.boxes.cpu(),
            targets.labels.cpu(),
            difficult.boxes.cpu(),
            difficult.labels.cpu(),
            strict=True,
        )
    ]
    tracker.images(0, BATCH_TAG, draw_batch(shown, classes, "first batch, augmented:"))


@torch.no_grad()
def write_val_pictures(
    tracker: Tracker,
    step: int,
    model: Detector,
    data: DetectionData,
    detection: DetectionSettings,
    settings: StepSettings,
) -> None:
    """Hands ``tracker`` the first images of the evaluation set, the same in every arm, with truth and detections.

    ``model`` is left in evaluation mode.
    """
    indices = np.arange(min(_NUM_VAL_IMAGES, len(data)))
    canvas, truth = data.batch(indices)
    difficult = data.difficult(indices)
    model.eval()
    batch_size = min(detection.batch_size, len(data))
    found: list[Detections] = []
    for start in range(0, len(indices), batch_size):
        some = indices[start : start + batch_size].tolist()
        images = data.normalised(same_shape(some, batch_size, settings.device), settings.device)
        found += detect_batch(model, images, detection, settings.precision)[: len(some)]
    for index, detections in enumerate(found):
        learned, hard = truth.labels[index] >= 0, difficult.labels[index] >= 0
        picture = draw_detections(
            canvas[index].permute(1, 2, 0).numpy(),
            classes=data.classes,
            boxes=detections.boxes.cpu().numpy(),
            labels=detections.labels.cpu().numpy(),
            scores=detections.scores.cpu().numpy(),
            truth_boxes=torch.cat([truth.boxes[index][learned], difficult.boxes[index][hard]]).numpy(),
            truth_labels=torch.cat([truth.labels[index][learned], difficult.labels[index][hard]]).numpy(),
            truth_difficult=np.repeat([False, True], [int(learned.sum()), int(hard.sum())]),
        )
        tracker.images(step, f"val/{data.records[index].image_id}", picture)
