"""What a data set of another tool holds, whatever its format: images with their boxes, splits, faults and losses."""

from __future__ import annotations

import math
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from focalbench.data.faults import Fault, shorten
from focalbench.data.files import IMAGE_SUFFIXES, RefusedFile
from focalbench.data.images import MAX_IMAGE_BYTES, BrokenImage, Header, open_image, read_header
from focalbench.errors import DataError
from focalbench.storage import read_regular

MAX_FILES = 1_000_000
MAX_BOXES = 5000
"""Boxes of one image, as many as an annotation may hold (``data.annotation``)."""
OTHER_SUFFIXES = (".bmp", ".gif", ".heic", ".jp2", ".tif", ".tiff", ".webp")
"""Pictures that are not read, known so that they can be named."""
_HEADER_BYTES = 1 << 16
SPLITS = {
    "train": "train",
    "training": "train",
    "trainval": "trainval",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""Words that name a split, and what they mean."""
_DIFFICULT = {"1", "true", "yes"}


@dataclass(frozen=True)
class SourceBox:
    """One object: class name as the source writes it, 0-based continuous edges (left, top, right, bottom) in pixels."""

    name: str
    edges: tuple[float, float, float, float]
    difficult: bool = False


@dataclass
class SourceImage:
    """One image while it is read.

    Attributes:
        name: path below the source, with ``/``: what the image is called in messages and what its id is made from.
        path: the image file without links, None where it cannot be used.
        annotation: the file that holds its boxes, for messages.
        split: train, val, trainval or test; None where the source does not say.
        size: (width, height) as annotated, None until it is known.
        boxes: in the order of the source.
        errors: faults for which the image cannot be imported.
        warnings: what was repaired or left out.
    """

    name: str
    path: Path | None
    annotation: str
    split: str | None = None
    size: tuple[int, int] | None = None
    boxes: list[SourceBox] = field(default_factory=list)
    errors: list[Fault] = field(default_factory=list)
    warnings: list[Fault] = field(default_factory=list)

    def fail(self, kind: str, tag: str | None, reason: str) -> None:
        """Notes a fault of the annotation."""
        self.errors.append(Fault(kind, self.annotation, tag, reason))

    def warn(self, kind: str, tag: str | None, reason: str) -> None:
        """Notes a repair or a loss in the annotation."""
        self.warnings.append(Fault(kind, self.annotation, tag, reason))

    def add(self, tag: str, name: str, edges: tuple[float, float, float, float], difficult: bool = False) -> None:
        """Takes an object whose edges are 0-based and continuous; what is wrong with it is noted."""
        left, top, right, bottom = edges
        shown = f"box ({left:g}, {top:g}, {right:g}, {bottom:g})"
        if not all(map(math.isfinite, edges)):
            self.fail("non-finite-box", tag, f"{shown} is not finite")
        elif max(map(abs, edges)) > 1e6:
            self.fail("bad-box", tag, f"{shown} lies a million pixels away")
        elif right < left or bottom < top:
            self.fail("negative-size", tag, f"{shown} has a negative width or height")
        elif len(self.boxes) >= MAX_BOXES:
            if len(self.boxes) == MAX_BOXES and not any(fault.kind == "too-many-objects" for fault in self.errors):
                self.fail("too-many-objects", None, f"{self.name} has more than the {MAX_BOXES:,} objects accepted")
        elif right - left < 0.999 or bottom - top < 0.999:
            self.warn("below-a-pixel", tag, f"{shown} is less than a pixel wide or high: left out")
        else:
            self._say_where(tag, shown, edges)
            self.boxes.append(SourceBox(name, edges, difficult))

    def _say_where(self, tag: str, shown: str, edges: tuple[float, float, float, float]) -> None:
        if self.size is None:
            return
        left, top, right, bottom = edges
        width, height = self.size
        if left >= width or top >= height or right <= 0 or bottom <= 0:
            reason = f"{shown} lies outside the {width} x {height} image: kept here, left out when the set is read"
            self.warn("box-outside", tag, reason)
        elif left < -1 or top < -1 or right > width + 1 or bottom > height + 1:
            reason = f"{shown} extends beyond the {width} x {height} image: kept here, clipped when the set is read"
            self.warn("box-beyond-border", tag, reason)


@dataclass
class Source:
    """A data set of another tool.

    Attributes:
        format: its name for people.
        images: in the order of the source.
        classes: class names that it declares, in its order; empty where it declares none.
        errors: faults for which nothing can be imported.
        strays: faults that concern no image, such as a box of an image that is not there.
        warnings: repairs that concern no single image.
        left_behind: how much of what VOC's layout has no place for, by what it is.
    """

    format: str
    images: list[SourceImage] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    errors: list[Fault] = field(default_factory=list)
    strays: list[Fault] = field(default_factory=list)
    warnings: list[Fault] = field(default_factory=list)
    left_behind: Counter[str] = field(default_factory=Counter)

    def declare(self, name: str) -> None:
        """Adds a class that the source names, once."""
        if name not in self.classes:
            self.classes.append(name)


@dataclass(frozen=True)
class Place:
    """Where a source lies.

    Attributes:
        base: folder, without links, that no file may lie outside of.
        file: the file that the user named, below ``base``; None where a folder was named.
        images: folder of the images where it is another one (``--images``), without links.
    """

    base: Path
    file: str | None = None
    images: Path | None = None

    @cached_property
    def files(self) -> list[str]:
        """All files below ``base`` as paths with ``/``, sorted; hidden ones and linked folders are passed over."""
        return sorted(_walk(self.base))

    @cached_property
    def pictures(self) -> list[str]:
        """Those of ``files`` that are images, also of kinds that cannot be read."""
        return [name for name in self.files if suffix_of(name) in (*IMAGE_SUFFIXES, *OTHER_SUFFIXES)]

    def named(self, *suffixes: str) -> list[str]:
        """Returns those of ``files`` with one of the ``suffixes``, or the file that the user named."""
        return [self.file] if self.file is not None else [name for name in self.files if suffix_of(name) in suffixes]

    def read(self, name: str, max_bytes: int) -> bytes:
        """Reads the file ``name`` below ``base``.

        Raises:
            RefusedFile: if it is missing, leads outside, is no regular file or is above ``max_bytes``.
        """
        path = find_inside(self.base, name)
        try:
            return read_regular(path, max_bytes)
        except OSError as error:
            raise RefusedFile("unreadable", f"cannot be read: {error.strerror}") from None


def suffix_of(name: str) -> str:
    """Returns the ending of a file's name in small letters, with its dot."""
    return os.path.splitext(name)[1].lower()


def _walk(base: Path) -> Iterator[str]:
    count = 0
    for folder, folders, names in os.walk(base):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        relative = os.path.relpath(folder, base)
        prefix = "" if relative == "." else f"{relative}/"
        count += len(names)
        if count > MAX_FILES:
            raise DataError(f"{base}: holds more than {MAX_FILES:,} files; name the folder of the data set itself")
        yield from (prefix + name for name in names if not name.startswith("."))


def linked_folders(base: Path) -> list[str]:
    """Lists the folders below ``base`` that are links: they are never entered, and whoever reads should know."""
    return [
        os.path.relpath(os.path.join(folder, name), base)
        for folder, folders, _ in os.walk(base)
        for name in folders
        if os.path.islink(os.path.join(folder, name))
    ]


def is_absolute(name: str) -> bool:
    """Says whether a path starts at a root, of this system or of Windows."""
    path = name.replace("\\", "/")
    return path.startswith(("/", "~")) or path[1:3] == ":/"


def find_inside(base: Path, relative: str) -> Path:
    """Returns the regular file at ``relative`` below ``base``, which has no links in it; links within are followed.

    A link may lead to another file of the source and no further: a data set may come from anybody, and what it links
    to would become part of the new one.

    Raises:
        RefusedFile: if it is missing, unreadable, no regular file, or leads outside in whatever way.
    """
    name = relative.replace("\\", "/")
    if is_absolute(name):
        reason = "is an absolute path: paths have to be relative to the source; --images DIR names another folder"
        raise RefusedFile("bad-path", reason)
    if ".." in name.split("/"):
        raise RefusedFile("bad-path", "leads upwards with '..': files have to lie in the source, or in --images DIR")
    try:
        real = os.path.realpath(os.path.join(base, name), strict=True)
        status = os.stat(real)
    except FileNotFoundError:
        raise RefusedFile("missing-file", "does not exist") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RefusedFile("unreadable", f"cannot be opened: {reason}") from None
    if not real.startswith(f"{base}{os.sep}".replace("//", "/")):
        raise RefusedFile("outside", f"is a link that leaves the source ({shorten(real, 120)}): put the file there")
    if not stat.S_ISREG(status.st_mode):
        raise RefusedFile("not-a-file", "is not a regular file")
    return Path(real)


def read_image_header(path: Path) -> Header:
    """Reads size and orientation of an image file, usually from its first kilobytes.

    Raises:
        BrokenImage: if it is none, or of a kind that is not read; ``kind`` is then ``other-format``.
    """
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        reason = f"is a {suffix or 'nameless'} file: only JPEG and PNG are read; convert it, and import again"
        raise BrokenImage("other-format", reason)
    try:
        with path.open("rb") as file:
            data = file.read(_HEADER_BYTES)
            try:
                return read_header(open_image(data))
            except BrokenImage:
                rest = file.read(MAX_IMAGE_BYTES)
                if not rest:
                    raise
                return read_header(open_image(data + rest))
    except OSError as error:
        raise BrokenImage("unreadable", f"cannot be read: {error.strerror}") from None


def open_source_image(
    base: Path, relative: str, annotation: str, split: str | None = None
) -> tuple[SourceImage, Header | None]:
    """Finds an image of the source and reads its header; faults are noted in it, and the header is then None."""
    name = str(PurePosixPath(relative.replace("\\", "/")))
    image = SourceImage(name, None, annotation, split)
    try:
        path = find_inside(base, relative)
        header = read_image_header(path)
    except (RefusedFile, BrokenImage) as fault:
        kind = "missing-image" if fault.kind == "missing-file" else fault.kind
        image.errors.append(Fault(kind, shorten(name, 200), None, f"{fault} (named by {shorten(annotation, 100)})"))
        return image, None
    image.path, image.size = path, (header.width, header.height)
    return image, header


def take_size(image: SourceImage, header: Header | None, width: Any, height: Any) -> None:
    """Takes the annotated size, which tells whether the annotator saw the image turned; the image's own without it."""
    if not (is_number(width) and is_number(height) and 1 <= width <= 1e6 and 1 <= height <= 1e6):
        return
    image.size = (round(width), round(height))
    if header is not None and image.size not in ((header.width, header.height), header.rotated_size):
        reason = (
            f"{image.name} is annotated as {image.size[0]} x {image.size[1]} and has "
            f"{header.width} x {header.height} pixels: boxes are kept as written"
        )
        image.warn("size-differs", None, reason)


def is_number(value: Any) -> bool:
    """Says whether ``value`` is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_set(text: str) -> bool:
    """Says whether an attribute's text means yes."""
    return text.strip().lower() in _DIFFICULT


def split_of(*names: str) -> str | None:
    """Returns the split that the last of ``names`` that holds one names, such as ``instances_val2017`` or ``valid``."""
    for name in reversed(names):
        words = "".join(letter if letter.isascii() and letter.isalpha() else " " for letter in name.lower()).split()
        found = {SPLITS[word] for word in words if word in SPLITS}
        if len(found) == 1:
            return found.pop()
    return None


def bounds(points: list[tuple[float, float]]) -> tuple[float, float, float, float]:
    """Returns the smallest box around ``points``; NaN where one of them is, which min and max would pass over."""
    xs, ys = zip(*points, strict=True)
    if any(map(math.isnan, (*xs, *ys))):
        return math.nan, math.nan, math.nan, math.nan
    return min(xs), min(ys), max(xs), max(ys)
