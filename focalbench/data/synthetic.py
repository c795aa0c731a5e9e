"""A generated detection set in VOC's layout: small, free, imbalanced and hard enough to tell losses apart.

Four shapes of unequal frequency lie on textured backgrounds among distractors (lines, specks, hollow outlines). Every
image is drawn from its own random stream, named by (seed, split, number): a larger set starts with the smaller one.
"""

from __future__ import annotations

import math
import os
import shutil
import struct
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from filelock import FileLock
from PIL import Image, ImageDraw

from focalbench.errors import DataError, StorageError

GENERATOR_VERSION = 3  # raise it when the pictures change: sets in the cache folder are then generated anew
CLASSES = ("circle", "cross", "square", "triangle")
FREQUENCIES = (0.45, 0.13, 0.25, 0.17)
_SPLIT_STREAMS = {"train": 0, "val": 1}
# Shapes are drawn at 4 times their size and averaged: soft edges, exact boxes.
_OVERSAMPLING = 4
# Objects lean by up to this angle (radians) and no more: from any side, a small square is a blurred circle.
_LARGEST_LEAN = 0.3


@dataclass(frozen=True)
class SyntheticImage:
    """A generated image.

    Attributes:
        pixels: (S, S, 3) uint8 RGB.
        boxes: (M, 4) int, VOC 1-based inclusive, tight around what is seen.
        labels: (M,) int into ``CLASSES``.
    """

    pixels: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


def generate_image(seed: int, split: str, number: int, image_size: int = 128) -> SyntheticImage:
    """Draws image ``number`` of the ``split`` train or val: 1 to 4 objects of 12 to 40 px per 128 px of its side."""
    rng = np.random.default_rng([seed, _SPLIT_STREAMS[split], number])
    canvas = _draw_background(rng, image_size)
    for _ in range(int(rng.integers(2, 6))):
        _draw_distractor(rng, canvas)
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    for _ in range(int(rng.integers(1, 5))):
        label = int(rng.choice(len(CLASSES), p=FREQUENCIES))
        box = _draw_object(rng, canvas, label, boxes)
        if box is not None:
            boxes.append(box)
            labels.append(label)
    canvas += rng.integers(-10, 11, canvas.shape, np.int8)  # grain
    pixels = canvas.clip(0, 255).astype(np.uint8)
    return SyntheticImage(pixels, np.array(boxes, np.int64).reshape(-1, 4), np.array(labels, np.int64))


def _draw_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """(S, S, 3) float32: coloured noise of three coarsenesses, and a grating on half of the images."""
    canvas = np.zeros((size, size, 3), np.float32) + rng.uniform(70, 185, 3).astype(np.float32)
    for cells, strength in ((3, 28.0), (8, 18.0), (24, 12.0)):
        coarse = np.float32(strength) * rng.standard_normal((cells, cells), np.float32)
        noise = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))
        canvas += np.multiply.outer(noise, rng.uniform(0.5, 1.2, 3).astype(np.float32))
    if rng.random() < 0.5:
        angle, period = rng.uniform(0, math.pi), rng.uniform(0.05, 0.2) * size
        ramp = np.arange(size, dtype=np.float32) * np.float32(2 * math.pi / period)
        wave = np.sin(np.add.outer(ramp * np.float32(math.sin(angle)), ramp * np.float32(math.cos(angle))))
        canvas += (wave * np.float32(rng.uniform(5, 18)))[..., None]
    return canvas


def _blend(canvas: np.ndarray, mask: np.ndarray, left: int, top: int, color: np.ndarray) -> None:
    """Paints ``color`` (3,) or (h, w, 3) where ``mask`` (h, w) in [0, 1] says, cut at the canvas's border."""
    height, width = mask.shape
    x, y = max(left, 0), max(top, 0)
    right, bottom = min(left + width, canvas.shape[1]), min(top + height, canvas.shape[0])
    if right <= x or bottom <= y:
        return
    part = (slice(y - top, bottom - top), slice(x - left, right - left))
    paint = color[part] if color.ndim == 3 else color
    target = canvas[y:bottom, x:right]
    target += mask[part][..., None] * (paint - target)


def _to_mask(drawn: Image.Image) -> np.ndarray:
    return np.asarray(drawn.reduce(_OVERSAMPLING), np.float32) / 255


def _draw_distractor(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """A line, a speck or a hollow outline: none is an object, all have edges."""
    size = canvas.shape[0]
    extent = max(4, int(size * rng.uniform(0.05, 0.35)))
    span = extent * _OVERSAMPLING
    drawn = Image.new("L", (span, span))
    pen = ImageDraw.Draw(drawn)
    kind = rng.integers(3)
    thickness = int(rng.uniform(1.0, 2.2) * _OVERSAMPLING)
    if kind == 0:
        ends = rng.uniform(0, span, 4)
        pen.line([(float(ends[0]), float(ends[1])), (float(ends[2]), float(ends[3]))], fill=255, width=thickness)
    elif kind == 1:
        radius = rng.uniform(0.8, 2.5) * _OVERSAMPLING * size / 128
        middle = span / 2
        pen.ellipse([middle - radius, middle - radius, middle + radius, middle + radius], fill=255)
    else:
        corners = _corners(int(rng.integers(len(CLASSES))), span, rng.uniform(0, 2 * math.pi))
        pen.line([*corners, corners[0]], fill=255, width=thickness)
    left, top = (int(value) for value in rng.integers(-extent // 2, size - extent // 2, 2))
    _blend(
        canvas, _to_mask(drawn) * np.float32(rng.uniform(0.5, 1)), left, top, rng.uniform(0, 255, 3).astype(np.float32)
    )


def _corners(label: int, span: int, angle: float) -> list[tuple[float, float]]:
    """The outline of a class's shape, turned by ``angle`` and filling a square of side ``span`` on its longer side."""
    if CLASSES[label] == "cross":
        arm = 0.34
        turns = [(1, arm), (arm, arm), (arm, 1), (-arm, 1), (-arm, arm), (-1, arm)]
        flat = turns + [(-x, -y) for x, y in turns]
    else:
        number, start = {"circle": (48, 0.0), "square": (4, math.pi / 4), "triangle": (3, -math.pi / 2)}[CLASSES[label]]
        steps = [start + 2 * math.pi * index / number for index in range(number)]
        flat = [(math.cos(step), math.sin(step)) for step in steps]
    cosine, sine = math.cos(angle), math.sin(angle)
    turned = [(x * cosine - y * sine, x * sine + y * cosine) for x, y in flat]
    xs, ys = [x for x, _ in turned], [y for _, y in turned]
    scale = (span - 2) / max(max(xs) - min(xs), max(ys) - min(ys))
    return [(1 + (x - min(xs)) * scale, 1 + (y - min(ys)) * scale) for x, y in turned]


def _draw_object(
    rng: np.random.Generator, canvas: np.ndarray, label: int, others: list[tuple[int, int, int, int]]
) -> tuple[int, int, int, int] | None:
    """Paints an object that hardly covers ``others``; returns its VOC box, or None where 20 tries found no place."""
    size = canvas.shape[0]
    extent = round(rng.uniform(12, 40) * size / 128)
    drawn = Image.new("L", (extent * _OVERSAMPLING, extent * _OVERSAMPLING))
    lean = rng.uniform(-_LARGEST_LEAN, _LARGEST_LEAN)
    ImageDraw.Draw(drawn).polygon(_corners(label, drawn.width, lean), fill=255)
    mask = _to_mask(drawn)
    columns, rows = np.flatnonzero((mask > 0.5).any(0)), np.flatnonzero((mask > 0.5).any(1))
    mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = mask.shape
    for _ in range(20):
        left, top = int(rng.integers(0, size - width + 1)), int(rng.integers(0, size - height + 1))
        box = (left + 1, top + 1, left + width, top + height)
        if all(_overlap(box, other) < 0.1 for other in others):
            _blend(canvas, mask * np.float32(rng.uniform(0.75, 1)), left, top, _choose_paint(rng, canvas, box))
            return box
    return None


def _overlap(box: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """Shared area by the smaller of both areas."""
    width = min(box[2], other[2]) - max(box[0], other[0]) + 1
    height = min(box[3], other[3]) - max(box[1], other[1]) + 1
    areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (box, other)]
    return max(width, 0) * max(height, 0) / min(areas)


def _choose_paint(rng: np.random.Generator, canvas: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """(h, w, 3) float32: a colour that stands out from what lies below, fading across the object."""
    below = canvas[box[1] - 1 : box[3], box[0] - 1 : box[2]].mean((0, 1))
    contrast = rng.uniform(55, 120) * np.where(rng.random(3) < 0.5, -1, 1)
    color = below + contrast
    color = np.where((color < 0) | (color > 255), below - contrast, color)
    fade = np.linspace(-1, 1, box[2] - box[0] + 1)[None, :, None] * rng.uniform(-20, 20)
    shape = (box[3] - box[1] + 1, box[2] - box[0] + 1, 3)
    return (np.broadcast_to(color + fade, shape)).astype(np.float32)


def _annotate(image_id: str, drawn: SyntheticImage) -> str:
    """The XML of one image, in VOC's layout."""
    height, width = drawn.pixels.shape[:2]
    objects = "".join(
        f"\t<object>\n\t\t<name>{escape(CLASSES[label])}</name>\n\t\t<pose>Unspecified</pose>\n"
        "\t\t<truncated>0</truncated>\n\t\t<difficult>0</difficult>\n\t\t<bndbox>\n"
        f"\t\t\t<xmin>{box[0]}</xmin>\n\t\t\t<ymin>{box[1]}</ymin>\n"
        f"\t\t\t<xmax>{box[2]}</xmax>\n\t\t\t<ymax>{box[3]}</ymax>\n\t\t</bndbox>\n\t</object>\n"
        for box, label in zip(drawn.boxes, drawn.labels, strict=True)
    )
    return (
        f"<annotation>\n\t<folder>VOC2007</folder>\n\t<filename>{image_id}.png</filename>\n"
        "\t<source>\n\t\t<database>focalbench synthetic</database>\n\t</source>\n"
        f"\t<size>\n\t\t<width>{width}</width>\n\t\t<height>{height}</height>\n\t\t<depth>3</depth>\n\t</size>\n"
        f"\t<segmented>0</segmented>\n{objects}</annotation>\n"
    )


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes (H, W, 3) uint8 RGB pixels as PNG without compression: grain hardly compresses, and trying costs more
    time than drawing."""
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each row starts with its filter, 0 for none
    rows[:, 1:] = pixels.reshape(height, -1)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows.tobytes(), 0)),
        (b"IEND", b""),
    )
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def synthesize(
    folder: str | os.PathLike[str], num_train: int = 500, num_val: int = 150, image_size: int = 128, seed: int = 0
) -> Path:
    """Writes a data set to ``folder/VOCdevkit/VOC2007`` with splits train and val; the same arguments, the same pixels.

    PNG files, because JPEG's pixels differ between versions of the library.

    Args:
        folder: made where missing; nothing in it is overwritten.
        num_train: images to train on, at least 1.
        num_val: images to evaluate on, at least 1.
        image_size: side in pixels, 32 to 1024.
        seed: not negative.

    Returns:
        The data root, ``folder/VOCdevkit``.

    Raises:
        DataError: if a number is out of range.
        StorageError: if there is a VOCdevkit already, or the folder cannot be written.
    """
    if num_train < 1 or num_val < 1 or not 32 <= image_size <= 1024 or seed < 0:
        raise DataError("a synthetic set needs at least 1 image per split, an image size of 32 to 1024 and a seed >= 0")
    root = Path(folder).expanduser() / "VOCdevkit"
    if root.exists():
        raise StorageError(f"{root}: exists already, and nothing is overwritten; name another folder")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix="VOCdevkit-", suffix=".partial", dir=root.parent))
        try:
            _write_set(partial / "VOC2007", {"train": num_train, "val": num_val}, image_size, seed)
            partial.chmod(0o755)  # mkdtemp makes it private
            os.rename(partial, root)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"{root}: cannot be written: {error.strerror or error}") from None
    return root


def _write_set(folder: Path, counts: dict[str, int], image_size: int, seed: int) -> None:
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for split, count in counts.items():
        ids = [f"{split}_{number:05d}" for number in range(count)]
        for number, image_id in enumerate(ids):
            drawn = generate_image(seed, split, number, image_size)
            (folder / "JPEGImages" / f"{image_id}.png").write_bytes(encode_png(drawn.pixels))
            (folder / "Annotations" / f"{image_id}.xml").write_text(_annotate(image_id, drawn), encoding="utf-8")
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")


def ensure_synthetic(
    cache_dir: str | os.PathLike[str], num_train: int = 500, num_val: int = 150, image_size: int = 128, seed: int = 0
) -> Path:
    """Returns the root of a synthetic set in ``cache_dir``, generated where it is missing; processes may ask at once.

    Arguments and errors are those of :func:`synthesize`.
    """
    name = f"synthetic-v{GENERATOR_VERSION}-{num_train}-{num_val}-{image_size}px-s{seed}"
    folder = Path(cache_dir).expanduser() / name
    root = folder / "VOCdevkit"
    if root.is_dir():
        return root
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            return root if root.is_dir() else synthesize(folder, num_train, num_val, image_size, seed)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {error.strerror or error}") from None
