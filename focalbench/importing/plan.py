"""What an import will write, decided and judged before anything is written: ids, class names and lists."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from focalbench.boxes.voc import voc_from_continuous
from focalbench.data.faults import Fault, shorten
from focalbench.importing.source import Source, SourceImage

MAX_NAME_BYTES = 180
MAX_CLASS_NAME = 100
UNDIVIDED = "all"
"""The list of all images where the source has no splits."""


@dataclass(frozen=True)
class PlannedObject:
    """An ``<object>``: class name, 1-based inclusive box (xmin, ymin, xmax, ymax), flag."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class PlannedImage:
    """An image and its annotation as they will be written: ``path`` is the source's file, ``name`` its name there."""

    image_id: str
    path: Path
    name: str
    size: tuple[int, int]
    objects: tuple[PlannedObject, ...]

    @property
    def file_name(self) -> str:
        """Name in JPEGImages: the id with the source's ending in small letters."""
        return self.image_id + self.path.suffix.lower()


@dataclass
class Plan:
    """What will be written, and the account of what will not.

    Attributes:
        format: of the source, for people.
        images: in the order of their ids.
        lists: ids of every list, sorted.
        classes: names in the order of the source, those without an object included.
        errors: faults for which nothing is written.
        can_skip: whether some of them concern single images, which may be left out.
        warnings: faults with a stated repair.
        left_out: faults of images and boxes that were left out on request.
        num_left_out: images that were left out on request.
        left_behind: how much of what VOC's layout has no place for, by what it is.
    """

    format: str
    images: list[PlannedImage] = field(default_factory=list)
    lists: dict[str, list[str]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    errors: list[Fault] = field(default_factory=list)
    can_skip: bool = False
    warnings: list[Fault] = field(default_factory=list)
    left_out: list[Fault] = field(default_factory=list)
    num_left_out: int = 0
    left_behind: dict[str, int] = field(default_factory=dict)

    @property
    def num_objects(self) -> Counter[str]:
        """Objects of each class, difficult ones included."""
        return Counter(item.name for image in self.images for item in image.objects)

    @property
    def num_difficult(self) -> int:
        """Objects that are difficult."""
        return sum(item.difficult for image in self.images for item in image.objects)

    @property
    def num_empty(self) -> int:
        """Images without an object."""
        return sum(not image.objects for image in self.images)

    @property
    def renamed(self) -> dict[str, str]:
        """By id, the source's name of each image whose id is another than its name without folder and ending."""
        return {image.image_id: image.name for image in self.images if PurePosixPath(image.name).stem != image.image_id}


def make_plan(source: Source, skip_faulty: bool = False) -> Plan:
    """Decides what an import of ``source`` writes.

    Args:
        source: what was read.
        skip_faulty: leave images with faults out, whole, and boxes that belong to no image; else they are errors.
    """
    plan = Plan(source.format, left_behind=dict(source.left_behind))
    faulty = [image for image in source.images if image.errors]
    optional = [*source.strays, *(fault for image in faulty for fault in image.errors)]
    sound = [image for image in source.images if not image.errors and image.path is not None and image.size is not None]
    plan.errors = [*source.errors, *_find_repeats(sound), *([] if skip_faulty else optional)]
    plan.can_skip = bool(optional) and not skip_faulty
    plan.left_out = optional if skip_faulty else []
    plan.num_left_out = len(faulty) if skip_faulty else 0
    plan.warnings = [*source.warnings, *(fault for image in sound for fault in image.warnings)]
    names = [*source.classes, *(box.name for image in sound for box in image.boxes)]
    classes, faults = clean_class_names(dict.fromkeys(names))
    plan.errors += [fault for fault in faults if fault.kind == "bad-name"]
    plan.warnings += [fault for fault in faults if fault.kind != "bad-name"]
    if not plan.errors and not sound:
        plan.errors.append(Fault("no-images", source.format, None, "no image with a usable annotation was found"))
    if plan.errors:
        return plan
    plan.classes = tuple(dict.fromkeys(classes[name] for name in names))
    ids = choose_ids([image.name for image in sound])
    plan.images = sorted(
        (_plan_image(image_id, image, classes) for image_id, image in zip(ids, sound, strict=True)),
        key=lambda image: image.image_id,
    )
    plan.lists, faults = _make_lists(ids, [image.split for image in sound])
    plan.warnings += faults
    return plan


def _plan_image(image_id: str, image: SourceImage, classes: dict[str, str]) -> PlannedImage:
    if image.path is None or image.size is None:
        raise ValueError(f"{image.name} could not be read")
    boxes = voc_from_continuous([box.edges for box in image.boxes]).tolist() if image.boxes else []
    objects = tuple(
        PlannedObject(classes[box.name], (edges[0], edges[1], edges[2], edges[3]), box.difficult)
        for box, edges in zip(image.boxes, boxes, strict=True)
    )
    return PlannedImage(image_id, image.path, image.name, image.size, objects)


def _find_repeats(images: Iterable[SourceImage]) -> list[Fault]:
    """The same file twice: in two lists it would be trained on and measured on."""
    first: dict[Path | None, SourceImage] = {}
    faults = []
    for image in images:
        before = first.setdefault(image.path, image)
        if before is not image:
            where = before.annotation if before.annotation != image.annotation else "another entry"
            reason = f"is the same file as {shorten(before.name, 80)} of {shorten(where, 80)}: remove one of them"
            faults.append(Fault("image-twice", f"{image.annotation}: {image.name}", None, reason))
    return faults


def _make_lists(ids: Sequence[str], splits: Sequence[str | None]) -> tuple[dict[str, list[str]], list[Fault]]:
    """The lists of the source's splits, with VOC's trainval where train, val and test are there; else one of all."""
    lists: dict[str, list[str]] = defaultdict(list)
    for image_id, split in zip(ids, splits, strict=True):
        if split is not None:
            lists[split].append(image_id)
    if not lists:
        return {UNDIVIDED: sorted(ids)}, []
    if {"train", "val", "test"} <= set(lists) and "trainval" not in lists:
        lists["trainval"] = lists["train"] + lists["val"]
    faults = []
    if num_others := splits.count(None):
        reason = f"images in no split of the source, and so in no list: {num_others}"
        faults.append(Fault("no-split", "ImageSets/Main", None, reason))
    order = ("train", "val", "trainval", "test")
    return {name: sorted(lists[name]) for name in order if name in lists}, faults


def choose_ids(names: Sequence[str]) -> list[str]:
    """Chooses an id for each image: its file's name without the ending, with the folders before it where two share one.

    What VOC's lists cannot hold is replaced: control characters and ``\\`` by ``_``, blanks at the ends are left out,
    and a very long name ends in eight digits of its hash. Ids differ in more than case, for some file systems see none.
    The order of ``names``, which are paths with ``/``, plays no part.
    """
    short = [_safe(PurePosixPath(name).stem) for name in names]
    counts = Counter(image_id.casefold() for image_id in short)
    long = [
        _safe("_".join(PurePosixPath(name).with_suffix("").parts)) if counts[image_id.casefold()] > 1 else image_id
        for name, image_id in zip(names, short, strict=True)
    ]
    chosen: dict[int, str] = {}
    taken = {key for key, count in counts.items() if count == 1}
    for index in sorted(range(len(names)), key=lambda index: names[index]):
        image_id = long[index]
        if counts[short[index].casefold()] > 1:
            number = 2
            while image_id.casefold() in taken:
                image_id = f"{long[index]}-{number}"
                number += 1
            taken.add(image_id.casefold())
        chosen[index] = image_id
    return [chosen[index] for index in range(len(names))]


def _safe(name: str) -> str:
    text = unicodedata.normalize("NFC", name)
    text = "".join(letter if letter.isprintable() and letter not in "/\\" else "_" for letter in text)
    text = text.strip().lstrip(".").strip() or "image"  # a name that starts with a dot is hidden, or leads upwards
    if len(text.encode()) <= MAX_NAME_BYTES:
        return text
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{text.encode()[: MAX_NAME_BYTES - 9].decode('utf-8', 'ignore')}-{digest}"


def clean_class_names(names: Iterable[str]) -> tuple[dict[str, str], list[Fault]]:
    """Turns class names into ones that an annotation may hold: composed, without blanks at the ends, and with ``_`` for
    ``/``, ``\\``, ``..`` and control characters.

    Returns:
        the new name of each, and what there is to say: ``bad-name`` is an error, ``renamed-class`` a warning.
    """
    clean: dict[str, str] = {}
    owners: dict[str, str] = {}
    faults = []
    for name in names:
        text = unicodedata.normalize("NFC", name).strip().replace("..", "_")
        text = "".join(letter if letter.isprintable() and letter not in "/\\" else "_" for letter in text)
        clean[name] = text
        other = owners.setdefault(text, name)
        if not text or len(text) > MAX_CLASS_NAME:
            reason = f"has {len(text)} characters; 1 to {MAX_CLASS_NAME} are accepted"
            faults.append(Fault("bad-name", f"class {shorten(name, 60)!r}", None, reason))
        elif other.strip() != name.strip():
            reason = f"would be written as {text!r}, as class {shorten(other, 60)!r} is: rename one of them"
            faults.append(Fault("bad-name", f"class {shorten(name, 60)!r}", None, reason))
        elif text != name.strip():
            faults.append(Fault("renamed-class", f"class {shorten(name, 60)!r}", None, f"is written as {text!r}"))
    return clean, faults
