"""Image files to uint8 RGB pixels, JPEG and PNG only, within bounds of memory and time whatever the bytes say."""

from __future__ import annotations

import io
import math
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from focalbench.data.metadata import PNG_SIGNATURE, find_orientation, split_metadata
from focalbench.data.sixteen_bit import MAX_SAMPLE, Extent, SampleRange, lower_bytes, to_8_bit

Fit = Literal["warp", "letterbox"]

MAX_IMAGE_BYTES = 128 * 2**20
MAX_PIXELS = 64_000_000
MAX_SCANNED_PIXELS = 2_000_000_000
# Larger images are decoded one at a time: a few at once would fill the memory of a small machine.
LARGE_PIXELS = 12_000_000
_LARGE_IMAGE = threading.Lock()
PAD_COLOR = (124, 116, 104)  # the mean of ImageNet: about zero once normalised
_WHOLE_FILE = "focalbench: file of 16-bit colors"  # in the info of an image
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BrokenImage(Exception):  # noqa: N818 - a verdict, caught where the fault is recorded
    """The bytes are no image that may be read; ``kind`` names the fault."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True)
class Header:
    """What an image says of itself: stored size in pixels and EXIF orientation (1 to 8, 1 is upright)."""

    width: int
    height: int
    orientation: int

    @property
    def rotated_size(self) -> tuple[int, int]:
        """(width, height) once the orientation is applied."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


@contextmanager
def quiet_decoding() -> Iterator[None]:
    """Silences Pillow's remarks on odd metadata, which matter to nobody. Not per thread: enter it around a pool."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\..*")
        yield


def _peek_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) from the header's bytes, so that no decoder ever sees a bomb; None if not found."""
    if data[:8] == PNG_SIGNATURE and len(data) >= 24:
        return struct.unpack(">II", data[16:24])
    if data[:2] != b"\xff\xd8":
        return None
    position = 2
    while position + 9 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:  # filler and markers without a length
            position += 1 if marker == 0xFF else 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            return width, height
        position += 2 + struct.unpack(">H", data[position + 2 : position + 4])[0]
    return None


def _turn_of(image: Image.Image) -> AbstractContextManager[object]:
    return _LARGE_IMAGE if image.width * image.height > LARGE_PIXELS else nullcontext()


def _check_bounds(width: int, height: int, data: bytes) -> None:
    if width < 1 or height < 1:
        raise BrokenImage("image-broken", f"has no pixels ({width} x {height})")
    if width * height > MAX_PIXELS:
        accepted = f"more than the {MAX_PIXELS:,} accepted"
        reason = f"has {width} x {height} pixels, {accepted}: scale down the image and the boxes of its annotation"
        raise BrokenImage("image-too-large", reason)
    # A progressive JPEG may hold thousands of empty scans, each as slow as the whole image.
    num_scans = data.count(b"\xff\xda") if data[:2] == b"\xff\xd8" else 1
    if num_scans * width * height > MAX_SCANNED_PIXELS:
        raise BrokenImage("image-too-large", f"has {num_scans} scans of {width} x {height} pixels")


def open_image(data: bytes) -> Image.Image:
    """Opens JPEG or PNG bytes without decoding the pixels; of all metadata only EXIF is kept, in ``info["exif"]``.

    Raises:
        BrokenImage: if they are neither, or ask for more pixels than accepted.
    """
    if not data:
        raise BrokenImage("image-broken", "is empty")
    data, exif = split_metadata(data)
    size = _peek_size(data)
    if size is not None:
        _check_bounds(*size, data)
    try:
        image = Image.open(io.BytesIO(data), formats=["JPEG", "PNG"])
    except Exception as error:  # a decoder may raise anything on bytes made to break it
        reason = "is neither a JPEG nor a PNG image" if isinstance(error, Image.UnidentifiedImageError) else f"{error}"
        raise BrokenImage("image-broken", reason) from None
    _check_bounds(*image.size, data)
    image.info["exif"] = exif
    if image.format == "PNG" and data[24:25] == b"\x10" and image.mode in ("LA", "RGB", "RGBA"):
        image.info[_WHOLE_FILE] = data
    return image


def read_header(image: Image.Image) -> Header:
    """Reads size and EXIF orientation of an opened image; an orientation that cannot be read counts as upright."""
    return Header(*image.size, find_orientation(image.info.get("exif", b"")))


def _to_rgb(image: Image.Image, sample_range: SampleRange | None) -> Image.Image:
    """8-bit RGB of any mode: 16-bit samples are scaled (Pillow would clip them), transparency is left out."""
    if sample_range is not None and _WHOLE_FILE in image.info:
        return Image.fromarray(to_8_bit(_samples(image), sample_range))
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(to_8_bit(_samples(image), sample_range)).convert("RGB")
    if image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _samples(image: Image.Image) -> np.ndarray:
    """(H, W) or (H, W, 3) uint16, of an image with samples of more than 8 bits; transparency is left out."""
    if _WHOLE_FILE in image.info:
        upper, lower = image.convert("RGB"), lower_bytes(image.info[_WHOLE_FILE])
        return np.asarray(upper).astype(np.uint16) << 8 | np.asarray(lower)
    samples = np.asarray(image)
    return samples if samples.dtype == np.uint16 else samples.clip(0, MAX_SAMPLE).astype(np.uint16)


def measure_samples(data: bytes) -> Extent:
    """Measures which part of their range the samples of an image file use; that of no image for one of 8 bits.

    Raises:
        BrokenImage: if the bytes cannot be decoded.
    """
    if data[:8] != PNG_SIGNATURE or data[24:25] != b"\x10":
        return Extent()
    image = open_image(data)
    with _turn_of(image):
        try:
            return Extent.of_samples(_samples(image))
        except Exception as error:  # a decoder may raise anything on bytes made to break it
            raise BrokenImage("image-broken", f"cannot be decoded: {error}") from None


def decode(
    image: Image.Image,
    orientation: int = 1,
    at_least: tuple[int, int] | None = None,
    sample_range: SampleRange | None = None,
) -> Image.Image:
    """Decodes all pixels of an opened image to 8-bit RGB, turned by ``orientation``.

    Args:
        image: from :func:`open_image`; used up.
        orientation: EXIF orientation to apply, 1 for none.
        at_least: (height, width) that will do: a JPEG is then decoded at 1/2, 1/4 or 1/8 of its size, never below this.
        sample_range: of 16-bit samples; 8-bit images are what they are.

    Raises:
        BrokenImage: if the data are truncated or damaged.
    """
    with _turn_of(image):
        return _decode(image, orientation, at_least, sample_range)


def _decode(
    image: Image.Image, orientation: int, at_least: tuple[int, int] | None, sample_range: SampleRange | None
) -> Image.Image:
    try:
        if at_least is not None and image.format == "JPEG" and image.mode in ("RGB", "L"):
            height, width = at_least[::-1] if orientation >= 5 else at_least
            image.draft(image.mode, (width, height))
        image.load()
        rgb = _to_rgb(image, sample_range)
    except Exception as error:  # a decoder may raise anything on bytes made to break it
        raise BrokenImage("image-broken", f"cannot be decoded: {error}") from None
    return rgb.transpose(_TRANSPOSES[orientation]) if orientation in _TRANSPOSES else rgb


@dataclass(frozen=True)
class Placement:
    """Where an image lies on the canvas: ``canvas = original * scale + offset`` in 0-based continuous pixels."""

    scale_x: float
    scale_y: float
    offset_x: int
    offset_y: int


def place(width: int, height: int, canvas: tuple[int, int], fit: Fit) -> Placement:
    """Places a ``width`` x ``height`` image on a (height, width) ``canvas``: stretched, or padded at its own aspect."""
    canvas_height, canvas_width = canvas
    if fit == "warp":
        return Placement(canvas_width / width, canvas_height / height, 0, 0)
    scale = min(canvas_width / width, canvas_height / height)
    # Whole pixels, so that the pad is exact; the scale is then that of the rounded size.
    inner_width = min(canvas_width, max(1, round(width * scale)))
    inner_height = min(canvas_height, max(1, round(height * scale)))
    offset_x, offset_y = (canvas_width - inner_width) // 2, (canvas_height - inner_height) // 2
    return Placement(inner_width / width, inner_height / height, offset_x, offset_y)


def to_canvas(
    data: bytes, orientation: int, canvas: tuple[int, int], fit: Fit, sample_range: SampleRange | None = None
) -> np.ndarray:
    """Decodes and resizes (antialiased) an image file onto the canvas.

    Args:
        data: JPEG or PNG bytes.
        orientation: EXIF orientation to apply, 1 for none.
        canvas: (height, width) in pixels.
        fit: see :func:`place`.
        sample_range: of 16-bit samples, see :func:`decode`.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        BrokenImage: if the bytes cannot be decoded.
    """
    image = open_image(data)
    stored = image.size
    width, height = stored[::-1] if orientation >= 5 else stored
    placement = place(width, height, canvas, fit)
    inner = (round(width * placement.scale_x), round(height * placement.scale_y))
    # 1.5 times the canvas: the fast JPEG scaling then costs no visible quality, the antialiased resize does the rest.
    enough = math.ceil(1.5 * inner[1]), math.ceil(1.5 * inner[0])
    pixels = decode(image, orientation, enough, sample_range)
    if pixels.size != inner:
        # A JPEG scaled by 1/2 rounds its size up: the box says which part the whole image really covers.
        ratio = max(1, round(max(width, height) / max(pixels.size)))
        box = (0.0, 0.0, min(pixels.width, width / ratio), min(pixels.height, height / ratio))
        pixels = pixels.resize(inner, Image.Resampling.BILINEAR, box=box)
    if inner == canvas[::-1]:
        return np.asarray(pixels)
    padded = np.empty((*canvas, 3), np.uint8)
    padded[:] = PAD_COLOR
    top, left = placement.offset_y, placement.offset_x
    padded[top : top + inner[1], left : left + inner[0]] = np.asarray(pixels)
    return padded
