"""Writes below a picture what its lines and colours mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageDraw

from focalbench.figures.frames import draw_dashed
from focalbench.figures.lettering import font_for, shortened
from focalbench.figures.palette import BLACK, WHITE, Color


@dataclass(frozen=True)
class Entry:
    """One thing that a legend explains: a small frame or a patch of colour, and what it stands for; or text alone."""

    text: str
    color: Color = BLACK
    sample: Literal["solid", "dashed", "patch", "none"] = "none"


_NARROWEST = 24  # of the letters' height: room for the words of an entry


def with_legend(picture: Image.Image, entries: Sequence[Entry], *, font_size: int, line_width: int) -> Image.Image:
    """Returns the picture with the entries below it, black on white, in as many lines as they need.

    Beside a picture that is too narrow for words there is white.

    Args:
        picture: RGB.
        entries: one cell each, from the left; what is wider than the whole is cut.
        font_size, line_width: pixels.
    """
    margin, sample, space = font_size // 2, round(2.5 * font_size), round(0.4 * font_size)
    line_height = round(1.5 * font_size)
    full_width = max(picture.width, _NARROWEST * font_size) if entries else picture.width
    cells: list[tuple[int, int, Entry, str]] = []
    x, line = margin, 0
    for entry in entries:
        before = 0 if entry.sample == "none" else sample + space
        font = font_for(entry.text, font_size)
        text = shortened(entry.text, font, full_width - 2 * margin - before)
        width = before + round(font.getlength(text))
        if x > margin and x + width > full_width - margin:
            x, line = margin, line + 1
        cells.append((x, line, entry, text))
        x += width + font_size
    height = (line + 1) * line_height if cells else 0
    canvas = Image.new("RGB", (full_width, picture.height + height), WHITE)
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for x, line, entry, text in cells:
        middle = picture.height + line * line_height + line_height // 2
        if entry.sample != "none":
            corners = (x, middle - font_size // 2, x + sample, middle + font_size // 2)
            if entry.sample == "dashed":
                draw_dashed(draw, corners, entry.color, line_width)
            elif entry.sample == "solid":
                draw.rectangle(corners, outline=entry.color, width=line_width)
            else:
                draw.rectangle(corners, fill=entry.color)
            x += sample + space
        draw.text((x, middle), text, fill=BLACK, font=font_for(entry.text, font_size), anchor="lm")
    return canvas
