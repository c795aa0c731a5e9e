"""All faults of a data set before a network sees it: every image and annotation of every split used, read once.

A report is kept in the cache folder under a key over the lists and all files' names, sizes and times of change, so a
set that has not changed is not read twice. Reports with errors are not kept: some faults (permissions) are mended
without a trace in the files.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from focalbench.data.cache import compute_key, fingerprint_split
from focalbench.data.faults import MAX_LINES, Fault, count_kinds, raise_for_faults
from focalbench.data.files import YearFolder, open_root
from focalbench.data.images import decode, open_image
from focalbench.data.scanning import Listing, Scan, list_samples, scan_samples
from focalbench.data.voc import Classes, VocSplit, check_class_names, choose_classes, find_case_twins, make_record
from focalbench.errors import DataError
from focalbench.runtime import StopFlag, choose_cache_dir

_CHECK_VERSION = 2


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
    """

    errors: tuple[Fault, ...]
    warnings: tuple[Fault, ...]
    facts: dict[str, int]
    classes: tuple[str, ...]
    fingerprints: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON document; beside the contract's keys, counts by kind and the classes."""
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
        """The inverse of :meth:`to_json`; raises KeyError or TypeError where the document is another."""
        return cls(
            errors=tuple(Fault(**fault) for fault in document["errors"]),
            warnings=tuple(Fault(**fault) for fault in document["warnings"]),
            facts={str(key): int(value) for key, value in document["facts"].items()},
            classes=tuple(document["classes"]),
            fingerprints=tuple(document["fingerprints"]),
        )


def raise_for_errors(report: CheckReport, limit: int = MAX_LINES) -> None:
    """Raises a DataError that accounts for all errors of ``report`` in ``limit`` lines at most, if there are any."""
    raise_for_faults(report.errors, limit)


def check_data(
    root: str | os.PathLike[str],
    train: Sequence[str] = (),
    val: Sequence[str] = (),
    classes: Classes = "auto",
    workers: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    stop: StopFlag | None = None,
) -> CheckReport:
    """Reads every image and annotation of the splits and reports all faults at once; raises none of them.

    Args:
        root: the folder that holds VOC2007, ...
        train: training splits, ``YEAR/SPLIT``.
        val: splits to evaluate on.
        classes: as in :func:`focalbench.data.voc.read_records`; ``auto`` takes the names found in ``train``.
        workers: threads; None for one a core.
        cache_dir: where reports are kept, None for the usual folder.

    Raises:
        InterruptedTrial: when ``stop`` is set.
    """
    listings, faults = _list_sides(root, train, val)
    samples = [sample for listing in listings.values() for sample in listing.samples]
    listed = [fault for listing in listings.values() for fault in listing.warnings]
    # Which list an image is in, and what listing them brought to light, does not show in the images' own files.
    lengths = [len(listing.samples) for listing in listings.values()]
    asked = (str(Path(root).absolute()), tuple(train), tuple(val), classes)
    key = compute_key(samples, _CHECK_VERSION, asked, lengths, listed)
    kept = choose_cache_dir(cache_dir) / "checks" / f"{key}.json"
    if not faults:
        known = _load_report(kept)
        if known is not None:
            return known
    # An image of both sides is read once.
    scans: dict[tuple[str, str], Scan] = {}
    unread = {(sample.folder.year, sample.image_id): sample for sample in samples}
    for scan, _ in scan_samples(list(unread.values()), _try_decoding, workers=workers, stop=stop):
        scans[scan.sample.folder.year, scan.sample.image_id] = scan
    sides = {
        side: [scans[sample.folder.year, sample.image_id] for sample in listing.samples]
        for side, listing in listings.items()
    }
    report = _judge(sides, list(scans.values()), classes, faults, listed)
    if report.errors:
        return report
    report = replace(report, fingerprints=tuple(_fingerprint(used, report.classes) for used in sides.values()))
    _keep_report(kept, report)
    return report


def _fingerprint(scans: Sequence[Scan], classes: tuple[str, ...]) -> str:
    return fingerprint_split(VocSplit(tuple(make_record(scan, classes) for scan in scans), classes), scans)


def _list_sides(
    root: str | os.PathLike[str], train: Sequence[str], val: Sequence[str]
) -> tuple[dict[str, Listing], list[Fault]]:
    """The samples of ``train`` and ``val``; a missing list becomes a fault, so that the others are still read."""
    listings = {"train": Listing(), "val": Listing()}
    try:
        open_root(Path(root))
    except DataError as error:
        return listings, [Fault("bad-root", str(root), None, _strip_prefix(str(error), str(root)))]
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
                if (sample.folder.year, sample.image_id) in seen:
                    reason = f"image {sample.image_id!r} is in another {side} split already: read once"
                    listing.warnings.append(Fault("duplicate-id", split, None, reason))
                    continue
                seen.add((sample.folder.year, sample.image_id))
                listing.samples.append(sample)
            listing.warnings += found.warnings
            faults += found.errors
    return listings, faults


def _strip_prefix(message: str, name: str) -> str:
    return message.removeprefix(f"{name}: ")


def _try_decoding(data: bytes, orientation: int) -> None:
    """Decodes all of the file's data, at an eighth of the size where JPEG allows: truncation shows at any size."""
    decode(open_image(data), 1, at_least=(1, 1))


def _judge(
    sides: dict[str, list[Scan]], scans: list[Scan], classes: Classes, faults: list[Fault], listed: list[Fault]
) -> CheckReport:
    errors = [*faults, *(fault for scan in scans for fault in scan.errors)]
    warnings = [*listed, *(fault for scan in scans for fault in scan.warnings)]
    train, val = sides["train"], sides["val"]
    names: tuple[str, ...] = ()
    try:
        names = choose_classes(train or val, classes)
    except DataError as error:
        if scans and not errors:
            errors.append(Fault("no-objects", "train", None, str(error)))
    # Where `auto` could not read all of train, a class that only seems to be missing would be a false alarm.
    hidden = classes == "auto" and any(scan.errors for scan in train)
    if names:
        errors += [] if hidden else check_class_names(scans, names)
        errors += find_case_twins(names, train or val) if classes == "auto" else []
        for side, used in sides.items():
            warnings += _find_empty_classes(side, used, names) if used else []
    warnings += _find_overlap(train, val)
    facts: dict[str, int] = {}
    for side, used in sides.items():
        facts[f"{side}_images"] = len(used)
    for side, used in sides.items():
        facts[f"{side}_objects"] = sum(not item.difficult for scan in used for item in scan.objects)
    for side, used in sides.items():
        facts[f"{side}_difficult"] = sum(item.difficult for scan in used for item in scan.objects)
    return CheckReport(tuple(errors), tuple(warnings), facts, names)


def _find_empty_classes(side: str, scans: Iterable[Scan], classes: tuple[str, ...]) -> list[Fault]:
    found = {item.name for scan in scans for item in scan.objects if not item.difficult}
    effect = "it cannot be learnt" if side == "train" else "its AP is undefined and left out of the mean"
    reason = "has no object that counts (difficult ones do not)"
    return [
        Fault("class-without-objects", side, f"class {name!r}", f"{reason}: {effect}")
        for name in classes
        if name not in found
    ]


def _find_overlap(train: Sequence[Scan], val: Sequence[Scan]) -> list[Fault]:
    """Images that are in both sides, by id or by the bytes of their file."""
    ids = {(scan.sample.folder.year, scan.sample.image_id) for scan in train}
    owners = {scan.digest: scan.sample.shown_image for scan in train if scan.digest}
    faults = []
    for scan in val:
        shown = scan.sample.shown_image
        if (scan.sample.folder.year, scan.sample.image_id) in ids:
            reason = "is in train and in val: kept in both, and val/mAP is flattered"
            faults.append(Fault("train-val-overlap", shown, None, reason))
        elif scan.digest in owners:
            twin = owners[scan.digest]
            reason = f"is the same file as {twin} of train: kept in both, and val/mAP is flattered"
            faults.append(Fault("train-val-overlap", shown, None, reason))
    return faults


def _load_report(path: Path) -> CheckReport | None:
    try:
        return CheckReport.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _keep_report(path: Path, report: CheckReport) -> None:
    """Saves the report; a cache folder that cannot be written costs the next check time, not this one its result."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(report.to_json(), file)
            os.replace(partial, path)
        except OSError:
            os.unlink(partial)
            raise
