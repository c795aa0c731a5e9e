"""`bench quality`: the time from nothing to a detector of a given mAP, beside what else trains one on the same cores.

Rules, the same for every contestant:

- It trains whole trainings, each with its complete schedule of the learning rate, on a ladder of lengths, each twice as
  long as the one before. The time to an mAP is that of the shortest training on the ladder that reached it.
- Each training is a process of its own with all cores. Its clock runs from the start of the process (imports, reading
  and decoding of images) to the end of training. Evaluation is not on it, but for focalbench's own, which `focalbench
  run` does not tell apart; its check of the data, checkpoints and logs are on it too.
- Detections on the same images, with the same least score, suppression and largest number, are scored by
  ``focalbench.metrics.voc``.
- It climbs until it has reached the highest level, or until the next training would take longer than the budget.

Contestants: focalbench with what ``focalbench init --from-scratch`` writes for the data set; torchvision's RetinaNet
with the same layers, and on ResNet-18 (``torchvision_run``); Ultralytics' YOLO11n where that package is installed
(``ultralytics_run``). All from random weights.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from focalbench.benchmarks.process import call_module
from focalbench.boxes.voc import continuous_from_voc
from focalbench.config.load import load_config
from focalbench.config.model import RetinaNetConfig
from focalbench.config.schema import ExperimentConfig
from focalbench.data.synthetic import synthesize
from focalbench.data.voc import Record, VocSplit, join_objects, read_records
from focalbench.devices import resolve_device, resolve_precision
from focalbench.errors import FocalbenchError
from focalbench.experiment.locations import canvas_size, class_rule, class_setting, data_location
from focalbench.metrics.protocols import PROTOCOLS
from focalbench.models.retinanet import head_settings
from focalbench.records.reader import read_trials
from focalbench.runtime import num_cores

OURS, YOLO = "focalbench", "Ultralytics YOLO11n"
SAME_SIZE, RESNET18 = "torchvision, same size", "torchvision, ResNet-18"
LEVELS, BUDGET = (0.5, 0.7, 0.8), 300.0
FIRST_STEPS = 100
FIRST_STEPS_SLOW = 25
"""Of a network whose step takes many times as long: a first training that fits into the budget."""
NUM_LOADERS = 1
"""Processes that augment beside a torchvision training."""
_GRACE = 300.0  # seconds beyond the budget, for an evaluation, before a process is ended
Say = Callable[[str], None]


@dataclass(frozen=True)
class Training:
    """One whole training of a contestant.

    Attributes:
        steps: its length.
        seconds: on the clock.
        mean_ap: what it reached, in [0, 1].
    """

    steps: int
    seconds: float
    mean_ap: float


@dataclass(frozen=True)
class Contestant:
    """Who trains.

    Attributes:
        first_steps: the ladder's first length.
        train: takes a number of steps, an empty folder and the seconds after which to give up.
    """

    name: str
    first_steps: int
    train: Callable[[int, Path, float], Training]


def bench_quality(
    root: Path | None = None,
    *,
    train: Sequence[str] = (),
    val: Sequence[str] = (),
    levels: Sequence[float] = LEVELS,
    budget: float = BUDGET,
    device: str = "auto",
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Measures the time to each mAP of ``levels``.

    Args:
        root: a data set in VOC's layout; None: a generated one.
        train, val: splits as YEAR/SPLIT; empty: those that ``focalbench init`` finds.
        levels: mAP by the protocol that ``init`` writes, in (0, 1].
        budget: seconds that the longest training of a contestant may take; all of its trainings together take less
            than twice as long.
        device: auto | cpu | cuda | cuda:N.
        say: told about each training.

    Returns:
        ``{"device", "precision", "threads", "load_average", "data": {...}, "levels", "budget", "contestants": [{"name",
        "trainings": [{"steps", "seconds", "mean_ap"}], "seconds_to": [of each level, or None], "failed": why it trains
        no further, or None}], "ratios": [of each level: {"peer", "ratio"}: the best peer's seconds over ours; None
        where either has none]}``.

    Raises:
        DataError: for faults of the data set.
        ConfigError: for a device that is not there.
        FocalbenchError: when focalbench itself cannot train.
    """
    where, load, levels = resolve_device(device), os.getloadavg()[0], sorted(levels)
    with tempfile.TemporaryDirectory(prefix="focalbench-bench-") as name:
        folder = Path(name)
        case = _Case(folder, root or synthesize(folder / "set"), train, val, device)
        say(f"{case.facts['train_images']} images to train on, {case.facts['val_images']} to evaluate on")
        found = [climb(one, folder, levels[-1], budget, say) for one in _contestants(case)]
    if not found[0]["trainings"]:
        raise FocalbenchError(f"bench quality: {found[0]['failed']}")
    for entry in found:
        entry["seconds_to"] = [seconds_to(level, entry["trainings"]) for level in levels]
        entry["trainings"] = [asdict(training) for training in entry["trainings"]]
    return {
        "device": str(where),
        "precision": str(resolve_precision("auto", where)).removeprefix("torch."),
        "threads": num_cores(),
        "load_average": load,
        "data": case.facts,
        "levels": list(levels),
        "budget": budget,
        "contestants": found,
        "ratios": ratios(found),
    }


def climb(contestant: Contestant, folder: Path, highest: float, budget: float, say: Say) -> dict[str, Any]:
    """Returns ``{"name", "trainings": [Training], "failed"}`` of a contestant that climbs its ladder."""
    done: list[Training] = []
    failed: str | None = None
    while failed is None and (steps := next_steps(done, contestant.first_steps, highest, budget)) is not None:
        own = folder / f"{contestant.name.replace(' ', '-')}-{steps}"
        own.mkdir()
        try:
            done.append(contestant.train(steps, own, budget + _GRACE))
        except FocalbenchError as fault:
            failed = str(fault)
            say(f"{contestant.name}: {failed}")
        else:
            say(f"{contestant.name}: {steps} steps, {done[-1].seconds:.0f} s, mAP {100 * done[-1].mean_ap:.1f}")
    return {"name": contestant.name, "trainings": done, "failed": failed}


def next_steps(done: Sequence[Training], first: int, highest: float, budget: float) -> int | None:
    """Returns the length of the next training, None where the ladder ends: ``highest`` is reached, or twice the last
    time would exceed ``budget``.
    """
    if not done:
        return first
    last = done[-1]
    return None if last.mean_ap >= highest or 2 * last.seconds > budget else 2 * last.steps


def seconds_to(level: float, trainings: Sequence[Training]) -> float | None:
    """Returns the seconds of the shortest of ``trainings``, in rising length, that reached ``level``."""
    return next((training.seconds for training in trainings if training.mean_ap >= level), None)


def ratios(contestants: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | None]:
    """Returns for each level who of all but the first contestant was there soonest, and by how much later than the
    first; None where the first or all others never were.
    """
    found: list[dict[str, Any] | None] = []
    for index, own in enumerate(contestants[0]["seconds_to"]):
        peers = [(seconds, c["name"]) for c in contestants[1:] if (seconds := c["seconds_to"][index]) is not None]
        best = min(peers, default=None)
        found.append(None if own is None or best is None else {"peer": best[1], "ratio": best[0] / own})
    return found


class _Case:
    """The data set, what ``focalbench init --from-scratch`` writes for it, and what all contestants are told."""

    def __init__(self, folder: Path, root: Path, train: Sequence[str], val: Sequence[str], device: str) -> None:
        self.device, self.environment = device, _environment(device)
        self.path = folder / "quality.yaml"
        options = ["--from-scratch", "--no-timing", "--output", str(self.path)]
        call_module(["focalbench", "init", str(root), *options], self.environment)
        given = {"data.train": train, "data.val": val}
        self.overrides = [f"{key}={json.dumps(list(splits))}" for key, splits in given.items() if splits]
        self.overrides += ["sweep=null", "eval.every=null", f"run.threads={num_cores()}"]
        self.config = load_config(self.path, self.overrides).config
        where, learnt, held_out = data_location(self.config)
        self.train = read_records(where, learnt, class_setting(self.config), class_rule(self.config))
        self.val = read_records(where, held_out, self.train.classes, class_rule(self.config))
        self.facts = {
            "root": str(root),
            "train": list(learnt),
            "val": list(held_out),
            "train_images": len(self.train.records),
            "val_images": len(self.val.records),
            "classes": len(self.train.classes),
            "canvas": list(canvas_size(self.config)),
            "protocol": self.config.eval.protocol,
        }

    def score(self, detections: Mapping[str, Any]) -> float:
        """Returns the mAP of flat detections on the evaluation images."""
        protocol = PROTOCOLS[self.config.eval.protocol]
        truth = join_objects(self.val.records)
        return float(protocol.score(detections, truth, num_classes=len(self.train.classes))["map"])


def _environment(device: str) -> dict[str, str]:
    """That of the processes: all cores, and no GPU where the CPU is asked for, or ``init`` would write for the GPU."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return environment | ({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {})


def _contestants(case: _Case) -> list[Contestant]:
    model = case.config.model
    assert isinstance(model, RetinaNetConfig)
    network = request_network(model)
    contestants = [
        Contestant(OURS, FIRST_STEPS, lambda *rung: _train_ours(case, *rung)),
        Contestant(SAME_SIZE, FIRST_STEPS, lambda *rung: _train_peer(case, "torchvision_run", network, *rung)),
    ]
    if model.backbone != "resnet18":
        slow = FIRST_STEPS_SLOW
        contestants.append(Contestant(RESNET18, slow, lambda *rung: _train_peer(case, "torchvision_run", None, *rung)))
    if importlib.util.find_spec("ultralytics") is not None:
        train = lambda *rung: _train_peer(case, "ultralytics_run", None, *rung)  # noqa: E731
        contestants.append(Contestant(YOLO, FIRST_STEPS, train))
    return contestants


def _train_ours(case: _Case, steps: int, folder: Path, limit: float) -> Training:
    """``focalbench run`` with an empty image cache."""
    overrides = [*case.overrides, f"optim.steps={steps}"]
    command = ["focalbench", "run", str(case.path), "--out", str(folder / "runs"), "--device", case.device, "--json"]
    command += [word for override in overrides for word in ("--set", override)]
    began = time.perf_counter()
    call_module(command, case.environment | {"FOCALBENCH_CACHE": str(folder / "cache")}, limit=limit)
    seconds = time.perf_counter() - began
    (trial,) = read_trials([folder / "runs"])
    return Training(steps, seconds, trial.result.mean_ap or 0.0)


def _train_peer(
    case: _Case, module: str, network: Mapping[str, Any] | None, steps: int, folder: Path, limit: float
) -> Training:
    """A module of this package that reads a request and writes detections."""
    asked = request(case.config, case.train, case.val, network) | {
        "steps": steps,
        "device": case.device,
        "folder": str(folder),
        "output": str(folder / "found.npz"),
    }
    began = time.perf_counter()
    output = call_module([f"focalbench.benchmarks.{module}"], case.environment, json.dumps(asked), limit=limit)
    seconds = time.perf_counter() - began - json.loads(output.splitlines()[-1])["evaluation_s"]
    with np.load(asked["output"]) as detections:
        return Training(steps, seconds, case.score(dict(detections)))


def request(
    config: ExperimentConfig, train: VocSplit, val: VocSplit, network: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Returns what a contestant in a process of its own is told, but for steps, device and where to write, as JSON can
    hold it.

    ``train`` and ``val`` are lists of images as ``torchvision_run.DecodedOnce`` takes them; difficult objects are
    left out.
    """
    scoring = config.eval
    return {
        "train": [_entry(record) for record in train.records],
        "val": [_entry(record) for record in val.records],
        "classes": list(train.classes),
        "canvas": list(canvas_size(config)),
        "batch_size": min(config.optim.batch_size, len(train.records)),
        "network": network,
        "detection": {
            "score_thresh": scoring.score_thresh,
            "nms_thresh": scoring.nms_thresh,
            "detections_per_img": scoring.max_detections,
            "topk_candidates": scoring.top_k,
        },
        "threads": num_cores(),
        "num_loaders": NUM_LOADERS,
    }


def request_network(model: RetinaNetConfig) -> dict[str, Any]:
    """Returns the layers and anchors of ``model`` as ``torchvision_run.build`` takes them."""
    asked = ("fpn_channels", "num_levels", "head_convs", "anchor_scale", "anchor_octaves")
    head = head_settings(model.backbone, **{key: getattr(model, key) for key in asked})
    return asdict(head) | {"backbone": model.backbone, "anchor_ratios": list(model.anchor_ratios)}


def _entry(record: Record) -> dict[str, Any]:
    kept = ~record.difficult
    return {
        "path": str(record.image_path.resolve()),
        "orientation": record.orientation,
        "width": record.width,
        "height": record.height,
        "boxes": continuous_from_voc(record.boxes[kept]).tolist(),
        "labels": record.labels[kept].tolist(),
    }
