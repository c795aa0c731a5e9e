"""A data set divided into lists by share and seed: groups stay together, and classes are spread evenly on request.

Own code of a page, because no library does both at once: scikit-learn splits by group or by a single label an image,
packages of iterative stratification know no groups, and none promises a rare class to each side.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from focalbench.data.annotation import MAX_XML_BYTES, parse_annotation
from focalbench.data.faults import Fault, raise_for_faults, shorten
from focalbench.data.files import RefusedFile, YearFolder, list_years, open_root, open_year
from focalbench.data.scanning import list_samples
from focalbench.errors import DataError, StorageError


@dataclass(frozen=True)
class Unit:
    """Images that stay together: their ids, and how many of them hold each class."""

    name: str
    ids: tuple[str, ...]
    images_of: Mapping[str, int]


@dataclass(frozen=True)
class Division:
    """A data set divided.

    Attributes:
        year: of the folder.
        lists: ids of each list, sorted.
        images_of: for each list, how many images hold each class.
        objects_of: for each list, how many objects each class has; difficult ones do not count.
        num_groups: how many groups each list has; None without groups.
        left_out: how many files were passed over, by what they lack.
        missing: classes that some list has none of, with the names of those lists.
    """

    year: str
    lists: dict[str, list[str]]
    images_of: dict[str, Counter[str]]
    objects_of: dict[str, Counter[str]]
    num_groups: dict[str, int] | None
    left_out: dict[str, int]
    missing: dict[str, list[str]]


def divide_data(
    root: str | os.PathLike[str],
    shares: Mapping[str, float],
    *,
    year: str | None = None,
    group_by: str | None = None,
    stratify: bool = False,
    seed: int = 0,
    source: str | None = None,
) -> Division:
    """Divides the images of a year; reads the annotations and writes nothing.

    Images without an annotation are left out: nobody has said that they are empty.

    Args:
        root: the folder that holds VOC1, VOC2007, ...
        shares: share of the images for each list, positive, summing to 1.
        year: which year; None where there is only one.
        group_by: regular expression searched in the ids: images with the same first group, or the same match where
            it has no group, stay together.
        stratify: spread the classes evenly.
        seed: equal seeds give equal lists, whatever the order of the files.
        source: divide the images of this list; None for all that are annotated.

    Raises:
        DataError: if the root, the year or the list is missing, an annotation is broken, the expression is none or does
            not match every id, or a list would be empty.
    """
    folder = _open(root, year)
    ids, left_out = _annotated(folder) if source is None else (_listed(root, folder, source), {})
    objects = _count_objects(folder, ids)
    units = make_units(ids, objects, group_by)
    division = divide(units, shares, seed=seed, stratify=stratify)
    lists = {name: sorted(image_id for unit in part for image_id in unit.ids) for name, part in division.items()}
    empty = [name for name, members in lists.items() if not members]
    if empty:
        what = f"{len(units)} group{'s'[: len(units) > 1]} of " if group_by is not None else ""
        reason = f"{what}{len(ids)} image{'s'[: len(ids) > 1]} leave {' and '.join(empty)} without any"
        raise DataError(f"{folder.path}: {reason}; annotate more, or choose another share")
    images_of = {name: Counter(kind for key in members for kind in objects[key]) for name, members in lists.items()}
    classes = sorted({kind for counts in images_of.values() for kind in counts})
    missing = {kind: [name for name in lists if not images_of[name][kind]] for kind in classes}
    return Division(
        year=folder.year,
        lists=lists,
        images_of=images_of,
        objects_of={name: sum((objects[key] for key in members), Counter()) for name, members in lists.items()},
        num_groups=None if group_by is None else {name: len(part) for name, part in division.items()},
        left_out=left_out,
        missing={kind: names for kind, names in missing.items() if names},
    )


def _open(root: str | os.PathLike[str], year: str | None) -> YearFolder:
    path = open_root(Path(root))
    if year is None:
        years = list_years(path)
        if len(years) > 1:
            raise DataError(f"{path}: holds the years {', '.join(years)}; say which with --year")
        year = years[0]
    return open_year(path, year.removeprefix("VOC"))


def _annotated(folder: YearFolder) -> tuple[list[str], dict[str, int]]:
    """Ids with both files, and how many have only one."""
    both = folder.images.keys() & folder.annotations.keys()
    alone = {
        "images without an annotation": len(folder.images) - len(both),
        "annotations without an image": len(folder.annotations) - len(both),
    }
    if not both:
        raise DataError(f"{folder.path}: no image in JPEGImages has an annotation of its name in Annotations")
    return sorted(both), {what: count for what, count in alone.items() if count}


def _listed(root: str | os.PathLike[str], folder: YearFolder, name: str) -> list[str]:
    listing = list_samples(root, (f"{folder.year}/{name}",), {folder.year: folder})
    raise_for_faults(listing.errors)
    return sorted(sample.image_id for sample in listing.samples)


def _count_objects(folder: YearFolder, ids: Iterable[str]) -> dict[str, Counter[str]]:
    """Objects of each class by image, without difficult ones; all faults of the annotations in one error."""
    counts: dict[str, Counter[str]] = {}
    faults: list[Fault] = []
    for image_id in ids:
        relative = folder.annotations[image_id].path
        shown = f"VOC{folder.year}/{relative}"
        try:
            annotation = parse_annotation(folder.open(relative, MAX_XML_BYTES), shown)
        except RefusedFile as refused:
            faults.append(Fault(refused.kind, shown, None, str(refused)))
            continue
        faults += annotation.errors
        counts[image_id] = Counter(item.name for item in annotation.objects if not item.difficult)
    raise_for_faults(faults)
    return counts


def make_units(ids: Sequence[str], objects: Mapping[str, Mapping[str, int]], group_by: str | None) -> list[Unit]:
    """Joins the images that stay together: those of a group, or each by itself.

    Raises:
        DataError: if ``group_by`` is no regular expression, or does not match every id.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for image_id, name in zip(ids, ids if group_by is None else _group_names(ids, group_by), strict=True):
        members[name].append(image_id)
    return [
        Unit(name, tuple(sorted(part)), Counter(kind for image_id in part for kind in objects[image_id]))
        for name, part in members.items()
    ]


def _group_names(ids: Sequence[str], group_by: str) -> list[str]:
    try:
        expression = re.compile(group_by)
    except re.error as error:
        raise DataError(f"--group-by {shorten(group_by, 80)!r}: is not a regular expression: {error}") from None
    found = [expression.search(image_id) for image_id in ids]
    names = [match[1 if expression.groups else 0] if match else None for match in found]
    unmatched = [image_id for image_id, name in zip(ids, names, strict=True) if not name]
    if unmatched:
        some = ", ".join(shorten(image_id, 60) for image_id in unmatched[:3])
        reason = f"matches nothing in {len(unmatched)} of {len(ids)} names ({some}); every image needs a group"
        raise DataError(f"--group-by {shorten(group_by, 80)!r}: {reason}")
    return [name or "" for name in names]


def divide(
    units: Sequence[Unit], shares: Mapping[str, float], *, seed: int = 0, stratify: bool = False
) -> dict[str, list[Unit]]:
    """Gives every unit to one of the lists, by iterative stratification (Sechidis, Tsoumakas, Vlahavas, ECML PKDD 2011,
    algorithm 1).

    The class with the fewest images left goes first; each of its units goes to the list that lacks most images of the
    class, then most images. Beyond the paper: units are groups, by size in powers of two, the largest first, so that
    small ones even out the shares; a class in as many units as there are lists is wanted in each of them at least once,
    and where it still is missing, a unit moves, as one does to a list that is empty. Without ``stratify`` only the
    numbers of images count.

    Args:
        units: groups of images; their order plays no part.
        shares: share of the images for each list, positive, summing to 1.
        seed: not negative; decides among equals, by a hash of the unit's name.
        stratify: spread the classes evenly.

    Returns:
        the units of each list.
    """
    total = sum(len(unit.ids) for unit in units)
    room = {name: share * total for name, share in shares.items()}
    units_of = Counter(kind for unit in units for kind in unit.images_of) if stratify else Counter()
    images_of = sum((Counter(unit.images_of) for unit in units), Counter[str]())
    lacking = {
        (kind, name): max(share * images_of[kind], 1.0 if units_of[kind] >= len(shares) else 0.0)
        for kind in units_of
        for name, share in shares.items()
    }
    given: dict[str, list[Unit]] = {name: [] for name in shares}
    remaining = sorted(units, key=lambda unit: (-len(unit.ids).bit_length(), _rank(seed, unit.name)))

    def give(unit: Unit, kind: str | None) -> None:
        name = max(shares, key=lambda name: (lacking[kind, name] if kind is not None else 0.0, room[name]))
        given[name].append(unit)
        room[name] -= len(unit.ids)
        for other, count in unit.images_of.items():
            if other in units_of:
                lacking[other, name] -= count

    left = {kind: images_of[kind] for kind in units_of}
    while any(left.values()):
        rarest = min((kind for kind in left if left[kind]), key=lambda kind: (left[kind], kind))
        for unit in remaining:
            if rarest in unit.images_of:
                give(unit, rarest)
                for kind, count in unit.images_of.items():
                    left[kind] -= count
        remaining = [unit for unit in remaining if rarest not in unit.images_of]
    for unit in remaining:
        give(unit, None)
    in_all = {kind for kind in units_of if units_of[kind] >= len(shares)}
    for kind in sorted(in_all, key=lambda kind: (units_of[kind], kind)):
        _spread(kind, given, in_all)
    for part in given.values():
        fullest = max(given.values(), key=len)
        if not part and len(fullest) > 1:
            part.append(fullest.pop(min(range(len(fullest)), key=lambda index: len(fullest[index].ids))))
    return given


def _rank(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _spread(kind: str, given: dict[str, list[Unit]], in_all: Set[str]) -> None:
    """Moves a unit with ``kind`` to each list without one, where no other list loses its last unit by it of a class
    that can be ``in_all``.
    """
    for part in given.values():
        if any(kind in unit.images_of for unit in part):
            continue
        movable = [
            (len(unit.ids), other, unit)
            for other, owners in given.items()
            for unit in owners
            if kind in unit.images_of
            and all(sum(inner in own.images_of for own in owners) > 1 for inner in unit.images_of if inner in in_all)
        ]
        if movable:
            _, other, unit = min(movable, key=lambda candidate: candidate[:2])
            given[other].remove(unit)
            part.append(unit)


def write_lists(root: str | os.PathLike[str], division: Division) -> list[Path]:
    """Writes the lists into ImageSets/Main, all or none; none is ever replaced.

    Where a kill came between two of them, the same division completes what it began.

    Returns:
        the paths of all lists.

    Raises:
        StorageError: if one is there already, or the folder cannot be written.
    """
    folder = open_root(Path(root)) / f"VOC{division.year}" / "ImageSets" / "Main"
    texts = {
        folder / f"{name}.txt": "".join(f"{image_id}\n" for image_id in ids).encode()
        for name, ids in division.lists.items()
    }
    there = [path for path in texts if os.path.lexists(path)]
    done = [path for path in there if path.is_file() and path.read_bytes() == texts[path]]
    if there and (done != there or len(done) == len(texts)):
        names = " and ".join(str(path) for path in there)
        raise StorageError(
            f"{names}: already there, and lists are never overwritten; use what is there, or move it away"
        )
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            if path not in done:
                _create(path, text)
                written.append(path)
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        raise StorageError(f"{error.filename2 or error.filename}: cannot be written: {error.strerror}") from None
    return list(texts)


def _create(path: Path, content: bytes) -> None:
    """A whole file at once that was not there: a link fails where a rename would replace."""
    # Some file systems (exFAT) have no links; there a kill may leave half a list, but none is replaced either.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except PermissionError:
            with path.open("xb") as file:
                file.write(content)
    finally:
        temporary.unlink(missing_ok=True)
