"""``data import``: a data set of another tool in VOC's layout."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from focalbench import console
from focalbench.cli.config import AsJson
from focalbench.errors import DataError

if TYPE_CHECKING:
    from focalbench.importing.convert import ImportReport

_ERROR_LINES = 18  # the line of what to do and the command's end fit into twenty
_WARNING_LINES = 8
_MOST_CLASSES = 12
_LISTER = "focalbench data import ... --json"


class SourceFormat(StrEnum):
    """Names what can be imported."""

    AUTO = "auto"
    COCO = "coco"
    YOLO = "yolo"
    VOC_FLAT = "voc-flat"
    CVAT = "cvat"
    LABELME = "labelme"


def import_data(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="Folder of the data set, or its annotation file.", show_default=False),
    ],
    root: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="ROOT", help="New folder, in which VOC1 is created.", show_default=False
        ),
    ],
    format: Annotated[
        SourceFormat,
        typer.Option(
            help="coco: JSON of instances. yolo: txt beside data.yaml. voc-flat: images and XML in one folder, or in "
            "train, valid and test. cvat: CVAT for images. labelme: one JSON file per image. auto: detect the format."
        ),
    ] = SourceFormat.AUTO,
    images: Annotated[
        Path | None, typer.Option("--images", metavar="DIR", help="Folder of the images, if they lie elsewhere.")
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy images. Default: hard links, and copies only on another disk.")
    ] = False,
    skip_faulty: Annotated[
        bool,
        typer.Option("--skip-faulty", help="Leave out images with errors. Default: if there are any, import nothing."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a COCO, YOLO, CVAT, labelme or flat VOC data set as ROOT/VOC1, with its splits as lists.

    SOURCE is only read. Images become hard links, which take no space; an image edited in place changes in both
    sets. All errors are listed at once, and then nothing is written. What cannot be carried over is counted.
    """
    from focalbench.importing.convert import import_data as convert

    report = convert(source, root, format.value, images=images, copy=copy, skip_faulty=skip_faulty)
    if as_json:
        console.print_json(report.to_json())
        raise typer.Exit(2 if report.plan.errors else 0)
    if report.plan.errors:
        _refuse(report)
    _print_account(report)
    console.print_text(_next_line(report, root))


def _refuse(report: ImportReport) -> None:
    from focalbench.data.faults import summarise

    lines = summarise(report.plan.errors, "error", _ERROR_LINES, _LISTER)
    hint = "; --skip-faulty leaves out images with errors" if report.plan.can_skip else ""
    raise DataError("\n".join([*lines, f"nothing was imported{hint}"]))


def _print_account(report: ImportReport) -> None:
    from focalbench.data.faults import shorten, summarise

    plan = report.plan
    counts = plan.num_objects
    difficult = f" ({plan.num_difficult:,} difficult)" if plan.num_difficult else ""
    empty = f"; {console.counted(plan.num_empty, 'image')} without objects" if plan.num_empty else ""
    named = [f"{shorten(name, 40)} {counts[name]:,}" for name in plan.classes if counts[name]]
    more = f" and {len(named) - _MOST_CLASSES} more" if len(named) > _MOST_CLASSES else ""
    unused = sum(not counts[name] for name in plan.classes)
    files = [
        console.counted(number, noun, plural)
        for number, noun, plural in (
            (report.files["links"], "hard link", "hard links"),
            (report.files["copies"], "copy", "copies"),
        )
        if number
    ]
    renamed = f"; {len(plan.renamed):,} renamed, see import.json" if plan.renamed else ""
    lines = [
        f"{plan.format}: {console.counted(len(plan.images), 'image')}, "
        f"{console.counted(counts.total(), 'object')}{difficult}{empty}",
        f"classes: {', '.join(named[:_MOST_CLASSES])}{more}" + (f"; {unused} without an object" if unused else ""),
        "lists: " + ", ".join(f"{name} {len(ids):,}" for name, ids in plan.lists.items()),
        f"image files: {', '.join(files)}{renamed}",
    ]
    if plan.left_behind:
        lines.append(
            "not carried over: " + ", ".join(f"{number:,} {what}" for what, number in plan.left_behind.items())
        )
    if plan.left_out:
        lines.append(f"left out: {console.counted(plan.num_left_out, 'image')} with errors")
        lines += summarise(plan.left_out, "error", _WARNING_LINES, _LISTER)
    if plan.warnings:
        lines += summarise(plan.warnings, "warning", _WARNING_LINES, _LISTER)
    console.print_text("\n".join(lines))


def _next_line(report: ImportReport, root: Path) -> str:
    lists, shown = report.plan.lists, shlex.quote(str(root))
    divided = ("trainval" in lists and "test" in lists) or ("train" in lists and ("val" in lists or "test" in lists))
    command = f"focalbench init {shown}" if divided else f"focalbench data split {shown} --test 0.2"
    return f"wrote {report.root / f'VOC{report.year}'}\nnext:  {command}"
