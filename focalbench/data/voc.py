"""Pascal VOC data sets as records: class names become labels, faults become one error that lists them all.

What is repaired and what is refused is stated in :mod:`focalbench.data.scanning`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher, get_close_matches
from itertools import combinations
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np

from focalbench.data.faults import Fault, raise_for_faults, shorten
from focalbench.data.scanning import Listing, Scan, list_samples, scan_samples
from focalbench.errors import DataError

Classes = Literal["auto", "voc"] | tuple[str, ...]
_SEPARATORS = re.compile(r"[\s_\-\u2010-\u2015\u2212]+")
_SPELLINGS = {
    "case": str.casefold,
    "Unicode form": lambda name: unicodedata.normalize("NFKC", name),
    "separators (space, _ and -)": lambda name: _SEPARATORS.sub(" ", name).strip(),
}

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@dataclass(frozen=True)
class ClassRule:
    """What is done with objects whose class is not in the list of classes.

    Attributes:
        ignore: leave them out, with a warning; else they are errors.
        trained: the list is that of a trained network, which messages then say.
    """

    ignore: bool = False
    trained: bool = False


STRICT = ClassRule()


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
        raise DataError("the training images hold no usable object: there is nothing to learn")
    return tuple(names)


def fold_name(name: str) -> str:
    """Returns ``name`` without what nobody means: case, Unicode form (NFKC), and which separator stands where."""
    for fold in (*_SPELLINGS.values(), *_SPELLINGS.values()):  # once more: each may bring work for another
        name = fold(name)
    return name


def describe_difference(name: str, other: str) -> str | None:
    """Says in what ``name`` alone differs from ``other``, two names that :func:`fold_name` makes one; else None."""
    for number in range(1, len(_SPELLINGS) + 1):
        for kinds in combinations(_SPELLINGS, number):
            folded = [name, other]
            for kind in kinds:
                folded = [_SPELLINGS[kind](text) for text in folded]
            if folded[0] == folded[1]:
                return " and ".join(kinds)
    return None


@dataclass
class _Uses:
    """Objects of one class name: how many, in how many images, and where the first is."""

    scan: Scan
    tag: str
    objects: int = 0
    images: int = 0

    def __str__(self) -> str:
        objects = f"{self.objects} object{'s' * (self.objects != 1)}"
        return f"{objects} in {self.images} images" if self.images > 1 else objects

    def fault(self, kind: str, reason: str) -> Fault:
        return Fault(kind, self.scan.sample.shown_xml, self.tag, reason)


def _count_uses(scans: Iterable[Scan]) -> dict[str, _Uses]:
    uses: dict[str, _Uses] = {}
    for scan in scans:
        for name, number in Counter(item.name for item in scan.objects).items():
            if name not in uses:
                uses[name] = _Uses(scan, next(item.tag for item in scan.objects if item.name == name))
            uses[name].objects += number
            uses[name].images += 1
    return uses


def check_class_names(
    scans: Iterable[Scan], names: tuple[str, ...], classes: Classes, rule: ClassRule = STRICT
) -> list[Fault]:
    """Finds class names that are not in ``names`` and, under ``auto``, spellings of one name; a fault for each.

    Args:
        names: what :func:`resolve_classes` made of ``classes``.
    """
    uses = _count_uses(scans)
    faults = _find_spellings(uses) if classes == "auto" else []
    known = {fold_name(name) for name in names} if classes == "auto" else set()
    for name in () if rule.ignore else uses.keys() - set(names):
        if fold_name(name) not in known:
            faults.append(uses[name].fault("unknown-class", _explain_unknown(name, uses[name], names, classes, rule)))
    return sorted(faults, key=lambda fault: (fault.kind, fault.reason))


def _explain_unknown(name: str, uses: _Uses, names: tuple[str, ...], classes: Classes, rule: ClassRule) -> str:
    where = "in data.classes"
    if rule.trained:
        where = "among the classes of the trial"
    elif classes == "auto":
        where = "among those of the training images"
    elif classes == "voc":
        where = "among Pascal VOC's (data.classes: voc)"
    remedy = "name it in data.classes, or leave such objects out with data.other_classes: ignore"
    if rule.trained:
        remedy = "--ignore-other-classes leaves such objects out"
    known = f" ({shorten(', '.join(names), 100)})" if classes != "voc" else ""
    return f"class {shorten(name, 60)!r} ({uses}) is not {where}{known}{_hint_at(name, names)}; {remedy}"


def _hint_at(name: str, names: Sequence[str]) -> str:
    for other in names:
        if fold_name(other) == fold_name(name):
            difference = describe_difference(name, other) or "spelling"
            return f"; did you mean {shorten(other, 60)!r}? It differs only in {difference}"
    near = get_close_matches(name, names, n=1)
    return f"; did you mean {shorten(near[0], 60)!r}?" if near else ""


def _find_spellings(uses: dict[str, _Uses]) -> list[Fault]:
    """Of names that :func:`fold_name` makes one, all but the most frequent are taken for slips."""
    groups: dict[str, list[str]] = {}
    for name in uses:
        groups.setdefault(fold_name(name), []).append(name)
    faults = []
    for group in groups.values():
        usual = max(group, key=lambda name: (uses[name].objects, name))
        for name in group:
            if name != usual:
                difference = describe_difference(name, usual) or "spelling"
                show = ascii if difference == "Unicode form" else repr  # the two look the same
                shown, other = (f"{show(shorten(each, 60))} ({uses[each]})" for each in (name, usual))
                reason = f"class {shown} differs from {other} only in {difference}"
                reason += "; rename it, or list both in data.classes to keep both"
                faults.append(uses[name].fault("class-spelling", reason))
    return faults


def leave_out_others(scans: Iterable[Scan], names: tuple[str, ...]) -> tuple[list[Scan], list[Fault]]:
    """Takes objects of classes that are not in ``names`` from the scans; a warning for each class says how many."""
    scans, known = list(scans), set(names)
    faults = [
        uses.fault("other-class", f"class {shorten(name, 60)!r} ({uses}) is left out{_hint_at(name, names)}")
        for name, uses in sorted(_count_uses(scans).items())
        if name not in known
    ]
    if not faults:
        return scans, []
    return [replace(scan, objects=tuple(item for item in scan.objects if item.name in known)) for scan in scans], faults


def hint_at_twin(name: str, names: Sequence[str]) -> str:
    """Names the class that ``name`` may be a slip of, such as a plural; "" where none is that near."""
    for other in names:
        if other != name and _is_near(name, other):
            return f"; did you mean {shorten(other, 60)!r}?"
    return ""


def _is_near(name: str, other: str) -> bool:
    """An exchange of letters, a letter more or less in a longer name, or letters of another script that look alike."""
    if name.isascii() != other.isascii():
        return len(name) == len(other) and any(a == b for a, b in zip(name, other, strict=True))
    return sorted(name) == sorted(other) or SequenceMatcher(None, name, other).ratio() > 0.85


def find_empty_side(side: str, num_objects: int, num_difficult: int) -> Fault | None:
    """Tells what is wrong with a side of the data that has nothing to learn from, or nothing to measure by.

    Args:
        side: ``train`` or ``val``.
        num_objects: those that count: not difficult, not left out.
        num_difficult: the others.
    """
    if num_objects:
        return None
    difficult = f"has no objects that count ({num_difficult} difficult, which do not)"
    found = difficult if num_difficult else "has no objects"
    if side == "train":
        return Fault(
            "nothing-to-learn", side, None, f"{found}: there is nothing to learn; annotate objects in its images"
        )
    reason = f"{found}: mAP would be undefined for every arm; annotate objects in its images, or name other lists"
    return Fault("nothing-to-measure", side, None, reason)


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


def make_split(listing: Listing, scans: Sequence[Scan], classes: Classes, rule: ClassRule = STRICT) -> VocSplit:
    """Turns ``scans`` into records, if they have no errors; ``classes`` may be ``auto`` for training images only.

    Raises:
        DataError: with all faults at once.
    """
    faults = [*listing.errors, *(fault for scan in scans for fault in scan.errors)]
    raise_for_faults(faults)
    names = resolve_classes(found_names(scans), classes)
    raise_for_faults(check_class_names(scans, names, classes, rule))
    scans, _ = leave_out_others(scans, names)
    return VocSplit(tuple(make_record(scan, names) for scan in scans), names)


def relabel(split: VocSplit, classes: tuple[str, ...]) -> VocSplit:
    """Gives the objects of ``split`` the labels of ``classes``; those of other classes are left out."""
    if split.classes == classes:
        return split
    index = {name: label for label, name in enumerate(classes)}
    labels = np.array([index.get(name, -1) for name in split.classes], np.int64)
    return VocSplit(tuple(_relabel_record(record, labels) for record in split.records), classes)


def _relabel_record(record: Record, new_labels: np.ndarray) -> Record:
    labels = new_labels[record.labels]
    kept = labels >= 0
    if kept.all():
        return replace(record, labels=labels)
    return replace(record, boxes=record.boxes[kept], labels=labels[kept], difficult=record.difficult[kept])


def read_records(
    root: str | PathLike[str], splits: Sequence[str], classes: Classes = "auto", rule: ClassRule = STRICT
) -> VocSplit:
    """Reads the images and objects of ``splits``, joined.

    Args:
        root: the folder that holds VOC2007, VOC2012, ...
        splits: e.g. ``("2007/trainval", "2012/trainval")``.
        classes: ``auto`` (sorted names found in these splits: use it for training splits only), ``voc``, or the names
            in label order.
        rule: for objects of other classes.

    Raises:
        DataError: if anything is missing, broken or not in ``classes``; all faults at once.
    """
    listing = list_samples(root, splits)
    return make_split(listing, [scan for scan, _ in scan_samples(listing.samples)], classes, rule)
