"""COCO's instances: one JSON file a split, with lists of images, annotations and categories
(https://cocodataset.org/#format-data).

``bbox`` is [x, y, width, height] with 0-based continuous edges. A crowd (``iscrowd``) becomes a difficult object: VOC's
protocols count neither for nor against a detection there.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
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
    suffix_of,
    take_size,
)

NAME = "COCO JSON"
MAX_BYTES = 2 * 2**30
_PEEK_BYTES = 1 << 16
_KEYS = re.compile(rb'"(?:images|annotations|categories|licenses)"\s*:\s*[\[{]')
_PROBES = 100  # file names by which the folder of the images is found


def recognise(place: Place) -> bool:
    """Says whether the place holds COCO's JSON."""
    if place.file is not None:
        return suffix_of(place.file) == ".json" and _looks_like_coco(place.base / place.file)
    return bool(_documents(place))


def read(place: Place) -> Source:
    """Reads every instances file of the place; a file's split follows from its name, else from its folder's."""
    source = Source(NAME)
    documents = _documents(place)
    if not documents:
        source.errors.append(Fault("no-annotations", str(place.base), None, "holds no JSON file in COCO's form"))
    for name in documents:
        _Reading(place, source, name).read()
    return source


def _documents(place: Place) -> list[str]:
    names = [name for name in place.named(".json") if place.file is not None or _looks_like_coco(place.base / name)]
    instances = [name for name in names if "instances" in PurePosixPath(name).name]
    return instances or names


def _looks_like_coco(path: Path) -> bool:
    """By the first and the last kilobytes: keys stand in any order, and a list may be hundreds of megabytes long."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(_PEEK_BYTES)
            file.seek(max(0, os.fstat(file.fileno()).st_size - _PEEK_BYTES))
            tail = file.read()
    except OSError:
        return False
    return b'"shapes"' not in head and bool(_KEYS.search(head) or _KEYS.search(tail))


@dataclass
class _Reading:
    """One file on its way into ``source``."""

    place: Place
    source: Source
    name: str
    classes: dict[Any, str] = field(default_factory=dict)
    images: dict[Any, SourceImage] = field(default_factory=dict)

    def read(self) -> None:
        document = self._load()
        if document is None:
            return
        self._read_categories(document["categories"])
        split = self._split()
        base = self._image_folder(document["images"], split)
        for number, entry in self._entries(document, "images"):
            self._read_image(base, number, entry, split)
        seen: Counter[Any] = Counter()
        for number, entry in self._entries(document, "annotations"):
            self._read_annotation(f"annotation {entry.get('id', f'number {number}')!r}", entry)
            seen[_key(entry.get("id"))] += 1
        repeated = [str(key) for key, count in seen.items() if count > 1 and key is not None]
        if repeated:
            reason = f"{len(repeated)} ids of annotations are used more than once ({', '.join(repeated[:5])}): all kept"
            self.source.warnings.append(Fault("duplicate-annotation-id", self.name, None, reason))

    def _error(self, kind: str, reason: str) -> None:
        self.source.errors.append(Fault(kind, self.name, None, reason))

    def _load(self) -> dict[str, Any] | None:
        try:
            document = json.loads(self.place.read(self.name, MAX_BYTES))
        except RefusedFile as refused:
            self._error(refused.kind, str(refused))
            return None
        except (ValueError, RecursionError) as error:
            self._error("json-broken", f"is not JSON: {error}")
            return None
        missing = [
            key
            for key in ("images", "annotations", "categories")
            if not isinstance(document, dict) or not isinstance(document.get(key), list)
        ]
        if missing:
            self._error(
                "not-coco", f"has no list {' and no list '.join(map(repr, missing))}: these are not COCO instances"
            )
            return None
        return document

    def _split(self) -> str | None:
        path = PurePosixPath(self.name)
        return split_of(path.parent.name, path.stem)

    def _entries(self, document: dict[str, Any], key: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, entry in enumerate(document[key], start=1):
            if isinstance(entry, dict):
                yield number, entry
            else:
                self._error("wrong-type", f"{key}: entry {number} is {_shown(entry)}, not an object")

    def _read_categories(self, entries: list[Any]) -> None:
        for number, entry in enumerate(entries, start=1):
            key = _key(entry.get("id")) if isinstance(entry, dict) else None
            name = entry.get("name") if isinstance(entry, dict) else None
            if key is None or not isinstance(name, str | int) or not str(name).strip():
                self._error("bad-category", f"categories: entry {number} is {_shown(entry)}; it needs an id and a name")
            elif self.classes.setdefault(key, str(name)) != str(name):
                both = f"{shorten(self.classes[key], 60)!r} and {shorten(str(name), 60)!r}"
                self._error("duplicate-category-id", f"category id {_shown(key)} stands for {both}")
            else:
                self.source.declare(str(name))

    def _image_folder(self, entries: list[Any], split: str | None) -> Path:
        """The folder that ``file_name`` is relative to: the one of the likely places that has most of the images."""
        names = [
            entry["file_name"] for entry in entries if isinstance(entry, dict) and _is_path(entry.get("file_name"))
        ]
        tag = PurePosixPath(self.name).stem.removeprefix("instances_")
        below = dict.fromkeys(
            ["", "images", tag, f"images/{tag}", "data", *([split, f"images/{split}"] if split else [])]
        )
        if self.place.images is not None:
            around = [self.place.images]
        else:
            parents = [self.place.base / folder for folder in PurePosixPath(self.name).parents]
            around = [folder for folder in parents if folder.is_relative_to(self.place.base)]
        folders = [folder / inner for folder in around for inner in below]
        step = max(1, len(names) // _PROBES)
        probes = [name.replace("\\", "/") for name in names[::step]]
        return max(folders, key=lambda folder: sum(os.path.lexists(folder / probe) for probe in probes))

    def _read_image(self, folder: Path, number: int, entry: dict[str, Any], split: str | None) -> None:
        key, file_name = _key(entry.get("id")), entry.get("file_name")
        if key is None or not _is_path(file_name):
            reason = f"images: entry {number} has id {_shown(entry.get('id'))} and file_name {_shown(file_name)}"
            self._error("bad-image-entry", f"{reason}; both are needed")
            return
        if key in self.images:
            both = f"{shorten(self.images[key].name, 80)} and {shorten(str(file_name), 80)}"
            self._error("duplicate-image-id", f"image id {_shown(key)} stands for {both}")
            return
        base = self.place.images or self.place.base
        relative = str(file_name)
        if not is_absolute(relative):
            inner = os.path.relpath(folder, base)
            relative = relative if inner == "." else f"{inner}/{relative}"
        image, header = open_source_image(base, relative, self.name, split)
        take_size(image, header, entry.get("width"), entry.get("height"))
        self.images[key] = image
        self.source.images.append(image)

    def _read_annotation(self, tag: str, entry: dict[str, Any]) -> None:
        key = _key(entry.get("image_id"))
        image = self.images.get(key)
        if image is None:
            reason = f"image_id {_shown(entry.get('image_id'))} is the id of no image"
            self.source.strays.append(Fault("unknown-image", self.name, tag, reason))
            return
        name = self.classes.get(_key(entry.get("category_id")))
        if name is None:
            image.fail(
                "unknown-category", tag, f"category_id {_shown(entry.get('category_id'))} is the id of no category"
            )
            return
        edges = self._edges(entry)
        if edges is None:
            image.fail("bad-box", tag, f"bbox is {_shown(entry.get('bbox'))}, not four numbers")
            return
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            image.fail("bad-iscrowd", tag, f"iscrowd is {_shown(crowd)}, not 0 or 1")
            return
        if entry.get("segmentation") and "bbox" in entry:
            self.source.left_behind["segmentation masks"] += 1
        if entry.get("keypoints"):
            self.source.left_behind["sets of keypoints"] += 1
        image.add(tag, name, edges, bool(crowd))

    def _edges(self, entry: dict[str, Any]) -> tuple[float, float, float, float] | None:
        box = entry.get("bbox")
        if isinstance(box, list) and len(box) == 4 and all(map(is_number, box)):
            try:
                x, y, width, height = map(float, box)
            except OverflowError:  # a whole number that no float can hold
                return None
            return x, y, x + width, y + height
        polygons = entry.get("segmentation")
        if "bbox" in entry or not isinstance(polygons, list):
            return None
        flat = [number for polygon in polygons if isinstance(polygon, list) for number in polygon]
        if len(flat) < 6 or len(flat) % 2 or not all(map(is_number, flat)):
            return None
        self.source.left_behind["polygons without a box (their bounds were taken)"] += 1
        return bounds(list(zip(flat[::2], flat[1::2], strict=True)))


def _key(value: Any) -> Any:
    """An id as it can be looked up: a number or text, else None."""
    return value if is_number(value) or isinstance(value, str) else None


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def _shown(value: Any) -> str:
    return shorten(repr(value)[:200], 80)
