"""A data set of another tool to VOC's layout: which format it is, who reads it, and the account of the whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from focalbench.data.faults import Fault, count_kinds, shorten
from focalbench.data.files import list_years
from focalbench.errors import DataError, StorageError
from focalbench.importing import coco, cvat, labelme, voc_flat, yolo
from focalbench.importing.layout import YEAR, require_free, write_layout
from focalbench.importing.plan import Plan, make_plan
from focalbench.importing.source import Place, Source, linked_folders
from focalbench.version import __version__


@dataclass(frozen=True)
class Format:
    """A format: its name for people, whether a place holds it, and who reads it."""

    title: str
    recognise: Callable[[Place], bool]
    read: Callable[[Place], Source]


FORMATS = {
    "coco": Format(coco.NAME, coco.recognise, coco.read),
    "yolo": Format(yolo.NAME, yolo.recognise, yolo.read),
    "voc-flat": Format(voc_flat.NAME, voc_flat.recognise, voc_flat.read),
    "cvat": Format(cvat.NAME, cvat.recognise, cvat.read),
    "labelme": Format(labelme.NAME, labelme.recognise, labelme.read),
}
_FOLDERS_OF_LABELS = {"annotations", "labels"}


@dataclass(frozen=True)
class ImportReport:
    """What an import did: the plan that was carried out, and where its images are ``links`` or ``copies``."""

    root: Path
    plan: Plan
    files: dict[str, int]

    @property
    def year(self) -> str:
        """The year of the new set."""
        return YEAR.removeprefix("VOC")

    def to_json(self) -> dict[str, Any]:
        """Returns the account as a JSON document."""
        return {"root": str(self.root), "year": self.year, **describe(self.plan), "files": self.files}


def import_data(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str],
    format: str = "auto",
    *,
    images: str | os.PathLike[str] | None = None,
    copy: bool = False,
    skip_faulty: bool = False,
) -> ImportReport:
    """Writes the data set of another tool in VOC's layout; the source is only read.

    Args:
        source: a folder, or one annotation file.
        root: where the new set goes; not there yet, or an empty folder.
        format: a key of ``FORMATS``; ``auto`` finds out.
        images: folder of the images, where they lie elsewhere.
        copy: copy images instead of making hard links.
        skip_faulty: leave images with faults out instead of importing nothing.

    Returns:
        the account; where its plan has errors, nothing was written.

    Raises:
        DataError: if the source is not there, or its format is not known.
        StorageError: if ``root`` holds something, lies in the source or cannot be written.
    """
    target = Path(os.path.abspath(Path(root).expanduser()))
    place = locate(source, images)
    if place.file is None and Path(os.path.realpath(target)).is_relative_to(place.base):
        raise StorageError(
            f"{shorten(str(root))}: lies inside the source, which is only read; name a folder outside it"
        )
    require_free(target)
    reader = FORMATS[format if format != "auto" else detect(place)]
    found = reader.read(place)
    if place.file is None and (links := linked_folders(place.base)):
        reason = f"folders that are links were not entered: {shorten(', '.join(links[:5]), 160)}"
        faults = found.errors if found.errors or not found.images else found.warnings
        faults.append(Fault("linked-folder", str(source), None, reason))
    plan = make_plan(found, skip_faulty)
    if plan.errors:
        return ImportReport(target, plan, {})
    document = {"focalbench": __version__, "source": str(place.base / (place.file or "")), **describe(plan)}
    files = write_layout(plan, target, document | {"renamed": plan.renamed}, copy=copy)
    return ImportReport(target, plan, files)


def describe(plan: Plan) -> dict[str, Any]:
    """Returns what came over and what did not, as a JSON document."""
    return {
        "format": plan.format,
        "images": len(plan.images),
        "empty_images": plan.num_empty,
        "objects": sum(plan.num_objects.values()),
        "difficult": plan.num_difficult,
        "classes": {name: plan.num_objects[name] for name in plan.classes},
        "lists": {name: len(ids) for name, ids in plan.lists.items()},
        "num_renamed": len(plan.renamed),
        "left_behind": plan.left_behind,
        "images_left_out": plan.num_left_out,
        "errors": [asdict(fault) for fault in plan.errors],
        "left_out": [asdict(fault) for fault in plan.left_out],
        "warnings": [asdict(fault) for fault in plan.warnings],
        "counts": {kind: count_kinds(getattr(plan, kind)) for kind in ("errors", "left_out", "warnings")},
    }


def locate(source: str | os.PathLike[str], images: str | os.PathLike[str] | None = None) -> Place:
    """Finds the folder that nothing may be read outside of: the source, or the one around a file.

    Of a file in a folder of labels, the data set is one folder further up.

    Raises:
        DataError: if the source or the folder of images is not there, or is of another kind.
    """
    path = _real(source)
    folder = None if images is None else _real(images)
    if folder is not None and not folder.is_dir():
        raise DataError(f"--images {shorten(str(images))}: is not a folder")
    if path.is_dir():
        return Place(path, images=folder)
    if path.suffix.lower() in (".zip", ".tar", ".gz", ".7z", ".rar"):
        raise DataError(f"{shorten(str(source))}: is an archive; unpack it and name the folder")
    base = path.parent.parent if path.parent.name.lower() in _FOLDERS_OF_LABELS else path.parent
    return Place(base, path.relative_to(base).as_posix(), folder)


def _real(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(os.path.realpath(Path(path).expanduser(), strict=True))
    except FileNotFoundError:
        raise DataError(f"{shorten(str(path))}: does not exist") from None
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{shorten(str(path))}: cannot be read: {reason}") from None


def detect(place: Place) -> str:
    """Finds the format of a source.

    Raises:
        DataError: if it is none that is known, or could be several.
    """
    shown = shorten(str(place.base / (place.file or "")))
    if place.file is None and list_years(place.base):
        raise DataError(
            f"{shown}: is already in VOC layout; continue with `focalbench init`, or `focalbench data split`"
        )
    found = [name for name, format in FORMATS.items() if format.recognise(place)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{shown}: could be {' or '.join(found)}; say which with --format")
    known = ", ".join(f"{name} ({format.title})" for name, format in FORMATS.items())
    raise DataError(f"{shown}: holds no data set in a known format; known are {known}")
