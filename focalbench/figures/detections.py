"""Draws detections and annotated objects on images, and crops around single boxes as tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from focalbench.figures.frames import Frames
from focalbench.figures.legend import Entry, with_legend
from focalbench.figures.lettering import font_for, label_of, shortened
from focalbench.figures.palette import BLACK, IGNORED_COLOR, class_color

# Of crops, where the question is which box is meant. Blue and orange stay apart for colour-blind eyes and against most
# photographs.
TRUTH_COLOR = (0, 170, 255)
PREDICTION_COLOR = (255, 130, 0)

LONG_SIDE = 4096
"""Pixels of the longer side beyond which no picture is enlarged, however narrow it is."""

_SHORT_SIDE = 384  # pixels: below this, names and scores cannot be read
_LONGEST_SIDE = 16_384  # pixels: beyond, a picture is shrunk; JPEG ends at 65,500, and viewers before that
_NO_ROOM = 96  # pixels of the shorter side: names would cover the whole
_MOST_NAMED = 16  # frames; the names of more would cover what they name
_CONTEXT = 0.5  # of a box's longer side, shown around it on each side of a crop
_MIN_SIDE = 8.0  # pixels: a smaller box is cropped as if it had this side
_TILE, _CAPTION, _GAP = 180, 34, 6  # pixels
_CAPTION_FONT_SIZE = 11


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
    first, and no side is longer than 16,384 pixels.

    Each class has a colour. Frames of predictions are solid, with name and score above; those of objects are dashed,
    with the name below, and gray for difficult ones. A line at the bottom says so, and from what score on predictions
    are drawn. Where there are more frames than names have room for, names and scores are left out, and the line names
    the colours.

    Args:
        image: (H, W, 3) uint8.
        classes: name of each label; one that no font can write is shown as its number.
        boxes: (D, 4) xyxy in pixels of ``image``, 0-based and continuous.
        labels: (D,) in 0..K-1.
        scores: (D,) in [0, 1].
        truth_boxes: (M, 4) like ``boxes``; None where the truth is not known.
        truth_labels: (M,) in 0..K-1.
        truth_difficult: (M,) bool; None for none.
        score_thresh: predictions below it are not drawn.

    Returns:
        (H', W', 3) uint8; without the line at the bottom at least 384 pixels on the shorter side, but of strips, whose
        longer side is not enlarged beyond 4096.
    """
    size = _drawn_size(image.shape[1], image.shape[0])
    factor = np.tile(np.array(size) / image.shape[1::-1], 2)
    picture = Image.fromarray(np.ascontiguousarray(image)).resize(size, Image.Resampling.BICUBIC)
    # Letters grow more slowly than the picture: a large one is seldom looked at as a whole.
    font_size, line_width = 8 + min(size) // 48, 2 + min(size) // 480
    frames = Frames(picture, font_size=font_size, line_width=line_width)
    order = np.argsort(-scores, kind="stable")
    drawn = order[scores[order] >= score_thresh]
    in_view = sorted({*labels[drawn].tolist(), *([] if truth_labels is None else truth_labels.tolist())})
    names = {label: label_of(classes[label], label) for label in in_view}
    is_crowded = len(drawn) + (0 if truth_labels is None else len(truth_labels)) > _MOST_NAMED or min(size) < _NO_ROOM
    in_legend = is_crowded and len({class_color(label) for label in in_view}) == len(in_view)
    for index in drawn:
        label, score = int(labels[index]), f"{scores[index]:.2f}"
        name = "" if in_legend else names[label]
        frames.add(boxes[index] * factor, class_color(label), name, score, dashed=False, below=False)
    entries = [Entry(f"detection, score from {score_thresh:g}", sample="solid")]
    if truth_boxes is not None and truth_labels is not None:
        difficult = np.zeros(len(truth_boxes), dtype=bool) if truth_difficult is None else truth_difficult
        for box, label, hard in zip(truth_boxes * factor, truth_labels.tolist(), difficult, strict=True):
            color = IGNORED_COLOR if hard else class_color(label)
            frames.add(box, color, "" if in_legend else names[label], dashed=True, below=True)
        entries.insert(0, Entry("truth", sample="dashed"))
        if difficult.any():
            entries.insert(1, Entry("difficult", IGNORED_COLOR, "dashed"))
    if in_legend:
        entries += [Entry(name, class_color(label), "patch") for label, name in names.items()]
    frames.draw()
    return np.array(with_legend(picture, entries, font_size=font_size, line_width=line_width))


def _drawn_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of the picture of an image."""
    shorter, longer = min(width, height), max(width, height)
    whole = max(1, min(-(-_SHORT_SIDE // shorter), LONG_SIDE // longer))
    factor = min(whole, _LONGEST_SIDE / longer)
    return max(1, round(width * factor)), max(1, round(height * factor))


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
        _write_caption(ImageDraw.Draw(sheet), (corner[0], corner[1] + _TILE + 1), caption)
    return np.array(sheet)


def _write_caption(draw: ImageDraw.ImageDraw, corner: tuple[int, int], caption: str) -> None:
    """The lines of a caption below each other, cut where the tile ends."""
    for number, line in enumerate(caption.split("\n")):
        font = font_for(line, _CAPTION_FONT_SIZE)
        place = (corner[0], corner[1] + number * (_CAPTION // 2 - 1))
        draw.text(place, shortened(line, font, _TILE), fill=BLACK, font=font)


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
