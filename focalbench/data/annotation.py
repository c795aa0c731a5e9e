"""One VOC annotation, from XML to numbers, with every fault named: nothing is guessed, nothing dropped in silence."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from operator import attrgetter
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from focalbench.data.faults import Fault, shorten

MAX_XML_BYTES = 4 * 2**20
MAX_OBJECTS = 5000
_EDGES = ("xmin", "ymin", "xmax", "ymax")
# What an annotation by the book holds: no other name has to be looked at.
_USUAL_TAGS = frozenset((
    "annotation", "folder", "filename", "path", "source", "database", "image", "flickrid", "owner", "name", "size",
    "width", "height", "depth", "segmented", "object", "pose", "truncated", "occluded", "difficult", "bndbox", *_EDGES,
))  # fmt: skip
# Names, in lower case, under which files say where an object is.
_PLACE_TAGS = frozenset((
    "object", "bndbox", "bbox", "box", "boundingbox", "bounding_box", "robndbox", "rotated_bndbox", "rectangle",
    "polygon", "points", "xmin",
))  # fmt: skip
_READ_TAGS = _PLACE_TAGS | {"name", "difficult"}
_FLAGS = {"0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}


@dataclass(frozen=True)
class VocObject:
    """One ``<object>``: its name, box as written (1-based inclusive, float) and flag.

    ``tag`` names the object in messages, e.g. ``object 3 'dog'`` (counted from 1, as a reader of the file would).
    """

    tag: str
    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class Annotation:
    """What an XML file says.

    Attributes:
        filename: what the tag of this name says of the image, or "".
        size: (width, height) of the size tag, or None where it is missing or not positive.
        objects: those without an error, in file order.
        errors: faults that must be mended.
        warnings: faults with a stated repair.
    """

    size: tuple[int, int] | None
    objects: tuple[VocObject, ...]
    errors: tuple[Fault, ...]
    warnings: tuple[Fault, ...]
    filename: str = ""


def _count_tags(root: Element) -> Counter[str]:
    """Counts the tags below ``root``, from which namespaces are taken."""
    tags = Counter(map(attrgetter("tag"), root.iter()))
    if "}" not in "".join(tags):
        return tags
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return Counter(map(attrgetter("tag"), root.iter()))


def _text(element: Element | None) -> str:
    return (element.text or "").strip() if element is not None else ""


def _number(text: str) -> float | None:
    """``text`` as a float, or None; inf and nan are numbers here and refused by the caller in their own words."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def parse_annotation(data: bytes, file: str) -> Annotation:
    """Reads one annotation: UTF-8, UTF-16 or any declared encoding, with or without namespaces.

    Any DTD or entity is refused (defusedxml), so neither an entity bomb nor an external file is ever expanded. ``file``
    names the annotation in messages.
    """
    try:
        utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        root = fromstring(data if utf16 else data.removeprefix(b"\xef\xbb\xbf").lstrip(), forbid_dtd=True)
    except DefusedXmlException:
        return _broken(Fault("xml-refused", file, None, "holds a DTD or an entity, which a VOC annotation never needs"))
    except (ParseError, ValueError, LookupError, UnicodeError) as error:
        return _broken(Fault("xml-broken", file, None, f"is not well-formed XML: {error}"))
    tags = _count_tags(root)
    if root.tag != "annotation":
        return _broken(Fault("xml-broken", file, None, f"its root is <{shorten(root.tag, 50)}>, not <annotation>"))
    elements = root.findall("object")
    if len(elements) > MAX_OBJECTS:
        reason = f"holds {len(elements):,} objects, more than the {MAX_OBJECTS:,} accepted"
        return _broken(Fault("too-many-objects", file, None, reason))
    found = _parse_objects(root, elements, file)
    odd = any(tag.lower() in _READ_TAGS for tag in tags.keys() - _USUAL_TAGS)
    if not odd and tags["object"] == tags["bndbox"] == tags["xmin"] == len(elements):
        return found  # every box lies in an object of the root: the usual case, told without a walk through the file
    return replace(found, errors=(*_find_misplaced(root, file), *found.errors))


def _find_misplaced(root: Element, file: str) -> list[Fault]:
    """Finds what would be overlooked: boxes and objects anywhere but in an ``<object>`` right below the root.

    Whatever else an object holds beside its box (``<polygon>``, ``<point>``, ``<actions>``) and all of its ``<part>``
    are no concern of this.
    """
    found: Counter[tuple[str, str]] = Counter()
    pending: list[tuple[Element, Element, bool]] = [(root, child, False) for child in reversed(root)]
    while pending:
        parent, element, in_object = pending.pop()
        is_object = parent is root and element.tag == "object"
        if not is_object and _is_misplaced(parent, element, in_object):
            found[element.tag, parent.tag] += 1
        elif not (in_object and element.tag == "part"):
            pending += [(element, child, in_object or is_object) for child in reversed(element)]
    if not found:
        return []
    shown = [f"{count} <{shorten(tag, 40)}> in <{shorten(where, 40)}>" for (tag, where), count in found.items()]
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    reason = (
        f"holds {', '.join(shown[:3])}{more}, which would not be read: an object is an <object> directly below "
        f"<annotation> with one <name> and one <bndbox>, in lower case"
    )
    return [Fault("misplaced-tag", file, None, reason)]


def _is_misplaced(parent: Element, element: Element, in_object: bool) -> bool:
    name = element.tag.lower()
    if not in_object:
        return name in _PLACE_TAGS and (len(element) > 0 or bool(_text(element)))
    if name in ("object", "bndbox"):
        return parent.tag != "object" or element.tag != "bndbox"
    return parent.tag == "object" and name in ("name", "difficult") and element.tag != name


def _broken(fault: Fault) -> Annotation:
    return Annotation(None, (), (fault,), ())


def _parse_objects(root: Element, elements: list[Element], file: str) -> Annotation:
    size, warnings = _parse_size(root, file)
    errors: list[Fault] = []
    objects: list[VocObject] = []
    num_unflagged = 0
    for number, element in enumerate(elements, start=1):
        names, boxes, flags = (element.findall(key) for key in ("name", "bndbox", "difficult"))
        name = _text(names[0]) if names else ""
        tag = f"object {number} '{shorten(name, 60)}'"
        box, faults = _parse_box(element, boxes, file, tag)
        faults += _check_name(name, file, tag)
        for repeated in (names, boxes, flags):
            faults += [_repeated(repeated, file, tag)] if len(repeated) > 1 else []
        flag = _text(flags[0]).lower() if flags else ""
        difficult = _parse_flag(flag)
        if not flag:
            num_unflagged += 1
        elif difficult is None:
            reason = f"<difficult> is {shorten(flag, 40)!r}, not 0 or 1"
            faults.append(Fault("bad-difficult", file, tag, reason))
        if box is not None and not faults:
            objects.append(VocObject(tag, name, box, bool(difficult)))
        errors += faults
    if num_unflagged:
        reason = f"{num_unflagged} object{'s' * (num_unflagged > 1)} without <difficult>: taken as not difficult"
        warnings.append(Fault("missing-difficult", file, None, reason))
    return Annotation(size, tuple(objects), tuple(errors), tuple(warnings), _text(root.find("filename")))


def _repeated(elements: list[Element], file: str, tag: str) -> Fault:
    values = ", ".join(repr(shorten(_text(element), 40)) for element in elements[:3] if _text(element))
    shown = f" ({values})" if values else ""
    remedy = "write an <object> for each" if elements[0].tag == "bndbox" else "keep the right one"
    reason = f"has {len(elements)} <{elements[0].tag}>{shown}, of which only one would be read: {remedy}"
    return Fault("repeated-tag", file, tag, reason)


def _parse_flag(flag: str) -> bool | None:
    if flag in _FLAGS:
        return _FLAGS[flag]
    value = _number(flag)
    return bool(value) if value in (0.0, 1.0) else None


def _parse_size(root: Element, file: str) -> tuple[tuple[int, int] | None, list[Fault]]:
    element = root.find("size")
    if element is None:
        return None, [Fault("missing-size", file, None, "has no <size>: the image's own size is used")]
    values = [_number(_text(element.find(side))) for side in ("width", "height")]
    if any(value is None or not 1 <= value <= 1e6 or value != int(value) for value in values):
        return None, [Fault("bad-size", file, None, "<size> is not two whole numbers: the image's own is used")]
    return (int(values[0] or 0), int(values[1] or 0)), []


def _check_name(name: str, file: str, tag: str) -> list[Fault]:
    if not name:
        return [Fault("missing-name", file, tag, "has no <name>")]
    # Class names become tags and file names; none may climb out of a folder.
    if "/" in name or "\\" in name or ".." in name or not name.isprintable() or len(name) > 100:
        reason = (
            f"the class name {shorten(name, 60)!r} is not allowed: no '/', '\\', '..' or control characters, at "
            f"most 100 characters"
        )
        return [Fault("bad-name", file, tag, reason)]
    return []


def _parse_box(
    element: Element, boxes: list[Element], file: str, tag: str
) -> tuple[tuple[float, float, float, float] | None, list[Fault]]:
    """The box as written, or the errors that make it unusable; where it lies in the image is judged later."""
    if not boxes:
        others = dict.fromkeys(f"<{shorten(child.tag, 40)}>" for child in element if child.tag.lower() in _PLACE_TAGS)
        instead = f" but {', '.join(others)}: write the box around it" if others else ""
        return None, [Fault("missing-box", file, tag, f"has no <bndbox>{instead}")]
    bndbox = boxes[0]
    values: list[float] = []
    for edge in _EDGES:
        text = _text(bndbox.find(edge))
        value = _number(text)
        if value is None:
            reason = f"<{edge}> is {shorten(text, 40)!r}, not a number" if text else f"<{edge}> is missing"
            return None, [Fault("bad-coordinate", file, tag, reason)]
        if not math.isfinite(value):
            return None, [Fault("non-finite-box", file, tag, f"<{edge}> is {shorten(text, 40)}")]
        values.append(value)
    if len(bndbox) > len(_EDGES):
        repeated = [bndbox.findall(edge) for edge in _EDGES]
        if faults := [_repeated(found, file, tag) for found in repeated if len(found) > 1]:
            return None, faults
    left, top, right, bottom = values
    if right < left or bottom < top:
        shown = f"({left:g}, {top:g}, {right:g}, {bottom:g})"
        return None, [Fault("swapped-box", file, tag, f"box {shown} has its maximum below its minimum")]
    return (left, top, right, bottom), []
