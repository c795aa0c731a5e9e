"""Finds a font for the text on a picture, and what to write where no font has the letters.

DejaVu Sans comes with matplotlib: Latin, Greek, Cyrillic, Hebrew and more on every machine. Other scripts are looked
for in the fonts that are installed. A class whose name no font can write is known by its number there.
"""

from __future__ import annotations

import importlib.util
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path

from PIL import ImageFont

ELLIPSIS = "…"
# A name shares its line with these.
_COMPANIONS = frozenset("0123456789.#, " + ELLIPSIS)
_UPRIGHT = frozenset({"Regular", "Book", "Roman", "Normal", "Medium"})


def label_of(name: str, label: int) -> str:
    """Returns what stands for a class on a picture: its name on one line, or ``#3`` where no font can write it."""
    line = _one_line(name)
    return line if line and _font_file(line) is not None else f"#{label}"


def drawable(name: str) -> bool:
    """Returns whether a picture can show ``name``: some font has all its letters, and there is one to be seen."""
    line = _one_line(name)
    return bool(line) and _font_file(line) is not None


def undrawable(classes: Sequence[str]) -> dict[int, str]:
    """Returns the classes that pictures show by number, label to name: a legend for the text beside them."""
    return {label: name for label, name in enumerate(classes) if not drawable(name)}


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Returns a font that has the letters of ``text``, else DejaVu Sans, ``size`` pixels high."""
    return _font(font_path(text), size)


def font_path(text: str) -> Path:
    """Returns the file of a font that has the letters of ``text``, else DejaVu Sans."""
    return _font_file(text) or _dejavu()


def shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Returns ``text`` if it is at most ``width`` pixels wide, else the longest start that is, with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    low, high = 0, len(text)  # letters kept: `low` fit, `high` do not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if font.getlength(text[:middle] + ELLIPSIS) <= width else (low, middle)
    return text[:low].rstrip() + ELLIPSIS


def _one_line(name: str) -> str:
    """``name`` without what moves the pen or shows nothing: control characters, joiners, variation selectors."""
    composed = unicodedata.normalize("NFC", name)
    kept = (character if character.isprintable() else _blank(character) for character in composed)
    return " ".join("".join(kept).translate(_SELECTORS).split())


def _blank(character: str) -> str:
    """A gap for a line break, a tab or a space of another width; nothing for marks without a width."""
    return " " if character.isspace() else ""


_SELECTORS = dict.fromkeys(range(0xFE00, 0xFE10))


@lru_cache(maxsize=4096)
def _font_file(text: str) -> Path | None:
    """The first font that has every letter of ``text`` and of what stands beside a name; DejaVu before the others."""
    if text.isascii():
        return _dejavu()
    needed = frozenset(map(ord, _COMPANIONS.union(text)))
    return next((path for path in _font_files() if needed <= _code_points(path)), None)


def _font_files() -> Iterator[Path]:
    yield _dejavu()
    yield from _installed()


@cache
def _dejavu() -> Path:
    """Found without importing matplotlib, which takes longer than a picture."""
    found = importlib.util.find_spec("matplotlib")
    assert found is not None
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0], "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")


@cache
def _installed() -> tuple[Path, ...]:
    """Scalable fonts of this machine, upright and regular ones first, in an order that does not change."""
    from matplotlib.font_manager import findSystemFonts

    faces = [(path, _style(path)) for path in sorted(map(Path, findSystemFonts()))]
    return tuple(path for path, style in sorted(faces, key=lambda face: face[1] not in _UPRIGHT) if style is not None)


def _style(path: Path) -> str | None:
    """Such as ``Bold``; None for what is no scalable font: bitmaps (colour emoji among them) and broken files."""
    from matplotlib.ft2font import FT2Font

    try:
        face = FT2Font(str(path))
    except (OSError, RuntimeError):
        return None
    return face.style_name if face.scalable else None


@cache
def _code_points(path: Path) -> frozenset[int]:
    """The characters that a font has a glyph for."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(path)).get_charmap())


@cache
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)
