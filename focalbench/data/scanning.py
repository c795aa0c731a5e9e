"""The two files of every image in a split, found, read once and fitted to each other.

Repairs, each reported as a warning with its count: a zero-size box (maximum equal to minimum) is a slip of the mouse
and its object is left out of training and evaluation; a box that leaves the image by more than a pixel, on whichever
side, is cut at the border, and its object left out where nothing remains; a missing ``difficult`` is 0; where the size
tag and the image differ, the image's own size counts and boxes are taken as its pixels; an id listed twice is read
once. Boxes within a pixel of the border are cut without a word (0-based files).

EXIF orientation, as annotated: the image is turned when the size tag says that the annotator saw it turned. Where the
tag cannot tell (a half turn, a square image, no tag), the pixels are taken as stored.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TypeVar

from focalbench.data.annotation import MAX_XML_BYTES, Annotation, VocObject, parse_annotation
from focalbench.data.faults import Fault, shorten
from focalbench.data.files import (
    NearNames,
    RefusedFile,
    YearFolder,
    find_id_fault,
    normalised,
    open_root,
    open_year,
    read_list,
    split_line,
)
from focalbench.data.images import MAX_IMAGE_BYTES, BrokenImage, Header, open_image, quiet_decoding, read_header
from focalbench.errors import DataError
from focalbench.runtime import StopFlag, num_cores
from focalbench.splits import parse_split

Result = TypeVar("Result")


@dataclass(frozen=True)
class Sample:
    """An image of a split before it is read; ``image`` and ``xml`` are paths relative to the year folder."""

    folder: YearFolder = field(repr=False)
    image_id: str
    image: str
    xml: str

    @property
    def key(self) -> tuple[str, str]:
        """Year and id, which no other image of the data set has."""
        return self.folder.year, self.image_id

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
        DataError: if a split is not YEAR/SPLIT, or the root, a year folder or a list is missing or empty.
    """
    path = open_root(Path(root))
    folders = {} if folders is None else folders
    listing = Listing()
    seen: set[tuple[str, str]] = set()
    for split in splits:
        try:
            year, name = parse_split(split)
        except ValueError as fault:
            raise DataError(f"split {shorten(split)!r}: {fault}") from None
        folder = folders.get(year) or folders.setdefault(year, open_year(path, year))
        shown = f"VOC{year}/ImageSets/Main/{name}.txt"
        near, slips = NearNames(folder), _Slips(shown)
        for line in read_list(folder, name):
            image_id = split_line(line, folder)
            if image_id not in folder.images and image_id not in folder.annotations and (found := near.find(line)):
                slips.add(line, *found)
                continue
            if (year, image_id) in seen:
                reason = f"image {shorten(image_id, 60)!r} is listed more than once: read once"
                listing.warnings.append(Fault("duplicate-id", shown, None, reason))
                continue
            seen.add((year, image_id))
            _find_files(folder, image_id, shown, listing)
        listing.errors += slips.faults()
    return listing


@dataclass
class _Slips:
    """Lines of one list that name images in another form, by what is wrong with them: how many, and the first."""

    shown_list: str
    found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, line: str, kind: str, image_id: str) -> None:
        example = f"such as {shorten(line, 60)!r}: write {shorten(image_id, 60)!r}"
        self.found.setdefault(kind, [example]).append(line)

    def faults(self) -> list[Fault]:
        return [
            Fault("list-entry", self.shown_list, None, f"lists {_images(len(lines))} {kind}, {example}")
            for kind, (example, *lines) in self.found.items()
        ]


def _images(number: int) -> str:
    return f"{number:,} image{'s' * (number != 1)}"


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
        reason = f"{_say_missing(folder, image_id)}, but {shown_list} lists it"
        listing.errors.append(Fault("missing-image", f"{where}/JPEGImages/{image_id}", None, reason))
    if image is None or xml is None:
        return
    if image_id in folder.shadowed:
        reason = "has a second image file of the same name: this one is used"
        listing.warnings.append(Fault("two-images", f"{where}/{image.path}", None, reason))
    if image_id in folder.shadowed_annotations:
        reason = "has a second file that differs in case or Unicode form only: this one is used"
        listing.warnings.append(Fault("two-annotations", f"{where}/{xml.path}", None, reason))
    listing.samples.append(Sample(folder, image_id, image.path, xml.path))


def _say_missing(folder: YearFolder, image_id: str) -> str:
    for suffix in (".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm"):
        if (folder.path / "JPEGImages" / f"{image_id}{suffix}").exists():
            return f"exists only as {suffix}, which is not read (convert it to .png)"
    return "does not exist as .jpg, .jpeg or .png"


@dataclass(frozen=True)
class Scan:
    """What was found in the two files of one image, before class names become labels.

    Attributes:
        sample: which image.
        objects: those that are used, boxes cut to the image.
        size: (width, height) as annotated, None where the image cannot be used.
        orientation: EXIF orientation to apply when decoding, 1 for none.
        digest: of the image file's bytes.
        errors: faults that must be mended.
        warnings: faults with a stated repair.
    """

    sample: Sample
    objects: tuple[VocObject, ...]
    size: tuple[int, int] | None
    orientation: int
    digest: bytes = field(repr=False)
    errors: tuple[Fault, ...]
    warnings: tuple[Fault, ...]


def _read_annotation(sample: Sample) -> Annotation:
    """Reads and parses the sample's XML; a refused file becomes an error of the annotation."""
    try:
        data = sample.folder.open(sample.xml, MAX_XML_BYTES)
    except RefusedFile as refused:
        return Annotation(None, (), (Fault(refused.kind, sample.shown_xml, None, str(refused)),), ())
    return parse_annotation(data, sample.shown_xml)


def scan_sample(sample: Sample, use_pixels: Callable[[bytes, int], Result] | None = None) -> tuple[Scan, Result | None]:
    """Reads both files of an image, each once.

    Args:
        sample: which image.
        use_pixels: called with the image's bytes and the EXIF orientation to apply; may raise BrokenImage. None reads
            the header only.

    Returns:
        What was found, and what ``use_pixels`` returned, None where the image cannot be used.
    """
    annotation = _read_annotation(sample)
    try:
        data = sample.folder.open(sample.image, MAX_IMAGE_BYTES)
        digest = hashlib.blake2b(data, digest_size=16).digest()
        scan = fit_annotation_to_image(sample, annotation, read_header(open_image(data)), digest)
        return scan, use_pixels(data, scan.orientation) if use_pixels else None
    except (RefusedFile, BrokenImage) as fault:
        error = Fault(fault.kind, sample.shown_image, None, str(fault))
        return Scan(sample, (), None, 1, b"", (*annotation.errors, error), annotation.warnings), None


def scan_samples(
    samples: Iterable[Sample],
    use_pixels: Callable[[bytes, int], Result] | None = None,
    *,
    stop: StopFlag | None = None,
) -> Iterator[tuple[Scan, Result | None]]:
    """Reads every sample as :func:`scan_sample` does, in order, by a thread a core.

    Threads, because decoding and resizing release the interpreter's lock. At most four images a thread are under way,
    so memory does not grow with the data set.

    Raises:
        InterruptedTrial: when ``stop`` is set, between two images.
    """
    num_workers = num_cores()
    pending: deque[Future[tuple[Scan, Result | None]]] = deque()
    with quiet_decoding(), ThreadPoolExecutor(num_workers, thread_name_prefix="focalbench-scan") as pool:
        try:
            for sample in samples:
                if stop is not None:
                    stop.raise_if_set("while reading the images")
                pending.append(pool.submit(scan_sample, sample, use_pixels))
                if len(pending) >= 4 * num_workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def fit_annotation_to_image(sample: Sample, annotation: Annotation, header: Header, digest: bytes) -> Scan:
    """Fits the annotation to the image: orientation, true size, boxes cut to the border."""
    warnings = list(annotation.warnings)
    stored = (header.width, header.height)
    orientation, size = 1, stored
    if header.orientation != 1:
        if annotation.size == header.rotated_size != stored:
            orientation, size = header.orientation, header.rotated_size
        elif annotation.size is None or stored == header.rotated_size:
            told = "<size> does not tell which was annotated"
            reason = f"EXIF orientation {header.orientation}, and {told}: taken as stored"
            warnings.append(Fault("exif-orientation", sample.shown_image, None, reason))
    if annotation.size is not None and annotation.size != size:
        reason = f"<size> says {_times(annotation.size)}, the image has {_times(size)}: the image's size is used"
        warnings.append(Fault("size-differs", sample.shown_xml, None, reason))
    other = _find_other_image(sample, annotation.filename)
    if other is not None:
        reason = f"<filename> names {shorten(other, 60)!r}, another image of this set: was it renamed, or swapped?"
        warnings.append(Fault("other-filename", sample.shown_xml, None, reason))
    objects = []
    for item in annotation.objects:
        box, faults = _fit_box(item, size, sample.shown_xml)
        warnings += faults
        if box is not None:
            objects.append(VocObject(item.tag, item.name, box, item.difficult))
    warnings += _find_twins(objects, sample.shown_xml)
    return Scan(sample, tuple(objects), size, orientation, digest, annotation.errors, tuple(warnings))


def _find_other_image(sample: Sample, filename: str) -> str | None:
    """The id of another image of the year folder that ``filename`` names; names of none are common, and no fault."""
    name = normalised(re.split(r"[/\\]", filename)[-1])
    ids = (name, os.path.splitext(name)[0])
    if not name or sample.image_id in ids:
        return None
    return next((image_id for image_id in ids if image_id in sample.folder.images), None)


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _fit_box(
    item: VocObject, size: tuple[int, int], file: str
) -> tuple[tuple[float, float, float, float] | None, list[Fault]]:
    """The box cut to the image and what to say about it; None where the object is left out."""
    left, top, right, bottom = item.box
    shown = f"box ({left:g}, {top:g}, {right:g}, {bottom:g})"
    if right == left or bottom == top:
        return None, [Fault("zero-size-box", file, item.tag, f"{shown} has no area: the object is left out")]
    width, height = size
    if left > width or top > height or right < 1 or bottom < 1:
        reason = f"{shown} lies outside the {_times(size)} image: the object is left out"
        return None, [Fault("box-outside", file, item.tag, reason)]
    faults = []
    if min(left, top) < 0 or right > width + 1 or bottom > height + 1:
        reason = f"{shown} extends beyond the {_times(size)} image: clipped at the border"
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
            reason = "repeats the class and box of an earlier object: kept, and one of them counts as missed"
            faults.append(Fault("duplicate-object", file, item.tag, reason))
        seen.add((item.name, item.box))
    return faults
