"""All faults of a data set before a network sees it: every image and annotation of every split used, read once.

A report is kept in the cache folder under a key over the lists and all files' names, sizes and times of change, so a
set that has not changed is not read twice. Reports with errors are not kept: some faults (permissions) are mended
without a trace in the files.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from focalbench.data.cache import (
    CacheBuilder,
    CachePlace,
    CacheSettings,
    Layout,
    build_caches,
    compute_key,
    fingerprint_split,
    is_cached,
    locate_cache,
)
from focalbench.data.faults import Fault, count_kinds
from focalbench.data.files import YearFolder, open_root
from focalbench.data.images import decode, measure_samples, open_image, to_canvas
from focalbench.data.scanning import Listing, Sample, Scan, list_samples, scan_samples
from focalbench.data.sixteen_bit import MAX_SAMPLE, Extent, SampleRange
from focalbench.data.sizes import ObjectSizes
from focalbench.data.voc import (
    STRICT,
    Classes,
    ClassRule,
    VocSplit,
    check_class_names,
    find_empty_side,
    found_names,
    hint_at_twin,
    leave_out_others,
    make_record,
    resolve_classes,
)
from focalbench.errors import DataError, StorageError
from focalbench.runtime import StopFlag, choose_cache_dir
from focalbench.storage import read_json, write_json

_CHECK_VERSION = 4


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Attributes:
        errors: faults that must be mended.
        warnings: faults with a stated repair.
        facts: ``train_images``, ``val_images``, ``train_objects``, ``val_objects`` (used: not difficult, of some size),
            ``train_difficult``, ``val_difficult``.
        classes: names in label order; empty where errors hide them.
        fingerprints: of train and val, see ``cache.fingerprint_split``; empty where there are errors.
        sizes: of the objects of train and val that count; empty where there are errors.
    """

    errors: tuple[Fault, ...]
    warnings: tuple[Fault, ...]
    facts: dict[str, int]
    classes: tuple[str, ...]
    fingerprints: tuple[str, ...] = ()
    sizes: tuple[ObjectSizes, ...] = field(default=(), repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Returns the report as a JSON document, sizes left out: counts by kind and the classes are added."""
        return {
            "errors": [asdict(fault) for fault in self.errors],
            "warnings": [asdict(fault) for fault in self.warnings],
            "facts": self.facts,
            "counts": {"errors": count_kinds(self.errors), "warnings": count_kinds(self.warnings)},
            "classes": list(self.classes),
            "fingerprints": list(self.fingerprints),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> CheckReport:
        """Inverts :meth:`to_json`; raises KeyError or TypeError where the document is another."""
        return cls(
            errors=tuple(Fault(**fault) for fault in document["errors"]),
            warnings=tuple(Fault(**fault) for fault in document["warnings"]),
            facts={str(key): int(value) for key, value in document["facts"].items()},
            classes=tuple(document["classes"]),
            fingerprints=tuple(document["fingerprints"]),
            sizes=tuple(map(ObjectSizes.from_json, document.get("sizes", ()))),
        )


def check_data(
    root: str | os.PathLike[str],
    train: Sequence[str] = (),
    val: Sequence[str] = (),
    classes: Classes = "auto",
    cache_dir: str | os.PathLike[str] | None = None,
    stop: StopFlag | None = None,
    fill: Iterable[CacheSettings] = (),
    rule: ClassRule = STRICT,
    sample_range: SampleRange | None = None,
) -> CheckReport:
    """Reads every image and annotation of the splits and reports all faults at once; raises none of them.

    What is read also fills the image caches of ``fill``, so that training finds them ready: each file is read once.
    Only what is missing is read, and nothing where report and caches are there. A set with errors gets no cache, and
    a cache that cannot be written is left out: opening it says why.

    Args:
        root: the folder that holds VOC2007, ...
        train: training splits, ``YEAR/SPLIT``.
        val: splits to evaluate on.
        classes: as in :func:`focalbench.data.voc.read_records`; ``auto`` takes the names found in ``train``.
        cache_dir: where reports are kept, None for the usual folder.
        fill: image caches that train and val shall have.
        rule: for objects of other classes.
        sample_range: that of 16-bit samples; without it a set that uses a small part of theirs is warned of.

    Raises:
        InterruptedTrial: when ``stop`` is set.
    """
    listings, faults = _list_sides(root, train, val)
    samples = [sample for listing in listings.values() for sample in listing.samples]
    listed = [fault for listing in listings.values() for fault in listing.warnings]
    # Which list an image is in, and what listing them brought to light, does not show in the images' own files.
    lengths = [len(listing.samples) for listing in listings.values()]
    asked = (str(Path(root).absolute()), tuple(train), tuple(val), classes, rule, sample_range)
    key = compute_key(samples, _CHECK_VERSION, asked, lengths, listed)
    kept = choose_cache_dir(cache_dir) / "checks" / f"{key}.json"
    wanted = [] if faults else _missing_caches(listings.values(), fill)
    with build_caches(wanted, stop) as builders:
        # Loaded only now: a process that had the caches locked may just have written it.
        report = None if faults else _load_report(kept)
        if report is not None:
            samples = [sample for builder in builders for sample in builder.place.samples]
        scans, extent = _read(samples, builders, stop, measure=sample_range is None)
        if report is None:
            sides = {side: [scans[sample.key] for sample in listing.samples] for side, listing in listings.items()}
            names = _resolve_names(sides, classes)
            # Where `auto` could not read all of train, a class that only seems to be missing would be a false alarm.
            if names and not (classes == "auto" and any(scan.errors for scan in sides["train"])):
                faults += check_class_names(scans.values(), names, classes, rule)
            if extent.is_narrow and sample_range is None:
                listed.insert(0, _explain_narrow(extent, sides))
            if rule.ignore and names:
                sides, left_out = _leave_out(sides, names)
                listed += left_out
            report = _judge(sides, list(scans.values()), names, faults, listed)
            if not report.errors:
                marks = tuple(_fingerprint(used, report.classes) for used in sides.values())
                report = replace(report, fingerprints=marks, sizes=tuple(map(_sizes, sides.values())))
                _keep_report(kept, report)
        if not report.errors and not any(scan.errors for scan in scans.values()):
            _finish(builders, scans)
    return report


def _missing_caches(listings: Collection[Listing], fill: Iterable[CacheSettings]) -> list[CachePlace]:
    places = [locate_cache(listing.samples, settings) for settings in fill for listing in listings if listing.samples]
    return [place for place in places if not is_cached(place)]


def _read(
    samples: Iterable[Sample], builders: list[CacheBuilder], stop: StopFlag | None, *, measure: bool
) -> tuple[dict[tuple[str, str], Scan], Extent]:
    """Reads every file once and hands the pixels to those ``builders`` that have a place for them.

    A builder whose disk is full is taken from the list.

    Returns:
        scans by the image's key, and what 16-bit samples there are.
    """
    layouts = {builder.place.layout for builder in builders}
    places: dict[tuple[str, str], list[tuple[CacheBuilder, int]]] = defaultdict(list)
    for builder in builders:
        for index, sample in enumerate(builder.place.samples):
            places[sample.key].append((builder, index))

    def to_pixels(data: bytes, orientation: int) -> tuple[dict[Layout, np.ndarray], Extent]:
        found = measure_samples(data) if measure else Extent()
        # Read to the end, at an eighth of the size where JPEG allows: truncation shows at any size.
        if not layouts and not found.num_images:
            decode(open_image(data), at_least=(1, 1))
        return {layout: to_canvas(data, orientation, *layout) for layout in layouts}, found

    scans: dict[tuple[str, str], Scan] = {}
    extent = Extent()
    unread = {sample.key: sample for sample in samples}  # an image of both sides is read once
    for scan, read in scan_samples(unread.values(), to_pixels, stop=stop) if unread else ():
        scans[scan.sample.key] = scan
        if read is None:
            continue
        pixels, found = read
        extent |= found
        for builder, index in places[scan.sample.key]:
            if builder in builders:
                try:
                    builder.store(index, pixels[builder.place.layout])
                except OSError:
                    builders.remove(builder)
    return scans, extent


def _explain_narrow(extent: Extent, sides: dict[str, list[Scan]]) -> Fault:
    low, high = extent.suggest()
    images = f"{extent.num_images:,} 16-bit image{'s' * (extent.num_images != 1)}"
    reason = (
        f"{images} with values {extent.low:,} to {extent.high:,} of {MAX_SAMPLE:,}, which would leave "
        f"{extent.num_levels} of 256 grey levels: data.sample_range: [{low}, {high}] keeps the contrast"
    )
    return Fault("narrow-range", " and ".join(side for side, scans in sides.items() if scans), None, reason)


def _finish(builders: Iterable[CacheBuilder], scans: dict[tuple[str, str], Scan]) -> None:
    """Completes the caches; one that the disk cannot take is left out, as ``build_caches`` says."""
    for builder in builders:
        with suppress(OSError):
            builder.finish([scans[sample.key] for sample in builder.place.samples])


def _fingerprint(scans: Sequence[Scan], classes: tuple[str, ...]) -> str:
    split = VocSplit(tuple(make_record(scan, classes) for scan in scans), classes)
    return fingerprint_split(split, (scan.digest for scan in scans))


def _sizes(scans: Sequence[Scan]) -> ObjectSizes:
    counted = ((scan.size or (1, 1), [item.box for item in scan.objects if not item.difficult]) for scan in scans)
    return ObjectSizes.of_boxes((size, np.array(boxes, np.float32)) for size, boxes in counted)


def _list_sides(
    root: str | os.PathLike[str], train: Sequence[str], val: Sequence[str]
) -> tuple[dict[str, Listing], list[Fault]]:
    """The samples of ``train`` and ``val``; a missing list becomes a fault, so that the others are still read."""
    listings = {"train": Listing(), "val": Listing()}
    try:
        open_root(Path(root))
    except DataError as error:
        return listings, [Fault("bad-root", str(root), None, str(error).removeprefix(f"{root}: "))]
    folders: dict[str, YearFolder] = {}
    faults: list[Fault] = []
    for side, splits in (("train", train), ("val", val)):
        listing, seen = listings[side], set()
        for split in splits:
            try:
                found = list_samples(root, (split,), folders)
            except DataError as error:
                faults.append(Fault("bad-split", split, None, str(error)))
                continue
            for sample in found.samples:
                if sample.key in seen:
                    reason = f"image {sample.image_id!r} is already in another {side} split: read once"
                    listing.warnings.append(Fault("duplicate-id", split, None, reason))
                    continue
                seen.add(sample.key)
                listing.samples.append(sample)
            listing.warnings += found.warnings
            faults += found.errors
    return listings, faults


def _resolve_names(sides: dict[str, list[Scan]], classes: Classes) -> tuple[str, ...]:
    """The class names in label order; none where ``auto`` finds no object."""
    try:
        return resolve_classes(found_names(sides["train"] or sides["val"]), classes)
    except DataError:
        return ()


def _leave_out(sides: dict[str, list[Scan]], names: tuple[str, ...]) -> tuple[dict[str, list[Scan]], list[Fault]]:
    kept, faults = {}, []
    for side, scans in sides.items():
        kept[side], left_out = leave_out_others(scans, names)
        faults += left_out
    return kept, faults


def _judge(
    sides: dict[str, list[Scan]],
    scans: list[Scan],
    names: tuple[str, ...],
    faults: list[Fault],
    listed: list[Fault],
) -> CheckReport:
    errors = [*faults, *(fault for scan in scans for fault in scan.errors)]
    warnings = [*listed, *(fault for scan in scans for fault in scan.warnings)]
    train, val = sides["train"], sides["val"]
    flags = {side: [item.difficult for scan in used for item in scan.objects] for side, used in sides.items()}
    facts = {f"{side}_images": len(used) for side, used in sides.items()}
    facts |= {f"{side}_objects": found.count(False) for side, found in flags.items()}
    facts |= {f"{side}_difficult": found.count(True) for side, found in flags.items()}
    for side, used in sides.items():
        empty = find_empty_side(side, flags[side].count(False), flags[side].count(True)) if used else None
        if empty is None:
            warnings += _find_empty_classes(side, used, names) if used else []
        elif not faults and not any(scan.errors for scan in used):  # else they may hide objects
            errors.append(empty)
    warnings += _find_overlap(train, val)
    return CheckReport(tuple(errors), tuple(warnings), facts, names)


def _find_empty_classes(side: str, scans: Iterable[Scan], classes: tuple[str, ...]) -> list[Fault]:
    found = {item.name for scan in scans for item in scan.objects if not item.difficult}
    effect = "it cannot be learnt" if side == "train" else "its AP is undefined and left out of the mean"
    reason = "has no objects that count (difficult ones do not)"
    return [
        Fault("class-without-objects", side, f"class {name!r}", f"{reason}: {effect}{hint_at_twin(name, classes)}")
        for name in classes
        if name not in found
    ]


def _find_overlap(train: Sequence[Scan], val: Sequence[Scan]) -> list[Fault]:
    """Images that are in both sides, by id or by the bytes of their file."""
    keys = {scan.sample.key for scan in train}
    owners = {scan.digest: scan.sample.shown_image for scan in train if scan.digest}
    faults = []
    for scan in val:
        if scan.sample.key in keys:
            what = "is in train and in val"
        elif scan.digest in owners:
            what = f"is the same file as {owners[scan.digest]} of train"
        else:
            continue
        reason = f"{what}: kept in both, so val/mAP is too high"
        faults.append(Fault("train-val-overlap", scan.sample.shown_image, None, reason))
    return faults


def _load_report(path: Path) -> CheckReport | None:
    try:
        report = CheckReport.from_json(read_json(path))
        return report if report.sizes else None
    except (DataError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _keep_report(path: Path, report: CheckReport) -> None:
    """Saves the report; a cache folder that cannot be written costs the next check time, not this one its result."""
    with suppress(OSError, StorageError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, report.to_json() | {"sizes": [sizes.to_json() for sizes in report.sizes]})
