"""A data set written in VOC's layout: built beside its place and moved there by one rename, so all of it or nothing."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from focalbench.data.faults import shorten
from focalbench.errors import BusyError, StorageError
from focalbench.importing.plan import Plan, PlannedImage

YEAR = "VOC1"
REPORT_NAME = "import.json"
_LOCK = "focalbench-import.lock"
# Another file system, a file of somebody else, a file system without hard links, too many of them.
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS}


def require_free(root: Path) -> None:
    """Makes sure that ``root`` is not there, or an empty folder.

    Raises:
        StorageError: if it is anything else.
    """
    try:
        if not root.is_dir() and (root.exists() or root.is_symlink()):
            raise StorageError(f"{shorten(str(root))}: exists and is not a folder; name another one")
        if root.is_dir() and any(root.iterdir()):
            raise StorageError(f"{shorten(str(root))}: is not empty, and nothing is overwritten; name another folder")
    except OSError as error:
        raise StorageError(f"{shorten(str(root))}: cannot be read: {error.strerror}") from None


def write_layout(plan: Plan, root: Path, report: dict[str, Any], *, copy: bool = False) -> dict[str, int]:
    """Writes ``plan`` to ``root/VOC1``, and ``report`` with the counts of files to ``root/import.json``.

    Images become hard links, which take no space and outlive the source; symbolic ones would leave the data set, which
    its reader refuses. Where there can be none (another disk) they are copied.

    Args:
        plan: without errors.
        root: not there, or an empty folder.
        report: a JSON document.
        copy: copy all images.

    Returns:
        how many images are ``links`` and how many ``copies``.

    Raises:
        StorageError: if ``root`` holds something, another import to it is running, or it cannot be written.
    """
    require_free(root)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with _staging_folder(root) as staging:
            built = staging / "root"
            counts = _build(plan, built / YEAR, copy)
            document = json.dumps(report | {"files": counts}, indent=2, allow_nan=False)
            (built / REPORT_NAME).write_text(document + "\n", encoding="utf-8")
            os.rename(built, root)  # fails where the folder is no longer empty
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise StorageError(f"{root}: is no longer empty, and nothing is overwritten") from None
        raise StorageError(f"{root}: cannot be written: {error.strerror or error}") from None
    return counts


@contextmanager
def _staging_folder(root: Path) -> Iterator[Path]:
    """A locked folder beside ``root``, gone afterwards; one that a killed import left is removed first."""
    folder = root.parent / f".{root.name}.importing"
    try:
        folder.mkdir()
    except FileExistsError:
        _remove_stale(folder)
        folder.mkdir()
    with (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_stale(folder: Path) -> None:
    """Removes what an import left, by its lock that nobody holds; an empty folder too: one killed at its very start."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        with suppress(OSError):
            folder.rmdir()
            return
        raise StorageError(f"{folder}: is in the way and is not a focalbench import; move it away") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    except BlockingIOError:
        raise BusyError(f"{folder}: another import to this folder is running; wait for it to end") from None
    finally:
        os.close(descriptor)


def _build(plan: Plan, year: Path, copy: bool) -> dict[str, int]:
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (year / name).mkdir(parents=True)
    counts = {"links": 0, "copies": 0}
    for image in plan.images:
        target = year / "JPEGImages" / image.file_name
        counts["links" if not copy and _link(image.path, target) else "copies"] += 1
        if not target.exists():
            shutil.copyfile(image.path, target)
        (year / "Annotations" / f"{image.image_id}.xml").write_text(annotation(image), encoding="utf-8")
    for name, ids in plan.lists.items():
        text = "".join(f"{image_id}\n" for image_id in ids)
        (year / "ImageSets" / "Main" / f"{name}.txt").write_text(text, encoding="utf-8")
    return counts


def _link(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in _NO_LINK:
            return False
        raise
    return True


def annotation(image: PlannedImage) -> str:
    """Returns the XML of an image; coordinates are whole or have up to four decimals."""
    objects = "".join(
        f"\t<object>\n\t\t<name>{escape(item.name)}</name>\n\t\t<difficult>{item.difficult:d}</difficult>\n\t\t<bndbox>\n"
        + "".join(
            f"\t\t\t<{edge}>{_number(value)}</{edge}>\n"
            for edge, value in zip(("xmin", "ymin", "xmax", "ymax"), item.box, strict=True)
        )
        + "\t\t</bndbox>\n\t</object>\n"
        for item in image.objects
    )
    width, height = image.size
    return (
        f"<annotation>\n\t<folder>{YEAR}</folder>\n\t<filename>{escape(image.file_name)}</filename>\n"
        f"\t<size>\n\t\t<width>{width}</width>\n\t\t<height>{height}</height>\n\t\t<depth>3</depth>\n\t</size>\n"
        f"{objects}</annotation>\n"
    )


def _number(value: float) -> str:
    return f"{round(value, 4) + 0:.11g}"
