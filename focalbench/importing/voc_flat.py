"""Images and VOC's XML without VOC's layout: in one folder, or in one each for train, valid and test (Roboflow,
labelImg, CVAT's "Pascal VOC" without its year).

An XML file belongs to the image of its name: beside it, else the only one of that name in the source.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import PurePosixPath

from focalbench.data.annotation import MAX_XML_BYTES, parse_annotation
from focalbench.data.faults import Fault, shorten
from focalbench.data.files import IMAGE_SUFFIXES, MAX_LIST_BYTES, RefusedFile, normalised
from focalbench.importing.source import (
    SPLITS,
    Place,
    Source,
    SourceImage,
    open_source_image,
    split_of,
    suffix_of,
    take_size,
)

NAME = "flat VOC"
_PEEK_FILES = 20
_LISTS = "ImageSets/Main/"


def recognise(place: Place) -> bool:
    """Says whether the place holds XML files of single images."""
    for name in place.named(".xml")[:_PEEK_FILES]:
        try:
            data = place.read(name, MAX_XML_BYTES)
        except RefusedFile:
            continue
        if suffix_of(name) == ".xml" and (b"<annotation>" in data or b"<annotation " in data):
            return True
    return False


def read(place: Place) -> Source:
    """Reads every XML file and its image; the split follows from the lists in ImageSets/Main, else from the folders."""
    source = Source(NAME)
    xmls = place.named(".xml")
    if not xmls:
        source.errors.append(Fault("no-annotations", str(place.base), None, "holds no XML file"))
    images = _Pictures(place)
    splits = _read_lists(place, source)
    for xml in xmls:
        _read_one(place, source, images, xml, splits)
    bare = len(images.names) - len(images.used)
    if bare:
        reason = f"images without an XML file: {bare}; left out, as they are not known to be empty"
        source.warnings.append(Fault("not-annotated", str(place.base), None, reason))
    return source


class _Pictures:
    """The images of a place by their names without ending, with and without their folders."""

    def __init__(self, place: Place) -> None:
        self.base = place.images or place.base
        self.names = (Place(self.base) if place.images else place).pictures
        self.used: set[str] = set()
        self._beside: dict[str, list[str]] = defaultdict(list)
        self._anywhere: dict[str, list[str]] = defaultdict(list)
        for name in self.names:
            path = PurePosixPath(normalised(name))
            self._beside[str(path.with_suffix(""))].append(name)
            self._anywhere[path.stem].append(name)

    def find(self, xml: str) -> list[str]:
        """Names of the images that an XML file may belong to; all of them count as annotated."""
        path = PurePosixPath(normalised(xml))
        found = self._beside.get(str(path.with_suffix(""))) or self._anywhere.get(path.stem, [])
        readable = [name for name in found if suffix_of(name) in IMAGE_SUFFIXES]
        self.used.update(found)
        return readable or found


def _read_one(place: Place, source: Source, images: _Pictures, xml: str, splits: dict[str, str]) -> None:
    candidates = images.find(xml)
    stem = PurePosixPath(normalised(xml)).stem
    split = splits.get(stem) or split_of(*PurePosixPath(xml).parts[:-1])
    if len(candidates) == 1:
        image, header = open_source_image(images.base, candidates[0], xml, split)
    else:
        image, header = SourceImage(str(PurePosixPath(xml).with_suffix("")), None, xml, split), None
        some = f": {shorten(', '.join(candidates[:3]), 160)}" if candidates else " in .jpg, .jpeg or .png"
        kind, number = ("ambiguous-image", "are several images") if candidates else ("missing-image", "is no image")
        image.fail(kind, None, f"there {number} named {shorten(stem, 80)!r}{some}")
    source.images.append(image)
    try:
        annotation = parse_annotation(place.read(xml, MAX_XML_BYTES), xml)
    except RefusedFile as refused:
        image.fail(refused.kind, None, str(refused))
        return
    image.errors += annotation.errors
    image.warnings += [fault for fault in annotation.warnings if fault.kind != "missing-difficult"]
    if annotation.size is not None:
        take_size(image, header, *annotation.size)
    for item in annotation.objects:
        left, top, right, bottom = item.box
        image.add(item.tag, item.name, (left - 1, top - 1, right, bottom), item.difficult)


def _read_lists(place: Place, source: Source) -> dict[str, str]:
    """The split of each image that a list in ImageSets/Main names; train, val and test go before trainval."""
    splits: dict[str, str] = {}
    names = [name for name in ([] if place.file else place.files) if f"/{_LISTS}" in f"/{name}"]
    by_split = {SPLITS.get(PurePosixPath(name).stem.lower()): name for name in names if suffix_of(name) == ".txt"}
    for split in ("train", "val", "test", "trainval"):
        if split not in by_split:
            continue
        try:
            lines = place.read(by_split[split], MAX_LIST_BYTES).decode("utf-8-sig").splitlines()
        except (RefusedFile, UnicodeDecodeError) as fault:
            source.errors.append(Fault("unreadable", by_split[split], None, f"cannot be read as a list: {fault}"))
            continue
        for line in filter(None, map(str.strip, lines)):
            before = splits.setdefault(normalised(PurePosixPath(line).name), split)
            if before != split and not (split == "trainval" and before in ("train", "val")):
                reason = f"image {shorten(line, 60)!r} is also in the list {before}"
                source.errors.append(Fault("image-twice", by_split[split], None, reason))
    return splits
