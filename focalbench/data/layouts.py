"""What a folder is that is not laid out as Pascal VOC is, and what leads on from there.

Only names are looked at, and of each folder the first few hundred, so a folder of any size is answered at once.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_MAX_ENTRIES = 400
_MAX_FOLDERS = 30
_YOLO_FILES = frozenset({"data.yaml", "data.yml", "dataset.yaml", "obj.names", "obj.data", "classes.txt"})


@dataclass(frozen=True)
class _Glance:
    """Names in a folder, in lower case: folders, and files by stem and suffix."""

    path: Path
    folders: tuple[str, ...] = ()
    files: frozenset[str] = frozenset()
    stems: dict[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def at(cls, path: Path) -> _Glance:
        """Looks into ``path``; a folder that cannot be read holds nothing."""
        folders: list[str] = []
        files: list[str] = []
        with suppress(OSError), os.scandir(path) as entries:
            for entry in islice(entries, _MAX_ENTRIES):
                (folders if entry.is_dir() else files).append(entry.name)
        stems: dict[str, set[str]] = {}
        for name in files:
            stem, suffix = os.path.splitext(name.lower())
            stems.setdefault(suffix, set()).add(stem)
        lower = frozenset(name.lower() for name in files)
        return cls(path, tuple(sorted(folders)), lower, {key: frozenset(value) for key, value in stems.items()})

    @property
    def images(self) -> frozenset[str]:
        """Stems of images."""
        return frozenset().union(*(self.stems.get(suffix, frozenset()) for suffix in IMAGE_SUFFIXES))

    def beside_images(self, suffix: str) -> bool:
        """Tells whether a file of this suffix has an image's name."""
        return not self.images.isdisjoint(self.stems.get(suffix, frozenset()))


def is_year_like(path: Path) -> bool:
    """Tells whether ``path`` holds what a VOC<year> folder does, whatever it is called."""
    return (path / "JPEGImages").is_dir() and (path / "Annotations").is_dir()


def explain(path: Path) -> str:
    """Says what the folder ``path``, which holds no VOC<year> folder, is instead, and how to go on from it."""
    inside = _Glance.at(path)
    if is_year_like(path):
        return _explain_name(path.resolve(), given=True)
    for name in inside.folders[:_MAX_FOLDERS]:
        if is_year_like(path / name):
            return _explain_name(path / name, given=False)
    kind = _recognise([inside, *_below(inside)])
    shown = shlex.quote(str(path))
    if kind is not None:
        return f"holds no VOC<year> folder but {kind}: `focalbench data import {shown} -o NEW_FOLDER` converts it"
    expected = path / "VOC2007" / "ImageSets" / "Main"
    held = ", ".join([f"{name}/" for name in inside.folders[:4]] + sorted(inside.files)[:4]) or "nothing"
    return f"holds no VOC<year> folder (expected {expected}; found: {held})"


def _explain_name(folder: Path, *, given: bool) -> str:
    """A year folder by another name; ``given`` says that the user named it, and not the folder around it."""
    around = folder.parent
    number = next(number for number in range(1, 1000) if not os.path.lexists(around / f"VOC{number}"))
    link = f"ln -s {shlex.quote(folder.name)} {shlex.quote(str(around / f'VOC{number}'))}"
    what = "is laid out as a year folder" if given else f"holds {folder.name}, laid out as a year folder"
    then = f", then give {around}" if given else ""
    return f"{what}, whose name must be VOC and a number: rename it VOC{number}, or `{link}`{then}"


def _below(glance: _Glance) -> Iterator[_Glance]:
    """The folders in a folder and in these, some of them."""
    for name in glance.folders[:_MAX_FOLDERS]:
        child = _Glance.at(glance.path / name)
        yield child
        for inner in child.folders[:4]:
            yield _Glance.at(child.path / inner)


def _recognise(glances: list[_Glance]) -> str | None:
    """What the folders are an export of, in words."""
    names = [glance.path.name.lower() for glance in glances[1:]]
    for glance in glances:
        if any(name.endswith(".coco.json") or name.startswith("instances_") for name in glance.files):
            return "what looks like a COCO export"
        if glance.path.name.lower() == "annotations" and ".json" in glance.stems:
            return "what looks like a COCO export"
    if any(glance.beside_images(".json") for glance in glances):
        return "what looks like a labelme export"
    if "annotations.xml" in glances[0].files:
        return "what looks like a CVAT export"
    if _YOLO_FILES & glances[0].files or "labels" in names or any(glance.beside_images(".txt") for glance in glances):
        return "what looks like a YOLO export"
    if any(glance.beside_images(".xml") for glance in glances):
        where = [glance.path.name for glance in glances[1:] if glance.beside_images(".xml")]
        return f"images beside XML files{f' ({_some(where)})' if where else ''}"
    if any(".xml" in glance.stems for glance in glances) and any(glance.images for glance in glances):
        return "images and XML files"
    return None


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
