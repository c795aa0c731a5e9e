"""Files of a data set in VOC's layout, found and opened without ever leaving the data set.

ROOT and the year folders in it may be links, for that is how people share data sets. Below a year folder everything
must lead back into it: a link that leaves, a loop, a FIFO or a device is refused, for a data set may come from anybody.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from focalbench.data.faults import shorten
from focalbench.data.layouts import IMAGE_SUFFIXES, explain, is_year_like
from focalbench.errors import DataError

_YEAR_NAME = re.compile(r"VOC[0-9]{1,40}")
MAX_LIST_BYTES = 64 * 2**20
MAX_LIST_LINES = 500_000
MAX_ID_LENGTH = 200
_PARTS = ("train", "val")  # of trainval


class RefusedFile(Exception):  # noqa: N818 - a verdict, caught where the fault is recorded
    """A file is missing, leaves the data set, is no regular file or is too large; ``kind`` names the fault."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True)
class Entry:
    """A file in a folder listing: its path below the year folder, size in bytes and time of change in ns.

    Of a link, size and time are those of the file it leads to.
    """

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class YearFolder:
    """One ``VOC<year>`` folder, listed once: 20,000 files cost two directory scans instead of 20,000 look-ups.

    Attributes:
        year: the text after ``VOC``.
        path: the folder as the user reached it.
        real: the same with links resolved; nothing outside it is opened.
        images: files of JPEGImages by normalised stem (see :func:`normalised`).
        annotations: the same of Annotations.
        shadowed: stems that several image files share; the first in the order of IMAGE_SUFFIXES is used, and of two
            that differ in case the one in lower case.
        shadowed_annotations: the same of XML files.
    """

    year: str
    path: Path
    real: Path
    images: dict[str, Entry] = field(repr=False)
    annotations: dict[str, Entry] = field(repr=False)
    shadowed: frozenset[str] = frozenset()
    shadowed_annotations: frozenset[str] = frozenset()

    def open(self, relative: str, max_bytes: int) -> bytes:
        """Reads the file ``relative`` to the year folder; raises :class:`RefusedFile`."""
        return read_inside(self.real, relative, max_bytes)


def normalised(name: str) -> str:
    """Composes ``name`` as Unicode says: archives made on a Mac hold decomposed names, their lists composed ones."""
    return unicodedata.normalize("NFC", name)


def read_inside(folder: Path, relative: str, max_bytes: int) -> bytes:
    """Reads the regular file at ``relative`` below ``folder``, which has no links in it.

    Raises:
        RefusedFile: if the file is missing, unreadable, leads outside, is no regular file, or is above ``max_bytes``.
    """
    path = os.path.join(folder, relative)
    try:
        real = os.path.realpath(path, strict=True)
        if not real.startswith(f"{folder}{os.sep}"):
            raise RefusedFile("outside", f"is a link that leaves the data set ({shorten(real)})")
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise RefusedFile("missing-file", "does not exist") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RefusedFile("unreadable", f"cannot be opened: {reason}") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise RefusedFile("not-a-file", "is not a regular file")
    with open(descriptor, "rb") as file:
        if status.st_size > max_bytes:
            raise RefusedFile("too-large", f"has {status.st_size:,} bytes, more than the {max_bytes:,} accepted")
        try:
            return file.read(max_bytes)
        except OSError as error:
            raise RefusedFile("unreadable", f"cannot be read: {error.strerror}") from None


def _scan(folder: Path, name: str, suffixes: tuple[str, ...]) -> tuple[dict[str, Entry], frozenset[str]]:
    if not os.path.realpath(folder / name).startswith(f"{folder}{os.sep}"):
        raise DataError(f"{folder / name}: is a link that leaves {folder}; link the whole {folder.name} folder instead")
    found: dict[str, list[tuple[tuple[int, bool, str], Entry]]] = defaultdict(list)
    try:
        with os.scandir(folder / name) as entries:
            for entry in entries:
                stem, suffix = os.path.splitext(entry.name)
                if suffix.lower() not in suffixes:
                    continue
                rank = (suffixes.index(suffix.lower()), not suffix.islower(), entry.name)
                status = _status(entry, folder)
                file = Entry(f"{name}/{entry.name}", status.st_size, status.st_mtime_ns)
                found[normalised(stem)].append((rank, file))
    except OSError as error:
        raise DataError(f"{folder / name}: {error.strerror}; a VOC folder holds JPEGImages and Annotations") from None
    first = {stem: min(ranked)[1] for stem, ranked in found.items()}
    return first, frozenset(stem for stem, ranked in found.items() if len(ranked) > 1)


def _status(entry: os.DirEntry[str], folder: Path) -> os.stat_result:
    """Of the file that is read: of a link within ``folder`` the target, whose change would not show otherwise."""
    if entry.is_symlink() and os.path.realpath(entry.path).startswith(f"{folder}{os.sep}"):
        with suppress(OSError):  # leads nowhere or in a circle: opening it says so
            return entry.stat()
    return entry.stat(follow_symlinks=False)


def open_root(root: str | Path) -> Path:
    """Turns the data root into a path and makes sure that it is a folder with a year in it.

    Raises:
        DataError: if it is missing, unreadable or holds no VOC<year> folder, with a hint where one level too high or
            low was given.
    """
    try:
        return _require_years(Path(root).expanduser())
    except RuntimeError:  # pathlib's word for ~nobody/...
        raise DataError(f"{shorten(str(root))}: no such home folder") from None
    except OSError as error:
        raise DataError(f"{shorten(str(root))}: cannot be read: {error.strerror}") from None


def _require_years(path: Path) -> Path:
    if not path.is_dir():
        reason = "is not a folder" if path.exists() else "does not exist"
        raise DataError(f"{path}: {reason}; data.root is the folder that holds VOC2007, VOC2012, ...")
    if list_years(path):
        return path
    if _is_year(path):
        raise DataError(f"{path}: is a year folder itself; give the folder that holds it: {path.resolve().parent}")
    for folder in (path / "VOCdevkit", *islice((entry for entry in path.iterdir() if entry.is_dir()), 30)):
        with suppress(OSError):
            if folder.is_dir() and list_years(folder):
                raise DataError(f"{path}: holds no VOC<year> folder; did you mean {folder}?")
    raise DataError(f"{path}: {explain(path)}")


def _is_year(path: Path) -> bool:
    holds = (path / "ImageSets").is_dir() or is_year_like(path)
    return holds and bool(_YEAR_NAME.fullmatch(path.resolve().name))


def find_root(path: str | os.PathLike[str]) -> Path:
    """Finds the data root for what a user may name in its place: a year folder in it, or the folder around VOCdevkit.

    Raises:
        DataError: as :func:`open_root`, where none of them is one.
    """
    given = Path(path).expanduser()
    with suppress(OSError):
        around = [given.parent, given.resolve().parent] if _is_year(given) else []
        for candidate in (given, given / "VOCdevkit", *around):
            if candidate.is_dir() and list_years(candidate):
                return candidate
    return open_root(given)


def list_years(root: Path) -> list[str]:
    """Lists the years of the ``VOC<year>`` folders in ``root``, sorted."""
    folders = (entry.name for entry in root.iterdir() if _YEAR_NAME.fullmatch(entry.name) and entry.is_dir())
    return sorted(name[3:] for name in folders)[:100]


def list_splits(root: Path, year: str) -> list[str]:
    """Lists the splits of ``root/VOC<year>``, sorted; per-class lists (``cat_train`` beside ``train``) are left out."""
    names = {path.stem for path in (root / f"VOC{year}" / "ImageSets" / "Main").glob("*.txt")}
    return sorted(name for name in names if not any(name.endswith(f"_{other}") for other in names))


def default_splits(root: str | os.PathLike[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Chooses what to train and to evaluate on where nobody said: of each year trainval and test, else train and val.

    Raises:
        DataError: if no year has one of these lists.
    """
    path = open_root(Path(root))
    train: list[str] = []
    val: list[str] = []
    for year in list_years(path):
        splits = list_splits(path, year)
        learnt = next((name for name in ("trainval", "train") if name in splits), None)
        held_out = next((name for name in ("test", "val") if name in splits), None)
        train += [f"{year}/{learnt}"] if learnt else []
        # trainval contains val: beside it only test is held out.
        val += [f"{year}/{held_out}"] if held_out and (held_out, learnt) != ("val", "trainval") else []
    if not train and not val:
        raise DataError(f"{path}: no year has a list named trainval, train, val or test; {_lists_of(path)}")
    return tuple(train), tuple(val)


def other_splits(root: str | os.PathLike[str], chosen: Collection[str]) -> tuple[str, ...]:
    """Lists the splits in ``root`` that ``chosen`` leaves out, but for the parts of a trainval among them."""
    path = open_root(Path(root))
    found = [f"{year}/{name}" for year in list_years(path) for name in list_splits(path, year)]
    parts = {f"{split.partition('/')[0]}/{part}" for split in chosen if split.endswith("/trainval") for part in _PARTS}
    return tuple(split for split in found if split not in chosen and split not in parts)


def overlap(root: str | os.PathLike[str], split: str, chosen: Collection[str]) -> bool:
    """Says whether a split shares an image with one of ``chosen``.

    Raises:
        DataError: if one of them cannot be read.
    """
    year, _, name = split.partition("/")
    folder = open_year(open_root(Path(root)), year)
    own = set(read_list(folder, name))
    return any(
        not own.isdisjoint(read_list(folder, other[len(year) + 1 :]))
        for other in chosen
        if other.startswith(f"{year}/")
    )


def _lists_of(path: Path) -> str:
    """What lists there are, and how to take or make one."""
    if found := other_splits(path, ()):
        return f"found: {', '.join(found[:10])}; --train {found[0]} chooses one to train on, --val one to evaluate on"
    return f"found: none; `focalbench data split {shlex.quote(str(path))}` makes them"


def open_year(root: Path, year: str) -> YearFolder:
    """Lists ``root/VOC<year>``.

    Raises:
        DataError: if the folder, its JPEGImages or its Annotations is missing.
    """
    path = root / f"VOC{year}"
    if not path.is_dir():
        years = ", ".join(list_years(root)) or "none"
        raise DataError(f"{path}: no such folder; years found: {years}")
    real = path.resolve()
    images, shadowed = _scan(real, "JPEGImages", IMAGE_SUFFIXES)
    annotations, shadowed_annotations = _scan(real, "Annotations", (".xml",))
    return YearFolder(year, path, real, images, annotations, shadowed, shadowed_annotations)


def read_list(folder: YearFolder, name: str) -> list[str]:
    """Reads the lines of ``ImageSets/Main/<name>.txt`` that are not blank; BOM, CRLF and UTF-16 are understood.

    Raises:
        DataError: if the list is missing (the splits there are get named), is no text, or is empty.
    """
    relative = f"ImageSets/Main/{name}.txt"
    shown = folder.path / relative
    try:
        data = folder.open(relative, MAX_LIST_BYTES)
        text = data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except RefusedFile as refused:
        splits = ", ".join(list_splits(folder.path.parent, folder.year)[:20])
        made = f"none; `focalbench data split {shlex.quote(str(folder.path.parent))}` makes them"
        raise DataError(f"{shown}: {refused}; splits found for {folder.year}: {splits or made}") from None
    except UnicodeDecodeError:
        raise DataError(f"{shown}: is not text in UTF-8 or UTF-16") from None
    lines = [stripped for line in text.splitlines() if (stripped := line.strip("\0 \t\r\n\v\f"))]
    if not lines:
        raise DataError(f"{shown}: lists no image")
    if len(lines) > MAX_LIST_LINES:
        raise DataError(f"{shown}: has {len(lines):,} lines, more than the {MAX_LIST_LINES:,} accepted")
    return lines


def split_line(line: str, folder: YearFolder) -> str:
    """Takes the image id from a line: per-class lists add a column -1, 0 or 1, which is no part of it.

    An id may itself end in " 1": the whole line is taken where a file of that name exists.
    """
    name = normalised(line)
    if name in folder.images or name in folder.annotations:
        return name
    return re.sub(r"\s+[+-]?[01]$", "", name)


@dataclass(frozen=True)
class NearNames:
    """Finds the image that a line of a list means though it says it otherwise."""

    folder: YearFolder
    _loose: dict[str, str] = field(default_factory=dict, repr=False)

    def find(self, line: str) -> tuple[str, str] | None:
        """Looks for an image whose name ``line`` is but for something that lists have no use for.

        Returns:
            what is wrong (``with an ending``), and the name to write; None where no image is meant.
        """
        if ".." in line.replace("\\", "/").split("/"):
            return None
        kinds: list[str] = []
        name = normalised(line)
        for kind, pattern in _SLIPS.items():
            shorter = pattern.sub("", name)
            if shorter and shorter != name:
                kinds, name = [*kinds, kind], shorter
                if name in self.folder.images:
                    return " and ".join(kinds), name
        if not self._loose:
            for image_id in reversed(self.folder.images):
                for loose in (image_id.casefold(), _without_zeros(image_id)):
                    self._loose[loose] = image_id
        for loose in (name.casefold(), _without_zeros(name)):
            meant = self._loose.get(loose)
            if meant is not None:
                same_digits = meant.casefold() == name.casefold()
                return " and ".join([*kinds, "in another case" if same_digits else "with other zeros"]), meant
        return None


_SLIPS = {
    "in quotes": re.compile(r"""^["'](?=.*["'],?;?$)|["'](?=,?;?$)"""),
    "with a comma": re.compile(r"[,;]$"),
    "with further columns": re.compile(r"[ \t,;].*$"),
    "with a folder": re.compile(r"^.*[/\\](?=[^/\\])"),
    "with an ending": re.compile(r"\.(jpe?g|png|xml|txt|bmp|tiff?|webp)$", re.IGNORECASE),
}
"""What is wrong -> what must go, tried one after the other."""


def _without_zeros(name: str) -> str:
    """``name`` without zeros in front of its numbers, in no case."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", name).casefold()


def find_id_fault(image_id: str) -> str | None:
    """Says why ``image_id`` must not become part of a path, or returns None."""
    if "/" in image_id or "\\" in image_id or image_id in {".", ".."} or image_id.startswith("../"):
        return "an image id is a bare file name, without folders"
    if len(image_id) > MAX_ID_LENGTH:
        return f"the image id has {len(image_id)} characters, more than {MAX_ID_LENGTH}"
    if any(ord(character) < 32 for character in image_id):
        return "the image id holds control characters"
    return None
