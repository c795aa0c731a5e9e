"""One VOC annotation, from XML to numbers, with every fault named: nothing is guessed, nothing dropped in silence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from focalbench.data.faults import Fault, shorten

MAX_XML_BYTES = 4 * 2**20
MAX_OBJECTS = 5000
_EDGES = ("xmin", "ymin", "xmax", "ymax")
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
        size: (width, height) of the size tag, or None where it is missing or not positive.
        objects: those without an error, in file order.
        errors: faults that must be mended.
        warnings: faults with a stated repair.
    """

    size: tuple[int, int] | None
    objects: tuple[VocObject, ...]
    errors: tuple[Fault, ...]
    warnings: tuple[Fault, ...]


def _name(element: Element) -> str:
    """The tag without its namespace."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _child(element: Element, name: str) -> Element | None:
    """First direct child of that name; direct only, or a ``<part>``'s box would pass for its object's."""
    return next((child for child in element if _name(child) == name), None)


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
    if _name(root) != "annotation":
        reason = f"its root is <{shorten(_name(root), 50)}>, not <annotation>"
        return _broken(Fault("xml-broken", file, None, reason))
    elements = [element for element in root if _name(element) == "object"]
    if len(elements) > MAX_OBJECTS:
        reason = f"holds {len(elements):,} objects, more than the {MAX_OBJECTS:,} accepted"
        return _broken(Fault("too-many-objects", file, None, reason))
    return _parse_objects(root, elements, file)


def _broken(fault: Fault) -> Annotation:
    return Annotation(None, (), (fault,), ())


def _parse_objects(root: Element, elements: list[Element], file: str) -> Annotation:
    size, warnings = _parse_size(root, file)
    errors: list[Fault] = []
    objects: list[VocObject] = []
    num_unflagged = 0
    for number, element in enumerate(elements, start=1):
        name = _text(_child(element, "name"))
        tag = f"object {number} '{shorten(name, 60)}'"
        box, faults = _parse_box(element, file, tag)
        faults += _check_name(name, file, tag)
        flag = _text(_child(element, "difficult")).lower()
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
    return Annotation(size, tuple(objects), tuple(errors), tuple(warnings))


def _parse_flag(flag: str) -> bool | None:
    if flag in _FLAGS:
        return _FLAGS[flag]
    value = _number(flag)
    return bool(value) if value in (0.0, 1.0) else None


def _parse_size(root: Element, file: str) -> tuple[tuple[int, int] | None, list[Fault]]:
    element = _child(root, "size")
    if element is None:
        return None, [Fault("missing-size", file, None, "has no <size>: the image's own size is used")]
    values = [_number(_text(_child(element, side))) for side in ("width", "height")]
    if any(value is None or not 1 <= value <= 1e6 or value != int(value) for value in values):
        return None, [Fault("bad-size", file, None, "<size> is not two whole numbers: the image's own is used")]
    return (int(values[0] or 0), int(values[1] or 0)), []


def _check_name(name: str, file: str, tag: str) -> list[Fault]:
    if not name:
        return [Fault("missing-name", file, tag, "has no <name>")]
    # Class names become tags and file names; none may climb out of a folder.
    if "/" in name or "\\" in name or ".." in name or not name.isprintable() or len(name) > 100:
        reason = (
            f"the class name {shorten(name, 60)!r} is refused: no '/', '\\', '..' or control characters, 100 at most"
        )
        return [Fault("bad-name", file, tag, reason)]
    return []


def _parse_box(element: Element, file: str, tag: str) -> tuple[tuple[float, float, float, float] | None, list[Fault]]:
    """The box as written, or the errors that make it unusable; where it lies in the image is judged later."""
    bndbox = _child(element, "bndbox")
    if bndbox is None:
        return None, [Fault("missing-box", file, tag, "has no <bndbox>")]
    values: list[float] = []
    for edge in _EDGES:
        text = _text(_child(bndbox, edge))
        value = _number(text)
        if value is None:
            reason = f"<{edge}> is {shorten(text, 40)!r}, not a number" if text else f"<{edge}> is missing"
            return None, [Fault("bad-coordinate", file, tag, reason)]
        if not math.isfinite(value):
            return None, [Fault("non-finite-box", file, tag, f"<{edge}> is {shorten(text, 40)}")]
        values.append(value)
    left, top, right, bottom = values
    shown = f"({left:g}, {top:g}, {right:g}, {bottom:g})"
    if min(values) < 0:
        return None, [Fault("negative-box", file, tag, f"box {shown} has a negative coordinate")]
    if right < left or bottom < top:
        return None, [Fault("swapped-box", file, tag, f"box {shown} has its maximum below its minimum")]
    return (left, top, right, bottom), []
