"""``init``: a commented configuration fitted to a data set and to this machine."""

from __future__ import annotations

import math
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from focalbench import console
from focalbench.cli.config import DataRoot
from focalbench.errors import DataError, StorageError
from focalbench.runtime import num_cores

if TYPE_CHECKING:
    from focalbench.data.voc import Record

CPU_AREA = 240 * 320
"""Canvas pixels that two cores train on in minutes."""
GPU_AREA = 384 * 512
EPOCHS = 27
"""Passes over the training images: 500 steps of 16 for 300 images, as in experiments/bccd.yaml."""
MIN_STEPS, MAX_CPU_STEPS = 500, 6000
MAX_PRIORS = 5
"""Priors of the published YOLOv2."""


@dataclass(frozen=True)
class _Fit:
    """What the configuration is made from."""

    name: str
    root: str
    train: str
    val: str
    classes: tuple[str, ...]
    train_records: Sequence[Record]
    num_val: int
    has_gpu: bool


def init(
    root: DataRoot,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="File to write; - is stdout. Default: the data set's name."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
) -> None:
    """Write a commented configuration fitted to a data set and this machine."""
    fit = _examine(root)
    text = configuration(fit)
    if str(output) == "-":
        console.print_text(text)
        return
    path = output if output is not None else Path(f"{fit.name}.yaml")
    _write(path, text, force)
    shown = shlex.quote(str(path))
    console.print_text(f"wrote {path}\nnext:  focalbench run {shown}\nthen:  focalbench compare runs/{fit.name}")


def _write(path: Path, text: str, force: bool) -> None:
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise StorageError(f"{path}: exists; --force replaces it, -o names another file") from None
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from None


def _examine(root: Path) -> _Fit:
    import torch

    from focalbench.data.voc import read_records

    root = _voc_root(root)
    train, val = _choose_splits(root)
    training = read_records(root, (train,), "auto")
    held_out = read_records(root, (val,), training.classes)
    if all(record.difficult.all() for record in training.records):
        raise DataError(f"{root}: {train} has no object to learn from (difficult ones do not count)")
    folder = root.resolve()
    name = folder.parent.name if folder.name.lower() in {"vocdevkit", "data"} else folder.name
    name = re.sub(r"[^A-Za-z0-9._+=-]+", "_", name).strip("._-+=") or "experiment"
    return _Fit(
        name=name[:60],
        root=str(root),
        train=train,
        val=val,
        classes=training.classes,
        train_records=training.records,
        num_val=len(held_out.records),
        has_gpu=torch.cuda.is_available(),
    )


def _voc_root(root: Path) -> Path:
    """The folder that holds VOC2007 and the like, when ``root`` is it, one of them, or the folder around it."""
    from focalbench.data.files import list_years

    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    around = [root.parent] if (root / "ImageSets").is_dir() else []
    for candidate in (root, root / "VOCdevkit", *around):
        years = list_years(candidate) if candidate.is_dir() else []
        if any((candidate / f"VOC{year}" / "ImageSets").is_dir() for year in years):
            return candidate
    raise DataError(f"{root}: holds no folder VOC2007, VOC2012, ... with JPEGImages, Annotations and ImageSets/Main")


def _choose_splits(root: Path) -> tuple[str, str]:
    """What to train and to evaluate on: trainval and test where both are there, else train and val."""
    from focalbench.data.files import list_splits, list_years

    splits = {year: list_splits(root, year) for year in list_years(root)}
    for pair in (("trainval", "test"), ("train", "test"), ("train", "val")):
        for year, names in splits.items():
            if set(pair) <= set(names):
                return f"{year}/{pair[0]}", f"{year}/{pair[1]}"
    found = ", ".join(f"{year}/{name}" for year, names in splits.items() for name in names) or "none"
    raise DataError(f"{root}: needs the lists trainval.txt and test.txt, or train.txt and val.txt; found: {found}")


def canvas(widths: Sequence[int], heights: Sequence[int], area: int) -> tuple[int, int]:
    """Returns the canvas (height, width): the images' median aspect on about ``area`` pixels, in multiples of 16."""
    aspect = min(3.0, max(1 / 3, median(width / height for width, height in zip(widths, heights, strict=True))))
    height = max(64, round(math.sqrt(area / aspect) / 16) * 16)
    width = max(64, round(height * aspect / 16) * 16)
    return height, width


def configuration(fit: _Fit) -> str:
    """Returns the text of the configuration, as YAML."""
    widths = [record.width for record in fit.train_records]
    heights = [record.height for record in fit.train_records]
    size = canvas(widths, heights, GPU_AREA if fit.has_gpu else CPU_AREA)
    steps = max(MIN_STEPS, int(round(EPOCHS * len(widths) / 16, -2)))
    if not fit.has_gpu:
        steps = min(steps, MAX_CPU_STEPS)
    cores = num_cores()
    machine = "a GPU" if fit.has_gpu else f"{cores} CPU core{'s'[: cores > 1]}"
    priors, average_iou = _priors(fit.train_records, size)
    return _TEMPLATE.format(
        name=_quoted(fit.name),
        root=_quoted(fit.root),
        all_cores="" if fit.has_gpu or cores == 1 else f" -s run.threads={cores}",
        counts=_class_table(fit.train_records, fit.classes),
        num_train=len(widths),
        num_val=fit.num_val,
        machine=machine,
        train=fit.train,
        val=fit.val,
        height=size[0],
        width=size[1],
        usual=f"{int(median(widths))} x {int(median(heights))}",
        smallest=f"{_small_side(fit.train_records, size):.0f}",
        yolo_height=_multiple_of_32(size[0]),
        yolo_width=_multiple_of_32(size[1]),
        priors=priors,
        average_iou=f"{average_iou:.2f}",
        shown_root=shlex.quote(fit.root),
        backbone="resnet18" if fit.has_gpu else "tiny",
        yolo_backbone="darknet19" if fit.has_gpu else "tiny",
        backbone_note="resnet50 is stronger and slower" if fit.has_gpu else "about 0.6 M parameters, made for a CPU",
        steps=steps,
        every=max(1, round(steps * 16 / len(widths) / 4)),
        epochs=f"{steps * 16 / len(widths):.0f}",
    )


def _quoted(text: str) -> str:
    """``text`` as a YAML scalar: in double quotes unless it is plain beyond doubt."""
    import json

    plain = re.fullmatch(r"[A-Za-z_/.][A-Za-z0-9_/.+-]*", text) and text.lower() not in {"true", "false", "null", "."}
    return text if plain else json.dumps(text, ensure_ascii=False)


def _class_table(records: Sequence[Record], classes: Sequence[str]) -> str:
    """Objects per class as comment lines, most frequent first."""
    counts = Counter(int(label) for record in records for label in record.labels[~record.difficult])
    order = sorted(range(len(classes)), key=lambda label: (-counts[label], label))
    width = max(len(classes[label]) for label in order)
    lines = [f"#   {classes[label].ljust(width)}  {counts[label]:6d}" for label in order[:40]]
    if len(order) > 40:
        lines.append(f"#   ... and {len(order) - 40} more classes")
    return "\n".join(lines)


def _small_side(records: Sequence[Record], size: tuple[int, int]) -> float:
    """Shorter side in canvas pixels that nine of ten objects exceed."""
    from focalbench.boxes.voc import continuous_from_voc

    sides = sorted(
        min((right - left) * size[1] / record.width, (bottom - top) * size[0] / record.height)
        for record in records
        for left, top, right, bottom in continuous_from_voc(record.boxes).tolist()
    )
    return float(sides[len(sides) // 10])


def _multiple_of_32(side: int) -> int:
    return math.ceil(side / 32) * 32


def _priors(records: Sequence[Record], size: tuple[int, int]) -> tuple[str, float]:
    """Prior boxes for YOLOv2 on its canvas as YAML, and their average best IoU."""
    import numpy as np

    from focalbench.boxes.priors import fit_priors
    from focalbench.data.stats import canvas_sizes

    cells = canvas_sizes(records, (_multiple_of_32(size[0]), _multiple_of_32(size[1]))) / 32
    found = fit_priors(cells, min(MAX_PRIORS, len(np.unique(cells, axis=0))))
    return "[" + ", ".join(f"[{width:.2f}, {height:.2f}]" for width, height in found.sizes) + "]", found.average_iou


_TEMPLATE = """\
# Written by `focalbench init` for {machine}. Every key: docs/configuration.md or `focalbench schema`.
# {num_train} training images, {num_val} to evaluate on. Objects to train on, per class:
{counts}
#
#   focalbench run FILE               trains all arms; again: resumes, or skips what is finished
#   focalbench run FILE -s sweep=null{all_cores} trains one detector only
#   focalbench compare runs/{name}

name: {name}
seed: 0

data:
  name: voc
  root: {root}
  train: [{train}]
  val: [{val}]
  classes: auto
  image_size: [{height}, {width}]   # height, width; most images are {usual} (width x height)
  # Nine of ten objects are more than {smallest} px wide and high on it. Which ones the anchors miss, and what helps:
  # focalbench data anchors {shown_root} --image-size {height},{width} -s model.backbone={backbone}

model:
  name: retinanet
  backbone: {backbone}   # {backbone_note}
  prior_prob: 0.01   # null: no prior
  # YOLOv2 instead: replace this section by the line below, and data.image_size by [{yolo_height}, {yolo_width}].
  # Its priors are clustered from the objects, in units of 32 px (average best IoU {average_iou}).
  # {{name: yolov2, backbone: {yolo_backbone}, priors: {priors}}}

loss:
  name: focal
  gamma: 2.0
  alpha: 0.25

optim:
  name: adamw
  lr: 2e-3
  schedule: one_cycle
  warmup_steps: 0.15   # a share of the training
  weight_decay: 0.02
  steps: {steps}   # about {epochs} passes over the training images; more is better and takes longer
  batch_size: 16

eval:
  every: {every}   # epochs; the end is always evaluated
  protocol: voc07
  score_thresh: 0.02
  top_k: 400

sweep:
  seeds: [0, 1, 2]   # six paired seeds are the fewest for a claim
  list:
    - {{name: ce, loss: {{name: ce}}}}
    - {{name: balanced_ce, loss: {{name: balanced_ce, alpha: 0.75}}}}
    - {{name: focal, loss: {{name: focal, gamma: 2.0, alpha: 0.25}}}}
    - {{name: focal_matched, loss: {{name: focal, gamma: 2.0, alpha: 0.25, match_scale: true}}}}
"""
