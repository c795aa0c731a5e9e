"""Every figure that needs a GPU, in one call of less than ten minutes; prints one JSON document.

Usage: python scripts/gpu_figures.py [--data ROOT] [--device cuda:0] [--only NAME]... [-o FILE]

ROOT is a data set in VOC's layout (splits 2007/trainval and 2007/test) for the whole training. What does not fit into
the time, or fails, is named in the document; FILE is written after every part.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from focalbench.runtime import prepare_process

prepare_process()  # before torch is loaded

import torch  # noqa: E402

from focalbench.benchmarks.loss import bench_loss  # noqa: E402
from focalbench.benchmarks.step import bench_config, bench_step  # noqa: E402
from focalbench.benchmarks.sweep import bench_trials  # noqa: E402
from focalbench.config.dump import dump_yaml  # noqa: E402
from focalbench.config.schema import ExperimentConfig  # noqa: E402
from focalbench.experiment import build  # noqa: E402
from focalbench.experiment.build_loss import build_criterion  # noqa: E402
from focalbench.runtime import environment, resolve_device, set_determinism  # noqa: E402
from focalbench.training.graph import CudaRecorder, GraphedStep  # noqa: E402
from focalbench.training.loop import StepFunction, StepSettings, TrainState, train_step  # noqa: E402

LIMIT_S = 590.0
# Seconds a part may take on a fast GPU: without them left it is not begun.
EXPECTED_S = {"training": 240.0, "trials_per_device": 150.0}


@dataclass(frozen=True)
class Plan:
    """What is measured, and how much of it.

    Attributes:
        device: cuda:N; the tests of this script pass cpu.
        data: root of the training's data set, None for no training.
        training: overrides of the training's configuration.
    """

    device: str
    data: Path | None = None
    loss_sizes: dict[str, int] | None = None
    step_cases: dict[str, tuple[int, int]] | None = None
    repeats: int = 9
    trials: int = 4
    trial_steps: int = 300
    trials_per_device: tuple[int, ...] = (1, 2, 4)
    canvas: int = 320
    training: dict[str, Any] = field(default_factory=dict)


class NeedsGpu(Exception):  # noqa: N818 - a remark in the document
    """The part means nothing on a CPU."""


def loss(plan: Plan) -> dict[str, Any]:
    """The focal loss against the public ones and the bytes floor: a copy reads and writes as much as a loss must."""
    found = bench_loss(sizes=plan.loss_sizes, repeats=5 * plan.repeats, device=plan.device.split(":")[0])
    wanted = {"float32": 1.3, "bfloat16": 1.6}
    for case in found["cases"]:
        case["wanted"] = {"of_copy at most": wanted[case["dtype"]], "torchvision at least": 20.0}
    return found


def step(plan: Plan) -> dict[str, Any]:
    """A step against torchvision's, and the whole training against a static batch; plain and as a CUDA graph."""
    return bench_step(device=plan.device, repeats=plan.repeats, cases=plan.step_cases)


def graph(plan: Plan) -> dict[str, Any]:
    """Whether the recorded step trains as the plain one does: float32, deterministic, twelve steps."""
    device = _gpu(plan)
    set_determinism(True)
    recorded = _losses(plan, device, GraphedStep(CudaRecorder(device), _refuse))
    plain, again = _losses(plan, device, train_step), _losses(plan, device, train_step)
    set_determinism(False)
    return {
        "plain": plain,
        "recorded": recorded,
        "largest_difference": _largest_difference(recorded, plain),
        "between_two_plain_runs": _largest_difference(again, plain),
        "wanted": {"largest_difference at most": 1e-5},
    }


def waiting(plan: Plan) -> dict[str, Any]:
    """Whether a training step, its batch included, makes the host wait: torch raises an error where it would."""
    device = _gpu(plan)
    state, settings, batches = _training(plan, device)
    for number in range(3):
        train_step(state, *batches(number), settings)
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(3, 8):
            train_step(state, *batches(number), settings)
        return {"waits": None}
    except RuntimeError as fault:
        places = [f"{place.filename}:{place.lineno}" for place in traceback.extract_tb(fault.__traceback__)]
        return {"waits": str(fault).splitlines()[0], "where": places[-4:]}
    finally:
        torch.cuda.set_sync_debug_mode("default")


def trials_per_device(plan: Plan) -> dict[str, Any]:
    """Wall clock of one sweep with 1, 2 and 4 of its trials side by side."""
    seconds = {}
    for number in plan.trials_per_device:
        (row,) = bench_trials(
            device=plan.device, counts=(plan.trials,), steps=plan.trial_steps, trials_per_device=number
        )
        seconds[number] = row["seconds"]
    return {"trials": plan.trials, "steps": plan.trial_steps, "seconds": seconds}


def training(plan: Plan) -> dict[str, Any]:
    """A whole training as the user starts it: images a second and mAP."""
    if plan.data is None:
        raise NeedsGpu("give --data ROOT for a whole training")
    config = ExperimentConfig.model_validate(training_document(plan.data, plan.training))
    with tempfile.TemporaryDirectory(prefix="focalbench-figures-") as folder:
        path, out = Path(folder) / "training.yaml", Path(folder) / "runs"
        path.write_text(dump_yaml(config), encoding="utf-8")
        command = [sys.executable, "-m", "focalbench", "run", str(path), "--out", str(out), "--device", plan.device]
        began = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, timeout=400)
        if done.returncode != 0:
            raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
        (result,) = (json.loads(file.read_text(encoding="utf-8")) for file in out.glob("*/result.json"))
    kept = ("val/mAP", "images_per_s", "train_s", "wall_s", "steps", "train_images", "val_images", "peak_memory_mb")
    return {
        "model": config.model.model_dump(include={"name", "backbone"}),
        "canvas": config.data.image_size,
        "batch": config.optim.batch_size,
        "precision": result["precision"],
        "command_s": time.monotonic() - began,
        **{name: result[name] for name in kept},
    }


def training_document(data: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """ResNet-18 from scratch at 256 px; ``changes`` replace keys of the ``optim``, ``data`` and ``model`` sections."""
    sections: dict[str, dict[str, Any]] = {
        "data": {
            "name": "voc",
            "root": str(data),
            "train": ["2007/trainval"],
            "val": ["2007/test"],
            "image_size": 256,
        },
        "model": {"name": "retinanet", "backbone": "resnet18"},
        "optim": {"name": "adamw", "lr": 1e-3, "steps": 4000, "batch_size": 32},
        "eval": {"every": None},
    }
    for section, values in changes.items():
        sections[section] |= values
    return {"name": "gpu-figures", **sections}


PARTS: dict[str, Callable[[Plan], dict[str, Any]]] = {
    "loss": loss,
    "waiting": waiting,
    "graph": graph,
    "step": step,
    "training": training,
    "trials_per_device": trials_per_device,
}


def measure(plan: Plan, names: list[str], limit_s: float, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """All parts of ``names``, those that time is left for; a part that fails leaves its reason."""
    began = time.monotonic()
    document: dict[str, Any] = {"environment": environment(), "device": plan.device, "parts": {}}
    for name in names:
        started = time.monotonic()
        if started - began + EXPECTED_S.get(name, 60.0) > limit_s:
            document["parts"][name] = {"not measured": "no time left"}
            continue
        try:
            found = PARTS[name](plan)
        except NeedsGpu as reason:
            found = {"not measured": str(reason)}
        except Exception as fault:
            found = {"not measured": f"{type(fault).__name__}: {fault}", "trace": traceback.format_exc().splitlines()}
        document["parts"][name] = {**found, "part_s": time.monotonic() - started}
        save(document)
    return document


def _gpu(plan: Plan) -> torch.device:
    device = resolve_device(plan.device)
    if device.type != "cuda":
        raise NeedsGpu("there is no GPU")
    return device


def _refuse(reason: str) -> None:
    raise RuntimeError(reason)


def _training(plan: Plan, device: torch.device) -> tuple[TrainState, StepSettings, build.AugmentedBatches]:
    config = bench_config(plan.canvas, 8, "resnet18")
    data = build.build_data(config)
    model = build.build_model(config, len(data.train.classes), data.train)
    settings = StepSettings(device, torch.float32, config.optim.clip_norm)
    state = build.build_state(config, model, build_criterion(config, model, data.train), settings)
    return state, settings, build.build_batches(config, data.train, device)


def _losses(plan: Plan, device: torch.device, step: StepFunction, num_steps: int = 12) -> list[float]:
    state, settings, batches = _training(plan, device)
    return [step(state, *batches(number), settings)["loss"].item() for number in range(num_steps)]


def _largest_difference(found: list[float], expected: list[float]) -> float:
    """Relative."""
    return max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="data root of the whole training")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="a part; may be given again")
    parser.add_argument("-o", "--output", type=Path, help="file for the document")
    options = parser.parse_args()
    resolve_device(options.device)

    def save(document: dict[str, Any]) -> None:
        if options.output is not None:
            options.output.write_text(json.dumps(document, indent=1), encoding="utf-8")

    plan = Plan(options.device, options.data)
    print(json.dumps(measure(plan, options.only or list(PARTS), LIMIT_S, save), indent=1))


if __name__ == "__main__":
    main()
