"""``data split``: lists of images to train on and to measure on."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from focalbench import console
from focalbench.cli.config import AsJson, DataRoot
from focalbench.errors import DataError

if TYPE_CHECKING:
    from focalbench.data.splitting import Division

_MOST_CLASSES = 100


def split(
    root: DataRoot,
    test: Annotated[float, typer.Option("--test", help="Share of the images for test.txt, above 0 and below 1.")] = 0.2,
    val: Annotated[float, typer.Option("--val", help="Share for val.txt; 0: trainval.txt and test.txt only.")] = 0.0,
    group_by: Annotated[
        str | None,
        typer.Option(
            "--group-by",
            metavar="REGEX",
            help="Keep images together whose names agree in its first group, or in the match: scene, video, patient.",
        ),
    ] = None,
    stratify: Annotated[
        bool, typer.Option("--stratify", help="Spread the classes evenly, with rare ones in every list.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the division; equal seeds give equal lists.")] = 0,
    year: Annotated[
        str | None, typer.Option("--year", help="Year of VOC<year>. Default: the only one there is.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="LIST", help="Divide the images of this list. Default: all annotated images."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Divide a data set: write ImageSets/Main/trainval.txt and test.txt, or train, val and test with --val.

    An existing list is never overwritten. Images without an annotation file are left out: they are not known to be
    empty.
    """
    from focalbench.data.splitting import divide_data, write_lists

    shares = _shares(test, val)
    division = divide_data(root, shares, year=year, group_by=group_by, stratify=stratify, seed=seed, source=source)
    paths = write_lists(root, division)
    if as_json:
        console.print_json(_document(division, seed) | {"paths": [str(path) for path in paths]})
        return
    _print_division(division)
    for kind, names in list(division.missing.items())[:5]:
        console.warn(f"class {kind!r} has no objects in {' and '.join(names)}{'' if stratify else '; see --stratify'}")
    console.print_text(f"wrote {', '.join(map(str, paths))}\nnext:  focalbench init {shlex.quote(str(root))}")


def _shares(test: float, val: float) -> dict[str, float]:
    if not 0 < test < 1:
        raise DataError(f"--test {test:g}: a share above 0 and below 1 is needed, such as 0.2")
    if not 0 <= val < 1 or test + val >= 1:
        raise DataError(f"--val {val:g}: together with --test {test:g}, the share must leave images to train on")
    rest = 1 - test - val
    return {"train": rest, "val": val, "test": test} if val else {"trainval": rest, "test": test}


def _print_division(division: Division) -> None:
    names = list(division.lists)
    total = sum(map(len, division.lists.values()))
    sides = []
    for name, ids in division.lists.items():
        number = division.num_groups[name] if division.num_groups is not None else None
        groups = "" if number is None else f" in {number:,} group{'s'[: number != 1]}"
        sides.append(f"{name} {console.counted(len(ids), 'image')} ({100 * len(ids) / total:.1f} %){groups}")
    classes = sorted(
        {kind for counts in division.images_of.values() for kind in counts},
        key=lambda kind: (-sum(counts[kind] for counts in division.objects_of.values()), kind),
    )
    columns = ["class", *(f"{name} {what}" for name in names for what in ("images", "objects"))]
    rows = [
        (kind, *(counts[name][kind] for name in names for counts in (division.images_of, division.objects_of)))
        for kind in classes[:_MOST_CLASSES]
    ]
    left_out = [f"left out: {count:,} {what}" for what, count in division.left_out.items()]
    console.print_table(columns, rows, title="; ".join(sides), note="\n".join(left_out) or None)


def _document(division: Division, seed: int) -> dict[str, object]:
    return {
        "year": division.year,
        "seed": seed,
        "lists": {name: len(ids) for name, ids in division.lists.items()},
        "images": division.images_of,
        "objects": division.objects_of,
        "groups": division.num_groups,
        "left_out": division.left_out,
        "missing": division.missing,
    }
