"""CVAT for images 1.1: one annotations.xml with an ``<image>`` for each picture
(https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/).

Edges are 0-based and continuous. An attribute ``difficult`` of a box is taken over.
"""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from focalbench.data.faults import Fault, shorten
from focalbench.data.files import RefusedFile
from focalbench.importing.source import (
    Place,
    Source,
    SourceImage,
    bounds,
    is_absolute,
    is_set,
    open_source_image,
    split_of,
    take_size,
)

NAME = "CVAT for images"
MAX_BYTES = 512 * 2**20
_PEEK_BYTES = 2000
_FOLDERS = ("", "images", "data")
_LOST = ("polyline", "points", "cuboid", "skeleton")


def recognise(place: Place) -> bool:
    """Says whether the place holds CVAT's XML."""
    return bool(_documents(place))


def _documents(place: Place) -> list[str]:
    found = []
    for name in place.named(".xml"):
        if place.file is None and not (PurePosixPath(name).name.startswith("annotations") and name.count("/") <= 2):
            continue
        try:
            with (place.base / name).open("rb") as file:
                found += [name] if b"<annotations" in file.read(_PEEK_BYTES) else []
        except OSError:
            continue
    return found


def read(place: Place) -> Source:
    """Reads every annotations.xml; an image's split is its subset."""
    source = Source(NAME)
    documents = _documents(place) or place.named(".xml")[:1]
    if not documents:
        source.errors.append(Fault("no-annotations", str(place.base), None, "holds no annotations.xml"))
    for name in documents:
        root = _load(place, source, name)
        if root is None:
            continue
        for label in root.findall("meta//label/name"):
            if label.text and label.text.strip():
                source.declare(label.text.strip())
        for element in root.findall("image"):
            _read_image(place, source, name, element)
        _report_bare(place, source, name)
    return source


def _load(place: Place, source: Source, name: str) -> Element | None:
    try:
        root = fromstring(place.read(name, MAX_BYTES), forbid_dtd=True)
    except RefusedFile as refused:
        source.errors.append(Fault(refused.kind, name, None, str(refused)))
    except DefusedXmlException:
        source.errors.append(Fault("xml-refused", name, None, "holds a DTD or an entity, which CVAT never writes"))
    except (ParseError, ValueError, LookupError, RecursionError) as error:
        source.errors.append(Fault("xml-broken", name, None, f"is not well-formed XML: {error}"))
    else:
        if root.tag == "annotations" and root.find("track") is None:
            return root
        what = "is an export for videos" if root.tag == "annotations" else f"has the root <{shorten(root.tag, 40)}>"
        source.errors.append(Fault("not-cvat", name, None, f"{what}: export as 'CVAT for images 1.1'"))
    return None


def _report_bare(place: Place, source: Source, name: str) -> None:
    annotated = {image.name for image in source.images}
    pictures = (Place(place.images) if place.images else place).pictures if place.file is None else []
    if bare := [picture for picture in pictures if picture not in annotated]:
        reason = f"does not name {len(bare)} of the images: left out ({shorten(', '.join(bare[:3]), 120)})"
        source.warnings.append(Fault("not-annotated", name, None, reason))


def _read_image(place: Place, source: Source, file: str, element: Element) -> None:
    name = element.get("name", "").replace("\\", "/")
    split = split_of(element.get("subset", ""))
    base = place.images or place.base
    around = "" if place.images else str(PurePosixPath(file).parent)
    subset = element.get("subset", "")
    inner = [*_FOLDERS, *([f"images/{subset}", subset] if subset and ".." not in subset else [])]
    folders = [str(PurePosixPath(around) / folder) for folder in inner]
    chosen = next((folder for folder in folders if _exists(base, folder, name)), folders[0])
    relative = name if is_absolute(name) or chosen == "." else f"{chosen}/{name}"
    image, header = open_source_image(base, relative, file, split)
    source.images.append(image)
    sides = [_number(element.get(side)) for side in ("width", "height")]
    take_size(image, header, *sides)
    for number, shape in enumerate(element, start=1):
        label = shape.get("label", "").strip()
        _read_shape(source, image, f"{shorten(name, 60)}: {shape.tag} {number} {shorten(label, 40)!r}", label, shape)


def _exists(base: Path, folder: str, name: str) -> bool:
    return not is_absolute(name) and os.path.lexists(base / folder / name)


def _read_shape(source: Source, image: SourceImage, tag: str, label: str, shape: Element) -> None:
    if shape.tag in _LOST or shape.tag == "tag":
        source.left_behind[f"objects of kind {shape.tag}"] += 1
        return
    if shape.tag not in ("box", "polygon", "ellipse", "mask"):
        return  # attributes of the image itself
    if not label:
        image.fail("missing-name", tag, "has no label")
        return
    try:
        edges = _edges(shape)
    except ValueError as error:
        image.fail("bad-coordinate", tag, f"{error}")
        return
    if shape.tag != "box":
        source.left_behind[f"shapes of kind {shape.tag} (their bounds were taken)"] += 1
    elif _number(shape.get("rotation", "0")):
        source.left_behind["rotations of boxes (the bounds of the turned box were taken)"] += 1
    difficult = any(item.get("name") == "difficult" and is_set(item.text or "") for item in shape.findall("attribute"))
    image.add(tag, label, edges, difficult)


def _edges(shape: Element) -> tuple[float, float, float, float]:
    """Bounds of a shape; raises ValueError where its numbers are none."""
    if shape.tag == "polygon":
        points = [tuple(map(float, pair.split(","))) for pair in shape.get("points", "").split(";")]
        if any(len(point) != 2 for point in points):
            raise ValueError("its points are not pairs of numbers")
        return bounds([(point[0], point[1]) for point in points])
    if shape.tag == "ellipse":
        x, y, across, down = _numbers(shape, "cx", "cy", "rx", "ry")
        return x - across, y - down, x + across, y + down
    if shape.tag == "mask":
        left, top, width, height = _numbers(shape, "left", "top", "width", "height")
        return left, top, left + width, top + height
    left, top, right, bottom = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
    angle = math.radians(_number(shape.get("rotation", "0")) or 0.0)
    if not angle or right < left or bottom < top:
        return left, top, right, bottom
    x, y, width, height = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
    across = (abs(width * math.cos(angle)) + abs(height * math.sin(angle))) / 2
    down = (abs(width * math.sin(angle)) + abs(height * math.cos(angle))) / 2
    return x - across, y - down, x + across, y + down


def _numbers(shape: Element, *names: str) -> tuple[float, float, float, float]:
    values = [_number(shape.get(name)) for name in names]
    for name, value in zip(names, values, strict=True):
        if value is None:
            raise ValueError(f"{name} is {shorten(repr(shape.get(name)), 40)}, not a number")
    first, second, third, fourth = (value or 0.0 for value in values)
    return first, second, third, fourth


def _number(text: str | None) -> float | None:
    try:
        return None if text is None or "_" in text else float(text)
    except ValueError:
        return None
