"""``focalbench data``: check, count and generate data sets in VOC's layout; the other commands lie beside it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from focalbench import console
from focalbench.cli import anchors, download, import_data, split
from focalbench.cli.command import App
from focalbench.cli.config import AsJson, DataRoot, TrainSplits, ValSplits
from focalbench.errors import DataError

if TYPE_CHECKING:
    from focalbench.data.stats import SplitStats

# Warnings and facts beside them keep a report with errors within 20 lines.
_ERROR_LINES = 16
_WARNING_LINES = 20
_FACTS = ("train_images", "val_images", "train_objects", "val_objects")

ClassOption = Annotated[
    str | None,
    typer.Option("--classes", metavar="a,b,c", help="Class names, or voc. Default: the names found in training."),
]

IgnoreOption = Annotated[
    bool, typer.Option("--ignore-other-classes", help="Leave out other classes, as data.other_classes: ignore does.")
]

data_app = App(name="data", help="Import, split, check, count, generate and download data sets.", no_args_is_help=True)


def _parse_classes(text: str | None) -> Literal["auto", "voc"] | tuple[str, ...]:
    if text is None or text.strip() == "auto":
        return "auto"
    if text.strip() == "voc":
        return "voc"
    names = tuple(name.strip() for name in text.split(","))
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not all(names) or repeated:
        raise DataError(f"--classes: {'names ' + ', '.join(repeated) + ' twice' if repeated else 'has an empty name'}")
    return names


@data_app.command()
def check(
    root: DataRoot,
    train: TrainSplits = None,
    val: ValSplits = None,
    classes: ClassOption = None,
    ignore_other_classes: IgnoreOption = False,
    as_json: AsJson = False,
) -> None:
    """Read every image and annotation and list all problems at once; exit code 2 if any is an error.

    Without --train and --val: trainval and test of every year, else train and val.
    """
    from focalbench.config.schema import EvalConfig
    from focalbench.data.check import CheckReport, check_data
    from focalbench.data.faults import Fault, raise_for_faults, summarise
    from focalbench.data.files import default_splits, other_splits
    from focalbench.data.voc import ClassRule
    from focalbench.experiment.limits import too_few_detections

    names = _parse_classes(classes)
    try:
        chosen = (tuple(train or ()), tuple(val or ())) if train or val else default_splits(root)
        report = check_data(root, *chosen, names, rule=ClassRule(ignore=ignore_other_classes))
    except DataError as error:
        report = CheckReport((Fault("bad-root", str(root), None, str(error)),), (), dict.fromkeys(_FACTS, 0), ())
        if not as_json:
            raise
    if as_json:
        console.print_json(report.to_json())
        raise typer.Exit(2 if report.errors else 0)
    if report.facts:
        sides = zip(("train", "val"), chosen, strict=True)
        console.print_text("\n".join(_describe(side, splits, report.facts) for side, splits in sides if splits))
        if not (train or val) and (others := other_splits(root, [*chosen[0], *chosen[1]])):
            console.print_text(f"not read: {', '.join(others[:10])}{_how_to_include(root, chosen, others)}")
    if report.warnings:
        limit = 2 if report.errors else _WARNING_LINES
        console.print_text("\n".join(summarise(report.warnings, "warning", limit)))
    raise_for_faults(report.errors, _ERROR_LINES)
    if sentence := too_few_detections(EvalConfig().max_detections, report.sizes[1]):
        console.warn(sentence)
    count = len(report.classes)
    console.print_text(f"no errors; {count} class{'' if count == 1 else 'es'}: {', '.join(report.classes)}")


def _how_to_include(root: Path, chosen: Sequence[Sequence[str]], others: Sequence[str]) -> str:
    """The options that evaluate on one more list, which must not hold an image that is read already."""
    from focalbench.data.files import overlap

    for other in others:
        with suppress(DataError):  # a list that cannot be read is none to include
            if not overlap(root, other, [*chosen[0], *chosen[1]]):
                options = [f"--train {one}" for one in chosen[0]] + [f"--val {one}" for one in (*chosen[1], other)]
                return f"; include with {' '.join(options)}"
    return ""


def _describe(side: str, splits: tuple[str, ...], facts: dict[str, int]) -> str:
    difficult = facts[f"{side}_difficult"]
    apart = f" and {difficult:,} difficult" if difficult else ""
    images, objects = (console.counted(facts[f"{side}_{noun}s"], noun) for noun in ("image", "object"))
    return f"{side} ({', '.join(splits)}): {images}, {objects}{apart}"


@data_app.command()
def stats(
    root: DataRoot,
    split: Annotated[
        list[str] | None,
        typer.Option(
            "--split", metavar="YEAR/SPLIT", help="Split to count; may be repeated. Default: all splits used."
        ),
    ] = None,
    classes: ClassOption = None,
    as_json: AsJson = False,
) -> None:
    """Count classes, imbalance, object sizes and image sizes of each split."""
    from focalbench.data.files import default_splits
    from focalbench.data.stats import measure_records
    from focalbench.data.voc import read_records

    names = _parse_classes(classes)
    train, val = default_splits(root) if not split else (tuple(split), ())
    found: dict[str, SplitStats] = {}
    for name in (*train, *val):
        part = read_records(root, (name,), names)
        found[name] = measure_records(part.records, part.classes)
    if as_json:
        console.print_json({"splits": {name: entry.to_json() for name, entry in found.items()}})
        return
    for name, entry in found.items():
        _print_stats(name, entry)


def _print_stats(name: str, entry: SplitStats) -> None:
    mean, median, largest = entry.objects_per_image
    sizes = ", ".join(f"{width} x {height} ({count})" for (width, height), count in entry.image_sizes[:3])
    more = f" and {len(entry.image_sizes) - 3} other sizes" if len(entry.image_sizes) > 3 else ""
    lines = [
        f"images: {sizes}{more}; {entry.num_empty} without objects",
        f"objects per image: mean {mean:.1f}, median {median:g}, most {largest}",
        f"imbalance: {entry.imbalance:.1f} to 1 between the most and the least frequent class",
        f"small / medium / large (32 and 96 px): {entry.num_small} / {entry.num_medium} / {entry.num_large}",
    ]
    for title, values in (
        ("side, px", entry.side),
        ("side, share of the image's", entry.relative_side),
        ("width / height", entry.aspect),
    ):
        lines.append(f"{title}: " + ", ".join(f"{value:.3g}" for value in values) + " (5, 25, 50, 75, 95 %)")
    rows = [
        (
            item.name,
            item.num_objects,
            f"{100 * item.share:.1f}%",
            item.num_difficult,
            item.num_images,
            f"{item.median_side:.0f}" if item.num_objects else "-",
        )
        for item in sorted(entry.classes, key=lambda item: -item.num_objects)
    ]
    columns = ("class", "objects", "share", "difficult", "images", "median side, px")
    console.print_table(
        columns, rows, title=f"{name}: {console.counted(entry.num_images, 'image')}", note="\n".join(lines) + "\n"
    )


@data_app.command()
def synthesize(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder in which VOCdevkit is created.", show_default=False)
    ],
    num_train: Annotated[int, typer.Option(min=1, max=100_000, help="Images in split train.")] = 500,
    num_val: Annotated[int, typer.Option(min=1, max=100_000, help="Images in split val.")] = 150,
    image_size: Annotated[int, typer.Option(min=32, max=1024, help="Side in pixels.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the set; equal seeds give equal pixels.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Generate a small imbalanced set of shapes: DIR/VOCdevkit/VOC2007 with the splits train and val."""
    from focalbench.data.synthetic import synthesize as generate

    root = generate(folder, num_train, num_val, image_size, seed)
    if as_json:
        facts = {"root": str(root), "train_images": num_train, "val_images": num_val, "image_size": image_size}
        console.print_json(facts | {"seed": seed})
        return
    console.print_text(f"{root}: {console.counted(num_train, 'image')} in 2007/train, {num_val} in 2007/val")


data_app.command("import")(import_data.import_data)
data_app.command()(split.split)
data_app.command()(anchors.anchors)
data_app.command()(download.download)
