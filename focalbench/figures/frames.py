"""Draws boxes with their names on a picture: dashed or solid frames, and names that keep clear of each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from focalbench.figures.lettering import font_for, shortened
from focalbench.figures.palette import Color, ink_on

_DASH, _GAP = 4, 2.5  # in widths of the line
_PADDING = 2  # pixels around a name
_WIDEST = 0.5  # of the picture: a longer name is cut

Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Frame:
    corners: Rectangle
    color: Color
    name: str
    value: str
    dashed: bool
    below: bool


class Frames:
    """Collects the boxes of one picture, the most important first, and draws them so that these lie on top.

    Args:
        picture: drawn on, in place.
        font_size: height of the letters, pixels.
        line_width: of the frames, pixels.
    """

    def __init__(self, picture: Image.Image, *, font_size: int, line_width: int) -> None:
        self._draw = ImageDraw.Draw(picture)
        self._size = picture.size
        self._font_size, self._line_width = font_size, line_width
        self._frames: list[_Frame] = []

    def add(
        self, box: NDArray[np.floating], color: Color, name: str = "", value: str = "", *, dashed: bool, below: bool
    ) -> None:
        """Adds a box, (4,) xyxy pixels of the picture, cut to it; one that is not finite is left out.

        Args:
            name: on one line, cut where it is longer than half of the picture; empty for none.
            value: stands behind the name, never cut.
            below: whether the name stands below the box rather than above it.
        """
        if not np.isfinite(box).all():
            return
        width, height = self._size
        x1, x2 = np.sort(np.clip(box[[0, 2]], 0, width - 1)).tolist()
        y1, y2 = np.sort(np.clip(box[[1, 3]], 0, height - 1)).tolist()
        self._frames.append(_Frame((x1, y1, x2, y2), color, name, value, dashed, below))

    def draw(self) -> None:
        """Draws all frames, then all names, so that no frame runs through a name."""
        for frame in reversed(self._frames):
            if frame.dashed:
                draw_dashed(self._draw, frame.corners, frame.color, self._line_width)
            else:
                self._draw.rectangle(frame.corners, outline=frame.color, width=self._line_width)
        named = [frame for frame in self._frames if frame.name]
        taken: list[Rectangle] = []
        for frame in named:
            taken.append(self._place(frame, taken))
        for frame, place in reversed(list(zip(named, taken, strict=True))):
            self._write(frame, place)

    def _place(self, frame: _Frame, taken: list[Rectangle]) -> Rectangle:
        """The first of the usual places that no earlier name has; the very first where all are taken."""
        font, text = self._lettering(frame)
        width = font.getlength(text) + 2 * _PADDING
        height = sum(font.getmetrics()) + _PADDING
        places = [self._within(x, y, width, height) for x, y in _places(frame, width, height)]
        return next((place for place in places if not any(_overlap(place, other) for other in taken)), places[0])

    def _lettering(self, frame: _Frame) -> tuple[ImageFont.FreeTypeFont, str]:
        """What is written at a frame, and with which font."""
        font = font_for(frame.name, self._font_size)
        name = shortened(frame.name, font, _WIDEST * self._size[0])
        return font, f"{name} {frame.value}".rstrip()

    def _within(self, x: float, y: float, width: float, height: float) -> Rectangle:
        """The rectangle, moved into the picture."""
        x = max(0.0, min(x, self._size[0] - width))
        y = max(0.0, min(y, self._size[1] - height))
        return x, y, x + width, y + height

    def _write(self, frame: _Frame, place: Rectangle) -> None:
        font, text = self._lettering(frame)
        self._draw.rectangle(place, fill=frame.color)
        self._draw.text((place[0] + _PADDING, place[1]), text, fill=ink_on(frame.color), font=font)


def draw_dashed(draw: ImageDraw.ImageDraw, corners: Rectangle, color: Color, width: int) -> None:
    """Draws a dashed rectangle inside its corners, with a dash at each of them."""
    x1, y1, x2, y2 = corners
    for start, end in _dashes(x1, x2, width):
        draw.rectangle((start, y1, end, min(y1 + width - 1, y2)), fill=color)
        draw.rectangle((start, max(y2 - width + 1, y1), end, y2), fill=color)
    for start, end in _dashes(y1, y2, width):
        draw.rectangle((x1, start, min(x1 + width - 1, x2), end), fill=color)
        draw.rectangle((max(x2 - width + 1, x1), start, x2, end), fill=color)


def _dashes(start: float, end: float, width: int) -> Iterator[tuple[float, float]]:
    """Dashes of one length from ``start`` to ``end``, the first and the last whole; the gaps between them give way."""
    dash, gap = _DASH * width, _GAP * width
    count = round((end - start - dash) / (dash + gap))
    if count < 1:
        yield start, end
        return
    stride = (end - start - dash) / count
    for number in range(count + 1):
        yield start + number * stride, start + number * stride + dash


def _places(frame: _Frame, width: float, height: float) -> list[tuple[float, float]]:
    """Left upper corners where a name may stand, the best first: outside the box, then inside, then beside it."""
    x1, y1, x2, y2 = frame.corners
    above, below = y1 - height, y2 + 1
    inside_top, inside_bottom = y1, y2 - height
    rows = (below, inside_bottom, inside_top, above) if frame.below else (above, inside_top, inside_bottom, below)
    return [(x, y) for y in rows for x in (x1, x2 - width)]


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
