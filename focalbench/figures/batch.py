"""Draws the images of a training batch with the objects that the network is to learn, as a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focalbench.figures.frames import Frames
from focalbench.figures.legend import Entry, with_legend
from focalbench.figures.lettering import label_of
from focalbench.figures.palette import IGNORED_COLOR, class_color

_WIDTH = 960  # pixels of the whole picture
_COLUMNS = 3
_TALLEST = 1200  # pixels of one image
_GUTTER = 6  # pixels between images
_FONT_SIZE, _LEGEND_FONT_SIZE = 20, 28  # pixels; TensorBoard shows less than half of them
_LINE_WIDTH = 3


@dataclass(frozen=True)
class TrainingImage:
    """One image as the network sees it.

    Attributes:
        pixels: (H, W, 3) uint8.
        boxes: (M, 4) xyxy pixels, 0-based and continuous: the objects that are learned.
        labels: (M,) in 0..K-1.
        ignored: (G, 4) objects that are not learned.
    """

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.floating]
    labels: NDArray[np.integer]
    ignored: NDArray[np.floating]


def draw_batch(images: Sequence[TrainingImage], classes: Sequence[str], title: str) -> NDArray[np.uint8]:
    """Draws the images of a batch side by side, three in a row, with dashed frames in the colours of the classes; none
    is taller than 1200 pixels.

    Below them stand the title and the classes in view with their colours. Where two of these share a colour, each frame
    has its name too.

    Args:
        images: at least one, of one size.
        classes: name of each label.
        title: first entry of the legend.

    Returns:
        (H', 960, 3) uint8.
    """
    present = sorted({int(label) for image in images for label in image.labels})
    named = len({class_color(label) for label in present}) < len(present)
    columns = min(_COLUMNS, len(images))
    num_rows, num_columns, _ = images[0].pixels.shape
    height, width = _cell_size(num_rows, num_columns, columns)
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (_WIDTH, rows * (height + _GUTTER) - _GUTTER), (255, 255, 255))
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        names = {label: label_of(classes[label], label) for label in present} if named else {}
        sheet.paste(_cell(image, (width, height), names), (column * (width + _GUTTER), row * (height + _GUTTER)))
    entries = [Entry(title)]
    entries += [Entry(label_of(classes[label], label), class_color(label), "dashed") for label in present]
    if any(len(image.ignored) for image in images):
        entries.append(Entry("not learned", IGNORED_COLOR, "dashed"))
    return np.array(with_legend(sheet, entries, font_size=_LEGEND_FONT_SIZE, line_width=_LINE_WIDTH))


def _cell_size(height: int, width: int, columns: int) -> tuple[int, int]:
    """Height and width at which images of this size stand in so many columns."""
    factor = min((_WIDTH - (columns - 1) * _GUTTER) // columns / width, _TALLEST / height)
    return max(1, round(height * factor)), max(1, round(width * factor))


def _cell(image: TrainingImage, size: tuple[int, int], names: dict[int, str]) -> Image.Image:
    """One image of ``size`` (width, height) with its frames."""
    picture = Image.fromarray(np.ascontiguousarray(image.pixels)).resize(size, Image.Resampling.BICUBIC)
    factor = np.tile(np.array(size) / image.pixels.shape[1::-1], 2)
    frames = Frames(picture, font_size=_FONT_SIZE, line_width=_LINE_WIDTH)
    for box, label in zip(image.boxes, image.labels, strict=True):
        frames.add(box * factor, class_color(int(label)), names.get(int(label), ""), dashed=True, below=True)
    for box in image.ignored:
        frames.add(box * factor, IGNORED_COLOR, dashed=True, below=True)
    frames.draw()
    return picture
