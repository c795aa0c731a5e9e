"""YOLO's text files as Ultralytics reads them: a line ``class x y width height`` an object, in shares of the image, in
a file beside the image or in ``labels/`` for one in ``images/``; names and splits stand in data.yaml
(https://docs.ultralytics.com/datasets/detect/).

Numbers are rounded as far as the digits of the file leave open: a box that lay on whole pixels does so again.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from focalbench.data.faults import Fault, shorten
from focalbench.data.files import IMAGE_SUFFIXES, RefusedFile
from focalbench.importing.source import (
    OTHER_SUFFIXES,
    Place,
    Source,
    SourceImage,
    bounds,
    is_absolute,
    open_source_image,
    split_of,
    suffix_of,
)

NAME = "YOLO txt"
_MAX_YAML_BYTES = 1_000_000
_MAX_LIST_BYTES = 64 * 2**20
_MAX_LABEL_BYTES = 4 * 2**20
_SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_KEYS = {*_SPLIT_KEYS, "path", "names", "nc", "kpt_shape"}
_NAME_FILES = ("classes.txt", "obj.names", "labels.txt")
_LARGEST_SHARE = 4.0  # beyond it the numbers are pixels, or no coordinates at all


def recognise(place: Place) -> bool:
    """Says whether the place holds a data.yaml with names, or a list of class names beside text files."""
    if place.file is not None:
        return suffix_of(place.file) in (".yaml", ".yml") and bool(_yaml_files(place))
    return bool(_yaml_files(place) or _name_files(place))


def _yaml_files(place: Place) -> list[str]:
    found = []
    for name in place.named(".yaml", ".yml"):
        if name.count("/") <= 1:
            try:
                found += [name] if b"names" in place.read(name, _MAX_YAML_BYTES) else []
            except RefusedFile:
                continue
    return found


def _name_files(place: Place) -> list[str]:
    names = [name for name in place.named(".txt", ".names") if PurePosixPath(name).name in _NAME_FILES]
    return sorted(names, key=lambda name: (name.count("/"), _NAME_FILES.index(PurePosixPath(name).name)))


def read(place: Place) -> Source:
    """Reads the images that data.yaml names, or without one all below the place, and their label files."""
    reading = _Reading(place, Source(NAME))
    files = _yaml_files(place)
    if len(files) > 1:
        reason = f"{', '.join(files)}: several files with class names; give the right one as SOURCE"
        reading.source.errors.append(Fault("several-yaml", str(place.base), None, reason))
    elif files:
        reading.read_described(files[0])
    elif names := _name_files(place):
        reading.read_undescribed(names[0])
    else:
        reason = "holds no data.yaml with names, and no classes.txt or obj.names"
        reading.source.errors.append(Fault("no-names", str(place.base), None, reason))
    reading.note_labels_alone()
    return reading.source


@dataclass
class _Reading:
    place: Place
    source: Source
    names: dict[int, str] = field(default_factory=dict)
    has_keypoints: bool = False
    image_folders: list[str] = field(default_factory=list)

    def _error(self, kind: str, file: str, reason: str) -> None:
        self.source.errors.append(Fault(kind, file, None, reason))

    def read_described(self, file: str) -> None:
        """By data.yaml."""
        document = self._load(file)
        if document is None:
            return
        self._read_names(file, document.get("names"), document.get("nc"))
        self.has_keypoints = "kpt_shape" in document
        root = self._root(file, document.get("path"))
        seen: set[str] = set()
        for key, split in _SPLIT_KEYS.items():
            entries = document.get(key)
            found: list[str] = []
            for entry in [entries] if isinstance(entries, str) else entries or []:
                if isinstance(entry, str) and entry.strip():
                    found += self._images_of(file, key, root, entry)
                else:
                    self._error("bad-yaml", file, f"{key}: {shorten(repr(entry), 80)} is not a path")
            new = [name for name in dict.fromkeys(found) if name not in seen]
            if len(new) < len(found):
                reason = f"{key}: images named before: {len(found) - len(new)} ({_first_old(found, seen)}): no image "
                self._error(
                    "image-twice", file, reason + "may be used for both training and evaluation; name each only once"
                )
            seen.update(new)
            for name in new:
                self._read_image(name, split)
        if not any(document.get(key) for key in _SPLIT_KEYS):
            self._error("no-splits", file, "names no train, val or test folder")

    def read_undescribed(self, file: str) -> None:
        """By a list of class names: every image below the place, split by the names of its folders."""
        try:
            text = self.place.read(file, _MAX_YAML_BYTES).decode("utf-8-sig")
        except (RefusedFile, UnicodeDecodeError) as fault:
            self._error("unreadable", file, f"cannot be read as text: {fault}")
            return
        names = [line.strip() for line in text.splitlines()]
        while names and not names[-1]:
            names.pop()
        self._read_names(file, names, None)
        for name in self.place.pictures:
            self._read_image(name, split_of(*PurePosixPath(name).parts[:-1]))

    def note_labels_alone(self) -> None:
        """Notes the label files, in and below the folders of those that were read, for which there is no image."""
        read = [_label_file(image.name) for image in self.source.images]
        known = {*read, *map(_label_file, self.place.pictures)}
        folders = {PurePosixPath(_label_file(f"{folder}/x")).parent for folder in self.image_folders}
        folders |= {PurePosixPath(name).parent for name in read}
        for name in self.place.files:
            path = PurePosixPath(name)
            is_label = path.suffix == ".txt" and name not in known and not folders.isdisjoint(path.parents)
            if is_label and self._has_objects(name):
                image = SourceImage(str(path.with_suffix("")), None, name)
                image.fail("missing-image", None, f"there is no image named {shorten(path.stem, 80)!r}")
                self.source.images.append(image)

    def _has_objects(self, name: str) -> bool:
        """Whether a text file begins as a label file does, and not as a list or a note."""
        try:
            words = self.place.read(name, _MAX_LABEL_BYTES).decode("utf-8-sig").lstrip().split("\n", 1)[0].split()
            return len([float(word) for word in words]) >= 5 and words[0].isdecimal()
        except (RefusedFile, ValueError):
            return False

    def _load(self, file: str) -> dict[str, Any] | None:
        """The mapping in ``file`` with all scalars as text: a class may be called ``no`` or ``12``."""
        try:
            node = yaml.compose(self.place.read(file, _MAX_YAML_BYTES).decode("utf-8-sig"), Loader=yaml.SafeLoader)
            document = _plain(node)
        except RefusedFile as refused:
            self._error(refused.kind, file, str(refused))
        except UnicodeDecodeError:
            self._error("yaml-broken", file, "is not UTF-8 text")
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            self._error("yaml-broken", file, f"is not YAML that can be read: {' '.join(str(error).split())}")
        else:
            if isinstance(document, dict):
                return document
            self._error("yaml-broken", file, "should hold `key: value` lines")
        return None

    def _read_names(self, file: str, names: Any, number: Any) -> None:
        pairs = enumerate(names) if isinstance(names, list) else names.items() if isinstance(names, dict) else []
        for key, name in pairs:
            index = int(key) if str(key).isascii() and str(key).isdecimal() and len(str(key)) < 10 else None
            if index is None or not isinstance(name, str) or not name.strip():
                self._error("bad-names", file, f"names: {shorten(f'{key}: {name!r}', 80)} is not a number with a name")
                continue
            self.names[index] = name
            self.source.declare(name)
        repeated = sorted(name for name, count in Counter(self.names.values()).items() if count > 1)
        if repeated:
            self._error("bad-names", file, f"names: {shorten(', '.join(repeated), 80)} stands for two numbers")
        if not self.names:
            self._error("bad-names", file, "names: no class is named")
        elif isinstance(number, str) and number.isdecimal() and number != str(len(self.names)):
            self._error("bad-names", file, f"nc is {number[:20]}, but there are {len(self.names)} names")

    def _root(self, file: str, path: Any) -> Path:
        """The folder that paths are relative to: ``path`` where it is one of the source, else data.yaml's own."""
        own = (self.place.base / file).parent
        if isinstance(path, str) and path.strip() and not is_absolute(path) and ".." not in path.split("/"):
            folder = own / path
            if folder.is_dir():
                return folder
        return own

    def _is_inside(self, path: Path) -> bool:
        return Path(os.path.normpath(path)).is_relative_to(self.place.base)

    def _images_of(self, file: str, key: str, root: Path, entry: str) -> list[str]:
        """Names below the base of all images of an entry: a folder, a list of paths, or one image."""
        inner = entry.replace("\\", "/").strip()
        if is_absolute(inner):
            self._error("bad-path", file, f"{key}: {shorten(entry, 80)} is an absolute path; {_WAY_OUT}")
            return []
        # Roboflow writes ../train/images for a folder beside its data.yaml.
        shorter = inner.removeprefix("../")
        if not self._is_inside(root / inner) and self._is_inside(root / shorter) and (root / shorter).exists():
            inner = shorter
        if not self._is_inside(root / inner):
            self._error("bad-path", file, f"{key}: {shorten(entry, 80)} leads out of the source; {_WAY_OUT}")
            return []
        target = root / inner
        if target.is_dir():
            folder = _below(target, self.place.base)
            self.image_folders.append(folder)
            prefix = "" if folder == "." else f"{folder}/"
            found = [name for name in self.place.pictures if name.startswith(prefix)]
            if not found:
                self._error("no-images", file, f"{key}: {shorten(entry, 80)} holds no image")
            return found
        if target.is_file() and suffix_of(inner) == ".txt":
            return self._listed(_below(target, self.place.base), root)
        if target.is_file() and suffix_of(inner) in (*IMAGE_SUFFIXES, *OTHER_SUFFIXES):
            return [_below(target, self.place.base)]
        self._error("missing-file", file, f"{key}: {shorten(entry, 80)} does not exist below {shorten(str(root), 120)}")
        return []

    def _listed(self, file: str, root: Path) -> list[str]:
        """The images of a list file, whose lines are relative to the root or to the list's own folder."""
        try:
            lines = self.place.read(file, _MAX_LIST_BYTES).decode("utf-8-sig").splitlines()
        except (RefusedFile, UnicodeDecodeError) as fault:
            self._error("unreadable", file, f"cannot be read as a list of images: {fault}")
            return []
        found = []
        for line in filter(None, map(str.strip, lines)):
            inner = line.replace("\\", "/")
            around = [root, (self.place.base / file).parent]
            folder = next((each for each in around if os.path.lexists(each / inner)), root)
            below = _below(folder, self.place.base)
            relative = inner.removeprefix("./")
            found.append(relative if below == "." or is_absolute(inner) else f"{below}/{relative}")
        return found

    def _read_image(self, name: str, split: str | None) -> None:
        labels = _label_file(name)
        image, header = open_source_image(self.place.base, name, labels, split)
        self.source.images.append(image)
        if header is None:
            return
        image.size = header.rotated_size  # Ultralytics turns images by their orientation before it labels them
        try:
            data = self.place.read(labels, _MAX_LABEL_BYTES)
        except RefusedFile as refused:
            if refused.kind != "missing-file":
                image.fail(refused.kind, None, str(refused))
            return  # an image without a label file has no objects
        try:
            lines = data.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError:
            image.fail("label-broken", None, "is not UTF-8 text")
            return
        for number, line in enumerate(lines, start=1):
            if line.strip():
                self._read_line(image, f"line {number}", line.split())

    def _read_line(self, image: SourceImage, tag: str, words: list[str]) -> None:
        try:
            if any("_" in word for word in words):
                raise ValueError
            kind, *numbers = map(float, words)
        except ValueError:
            image.fail("bad-line", tag, f"{shorten(' '.join(words), 60)!r} are not numbers")
            return
        if self.has_keypoints and len(numbers) > 4:
            self.source.left_behind["sets of keypoints"] += 1
            numbers, words = numbers[:4], words[:5]
        is_polygon = len(numbers) >= 6 and len(numbers) % 2 == 0
        if len(numbers) != 4 and not is_polygon:
            reason = f"has {len(words)} numbers: a class and 4 for a box, or the points of a polygon, are read"
            image.fail("bad-line", tag, reason)
        elif kind not in self.names:
            image.fail("unknown-class", tag, f"class {shorten(words[0], 20)} is not one of the {len(self.names)} names")
        elif not all(abs(number) <= _LARGEST_SHARE for number in numbers):
            reason = f"{shorten(' '.join(words[1:]), 60)} are not shares of the image, which lie between 0 and 1"
            image.fail("not-normalised", tag, reason)
        else:
            image.add(tag, self.names[int(kind)], self._edges(image, numbers, words[1:], is_polygon))

    def _edges(
        self, image: SourceImage, numbers: list[float], words: list[str], is_polygon: bool
    ) -> tuple[float, float, float, float]:
        if is_polygon:
            self.source.left_behind["polygons (their bounds were taken)"] += 1
            left, top, right, bottom = bounds(list(zip(numbers[::2], numbers[1::2], strict=True)))
        else:
            x, y, width, height = numbers
            left, top, right, bottom = x - width / 2, y - height / 2, x + width / 2, y + height / 2
        digits = max(map(_digits, words))
        across, down = image.size or (1, 1)
        return (
            _round(left * across, across, digits),
            _round(top * down, down, digits),
            _round(right * across, across, digits),
            _round(bottom * down, down, digits),
        )


_WAY_OUT = "put data.yaml into the folder of the data set, with paths relative to it"


def _first_old(names: list[str], seen: set[str]) -> str:
    return shorten(next((name for name in names if name in seen), names[0]), 80)


def _below(path: Path, base: Path) -> str:
    return os.path.relpath(os.path.normpath(path), base)


def _label_file(image: str) -> str:
    """``images/`` last in the path becomes ``labels/``; without one the text file lies beside the image."""
    head, folder, tail = f"/{image}".rpartition("/images/")
    path = f"{head}/labels/{tail}"[1:] if folder else image
    return str(PurePosixPath(path).with_suffix(".txt"))


def _digits(word: str) -> int:
    """Decimals that a number is written with; many where it has an exponent."""
    return 15 if "e" in word.lower() else len(word.partition(".")[2])


def _round(value: float, side: int, digits: int) -> float:
    """``value`` in pixels: whole where the digits leave that open, else as it is.

    An edge is a centre and half a size, known together to three quarters of a unit of the last digit, and a little less
    after a writer in single precision: a whole unit is left open, and a quarter pixel at most.
    """
    slack = min(0.25, max(1e-3, side * 10.0**-digits))
    return float(round(value)) if abs(value - round(value)) <= slack else round(value, 4)


def _plain(node: yaml.Node | None) -> dict[str, Any] | None:
    """The keys of use, each text, a list of texts or a dict of them; None where the node is no mapping.

    Nothing else is unfolded, for aliases make a page of YAML as long as one likes. Repeated keys are refused.
    """
    if not isinstance(node, yaml.MappingNode):
        return None
    pairs = [(str(key.value), value) for key, value in node.value if isinstance(key, yaml.ScalarNode)]
    repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if repeated:
        raise ValueError(f"the key {shorten(repeated[0], 60)!r} appears twice")
    return {key: _unfold(value) for key, value in pairs if key in _KEYS}


def _unfold(node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_text(item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        return {_text(key) or "": _text(value) for key, value in node.value}
    return _text(node)


def _text(node: yaml.Node) -> str | None:
    return str(node.value) if isinstance(node, yaml.ScalarNode) and node.tag != "tag:yaml.org,2002:null" else None
