"""A trained network on image files that belong to no data set."""

from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from focalbench.boxes.voc import voc_from_continuous
from focalbench.data.files import IMAGE_SUFFIXES, RefusedFile, read_inside
from focalbench.data.images import (
    MAX_IMAGE_BYTES,
    BrokenImage,
    decode,
    open_image,
    place,
    quiet_decoding,
    read_header,
    to_canvas,
)
from focalbench.data.transforms import normalise
from focalbench.errors import DataError
from focalbench.trained.trial import TrainedTrial
from focalbench.training.evaluate import decode as decode_outputs
from focalbench.training.evaluate import run_batch


@dataclass(frozen=True)
class ImagePrediction:
    """What a network sees in one image file.

    Attributes:
        image: (H, W, 3) uint8, the whole image, upright as its EXIF orientation says.
        boxes: (D, 4) float32, xyxy pixels of ``image``, 0-based and continuous; best first.
        labels: (D,) int64, 0..K-1.
        scores: (D,) float32 in [0, 1].
        highest_score: of all anchors and classes, in [0, 1]: how near an image without detections came to one.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    highest_score: float

    @property
    def voc_boxes(self) -> NDArray[np.float32]:
        """(D, 4) as VOC counts: 1-based, inclusive."""
        return voc_from_continuous(self.boxes).astype(np.float32)


def find_images(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Returns the image files that ``arguments`` mean: files, folders (their JPEG and PNG files), patterns such as
    ``*.jpg``.

    Returns:
        files, each once, in the order of the arguments and sorted within one; and what is wrong with arguments that
        mean none. Whether a file is an image is not looked at.
    """
    found: dict[str, Path] = {}
    faults = []
    for argument in arguments:
        try:
            paths = _expand(argument)
        except (OSError, ValueError) as fault:
            faults.append(f"{argument}: cannot be read: {getattr(fault, 'strerror', None) or fault}")
            continue
        if not paths:
            what = "holds no .jpg, .jpeg or .png file" if os.path.isdir(argument) else "does not exist"
            faults.append(f"{argument}: {what}")
        for path in paths:
            found.setdefault(os.path.realpath(path), path)
    return list(found.values()), faults


def _expand(argument: str) -> list[Path]:
    path = Path(argument)
    if path.is_dir():
        return sorted(entry for entry in path.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES)
    if os.path.lexists(path):
        return [path]
    matches = [Path(match) for match in sorted(glob.glob(argument, recursive=True))]
    return [match for match in matches if not match.is_dir()]


def read_image(path: Path) -> bytes:
    """Returns the bytes of a regular file that is not too large to be an image.

    Raises:
        DataError: naming the file and the reason.
    """
    try:
        real = path.resolve(strict=True)
        return read_inside(real.parent, real.name, MAX_IMAGE_BYTES)
    except (OSError, RuntimeError) as fault:  # RuntimeError: a loop of links
        raise DataError(f"{path}: cannot be read: {getattr(fault, 'strerror', None) or fault}") from fault
    except RefusedFile as fault:
        raise DataError(f"{path}: {fault}") from fault


def predict_image(trained: TrainedTrial, path: Path, *, score_thresh: float) -> ImagePrediction:
    """Returns detections with a score above ``score_thresh`` on one image file, in its own pixels.

    The network sees what it sees in an evaluation: the same canvas, arithmetic, suppression and limit.

    Raises:
        DataError: for a file that is no image or may not be read.
    """
    content = read_image(path)
    try:
        with quiet_decoding():
            opened = open_image(content)
            orientation = read_header(opened).orientation
            pixels = decode(opened, orientation, sample_range=trained.sample_range)
            canvas = to_canvas(content, orientation, trained.canvas, trained.fit, trained.sample_range)
    except BrokenImage as fault:
        raise DataError(f"{path}: {fault}") from fault
    images = torch.from_numpy(canvas.copy())[None].permute(0, 3, 1, 2).to(trained.device)
    settings = dataclasses.replace(trained.settings, score_thresh=score_thresh)
    with torch.no_grad():
        batch = normalise(images).contiguous(memory_format=torch.channels_last)
        outputs = run_batch(trained.model, batch, trained.precision)
        (found,) = decode_outputs(trained.model, outputs, settings)
        highest = trained.model.scores(outputs).amax().item()
    placement = place(pixels.width, pixels.height, trained.canvas, trained.fit)
    scale = np.array([placement.scale_x, placement.scale_y] * 2)
    offset = np.array([placement.offset_x, placement.offset_y] * 2)
    boxes = (found.boxes.cpu().numpy().astype(np.float64) - offset) / scale
    boxes = boxes.clip(0, [pixels.width, pixels.height] * 2).astype(np.float32)
    labels, scores = found.labels.cpu().numpy(), found.scores.cpu().numpy()
    return ImagePrediction(np.asarray(pixels), boxes, labels, scores, highest)
