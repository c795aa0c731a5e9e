"""``focalbench.load_trial``: a trained network, to be shown images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from focalbench.api.frames import data_frame
from focalbench.boxes.voc import voc_from_continuous
from focalbench.errors import ConfigError
from focalbench.models.detector import Detector
from focalbench.trained import SCORE_THRESH
from focalbench.trained.inference import predict_image
from focalbench.trained.trial import TrainedTrial, load_trained

if TYPE_CHECKING:
    import pandas as pd

_CORNERS = ("x1", "y1", "x2", "y2")


@dataclass(frozen=True, eq=False)
class Detections:
    """What a network sees in one image, the highest score first.

    Boxes are left, top, right and bottom in pixels of the upright image, counted from 0 at its left and upper edge, as
    Pillow, matplotlib and torchvision do: ``image.crop(box)`` cuts one out.

    Attributes:
        path: the image file.
        size: (width, height) of the image, upright as its EXIF orientation says.
        classes: (D,) names.
        scores: (D,) float32 in [0, 1].
        boxes: (D, 4) float32.
    """

    path: Path
    size: tuple[int, int]
    classes: tuple[str, ...]
    scores: NDArray[np.float32] = field(repr=False)
    boxes: NDArray[np.float32] = field(repr=False)

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def voc_boxes(self) -> NDArray[np.float32]:
        """(D, 4) as annotations of Pascal VOC count: from 1, the last pixel included."""
        return voc_from_continuous(self.boxes).astype(np.float32)

    def to_dataframe(self) -> pd.DataFrame:
        """Returns a row for each box: image, class, score, x1, y1, x2, y2.

        Raises:
            MissingPackageError: without pandas.
        """
        rows = [
            {"image": str(self.path), "class": name, "score": score, **dict(zip(_CORNERS, box, strict=True))}
            for name, score, box in zip(self.classes, self.scores.tolist(), self.boxes.tolist(), strict=True)
        ]
        numbers = ["score", *_CORNERS]
        # Without a row nothing would tell pandas that these are numbers.
        return data_frame(rows, ["image", "class", *numbers]).astype(dict.fromkeys(numbers, float))


@dataclass(frozen=True)
class TrainedNetwork:
    """A network as its training left it.

    Attributes:
        trained: the trial behind it: configuration, criterion, device, result.
    """

    trained: TrainedTrial = field(repr=False)

    @property
    def name(self) -> str:
        """The trial's name."""
        return self.trained.name

    @property
    def classes(self) -> tuple[str, ...]:
        """The names that the network tells apart, in the order of their labels."""
        return self.trained.classes

    @property
    def model(self) -> Detector:
        """The torch module itself, in evaluation mode."""
        return self.trained.model

    def predict(
        self, images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *, score_thresh: float = SCORE_THRESH
    ) -> list[Detections]:
        """Looks for objects in image files; returns what was found in each, in their order.

        Args:
            images: paths of JPEG or PNG files, or a single one.
            score_thresh: boxes with a lower score are left out.

        Raises:
            DataError: naming the first file that is no image.
            ConfigError: for a threshold outside [0, 1].
        """
        if not (isinstance(score_thresh, Real) and 0 <= score_thresh <= 1):
            raise ConfigError(f"score_thresh should be a number in [0, 1], not {score_thresh!r}")
        paths = [images] if isinstance(images, str | os.PathLike) else images
        return [self._look_at(Path(path), score_thresh) for path in paths]

    def _look_at(self, path: Path, score_thresh: float) -> Detections:
        found = predict_image(self.trained, path, score_thresh=score_thresh)
        height, width = found.image.shape[:2]
        names = tuple(self.classes[label] for label in found.labels)
        return Detections(path, (width, height), names, found.scores, found.boxes)

    def __repr__(self) -> str:
        return f"<TrainedNetwork {self.name}, step {self.trained.step}: {', '.join(self.classes)}>"


def load_trial(
    folder: str | os.PathLike[str], *, device: str = "auto", unfinished: bool = False, plugins: Sequence[str] = ()
) -> TrainedNetwork:
    """Brings the trained network of a trial back, from the trial's folder alone; nothing in it is executed.

    Args:
        folder: runs/NAME/TRIAL.
        device: auto, cpu, cuda or cuda:N.
        unfinished: take the newest checkpoint of a trial that is not finished.
        plugins: files or modules to execute, where the network is a plugin's: those that the trial was trained with.

    Raises:
        DataError: when the folder is no trial, or the trial is not finished.
        ConfigError: when its config.yaml is damaged, the device is not there, or the network needs a plugin.
        CheckpointError: when no checkpoint is whole or it does not fit the configuration.
    """
    return TrainedNetwork(
        load_trained(Path(folder), device=device, unfinished=unfinished, plugins=tuple(plugins), warn=_warn)
    )


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)
