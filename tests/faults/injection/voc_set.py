"""A small sound data set in VOC's layout, and the means to spoil one file of it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 48
TRAIN, VAL = tuple(f"train{i}" for i in range(6)), tuple(f"val{i}" for i in range(3))
SPLITS = ("--train", "2007/train", "--val", "2007/val")
VICTIM = TRAIN[0]
"""The image that is spoilt."""


def picture(seed: int = 0, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    """Noise, (width, height) pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """``image`` as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def an_object(
    name: str = "cat", box: Iterable[object] = (5, 6, 30, 40), extra: str = "<difficult>0</difficult>"
) -> str:
    """One ``<object>``."""
    edges = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    bndbox = "".join(f"<{edge}>{value}</{edge}>" for edge, value in edges)
    return f"<object><name>{name}</name>{extra}<bndbox>{bndbox}</bndbox></object>"


def size_tag(width: object = WIDTH, height: object = HEIGHT) -> str:
    """A ``<size>``."""
    return f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"


DOG = an_object("dog", (20, 10, 60, 44))


class VocSet:
    """Six training and three other images of a cat and a dog each, below ``root``; nothing in it is warned of."""

    def __init__(self, root: Path) -> None:
        self.root, self.year = root, root / "VOC2007"
        for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (self.year / name).mkdir(parents=True)
        for seed, image_id in enumerate((*TRAIN, *VAL)):
            self.image(image_id).write_bytes(encoded(picture(seed)))
            self.annotate(an_object() + DOG, image_id=image_id)
        self.list("train", TRAIN)
        self.list("val", VAL)

    def image(self, image_id: str = VICTIM, suffix: str = ".jpg") -> Path:
        """Where an image lies."""
        return self.year / "JPEGImages" / f"{image_id}{suffix}"

    def xml(self, image_id: str = VICTIM) -> Path:
        """Where an annotation lies."""
        return self.year / "Annotations" / f"{image_id}.xml"

    def split(self, name: str = "train") -> Path:
        """Where the list of a split lies."""
        return self.year / "ImageSets" / "Main" / f"{name}.txt"

    def annotate(self, objects: str, size: str = size_tag(), image_id: str = VICTIM) -> None:
        """Writes an annotation with ``objects`` and ``size`` as raw XML."""
        self.xml(image_id).write_text(f"<annotation>{size}{objects}</annotation>", encoding="utf-8")

    def edit(self, change: Callable[[str], str | bytes]) -> None:
        """Replaces the victim's annotation by what ``change`` makes of it."""
        text = change(self.xml().read_text(encoding="utf-8"))
        self.xml().write_bytes(text if isinstance(text, bytes) else text.encode())

    def replace_image(self, content: bytes, suffix: str = ".jpg") -> None:
        """Gives the victim another image file."""
        self.image().unlink()
        self.image(suffix=suffix).write_bytes(content)

    def rename(self, image_id: str) -> None:
        """Gives the victim another id."""
        self.image().rename(self.image(image_id))
        self.xml().rename(self.xml(image_id))
        self.list("train", (image_id, *TRAIN[1:]))

    def list(self, name: str, ids: Iterable[str]) -> None:
        """Writes the list of a split."""
        self.split(name).write_text("".join(f"{image_id}\n" for image_id in ids), encoding="utf-8")
