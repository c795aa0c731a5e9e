"""`bench sweep`: one call of ``focalbench run`` on several trials against as many trainings the plain way.

The plain way is ``plain_run``: one process after the other, each with all cores, each decoding and augmenting image by
image as its steps ask for them. Network, step and number of steps are the same. Times are wall clock from the start of
the first process to the end of the last one, interpreter and imports included on both sides; focalbench's also hold
the check of the data set, its decoding into an empty cache, one evaluation, logs and checkpoints of every trial.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from focalbench.benchmarks.process import call_module
from focalbench.config.dump import dump_yaml, resolved
from focalbench.config.schema import ExperimentConfig
from focalbench.config.sweep import expand
from focalbench.data.synthetic import CLASSES, synthesize
from focalbench.devices import resolve_device, resolve_precision
from focalbench.launchers.local import slots_of
from focalbench.records.reader import read_trials

OURS, SEPARATE, LOADED = "one sweep", "separate runs", "separate runs, {} loading processes each"
WANTED = 4.0
NUM_TRIALS, STEPS, NUM_TRAIN, NUM_VAL = 6, 120, 128, 16
PHOTO_SIDE = 432  # the pixels of a 500 x 375 photograph, VOC's usual size
_QUALITY = 92


def bench_sweep(
    *,
    device: str = "auto",
    num_trials: int = NUM_TRIALS,
    steps: int = STEPS,
    num_loaders: int = 2,
    trials_per_device: int = 1,
    num_train: int = NUM_TRAIN,
) -> dict[str, Any]:
    """Times the sweep and its yardsticks on a generated set of JPEG files of a photograph's size.

    Args:
        device: auto | cpu | cuda | cuda:N, for both sides.
        num_trials: trainings, at least 2.
        steps: of each training.
        num_loaders: loading processes of the second yardstick; 0 leaves it out.
        trials_per_device: of the sweep, on a GPU.
        num_train: images to train on, at least a batch.

    Returns:
        ``{"device", "cores", "load_average", "precision", "case": {...}, "seconds": {contestant: whole wall clock},
        "step_seconds": {contestant: of these, the steps alone}, "ratios": {yardstick: its seconds over the sweep's},
        "step_ratios", "wanted": {yardstick: float}}``.
    """
    where = resolve_device(device)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="focalbench-bench-") as folder:
        root = write_photographs(Path(folder), num_train, NUM_VAL)
        config = sweep_config(root, num_trials, steps, trials_per_device)
        slots = slots_of(config, device, num_trials)
        whole, alone = _race(config, Path(folder), device, num_loaders, len(slots.devices))
    return {
        "device": str(where),
        "cores": os.cpu_count(),
        "load_average": load,
        "precision": str(resolve_precision("auto", where)).removeprefix("torch."),
        "case": {
            "trials": num_trials,
            "side_by_side": len(slots.devices),
            "steps": steps,
            "batch": config.optim.batch_size,
            "canvas": config.data.image_size,
            "images": num_train,
            "image_side": PHOTO_SIDE,
        },
        "seconds": whole,
        "step_seconds": alone,
        "ratios": {name: value / whole[OURS] for name, value in whole.items() if name != OURS},
        "step_ratios": {name: value / alone[OURS] for name, value in alone.items() if name != OURS},
        "wanted": {SEPARATE: WANTED},
    }


def bench_trials(
    *, device: str = "auto", counts: tuple[int, ...] = (1, 2, 4, 8), steps: int = STEPS, trials_per_device: int = 1
) -> list[dict[str, float]]:
    """Measures how a sweep's time grows with its trials: ``{"trials", "seconds", "seconds_per_trial"}`` each."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="focalbench-bench-") as folder:
        root = write_photographs(Path(folder), NUM_TRAIN, NUM_VAL)
        for count in counts:
            config = sweep_config(root, count, steps, trials_per_device)
            side_by_side = len(slots_of(config, device, count).devices)
            seconds, _ = time_sweep(config, Path(folder) / str(count), device, side_by_side)
            rows.append({"trials": count, "seconds": seconds, "seconds_per_trial": seconds / count})
    return rows


def _race(
    config: ExperimentConfig, folder: Path, device: str, num_loaders: int, side_by_side: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Wall clock and step seconds of all contestants; the sweep in the middle of the runs that it is held against."""
    whole: dict[str, float] = {}
    alone: dict[str, float] = {}
    trials = [trial.config for trial in expand(config)]
    yardsticks = {SEPARATE: 0} | ({LOADED.format(num_loaders): num_loaders} if num_loaders else {})
    half = len(trials) // 2
    for part, ours_next in ((trials[:half], True), (trials[half:], False)):
        for name, loaders in yardsticks.items():
            seconds, in_steps = time_separate(part, device, loaders)
            whole[name] = whole.get(name, 0.0) + seconds
            alone[name] = alone.get(name, 0.0) + in_steps
        if ours_next:
            whole[OURS], alone[OURS] = time_sweep(config, folder / "ours", device, side_by_side)
    return whole, alone


def time_separate(trials: list[ExperimentConfig], device: str, num_loaders: int) -> tuple[float, float]:
    """Returns the seconds of the plain runs of ``trials``, one after the other, and of their steps alone."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}  # all cores
    began, in_steps = time.perf_counter(), 0.0
    for trial in trials:
        request = {
            "config": resolved(trial),
            "classes": sorted(CLASSES),
            "num_loaders": num_loaders,
            "device": device,
        }
        output = call_module(["focalbench.benchmarks.plain_run"], environment, json.dumps(request))
        in_steps += json.loads(output.splitlines()[-1])["step_s"]
    return time.perf_counter() - began, in_steps


def time_sweep(config: ExperimentConfig, folder: Path, device: str, side_by_side: int) -> tuple[float, float]:
    """Returns the seconds of ``focalbench run`` with an empty image cache, and of its trials' steps, side by side as
    they run.
    """
    folder.mkdir()
    path, out = folder / "sweep.yaml", folder / "runs"
    path.write_text(dump_yaml(config), encoding="utf-8")
    environment = {**os.environ, "FOCALBENCH_CACHE": str(folder / "cache")}
    began = time.perf_counter()
    call_module(["focalbench", "run", str(path), "--out", str(out), "--device", device, "--json"], environment)
    seconds = time.perf_counter() - began
    return seconds, sum(trial.result.train_s or 0.0 for trial in read_trials([out])) / side_by_side


def sweep_config(root: Path, num_trials: int, steps: int, trials_per_device: int = 1) -> ExperimentConfig:
    """Returns the configuration of focal loss at ``num_trials`` values of gamma on a half-width network at 128 px."""
    return ExperimentConfig.model_validate(
        {
            "name": "bench-sweep",
            "data": {"name": "voc", "root": str(root), "train": ["2007/train"], "val": ["2007/val"], "image_size": 128},
            "model": {"name": "retinanet", "backbone": "tiny", "fpn_channels": 32},
            "loss": {"name": "focal"},
            "optim": {"name": "adamw", "steps": steps, "batch_size": 16},
            "eval": {"every": None},
            "run": {"trials_per_device": trials_per_device},
            "sweep": {"grid": {"loss.gamma": [0.5 * index for index in range(num_trials)]}},
        }
    )


def write_photographs(folder: Path, num_train: int, num_val: int) -> Path:
    """Writes a synthetic set in VOC's layout as JPEG files of a photograph's size; returns the data root."""
    root = synthesize(folder, num_train, num_val, image_size=PHOTO_SIDE)
    for png in sorted((root / "VOC2007" / "JPEGImages").glob("*.png")):
        with Image.open(png) as image:
            image.save(png.with_suffix(".jpg"), quality=_QUALITY)
        png.unlink()
        xml = root / "VOC2007" / "Annotations" / f"{png.stem}.xml"
        xml.write_text(xml.read_text(encoding="utf-8").replace(".png", ".jpg"), encoding="utf-8")
    return root
