"""16-bit samples to the 8 bits that networks are given, and which part of their range a data set uses.

Sensors of 10, 12 or 14 bits are stored in 16: their upper byte alone, which is right for samples that use the whole
range, would leave a few gray levels of the picture.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from focalbench.data.metadata import PNG_SIGNATURE, png_chunks

MAX_SAMPLE = 65535
SampleRange = tuple[int, int]
"""(low, high): the samples that become black and white, 0 <= low < high <= 65535; what lies beyond is cut."""
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_NARROW = (MAX_SAMPLE + 1) // 4


def to_8_bit(samples: np.ndarray, sample_range: SampleRange | None) -> np.ndarray:
    """Scales uint16 ``samples`` of any shape to uint8, rounded; without a range the upper byte is taken."""
    return (samples >> 8).astype(np.uint8) if sample_range is None else _table(sample_range)[samples]


@lru_cache(maxsize=8)
def _table(sample_range: SampleRange) -> np.ndarray:
    low, high = sample_range
    scaled = (np.arange(MAX_SAMPLE + 1, dtype=np.float64) - low) * (255 / (high - low))
    return scaled.clip(0, 255).round().astype(np.uint8)


@dataclass(frozen=True)
class Extent:
    """The smallest and the largest sample of some 16-bit images, and how many images these are.

    0 and 65535 are left out where there are others: files mark pixels without a value by them.
    """

    low: int = MAX_SAMPLE
    high: int = 0
    num_images: int = 0

    @classmethod
    def of_samples(cls, samples: np.ndarray) -> Extent:
        """Measures the uint16 samples of one image."""
        low, high = int(samples.min()), int(samples.max())
        if low == 0 or high == MAX_SAMPLE:
            valid = samples[(samples > 0) & (samples < MAX_SAMPLE)]
            low, high = (int(valid.min()), int(valid.max())) if valid.size else (low, high)
        return cls(low, high, 1)

    def __or__(self, other: Extent) -> Extent:
        """That of both."""
        return Extent(min(self.low, other.low), max(self.high, other.high), self.num_images + other.num_images)

    @property
    def is_narrow(self) -> bool:
        """Whether less than a quarter of the range is used, so that fewer than 64 of 256 gray levels are left."""
        return self.num_images > 0 and self.high - self.low < _NARROW

    @property
    def num_levels(self) -> int:
        """Gray levels that are left when the upper byte is taken."""
        return (self.high >> 8) - (self.low >> 8) + 1

    def suggest(self) -> SampleRange:
        """Proposes a range: all values of as many bits as are used, or, high up, whole multiples of 256."""
        bound = (1 << max(1, self.high.bit_length())) - 1
        return (0, bound) if bound <= MAX_SAMPLE // 2 else (self.low & ~255, self.high | 255)


def lower_bytes(data: bytes) -> Image.Image:
    """Decodes the lower bytes of a PNG with several samples of 16 bits a pixel, of which Pillow reads the upper ones.

    A PNG's filters work on each byte of a pixel by itself, so every second byte of the unpacked lines is the PNG of an
    8-bit image.
    """
    width, height, _, color, _, _, interlace = struct.unpack(">IIBBBBB", data[16:29])
    num_channels = {2: 3, 4: 2, 6: 4}[color]
    passes = [(0, 0, 1, 1)] if not interlace else _ADAM7
    sizes = [(-(-(height - top) // down), -(-(width - left) // right)) for left, top, right, down in passes]
    blocks = [(rows, 1 + 2 * columns * num_channels) for rows, columns in sizes if rows > 0 and columns > 0]
    packed = b"".join(data[start:end] for kind, start, end in png_chunks(data) if kind == b"IDAT")
    lines = zlib.decompressobj().decompress(packed, sum(rows * length for rows, length in blocks))
    lower, position = [], 0
    for rows, length in blocks:
        block = np.frombuffer(lines, np.uint8, rows * length, position).reshape(rows, length)
        lower.append(np.concatenate([block[:, :1], block[:, 2::2]], axis=1).tobytes())
        position += rows * length
    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, interlace)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(lower), 1)), (b"IEND", b""))
    file = PNG_SIGNATURE + b"".join(_chunk(kind, content) for kind, content in parts)
    return Image.open(io.BytesIO(file), formats=["PNG"]).convert("RGB")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
