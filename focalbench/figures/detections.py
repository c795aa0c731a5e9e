"""Draws detections and annotated objects on images, and crops around single boxes as tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

# Blue and orange stay apart for colour-blind eyes and against most photographs.
TRUTH_COLOR = (0, 170, 255)
PREDICTION_COLOR = (255, 130, 0)
IGNORED_COLOR = (150, 150, 150)

_SHORT_SIDE = 384  # pixels: below this, names and scores cannot be read
_FONT_SIZE = 13
_LINE_WIDTH = 2
_LEGEND_HEIGHT = 22
_LARGE_SIDE = 720  # pixels of the short side: above this, text and lines grow with the picture
_CONTEXT = 0.5  # of a box's longer side, shown around it on each side of a crop
_MIN_SIDE = 8.0  # pixels: a smaller box is cropped as if it had this side
_TILE, _CAPTION, _GAP = 180, 34, 6  # pixels


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
    """Returns a copy of ``image`` with boxes, class names and scores; small images are enlarged by a whole factor
    first.

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


def crop_around(
    box: NDArray[np.float64], truth_boxes: NDArray[np.float64], pixels: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64]]:
    """Returns the part of a photograph around a box, with the box and the annotated boxes in view in pixels of that
    part.

    Args:
        box: (4,) xyxy pixels of the photograph, 0-based and continuous.
        truth_boxes: (G, 4) likewise.
        pixels: (H, W, 3), the photograph.
    """
    size = np.array(pixels.shape[1::-1])
    margin = _CONTEXT * max(float((box[2:] - box[:2]).max()), _MIN_SIDE)
    low = np.clip(np.floor(box[:2] - margin), 0, size - 1).astype(int)
    high = np.clip(np.ceil(box[2:] + margin), low + 1, size).astype(int)
    in_view = (truth_boxes[:, :2] < high).all(axis=1) & (truth_boxes[:, 2:] > low).all(axis=1)
    origin = np.tile(low, 2)
    view = pixels[low[1] : high[1], low[0] : high[0]].copy()
    return view, box - origin, truth_boxes[in_view] - origin


def draw_crops(crops: Sequence[tuple[NDArray[np.uint8], NDArray, NDArray, str]], columns: int = 6) -> NDArray[np.uint8]:
    """Draws crops as a grid of tiles with a caption each; the box in question orange, annotated objects blue.

    Args:
        crops: pixels (H, W, 3) uint8, box (4,) and truth boxes (G, 4), xyxy pixels of the crop, 0-based, and the
            caption, two lines at most.
        columns: tiles in a row.

    Returns:
        (H', W', 3) uint8; one empty tile when there are no crops.
    """
    columns = max(1, min(columns, len(crops)))
    rows = max(1, math.ceil(len(crops) / columns))
    size = (columns * (_TILE + _GAP) + _GAP, rows * (_TILE + _CAPTION + _GAP) + _GAP)
    sheet = Image.new("RGB", size, (255, 255, 255))
    for number, (pixels, box, truth_boxes, caption) in enumerate(crops):
        corner = _GAP + number % columns * (_TILE + _GAP), _GAP + number // columns * (_TILE + _CAPTION + _GAP)
        sheet.paste(draw_tile(pixels, box, truth_boxes), corner)
        ImageDraw.Draw(sheet).multiline_text(
            (corner[0], corner[1] + _TILE + 1), caption, fill=(0, 0, 0), font=ImageFont.load_default(11), spacing=1
        )
    return np.array(sheet)


def draw_tile(pixels: NDArray[np.uint8], box: NDArray, truth_boxes: NDArray) -> Image.Image:
    """Draws one crop with its box orange and annotated objects blue, enlarged or shrunk to fit a square."""
    factor = _TILE / max(pixels.shape[:2])
    width, height = max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor))
    tile = Image.new("RGB", (_TILE, _TILE), (235, 235, 235))
    tile.paste(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC), (0, 0))
    draw = ImageDraw.Draw(tile)
    for rectangle, color in [*((truth, TRUTH_COLOR) for truth in truth_boxes), (box, PREDICTION_COLOR)]:
        x1, y1, x2, y2 = np.clip(np.asarray(rectangle) * factor, 0, [width - 1, height - 1] * 2).tolist()
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=color, width=2)
    return tile
