"""Writes drawn predictions to files that never take the place of anything but earlier drawings."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from focalbench.errors import DataError, StorageError
from focalbench.figures.detections import draw_detections
from focalbench.storage import storage_faults, write_atomically

if TYPE_CHECKING:
    from focalbench.trained.inference import ImagePrediction

_MARK = b"drawn by focalbench"
_MAX_NAMES = 10_000


class PictureFolder:
    """Writes pictures to a folder: NAME.jpg for each image, NAME-2.jpg where something else has that name.

    Args:
        folder: made with the first picture.
        inputs: the images that are being drawn; none of them is ever written to.
    """

    def __init__(self, folder: Path, *, inputs: Sequence[Path]) -> None:
        self._folder = folder
        self._taken = {path.resolve() for path in inputs}

    def draw(self, source: Path, found: ImagePrediction, classes: Sequence[str], score_thresh: float) -> Path:
        """Draws the boxes of one image, see :func:`draw_detections`, and returns the picture's path.

        Raises:
            DataError: naming the image, when it cannot be drawn.
            StorageError: when the folder cannot be written.
        """
        buffer = io.BytesIO()
        try:
            picture = draw_detections(
                found.image,
                classes=classes,
                boxes=found.boxes,
                labels=found.labels,
                scores=found.scores,
                score_thresh=score_thresh,
            )
            Image.fromarray(picture).save(buffer, format="JPEG", quality=92, comment=_MARK)
        except (OSError, ValueError, MemoryError) as fault:  # Pillow's
            raise DataError(f"{source}: cannot be drawn: {fault or type(fault).__name__}") from fault
        with storage_faults(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._free_name(source.stem)
        write_atomically(path, buffer.getvalue())
        return path

    def _free_name(self, stem: str) -> Path:
        for number in range(1, _MAX_NAMES):
            path = self._folder / f"{stem}{'' if number == 1 else f'-{number}'}.jpg"
            if path.resolve() not in self._taken and _may_replace(path):
                self._taken.add(path.resolve())
                return path
        raise StorageError(f"{self._folder}: too many files named {stem}; pass -o with another folder")


def _may_replace(path: Path) -> bool:
    """Whether ``path`` is free or an earlier drawing."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        return False
    if not path.exists():
        return True
    with path.open("rb") as file:
        return _MARK in file.read(512)
