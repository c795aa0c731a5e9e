"""What a JPEG or PNG file holds beside its pixels, told apart before any decoder reads it."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ORIENTATION_TAG = 0x0112


def split_metadata(data: bytes) -> tuple[bytes, bytes]:
    """Takes out what concerns no pixel, so that no decoder meets it: returns the file without it, and its EXIF block.

    Profiles, texts, previews and the like are broken, endless or bombs in many ways. What follows the first fault of
    the file's own structure stays as it is, for the decoder to judge.
    """
    if data[:8] == PNG_SIGNATURE:
        return _split_png(data)
    return _split_jpeg(data) if data[:2] == b"\xff\xd8" else (data, b"")


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Finds each whole chunk of a PNG: its kind, and where its content starts and ends."""
    position = 8
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            return
        yield kind, position + 8, end - 4
        position = end
        if kind == b"IEND":
            return


def _split_png(data: bytes) -> tuple[bytes, bytes]:
    kept, exif = bytearray(), b""
    start = end = 0
    for kind, first, last in png_chunks(data):
        end = last + 4
        if kind[:1].islower() and kind != b"tRNS":  # a chunk that a decoder may pass over, by the format's own rule
            kept += data[start : first - 8]
            start = end
            if kind == b"eXIf":
                exif = exif or data[first:last]
        elif kind == b"IEND":
            return (bytes(kept + data[start:end]) if start or end < len(data) else data), exif
    return (bytes(kept + data[start:]) if start else data), exif


def _split_jpeg(data: bytes) -> tuple[bytes, bytes]:
    kept, exif = bytearray(), b""
    start, position = 0, 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:  # filler and markers without a length
            position += 1 if marker == 0xFF else 2
            continue
        end = position + 2 + struct.unpack(">H", data[position + 2 : position + 4])[0]
        if marker in (0xD9, 0xDA) or end > len(data) or end < position + 4:
            break
        # APP0 (JFIF) and APP14 (Adobe) say how colours are coded, where they are whole.
        needed = {0xE0: 16, 0xEE: 14}.get(marker, math.inf)
        if (0xE0 <= marker <= 0xEF or marker == 0xFE) and end - position - 2 < needed:
            kept += data[start:position]
            start = end
            if marker == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0":
                exif = exif or data[position + 10 : end]
        position = end
    return (bytes(kept + data[start:]), exif) if start else (data, exif)


def find_orientation(exif: bytes) -> int:
    """Reads the orientation in an EXIF block (TIFF bytes): 1 to 8, 1 where the block is broken or has none."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (offset,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, offset)
        for entry in range(offset + 2, offset + 2 + 12 * min(count, 1000), 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, entry)
            if tag == _ORIENTATION_TAG:
                (value,) = struct.unpack_from(order + {1: "B", 3: "H", 4: "I"}.get(kind, "H"), exif, entry + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
