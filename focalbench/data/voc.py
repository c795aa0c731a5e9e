"""Pascal VOC data sets as records: class names become labels, faults become one error that lists them all.

What is repaired and what is refused is stated in :mod:`focalbench.data.scanning`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np

from focalbench.data.faults import Fault, raise_for_faults, shorten
from focalbench.data.scanning import Listing, Scan, list_samples, scan_samples
from focalbench.errors import DataError

Classes = Literal["auto", "voc"] | tuple[str, ...]

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@dataclass(frozen=True)
class Record:
    """One annotated image.

    Attributes:
        image_id: the id in the split file.
        year: e.g. ``2007``.
        image_path: the image file.
        width: pixels, as annotated (after ``orientation``).
        height: pixels, as annotated.
        boxes: (M, 4) float32, VOC 1-based inclusive (xmin, ymin, xmax, ymax), cut to the image.
        labels: (M,) int64, 0..K-1.
        difficult: (M,) bool.
        orientation: EXIF orientation to apply when decoding; 1 is none.
    """

    image_id: str
    year: str
    image_path: Path
    width: int
    height: int
    boxes: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    difficult: np.ndarray = field(repr=False)
    orientation: int = 1


@dataclass(frozen=True)
class VocSplit:
    """The images of one or several joined splits, in list order, and the class names that labels index."""

    records: tuple[Record, ...]
    classes: tuple[str, ...]


def join_objects(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """Joins the objects of all ``records``, difficult ones included, to flat arrays.

    Returns:
        ``image`` (G,) int64 index into ``records``, ``label`` (G,) int64, ``box`` (G, 4) float32 in original 1-based
        inclusive pixels, ``difficult`` (G,) bool.
    """
    counts = np.array([len(record.boxes) for record in records], np.int64)
    return {
        "image": np.repeat(np.arange(len(records)), counts),
        "label": np.concatenate([np.zeros(0, np.int64), *(record.labels for record in records)]),
        "box": np.concatenate([np.zeros((0, 4), np.float32), *(record.boxes for record in records)]),
        "difficult": np.concatenate([np.zeros(0, bool), *(record.difficult for record in records)]),
    }


def found_names(scans: Iterable[Scan]) -> set[str]:
    """Collects the class names of the objects that are used."""
    return {item.name for scan in scans for item in scan.objects}


def resolve_classes(found: Iterable[str], classes: Classes) -> tuple[str, ...]:
    """Turns the setting ``classes`` into class names in label order: for ``auto`` the names ``found`` in the training
    images, sorted.

    Raises:
        DataError: if ``auto`` finds no object.
    """
    if classes == "voc":
        return VOC_CLASSES
    if classes != "auto":
        return tuple(classes)
    if not (names := sorted(found)):
        raise DataError("the training images hold no object that can be used: there is nothing to learn")
    return tuple(names)


def check_class_names(scans: Sequence[Scan], classes: tuple[str, ...]) -> list[Fault]:
    """Finds objects whose class is not in ``classes``, each with the nearest name as a hint."""
    reasons = {
        name: f"class {shorten(name, 60)!r} is not in the list of classes{_hint_at(name, classes)}"
        for name in found_names(scans).difference(classes)
    }
    return [
        Fault("unknown-class", scan.sample.shown_xml, item.tag, reasons[item.name])
        for scan in scans
        for item in scan.objects
        if item.name in reasons
    ]


def _hint_at(name: str, classes: Sequence[str]) -> str:
    same = [other for other in classes if other.casefold() == name.casefold()]
    near = same or get_close_matches(name, classes, n=1)
    return f"; did you mean {shorten(near[0], 60)!r}?" if near else f" ({shorten(', '.join(classes), 120)})"


def find_case_twins(classes: Sequence[str], scans: Iterable[Scan]) -> list[Fault]:
    """Finds names under ``auto`` that differ from another only in case: the rarer spelling is taken for a slip."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault(name.casefold(), []).append(name)
    uses = [(item, scan) for scan in scans for item in scan.objects if len(groups.get(item.name.casefold(), ())) > 1]
    counts = Counter(item.name for item, _ in uses)
    faults = []
    for item, scan in uses:
        usual = max(groups[item.name.casefold()], key=lambda name: (counts[name], name))
        if item.name != usual:
            names = f"class {shorten(item.name, 60)!r} differs from {shorten(usual, 60)!r}"
            reason = f"{names} only in case; list both in data.classes to keep both"
            faults.append(Fault("class-case", scan.sample.shown_xml, item.tag, reason))
    return faults


def make_record(scan: Scan, classes: tuple[str, ...]) -> Record:
    """Turns a scan without errors, whose class names are all in ``classes``, into numbers."""
    if scan.size is None:
        raise ValueError(f"{scan.sample.shown_image} could not be read")
    index = {name: label for label, name in enumerate(classes)}
    return Record(
        image_id=scan.sample.image_id,
        year=scan.sample.folder.year,
        image_path=scan.sample.folder.path / scan.sample.image,
        width=scan.size[0],
        height=scan.size[1],
        boxes=np.array([item.box for item in scan.objects], np.float32).reshape(-1, 4),
        labels=np.array([index[item.name] for item in scan.objects], np.int64),
        difficult=np.array([item.difficult for item in scan.objects], bool),
        orientation=scan.orientation,
    )


def make_split(listing: Listing, scans: Sequence[Scan], classes: Classes) -> VocSplit:
    """Turns ``scans`` into records, if they have no errors; ``classes`` may be ``auto`` for training images only.

    Raises:
        DataError: with all faults at once.
    """
    faults = [*listing.errors, *(fault for scan in scans for fault in scan.errors)]
    raise_for_faults(faults)
    names = resolve_classes(found_names(scans), classes)
    raise_for_faults([*check_class_names(scans, names), *(find_case_twins(names, scans) if classes == "auto" else ())])
    return VocSplit(tuple(make_record(scan, names) for scan in scans), names)


def relabel(split: VocSplit, classes: tuple[str, ...]) -> VocSplit:
    """Gives the objects of ``split`` the labels of ``classes``, which must hold all its class names."""
    if split.classes == classes:
        return split
    labels = np.array([classes.index(name) for name in split.classes], np.int64)
    return VocSplit(tuple(replace(record, labels=labels[record.labels]) for record in split.records), classes)


def read_records(root: str | PathLike[str], splits: Sequence[str], classes: Classes = "auto") -> VocSplit:
    """Reads the images and objects of ``splits``, joined.

    Args:
        root: the folder that holds VOC2007, VOC2012, ...
        splits: e.g. ``("2007/trainval", "2012/trainval")``.
        classes: ``auto`` (sorted names found in these splits: use it for training splits only), ``voc``, or the names
            in label order.

    Raises:
        DataError: if anything is missing, broken or not in ``classes``; all faults at once.
    """
    listing = list_samples(root, splits)
    return make_split(listing, [scan for scan, _ in scan_samples(listing.samples)], classes)
