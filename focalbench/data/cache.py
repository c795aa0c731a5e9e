"""Decode-once store of canvas images: an uint8 memory map and its records, shared by all trials of all sweeps.

A cache is one folder, ``<root name>-<HxW>-<key>``: ``images.npy``, ``records.npz`` and ``meta.json``. It is built in a
temporary folder beside it and renamed, under a file lock, so that two processes that need it at once build it once
and nobody ever sees half of it. The key covers the list of images, the sizes and times of change of their files, the
classes, canvas, fit and this reader's version: a changed data set is another cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from filelock import FileLock, Timeout

from focalbench.data.faults import raise_for_faults
from focalbench.data.images import Fit, to_canvas
from focalbench.data.scanning import Listing, Sample, Scan, scan_samples
from focalbench.data.voc import Classes, Record, VocSplit, settle
from focalbench.errors import StorageError
from focalbench.runtime import StopFlag, choose_cache_dir

READER_VERSION = 2  # raise it when decoding, resizing or repairing changes: older caches are then rebuilt
_STALE_SUFFIX = ".partial"


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


def compute_key(samples: Iterable[Sample], *settings: object) -> str:
    """16 hex digits that change when a file of ``samples`` does, or one of ``settings``, or this reader."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(repr((READER_VERSION, settings)).encode())
    for sample in samples:
        image, xml = sample.folder.images[sample.image_id], sample.folder.annotations[sample.image_id]
        line = (str(sample.folder.real), image.path, image.size, image.mtime_ns, xml.path, xml.size, xml.mtime_ns)
        digest.update(repr(line).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _decode_all(
    samples: Sequence[Sample],
    canvas: tuple[int, int],
    fit: Fit,
    workers: int | None,
    stop: StopFlag | None,
    store: Callable[[int, np.ndarray], None],
) -> list[Scan]:
    """Decodes every sample and hands the pixels to ``store``; the faults are in the scans."""
    scans: list[Scan] = []
    to_pixels = partial(to_canvas, canvas=canvas, fit=fit)
    for scan, pixels in scan_samples(samples, to_pixels, workers=workers, stop=stop):
        if pixels is not None:
            store(len(scans), pixels)
        scans.append(scan)
    return scans


def fingerprint_split(split: VocSplit, scans: Iterable[Scan]) -> str:
    """16 hex digits over image bytes, objects and classes; the same wherever the data set lies.

    Canvas and fit have no part in it: boxes are scored in original pixels, so arms that differ in them are comparable.
    """
    digest = hashlib.blake2b(digest_size=8)
    for scan in scans:
        digest.update(scan.digest)
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
    workers: int | None = None,
    stop: StopFlag | None = None,
) -> DecodedSplit:
    """Decodes a split into an array in memory, writing nothing.

    Raises:
        DataError: with all faults at once.
        InterruptedTrial: when ``stop`` is set.
    """
    images = np.zeros((len(listing.samples), *canvas, 3), np.uint8)
    scans = _decode_all(listing.samples, canvas, fit, workers, stop, images.__setitem__)
    split = settle(listing, scans, classes)
    return DecodedSplit(split, images, fingerprint_split(split, scans))


def open_cache(
    listing: Listing,
    classes: Classes,
    canvas: tuple[int, int],
    fit: Fit,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    workers: int | None = None,
    stop: StopFlag | None = None,
) -> DecodedSplit:
    """The split from its disk cache, which is built first where it is missing, out of date or damaged.

    Args:
        listing: from :func:`focalbench.data.voc.list_samples`.
        classes: as in :func:`focalbench.data.voc.read_records`.
        canvas: (height, width).
        fit: how images meet the canvas.
        cache_dir: see :func:`focalbench.runtime.choose_cache_dir`.
        workers: decoding threads; None for one a core.

    Raises:
        DataError: with all faults of the data set at once.
        StorageError: if the cache folder cannot be written or the disk is full.
        InterruptedTrial: when ``stop`` is set; nothing half-built is left.
    """
    raise_for_faults(listing.errors)
    folder = choose_cache_dir(cache_dir) / _name_cache(
        listing, compute_key(listing.samples, classes, canvas, fit), canvas
    )
    found = _load(folder, listing)
    if found is not None:
        return found
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder, stop):
            found = _load(folder, listing)
            if found is None:
                _build(folder, listing, classes, canvas, fit, workers, stop)
                found = _load(folder, listing)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(
            f"{folder.parent}: the image cache cannot be written: {reason}; free space there, set FOCALBENCH_CACHE or "
            "data.cache_dir to another folder, or use data.cache: ram"
        ) from None
    if found is None:
        raise StorageError(f"{folder}: the image cache was built but cannot be read back")
    return found


@contextmanager
def _locked(folder: Path, stop: StopFlag | None) -> Iterator[None]:
    """Only one process builds ``folder``; another one waits for it, or until it is stopped."""
    lock = FileLock(f"{folder}.lock")
    while not lock.is_locked:
        if stop is not None:
            stop.raise_if_set("while it waited for the image cache")
        with suppress(Timeout):
            lock.acquire(timeout=1)
    try:
        yield
    finally:
        lock.release()


def _name_cache(listing: Listing, key: str, canvas: tuple[int, int]) -> str:
    root = listing.samples[0].folder.path.parent.resolve() if listing.samples else Path("empty")
    stem = root.parent.name if root.name == "VOCdevkit" else root.name
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', stem)[:40] or 'data'}-{canvas[0]}x{canvas[1]}-{key}"


def _build(
    folder: Path,
    listing: Listing,
    classes: Classes,
    canvas: tuple[int, int],
    fit: Fit,
    workers: int | None,
    stop: StopFlag | None,
) -> None:
    """Writes the cache beside its place and renames it; the caller holds the lock."""
    for stale in folder.parent.glob(
        f"{folder.name}*{_STALE_SUFFIX}"
    ):  # left by a process that was killed; the lock is ours
        shutil.rmtree(stale, ignore_errors=True)
    building = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", suffix=_STALE_SUFFIX, dir=folder.parent))
    try:
        shape = (len(listing.samples), *canvas, 3)
        with open(building / "images.npy", "wb") as file:
            np.lib.format.write_array_header_2_0(
                file, {"descr": "|u1", "fortran_order": False, "shape": shape}
            )  # fmt: skip
            start, stride = file.tell(), int(np.prod(shape[1:]))
            file.flush()
            # Reserved at once: a full disk is found now, not after minutes. Written with pwrite, for a write to a
            # memory map of a full disk ends in SIGBUS and would count as this process's memory.
            if stride * shape[0]:
                os.posix_fallocate(file.fileno(), 0, start + stride * shape[0])

            def store(index: int, pixels: np.ndarray) -> None:
                os.pwrite(file.fileno(), np.ascontiguousarray(pixels).data, start + index * stride)

            scans = _decode_all(listing.samples, canvas, fit, workers, stop, store)
        split = settle(listing, scans, classes)
        _save_records(building / "records.npz", split)
        meta = {"shape": shape, "classes": split.classes, "fingerprint": fingerprint_split(split, scans)}
        (building / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        for written in (*building.iterdir(), building):  # a file of zeros would have the right shape
            _sync(written)
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one, or _load would have taken it
        os.replace(building, folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _sync(path: Path) -> None:
    """Makes the content of a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _save_records(path: Path, split: VocSplit) -> None:
    records = split.records
    arrays: dict[str, Any] = {
        "sizes": np.array([(record.width, record.height, record.orientation) for record in records], np.int64),
        "counts": np.array([len(record.boxes) for record in records], np.int64),
        "boxes": np.concatenate([np.zeros((0, 4), np.float32), *(record.boxes for record in records)]),
        "labels": np.concatenate([np.zeros(0, np.int64), *(record.labels for record in records)]),
        "difficult": np.concatenate([np.zeros(0, bool), *(record.difficult for record in records)]),
    }
    np.savez(path, allow_pickle=False, **arrays)


def _load(folder: Path, listing: Listing) -> DecodedSplit | None:
    """The cache in ``folder``, or None where it is missing or not whole."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        # Opened here: np.load leaves a damaged archive open.
        with open(folder / "records.npz", "rb") as file, np.load(file, allow_pickle=False) as arrays:
            records = _join_records(listing, {name: arrays[name] for name in arrays.files})
        if list(images.shape) != meta["shape"] or len(images) != len(listing.samples):
            return None
        return DecodedSplit(VocSplit(records, tuple(meta["classes"])), images, str(meta["fingerprint"]))
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
        return None


def _join_records(listing: Listing, arrays: dict[str, np.ndarray]) -> tuple[Record, ...]:
    ends = np.cumsum(arrays["counts"])
    records = []
    for sample, size, count, end in zip(listing.samples, arrays["sizes"], arrays["counts"], ends, strict=True):
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
