"""Remembers which code a picture of docs/images was made with, so that a test can say when one has grown old.

    python scripts/picture_record.py                       # lists the pictures that are older than their code
    python scripts/picture_record.py --looked-at NAME...   # these still show what the code shows today
    python scripts/picture_record.py --looked-at NAME --shows predictions      # one that was made by hand

docs/images/code.json has an entry for each picture: what it shows, and a digest of the code that draws that. The
scripts that make pictures write the entries themselves.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
_RECORD = "code.json"
_PACKAGE = ROOT / "focalbench"
CODE = {
    "board": ("board", "tracking", "analysis/tables.py", "analysis/formats.py"),
    "board images": ("figures", "tracking/tensorboard.py"),
    "report": ("report", "analysis/tables.py", "analysis/formats.py"),
    "figures": ("report/paper_figures.py", "report/curves.py", "analysis/formats.py"),
    "hard negatives": ("report/analysis.py", "figures/detections.py", "figures/palette.py", "figures/lettering.py"),
    "predictions": ("figures/detections.py", "figures/palette.py", "figures/lettering.py"),
    "status": ("cli/status.py", "progress/rows.py"),
}
"""What a picture may show -> files and folders of the package that decide how it looks."""


def digest(shows: str) -> str:
    """Returns the digest of all code that draws what is named; nothing but the files' names and content counts."""
    found = hashlib.sha256()
    for path in sorted(_files(CODE[shows])):
        found.update(f"{path.relative_to(_PACKAGE).as_posix()}\0".encode())
        found.update(path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def _files(places: Iterable[str]) -> Iterable[Path]:
    for place in places:
        path = _PACKAGE / place
        assert path.exists(), f"{place}: no such file"
        yield from (file for file in path.rglob("*") if file.suffix in {".py", ".css", ".js", ".html"})
        if path.is_file():
            yield path


def read_record() -> dict[str, dict[str, str]]:
    """Returns what is written down of each picture, by its name: what it shows, and the digest of that time."""
    path = IMAGES / _RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def record(picture: Path, shows: str) -> None:
    """Writes down that ``picture`` was made just now; one outside docs/images is nobody's concern."""
    if picture.resolve().parent == IMAGES:
        _write(read_record() | {picture.name: {"shows": shows, "code": digest(shows)}})


def outdated() -> list[str]:
    """Returns the pictures whose code has changed since, or that are gone."""
    return [
        name
        for name, entry in read_record().items()
        if entry["code"] != digest(entry["shows"]) or not (IMAGES / name).exists()
    ]


def _write(entries: dict[str, dict[str, str]]) -> None:
    there = {name: entry for name, entry in sorted(entries.items()) if (IMAGES / name).exists()}
    (IMAGES / _RECORD).write_text(json.dumps(there, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Lists old pictures, or writes down that some are still right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--looked-at", nargs="+", metavar="NAME", help="pictures that were looked at and are right")
    parser.add_argument("--shows", choices=CODE, help="whose code they show [default: as before]")
    options = parser.parse_args()
    known = read_record()
    if options.shows and not options.looked_at:
        parser.error("--shows is about the pictures of --looked-at")
    for name in options.looked_at or ():
        if not (IMAGES / name).is_file():
            parser.error(f"{name}: no such picture in {IMAGES}")
        if not options.shows and name not in known:
            parser.error(f"{name}: new; say with --shows what it shows")
    for name in options.looked_at or ():
        record(IMAGES / name, options.shows or known[name]["shows"])
    known = read_record()
    for name in outdated():
        print(f"{name}: older than the code of '{known[name]['shows']}' ({', '.join(CODE[known[name]['shows']])})")


if __name__ == "__main__":
    main()
