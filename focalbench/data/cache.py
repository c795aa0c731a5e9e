"""Decode-once store of canvas images: an uint8 memory map and its records, shared by all trials of all sweeps.

A cache is one folder, ``<root name>-<HxW>-<key>``: ``images.npy``, ``records.npz`` and ``meta.json``. It is built in a
temporary folder beside it and renamed, under a file lock, so that two processes that need it at once build it once
and nobody ever sees half of it. The key covers the list of images, the sizes and times of change of their files,
canvas, fit, range of 16-bit samples and this reader's version: a changed data set is another cache. Labels are stored
for the split's own class names and turned into those of the classes asked for when the cache is opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile

import numpy as np
from filelock import FileLock, Timeout

from focalbench.data.faults import raise_for_faults
from focalbench.data.images import Fit, to_canvas
from focalbench.data.scanning import Listing, Sample, Scan, scan_samples
from focalbench.data.sixteen_bit import SampleRange
from focalbench.data.voc import (
    STRICT,
    Classes,
    ClassRule,
    Record,
    VocSplit,
    fold_name,
    found_names,
    join_objects,
    make_record,
    make_split,
    relabel,
    resolve_classes,
)
from focalbench.errors import DataError, StorageError
from focalbench.runtime import StopFlag, choose_cache_dir
from focalbench.storage import read_arrays, read_json, sync

READER_VERSION = 4  # raise it when decoding, resizing or repairing changes: older caches are then rebuilt
Layout = tuple[tuple[int, int], Fit, SampleRange | None]
_STALE_SUFFIX = ".partial"
_ARRAYS = ("sizes", "counts", "boxes", "labels", "difficult", "digests")


@dataclass(frozen=True)
class DecodedSplit:
    """A split with its pixels.

    Attributes:
        split: records and classes.
        images: (N, H, W, 3) uint8; a read-only memory map from :func:`open_cache`, an array from :func:`decode_split`.
        fingerprint: see :func:`fingerprint_split`.
    """

    split: VocSplit
    images: np.ndarray
    fingerprint: str


@dataclass(frozen=True)
class CacheSettings:
    """What decides how images lie in a cache: the canvas (height, width), the fit and the range of 16-bit samples; and
    the folder of all caches.
    """

    canvas: tuple[int, int]
    fit: Fit
    cache_dir: str | os.PathLike[str] | None = None
    sample_range: SampleRange | None = None

    @property
    def layout(self) -> Layout:
        """What :func:`focalbench.data.images.to_canvas` takes."""
        return self.canvas, self.fit, self.sample_range


@dataclass(frozen=True)
class CachePlace:
    """The folder of one cache, existing or not, and what belongs in it."""

    folder: Path
    settings: CacheSettings
    samples: Sequence[Sample] = field(repr=False)

    @property
    def layout(self) -> Layout:
        """That of its settings."""
        return self.settings.layout


def locate_cache(samples: Sequence[Sample], settings: CacheSettings) -> CachePlace:
    """Names the cache that holds ``samples`` as they are on the disk now."""
    canvas = settings.canvas
    root = samples[0].folder.path.parent.resolve() if samples else Path("empty")
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", root.parent.name if root.name == "VOCdevkit" else root.name)[:40]
    name = f"{stem or 'data'}-{canvas[0]}x{canvas[1]}-{compute_key(samples, *settings.layout)}"
    return CachePlace(choose_cache_dir(settings.cache_dir) / name, settings, samples)


def compute_key(samples: Iterable[Sample], *settings: object) -> str:
    """Returns 16 hex digits that change when a file of ``samples`` does, or one of ``settings``, or this reader."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(repr((READER_VERSION, settings)).encode())
    for sample in samples:
        image, xml = sample.folder.images[sample.image_id], sample.folder.annotations[sample.image_id]
        line = (str(sample.folder.real), image.path, image.size, image.mtime_ns, xml.path, xml.size, xml.mtime_ns)
        digest.update(repr(line).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _decode_all(
    samples: Sequence[Sample], layout: Layout, stop: StopFlag | None, store: Callable[[int, np.ndarray], None]
) -> list[Scan]:
    """Decodes every sample and hands the pixels to ``store``; the faults are in the scans."""
    scans: list[Scan] = []
    canvas, fit, sample_range = layout
    to_pixels = partial(to_canvas, canvas=canvas, fit=fit, sample_range=sample_range)
    for scan, pixels in scan_samples(samples, to_pixels, stop=stop):
        if pixels is not None:
            store(len(scans), pixels)
        scans.append(scan)
    return scans


def fingerprint_split(split: VocSplit, image_digests: Iterable[bytes]) -> str:
    """Hashes image bytes, objects and classes to 16 hex digits, which are the same wherever the data set lies.

    Canvas and fit have no part in it: boxes are scored in original pixels, so arms that differ in them are comparable.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in image_digests:
        digest.update(part)
    digest.update(repr(split.classes).encode())
    for record in split.records:
        digest.update(record.boxes.tobytes() + record.labels.tobytes() + record.difficult.tobytes())
    return digest.hexdigest()


def decode_split(
    listing: Listing,
    classes: Classes,
    canvas: tuple[int, int],
    fit: Fit,
    *,
    sample_range: SampleRange | None = None,
    rule: ClassRule = STRICT,
    stop: StopFlag | None = None,
) -> DecodedSplit:
    """Decodes a split into an array in memory, writing nothing.

    Raises:
        DataError: with all faults at once.
        InterruptedTrial: when ``stop`` is set.
    """
    images = np.zeros((len(listing.samples), *canvas, 3), np.uint8)
    scans = _decode_all(listing.samples, (canvas, fit, sample_range), stop, images.__setitem__)
    split = make_split(listing, scans, classes, rule)
    return DecodedSplit(split, images, fingerprint_split(split, (scan.digest for scan in scans)))


def open_cache(
    listing: Listing,
    classes: Classes,
    settings: CacheSettings,
    *,
    rule: ClassRule = STRICT,
    stop: StopFlag | None = None,
) -> DecodedSplit:
    """Opens the disk cache of a split, which is built first where it is missing, out of date or damaged.

    Args:
        classes: as in :func:`focalbench.data.voc.read_records`.

    Raises:
        DataError: with all faults of the data set at once.
        StorageError: if the cache folder cannot be written or the disk is full.
        InterruptedTrial: when ``stop`` is set; nothing half-built is left.
    """
    raise_for_faults(listing.errors)
    place = locate_cache(listing.samples, settings)
    found = _load(place)
    if found is None:
        try:
            with build_cache(place, stop) as builder:
                if builder is not None:
                    scans = _decode_all(listing.samples, place.layout, stop, builder.store)
                    make_split(listing, scans, classes, rule)  # raises for faults: such a set gets no cache
                    builder.finish(scans)
        except OSError as error:
            reason = error.strerror or str(error)
            raise StorageError(
                f"{place.folder.parent}: the image cache cannot be written: {reason}; free space there, set "
                "FOCALBENCH_CACHE or data.cache_dir to another folder, or use data.cache: ram"
            ) from None
        found = _load(place)
    if found is None:
        raise StorageError(f"{place.folder}: the image cache was built but cannot be read back")
    stored, images, digests = found
    split = _label_anew(stored, listing, classes, rule, stop)
    return DecodedSplit(split, images, fingerprint_split(split, [digests]))


def _label_anew(
    split: VocSplit, listing: Listing, classes: Classes, rule: ClassRule, stop: StopFlag | None
) -> VocSplit:
    """The split of a cache with labels for ``classes``; a DataError as of :func:`make_split` where they do not fit."""
    names = resolve_classes(split.classes, classes)
    repeated = classes == "auto" and len(set(map(fold_name, names))) < len(names)
    if repeated or not (rule.ignore or set(split.classes) <= set(names)):
        # The faults name objects in files, which the cache does not know: the annotations are read again.
        return make_split(listing, [scan for scan, _ in scan_samples(listing.samples, stop=stop)], classes, rule)
    return relabel(split, names)


def is_cached(place: CachePlace) -> bool:
    """Tells whether the cache is there, and whole."""
    return _load(place) is not None


@contextmanager
def build_cache(place: CachePlace, stop: StopFlag | None = None) -> Iterator[CacheBuilder | None]:
    """Builds a cache beside its place, which it takes when the builder is finished; otherwise nothing is left.

    Only one process builds a cache; another one waits for it, or until it is stopped.

    Yields:
        what takes the pixels; None where the cache is there, built meanwhile by another process.

    Raises:
        OSError: if the cache folder cannot be written or the disk is full.
        InterruptedTrial: when ``stop`` is set while another process builds.
    """
    folder = place.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder, stop):
        if is_cached(place):
            yield None
            return
        for stale in folder.parent.glob(f"{folder.name}*{_STALE_SUFFIX}"):  # of a killed process: the lock is ours
            shutil.rmtree(stale, ignore_errors=True)
        building = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", suffix=_STALE_SUFFIX, dir=folder.parent))
        try:
            with open(building / "images.npy", "wb") as file:
                yield CacheBuilder(place, building, file)
        finally:
            shutil.rmtree(building, ignore_errors=True)


@contextmanager
def build_caches(places: Iterable[CachePlace], stop: StopFlag | None = None) -> Iterator[list[CacheBuilder]]:
    """As :func:`build_cache`, of all ``places`` whose caches are missing and can be written.

    Raises:
        InterruptedTrial: as there; what cannot be written is left to whoever opens that cache and has to say so.
    """
    builders = []
    # Each lock once, or this process would wait for itself; in one order, or two could wait for each other.
    folders = {os.path.realpath(place.folder): place for place in places}
    with ExitStack() as locks:
        for _, place in sorted(folders.items()):
            with suppress(OSError):
                builder = locks.enter_context(build_cache(place, stop))
                builders += [builder] if builder is not None else []
        yield builders


@contextmanager
def _locked(folder: Path, stop: StopFlag | None) -> Iterator[None]:
    lock = FileLock(f"{folder}.lock")
    while not lock.is_locked:
        try:
            lock.acquire(timeout=1)
        except Timeout:
            if stop is not None:
                stop.raise_if_set("while waiting for the image cache")
    try:
        yield
    finally:
        lock.release()


class CacheBuilder:
    """Writes one cache: the pixels of its images in any order, then the rest and the name.

    Written with pwrite, for a write to a memory map of a full disk ends in SIGBUS and would count as this process's
    memory.

    Raises:
        OSError: from every method, when the disk is full.
    """

    def __init__(self, place: CachePlace, building: Path, file: BinaryIO) -> None:
        self.place, self._building, self._file = place, building, file
        self._shape = (len(place.samples), *place.settings.canvas, 3)
        header = {"descr": "|u1", "fortran_order": False, "shape": self._shape}
        np.lib.format.write_array_header_2_0(file, header)
        self._start, self._stride = file.tell(), int(np.prod(self._shape[1:]))
        file.flush()
        if self._shape[0]:  # reserved at once: a full disk is found now, not after minutes
            os.posix_fallocate(file.fileno(), 0, self._start + self._stride * self._shape[0])

    def store(self, index: int, pixels: np.ndarray) -> None:
        """Writes the (H, W, 3) pixels of image ``index``."""
        os.pwrite(self._file.fileno(), np.ascontiguousarray(pixels).data, self._start + index * self._stride)

    def finish(self, scans: Sequence[Scan]) -> None:
        """Adds what ``scans``, one an image and without errors, say, and gives the cache its name."""
        names = tuple(sorted(found_names(scans)))
        records = [make_record(scan, names) for scan in scans]
        _save_records(self._building / "records.npz", records, (scan.digest for scan in scans))
        meta = {"shape": self._shape, "names": names}
        (self._building / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        for written in (*self._building.iterdir(), self._building):  # a file of zeros would have the right shape
            sync(written)
        folder = self.place.folder
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one, or there would be no builder
        os.replace(self._building, folder)
        sync(folder.parent)


def _save_records(path: Path, records: Sequence[Record], digests: Iterable[bytes]) -> None:
    objects = join_objects(records)
    np.savez(
        path,
        allow_pickle=False,
        sizes=np.array([(record.width, record.height, record.orientation) for record in records], np.int64),
        counts=np.bincount(objects["image"], minlength=len(records)),
        boxes=objects["box"],
        labels=objects["label"],
        difficult=objects["difficult"],
        digests=np.frombuffer(b"".join(digests), np.uint8),
    )


def _load(place: CachePlace) -> tuple[VocSplit, np.ndarray, bytes] | None:
    """The split with the class names found in it, its images and their digests; None if missing or not whole."""
    try:
        meta = read_json(place.folder / "meta.json")
        images = np.load(place.folder / "images.npy", mmap_mode="r", allow_pickle=False)
        arrays = read_arrays(place.folder / "records.npz", _ARRAYS)
        records = _join_records(place.samples, arrays)
        if list(images.shape) != meta["shape"] or len(images) != len(records):
            return None
        return VocSplit(records, tuple(meta["names"])), images, arrays["digests"].tobytes()
    except (DataError, OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
        return None


def _join_records(samples: Sequence[Sample], arrays: dict[str, np.ndarray]) -> tuple[Record, ...]:
    ends = np.cumsum(arrays["counts"])
    records = []
    for sample, size, count, end in zip(samples, arrays["sizes"], arrays["counts"], ends, strict=True):
        part = slice(int(end - count), int(end))
        width, height, orientation = (int(value) for value in size)
        records.append(
            Record(
                image_id=sample.image_id,
                year=sample.folder.year,
                image_path=sample.folder.path / sample.image,
                width=width,
                height=height,
                boxes=arrays["boxes"][part],
                labels=arrays["labels"][part],
                difficult=arrays["difficult"][part],
                orientation=orientation,
            )
        )
    return tuple(records)
