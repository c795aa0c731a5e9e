"""labelme's JSON: a file for each image, which it names by ``imagePath`` (https://github.com/wkentaro/labelme).

Points are 0-based and continuous. A flag ``difficult`` of a shape is taken over.
"""

from __future__ import annotations

import json
import math
from pathlib import Path, PurePosixPath
from typing import Any

from focalbench.data.faults import Fault, shorten
from focalbench.data.files import RefusedFile
from focalbench.importing.source import (
    Place,
    Source,
    SourceImage,
    bounds,
    is_absolute,
    is_number,
    open_source_image,
    split_of,
    take_size,
)

NAME = "labelme JSON"
MAX_BYTES = 256 * 2**20  # the image itself may be in it
_PEEK_BYTES = 1 << 16
_PEEK_FILES = 20
_LOST = ("line", "linestrip", "point", "points")


def recognise(place: Place) -> bool:
    """Says whether the place holds a JSON file with labelme's shapes."""
    return any(_has_shapes(place.base / name) for name in place.named(".json")[:_PEEK_FILES])


def _has_shapes(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return b'"shapes"' in file.read(_PEEK_BYTES)
    except OSError:
        return False


def read(place: Place) -> Source:
    """Reads every JSON file and the image that it names; the split follows from the folders."""
    source = Source(NAME)
    names = place.named(".json")
    if not names:
        source.errors.append(Fault("no-annotations", str(place.base), None, "holds no JSON file"))
    for name in names:
        _read_one(place, source, name)
    annotated = {image.name for image in source.images}
    pictures = (Place(place.images) if place.images else place).pictures if place.file is None else []
    bare = sum(picture not in annotated for picture in pictures)
    if bare:
        reason = f"images without a JSON file: {bare}; left out, as they are not known to be empty"
        source.warnings.append(Fault("not-annotated", str(place.base), None, reason))
    return source


def _read_one(place: Place, source: Source, name: str) -> None:
    try:
        document = json.loads(place.read(name, MAX_BYTES))
    except RefusedFile as refused:
        source.errors.append(Fault(refused.kind, name, None, str(refused)))
        return
    except (ValueError, RecursionError) as error:
        source.errors.append(Fault("json-broken", name, None, f"is not JSON: {error}"))
        return
    shapes = document.get("shapes") if isinstance(document, dict) else None
    path = document.get("imagePath") if isinstance(document, dict) else None
    if not isinstance(shapes, list) or not isinstance(path, str) or not path.strip():
        source.errors.append(Fault("not-labelme", name, None, "has no list 'shapes' or no 'imagePath'"))
        return
    folder = PurePosixPath(name).parent
    split = split_of(*folder.parts)
    if place.images is not None:
        image, header = open_source_image(place.images, PurePosixPath(path.replace("\\", "/")).name, name, split)
    else:
        relative = path if is_absolute(path) or str(folder) == "." else f"{folder}/{path}"
        image, header = open_source_image(place.base, relative, name, split)
    source.images.append(image)
    take_size(image, header, document.get("imageWidth"), document.get("imageHeight"))
    for number, shape in enumerate(shapes, start=1):
        _read_shape(source, image, number, shape)


def _read_shape(source: Source, image: SourceImage, number: int, shape: Any) -> None:
    label = shape.get("label") if isinstance(shape, dict) else None
    if not isinstance(label, str) or not label.strip():
        image.fail("missing-name", f"shape {number}", "has no label")
        return
    tag = f"shape {number} {shorten(label, 40)!r}"
    kind = shape.get("shape_type", "polygon")
    if kind in _LOST:
        source.left_behind[f"shapes of kind {kind}"] += 1
        return
    points = _points(shape.get("points"))
    if kind not in ("rectangle", "polygon", "circle", "mask"):
        image.fail("unknown-shape", tag, f"its shape_type is {shorten(repr(kind), 40)}")
        return
    if points is None or len(points) < 2 or (kind == "circle" and len(points) != 2):
        image.fail("bad-box", tag, f"its points are {shorten(repr(shape.get('points'))[:200], 60)}")
        return
    if kind == "circle":
        (x, y), (edge_x, edge_y) = points
        radius = math.hypot(edge_x - x, edge_y - y)
        points = [(x - radius, y - radius), (x + radius, y + radius)]
    if kind != "rectangle":
        source.left_behind[f"shapes of kind {kind} (their bounds were taken)"] += 1
    flags = shape.get("flags")
    image.add(tag, label, bounds(points), isinstance(flags, dict) and flags.get("difficult") is True)


def _points(value: Any) -> list[tuple[float, float]] | None:
    if not isinstance(value, list):
        return None
    try:
        points = [
            (float(point[0]), float(point[1])) for point in value if all(map(is_number, point)) and len(point) == 2
        ]
    except (TypeError, OverflowError, IndexError):
        return None
    return points if len(points) == len(value) else None
