"""Pictures of detections: truth and predictions drawn on the network's canvas, and matplotlib figures as pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Blue and orange stay apart for colour-blind eyes and against most photographs.
TRUTH_COLOR = (0, 170, 255)
PREDICTION_COLOR = (255, 130, 0)
IGNORED_COLOR = (150, 150, 150)

_SHORT_SIDE = 384  # pixels: below this, names and scores cannot be read
_FONT_SIZE = 13
_LINE_WIDTH = 2
_LEGEND_HEIGHT = 22
_LARGE_SIDE = 720  # pixels of the short side: above this, text and lines grow with the picture


def draw_detections(
    image: NDArray[np.uint8],
    *,
    classes: Sequence[str],
    boxes: NDArray[np.floating],
    labels: NDArray[np.integer],
    scores: NDArray[np.floating],
    truth_boxes: NDArray[np.floating] | None = None,
    truth_labels: NDArray[np.integer] | None = None,
    truth_difficult: NDArray[np.bool_] | None = None,
    score_thresh: float = 0.3,
) -> NDArray[np.uint8]:
    """A copy of ``image`` with boxes, class names and scores; small images are enlarged by a whole factor first.

    Predictions are orange with name and score above the box, objects blue with the name below, difficult ones gray.
    A line at the bottom says which is which and from what score on predictions are drawn.

    Args:
        image: (H, W, 3) uint8.
        classes: name of each label.
        boxes: (D, 4) xyxy in pixels of ``image``, 0-based and continuous.
        labels: (D,) in 0..K-1.
        scores: (D,) in [0, 1].
        truth_boxes: (M, 4) like ``boxes``; None where the truth is not known.
        truth_labels: (M,) in 0..K-1.
        truth_difficult: (M,) bool; None for none.
        score_thresh: predictions below it are not drawn.

    Returns:
        (H', W', 3) uint8, at least 384 pixels on the shorter side without the line at the bottom.
    """
    factor = max(1, -(-_SHORT_SIDE // min(image.shape[:2])))
    size = (image.shape[1] * factor, image.shape[0] * factor)
    picture = Image.fromarray(np.ascontiguousarray(image)).resize(size, Image.Resampling.BICUBIC)
    scale = max(1.0, min(size) / _LARGE_SIDE)
    font = ImageFont.load_default(round(_FONT_SIZE * scale))
    pen = _Pen(ImageDraw.Draw(picture), picture.size, font, round(_LINE_WIDTH * scale))
    if truth_boxes is not None and truth_labels is not None:
        difficult = np.zeros(len(truth_boxes), dtype=bool) if truth_difficult is None else truth_difficult
        for box, label, hard in zip(truth_boxes * factor, truth_labels, difficult, strict=True):
            pen.box(box, IGNORED_COLOR if hard else TRUTH_COLOR, classes[int(label)], below=True)
    order = np.argsort(scores, kind="stable")  # best last, on top
    for index in order[scores[order] >= score_thresh]:
        text = f"{classes[int(labels[index])]} {scores[index]:.2f}"
        pen.box(boxes[index] * factor, PREDICTION_COLOR, text, below=False)
    pen.write_labels()
    return _with_legend(picture, truth=truth_boxes is not None, score_thresh=score_thresh, scale=scale)


def figure_pixels(figure: Figure) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 pixels of a matplotlib figure, without a display and without pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


class _Pen:
    """Draws labelled boxes on one picture of ``size`` (width, height)."""

    def __init__(
        self,
        draw: ImageDraw.ImageDraw,
        size: tuple[int, int],
        font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
        line_width: int,
    ) -> None:
        self._draw = draw
        self._line_width = line_width
        self._width, self._height = size
        self._font = font
        self._labels: list[tuple[float, float, float, float, str, tuple[int, int, int]]] = []

    def box(self, box: NDArray[np.floating], color: tuple[int, int, int], text: str, *, below: bool) -> None:
        """One rectangle; its text goes outside the box where there is room, else inside, always within the picture."""
        if not np.isfinite(box).all():
            return
        x1, x2 = np.sort(np.clip(box[[0, 2]], 0, self._width - 1)).tolist()
        y1, y2 = np.sort(np.clip(box[[1, 3]], 0, self._height - 1)).tolist()
        self._draw.rectangle((x1, y1, x2, y2), outline=color, width=self._line_width)
        left, top, right, bottom = self._draw.textbbox((0, 0), text, font=self._font)
        width, height = right - left + 4, bottom - top + 4
        x = max(0, min(x1, self._width - width))
        if below:
            y = y2 if y2 + height <= self._height else y2 - height
        else:
            y = y1 - height if y1 >= height else y1
        self._labels.append((x, y, x + width, y + height, text, color))

    def write_labels(self) -> None:
        """Writes the names after all rectangles, so that no frame runs through a name."""
        for x1, y1, x2, y2, text, color in self._labels:
            self._draw.rectangle((x1, y1, x2, y2), fill=color)
            left, top, _, _ = self._draw.textbbox((0, 0), text, font=self._font)
            self._draw.text((x1 + 2 - left, y1 + 2 - top), text, fill=(0, 0, 0), font=self._font)


def _with_legend(picture: Image.Image, *, truth: bool, score_thresh: float, scale: float) -> NDArray[np.uint8]:
    """The picture with one line below it that names the colours, ``scale`` times the usual size."""

    def pixels(value: float) -> int:
        return round(value * scale)

    canvas = Image.new("RGB", (picture.width, picture.height + pixels(_LEGEND_HEIGHT)), (255, 255, 255))
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(pixels(_FONT_SIZE))
    entries = [(PREDICTION_COLOR, f"prediction, score from {score_thresh:g}")]
    if truth:
        entries.insert(0, (TRUTH_COLOR, "truth"))
    x, top = pixels(6), picture.height
    for color, text in entries:
        draw.rectangle((x, top + pixels(6), x + pixels(10), top + pixels(16)), fill=color)
        draw.text((x + pixels(15), top + pixels(3)), text, fill=(0, 0, 0), font=font)
        x += pixels(15) + int(draw.textlength(text, font=font)) + pixels(18)
    return np.array(canvas)
