"""Pascal VOC data sets: split files, annotations and image headers to records.

Repairs, each reported as a warning with its count: a zero-size box (maximum equal to minimum) is a slip of the mouse and its object is
left out of training and evaluation; a box that leaves the image by more than a pixel is cut at the border, and its object left out
where nothing remains; a missing ``difficult`` is 0; where the size tag and the image differ, the image's own size counts and boxes are
taken as its pixels; an id listed twice is read once. Boxes within a pixel of the border are cut without a word (0-based files).

EXIF orientation, as annotated: the image is turned when the size tag says that the annotator saw it turned. Where the tag cannot tell
(a half turn, a square image, no tag), the pixels are taken as stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np

from focalbench.data.annotation import MAX_XML_BYTES, Annotation, VocObject, parse_annotation
from focalbench.data.faults import Fault, raise_for_faults, shorten
from focalbench.data.files import (
    RefusedFile,
    YearFolder,
    find_id_fault,
    open_root,
    open_year,
    parse_split,
    read_list,
    split_line,
)
from focalbench.data.images import MAX_IMAGE_BYTES, BrokenImage, Header, open_image, quiet_decoding, read_header
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


@dataclass(frozen=True)
class Sample:
    """An image of a split before it is read: where its files are. ``image`` and ``xml`` are relative to the year folder."""

    folder: YearFolder = field(repr=False)
    image_id: str
    image: str
    xml: str

    @property
    def shown_xml(self) -> str:
        """The annotation's name in messages."""
        return f"VOC{self.folder.year}/{self.xml}"

    @property
    def shown_image(self) -> str:
        """The image's name in messages."""
        return f"VOC{self.folder.year}/{self.image}"


@dataclass
class Listing:
    """The samples of joined splits, and the faults that finding them brought to light."""

    samples: list[Sample] = field(default_factory=list)
    errors: list[Fault] = field(default_factory=list)
    warnings: list[Fault] = field(default_factory=list)


def list_samples(
    root: str | PathLike[str], splits: Sequence[str], folders: dict[str, YearFolder] | None = None
) -> Listing:
    """Finds the files of every image in ``splits``; opens the lists only.

    Args:
        root: the folder that holds VOC2007, ...
        splits: ``YEAR/SPLIT``, joined in this order.
        folders: year folders already listed, extended by those opened here.

    Raises:
        DataError: if the root, a year folder or a list is missing or empty.
    """
    path = open_root(Path(root))
    folders = {} if folders is None else folders
    listing = Listing()
    seen: set[tuple[str, str]] = set()
    for split in splits:
        year, name = parse_split(split)
        folder = folders.get(year) or folders.setdefault(year, open_year(path, year))
        for line in read_list(folder, name):
            image_id = split_line(line, folder)
            shown = f"VOC{year}/ImageSets/Main/{name}.txt"
            if (year, image_id) in seen:
                reason = f"image {shorten(image_id, 60)!r} is listed more than once: read once"
                listing.warnings.append(Fault("duplicate-id", shown, None, reason))
                continue
            seen.add((year, image_id))
            _find_files(folder, image_id, shown, listing)
    return listing


def _find_files(folder: YearFolder, image_id: str, shown_list: str, listing: Listing) -> None:
    fault = find_id_fault(image_id)
    if fault:
        listing.errors.append(Fault("bad-id", shown_list, None, f"image {shorten(image_id, 60)!r}: {fault}"))
        return
    image, xml = folder.images.get(image_id), folder.annotations.get(image_id)
    where = f"VOC{folder.year}"
    if xml is None:
        reason = f"does not exist, but {shown_list} lists it"
        listing.errors.append(Fault("missing-annotation", f"{where}/Annotations/{image_id}.xml", None, reason))
    if image is None:
        reason = f"does not exist as .jpg, .jpeg or .png, but {shown_list} lists it"
        listing.errors.append(Fault("missing-image", f"{where}/JPEGImages/{image_id}", None, reason))
    if image is None or xml is None:
        return
    if image_id in folder.shadowed:
        reason = "has a second image file of the same name: this one is used"
        listing.warnings.append(Fault("two-images", f"{where}/{image.path}", None, reason))
    listing.samples.append(Sample(folder, image_id, image.path, xml.path))


@dataclass(frozen=True)
class Scan:
    """What was found in the two files of one image, before class names become labels.

    ``size`` is (width, height) as annotated, None where the image cannot be used.
    """

    sample: Sample
    objects: tuple[VocObject, ...]
    size: tuple[int, int] | None
    orientation: int
    errors: tuple[Fault, ...]
    warnings: tuple[Fault, ...]


def read_annotation(sample: Sample) -> Annotation:
    """Reads and parses the sample's XML; a refused file becomes an error of the annotation."""
    try:
        data = sample.folder.open(sample.xml, MAX_XML_BYTES)
    except RefusedFile as refused:
        return Annotation(None, (), (Fault(refused.kind, sample.shown_xml, None, str(refused)),), ())
    return parse_annotation(data, sample.shown_xml)


def read_image(sample: Sample) -> bytes:
    """The bytes of the sample's image.

    Raises:
        RefusedFile: if it may not or cannot be read.
    """
    return sample.folder.open(sample.image, MAX_IMAGE_BYTES)


def scan_header(sample: Sample) -> Scan:
    """Reads the annotation and the image's header; pixels are not decoded."""
    annotation = read_annotation(sample)
    try:
        header = read_header(open_image(read_image(sample)))
    except (RefusedFile, BrokenImage) as fault:
        error = Fault(fault.kind, sample.shown_image, None, str(fault))
        return Scan(sample, (), None, 1, (*annotation.errors, error), annotation.warnings)
    return reconcile(sample, annotation, header)


def reconcile(sample: Sample, annotation: Annotation, header: Header) -> Scan:
    """Fits the annotation to the image: orientation, true size, boxes cut to the border."""
    warnings = list(annotation.warnings)
    stored = (header.width, header.height)
    orientation, size = 1, stored
    if header.orientation != 1:
        if annotation.size == header.rotated_size != stored:
            orientation, size = header.orientation, header.rotated_size
        elif annotation.size is None or stored == header.rotated_size:
            reason = (
                f"EXIF orientation {header.orientation}, and the annotation cannot tell which was seen: taken as stored"
            )
            warnings.append(Fault("exif-orientation", sample.shown_image, None, reason))
    if annotation.size not in (None, size):
        reason = f"<size> says {_times(annotation.size)}, the image has {_times(size)}: the image's size is used"
        warnings.append(Fault("size-differs", sample.shown_xml, None, reason))
    objects = []
    for item in annotation.objects:
        box, faults = _fit_box(item, size, sample.shown_xml)
        warnings += faults
        if box is not None:
            objects.append(VocObject(item.tag, item.name, box, item.difficult))
    warnings += _find_twins(objects, sample.shown_xml)
    return Scan(sample, tuple(objects), size, orientation, annotation.errors, tuple(warnings))


def _times(size: tuple[int, int] | None) -> str:
    return f"{size[0]} x {size[1]}" if size else "nothing"


def _fit_box(
    item: VocObject, size: tuple[int, int], file: str
) -> tuple[tuple[float, float, float, float] | None, list[Fault]]:
    """The box cut to the image and what to say about it; None where the object is left out."""
    left, top, right, bottom = item.box
    shown = f"box ({left:g}, {top:g}, {right:g}, {bottom:g})"
    if right == left or bottom == top:
        return None, [Fault("zero-size-box", file, item.tag, f"{shown} has no extent: the object is left out")]
    width, height = size
    if left > width or top > height or right < 1 or bottom < 1:
        reason = f"{shown} lies outside the {_times(size)} image: the object is left out"
        return None, [Fault("box-outside", file, item.tag, reason)]
    faults = []
    if right > width + 1 or bottom > height + 1:
        reason = f"{shown} leaves the {_times(size)} image: cut at the border"
        faults.append(Fault("box-beyond-border", file, item.tag, reason))
    left, top, right, bottom = max(left, 1.0), max(top, 1.0), min(right, float(width)), min(bottom, float(height))
    if right - left + 1 < 2 or bottom - top + 1 < 2:
        reason = f"{shown} is less than 2 pixels wide or high: kept"
        faults.append(Fault("tiny-box", file, item.tag, reason))
    return (left, top, right, bottom), faults


def _find_twins(objects: Sequence[VocObject], file: str) -> list[Fault]:
    seen: set[tuple[str, tuple[float, float, float, float]]] = set()
    faults = []
    for item in objects:
        if (item.name, item.box) in seen:
            reason = "has the class and box of an object before it: kept, and one of them counts as missed"
            faults.append(Fault("duplicate-object", file, item.tag, reason))
        seen.add((item.name, item.box))
    return faults


def choose_classes(scans: Iterable[Scan], classes: Classes) -> tuple[str, ...]:
    """The class names in label order: for ``auto`` the sorted names of ``scans``, which should be the training images.

    Raises:
        DataError: if ``auto`` finds no object.
    """
    if classes == "voc":
        return VOC_CLASSES
    if classes != "auto":
        return tuple(classes)
    names = sorted({item.name for scan in scans for item in scan.objects})
    if not names:
        raise DataError("the training images hold no object that can be used: there is nothing to learn")
    return tuple(names)


def check_class_names(scans: Iterable[Scan], classes: tuple[str, ...]) -> list[Fault]:
    """Objects whose class is not in ``classes``, each with the nearest name as a hint."""
    known = set(classes)
    hints: dict[str, str] = {}
    faults = []
    for scan in scans:
        for item in scan.objects:
            if item.name in known:
                continue
            if item.name not in hints:
                hints[item.name] = _hint_at(item.name, classes)
            reason = f"class {shorten(item.name, 60)!r} is not in the list of classes{hints[item.name]}"
            faults.append(Fault("unknown-class", scan.sample.shown_xml, item.tag, reason))
    return faults


def _hint_at(name: str, classes: Sequence[str]) -> str:
    same = [other for other in classes if other.casefold() == name.casefold()]
    near = same or get_close_matches(name, classes, n=1)
    return f"; did you mean {shorten(near[0], 60)!r}?" if near else f" ({shorten(', '.join(classes), 120)})"


def find_case_twins(classes: Sequence[str], scans: Iterable[Scan]) -> list[Fault]:
    """Names found by ``auto`` that differ from another only in case: one class in two spellings, the rarer taken as the slip."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault(name.casefold(), []).append(name)
    groups = {key: names for key, names in groups.items() if len(names) > 1}
    if not groups:
        return []
    uses = [(item, scan) for scan in scans for item in scan.objects if item.name.casefold() in groups]
    counts: dict[str, int] = {}
    for item, _ in uses:
        counts[item.name] = counts.get(item.name, 0) + 1
    faults = []
    for item, scan in uses:
        usual = max(groups[item.name.casefold()], key=lambda name: (counts.get(name, 0), name))
        if item.name != usual:
            reason = f"class {shorten(item.name, 60)!r} differs from {shorten(usual, 60)!r} only in case; list both to keep both"
            faults.append(Fault("class-case", scan.sample.shown_xml, item.tag, reason))
    return faults


def make_record(scan: Scan, classes: tuple[str, ...]) -> Record:
    """The scan as numbers; call it only once its faults are settled."""
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


def scan_all(samples: Sequence[Sample], workers: int = 2) -> list[Scan]:
    """Headers and annotations of ``samples``, in order, read by ``workers`` threads."""
    with quiet_decoding(), ThreadPoolExecutor(max(1, workers)) as pool:
        return list(pool.map(scan_header, samples))


def settle(listing: Listing, scans: Sequence[Scan], classes: Classes) -> VocSplit:
    """Records of ``scans``, which must be the training images where ``classes`` is ``auto``.

    Raises:
        DataError: with all faults at once.
    """
    faults = [*listing.errors, *(fault for scan in scans for fault in scan.errors)]
    raise_for_faults(faults)
    names = choose_classes(scans, classes)
    raise_for_faults([*check_class_names(scans, names), *(find_case_twins(names, scans) if classes == "auto" else ())])
    return VocSplit(tuple(make_record(scan, names) for scan in scans), names)


def read_records(root: str | PathLike[str], splits: Sequence[str], classes: Classes = "auto") -> VocSplit:
    """Reads the images and objects of ``splits``, joined.

    Args:
        root: the folder that holds VOC2007, VOC2012, ...
        splits: e.g. ``("2007/trainval", "2012/trainval")``.
        classes: ``auto`` (sorted names found in these splits: use it for training splits only), ``voc``, or the names in label order.

    Raises:
        DataError: if anything is missing, broken or not in ``classes``; all faults at once.
    """
    listing = list_samples(root, splits)
    return settle(listing, scan_all(listing.samples), classes)
