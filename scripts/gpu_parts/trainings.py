"""Whole trainings and sweeps as a user starts them."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gpu_figures import ROOT

from focalbench.devices import set_determinism
from focalbench.tags import TRAIN_SECONDS
from focalbench.trained.trial import load_trained
from focalbench.training.evaluate import score
from gpu_parts.run import Run, largest_difference, said, watched

# What is kept of a result.
_KEPT = (
    "val/mAP", "images_per_s", "train_s", "wall_s", "steps", "train_images", "val_images", "precision", "device",
    "peak_memory_mb", "gpu_memory_mb", "gpu_reserved_mb",
)  # fmt: skip
_STOPS_S = 20.0  # what a sweep that is told to stop gets for its checkpoints, and its verdict


def focalbench_run(run: Run, name: str, config: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Calls ``focalbench run`` as a user does; returns its seconds and what those of its trials found that ended."""
    out = run.work / "runs" / name
    more = [text for override in overrides for text in ("-s", override)]
    command = [sys.executable, "-m", "focalbench", "run", str(config), "--out", str(out), "--device", str(run.device)]
    began = time.perf_counter()
    process = subprocess.Popen([*command, *more], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    cut_off: dict[str, Any] = {}
    try:
        printed, _ = process.communicate(timeout=max(1.0, run.left() - _STOPS_S))
    except subprocess.TimeoutExpired:
        process.terminate()
        printed, _ = process.communicate()
        cut_off = {"left_out": "the rest: no time left"}
    seconds = time.perf_counter() - began
    files = sorted(out.glob("*/result.json"))
    results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    if not results or (process.returncode != 0 and not cut_off):
        raise RuntimeError(f"exit code {process.returncode}: {printed[-800:]}")
    kept = {key: _middle([result.get(key) for result in results]) for key in _KEPT}
    pace = 3600 * len(results) / seconds
    settled = _middle([_settled_pace(file.parent, result) for file, result in zip(files, results, strict=True)])
    facts = {"command_s": seconds, "trials": len(results), "trials_an_hour": pace, "settled_images_per_s": settled}
    return {**facts, **kept, **cut_off}


def _settled_pace(folder: Path, result: dict[str, Any]) -> float | None:
    """Images a second in the second half of a training: what is chosen, compiled and recorded in the first is done."""
    seconds = _curve([folder], TRAIN_SECONDS)
    last = max(seconds, default=0)
    half = min((step for step in seconds if step >= last / 2), default=last)
    if half == last:
        return None
    return (
        result["images_per_s"] * result["train_s"] / result["steps"] * (last - half) / (seconds[last] - seconds[half])
    )


def _middle(values: Sequence[Any]) -> Any:
    """The median of numbers; of anything else the first."""
    numbers = [value for value in values if isinstance(value, int | float)]
    return statistics.median(numbers) if numbers and len(numbers) == len(values) else values[0]


def training(run: Run) -> None:
    """A whole training as the user starts it, from its files to its mAP: ResNet-18 from scratch at 256 px."""
    document = {
        "name": "figures",
        "data": {"name": "voc", "root": run.data, "train": run.train, "val": run.val, "image_size": 256},
        "model": {"name": "retinanet", "backbone": "resnet18"},
        "optim": {"name": "adamw", "lr": 1e-3, "steps": 1500, "batch_size": 32},
        "eval": {"every": None, "score_thresh": 0.02, "top_k": 400},
        "run": {"log_every": 50},
    }
    small = ["data.image_size=64", "model.backbone=tiny", "optim.steps=3", "optim.batch_size=4", "optim.warmup_steps=1"]
    config = run.work / "training.yaml"
    config.write_text(json.dumps(document), encoding="utf-8")  # JSON is YAML
    for name, more in (("eager", []), ("graph", ["run.cuda_graph=true"])):
        overrides = [*more, *([] if run.on_gpu else small)]
        run.measure(
            name,
            lambda name=name, overrides=overrides: focalbench_run(run, f"training-{name}", config, overrides),
        )


def evaluation(run: Run) -> None:
    """Detection on the evaluation images of the trained trial, the first time and again, and where the host waits."""
    folders = sorted(file.parent for file in (run.work / "runs").glob("training-*/*/result.json"))
    if not folders:
        run.say("detect", failed="no training has finished in this folder")
        return
    set_determinism(False)
    trained = load_trained(folders[0], device=str(run.device))
    data = trained.data()

    def detect() -> dict[str, Any]:
        run.wait()
        began = time.perf_counter()
        with watched(run) as caught:
            found = trained.detect(data)
        run.wait()
        seconds = time.perf_counter() - began
        began = time.perf_counter()
        mean_ap = score(found, data.ground_truth(), data.classes, trained.config.eval.protocol).mean_ap
        return {
            "seconds": seconds,
            "images": len(data),
            "images_per_s": len(data) / seconds,
            "waits_an_image": len(caught) / len(data),
            "detections": len(found["label"]),
            "score_s": time.perf_counter() - began,
            "mean_ap": mean_ap,
        }

    run.measure("first", detect)
    run.measure("again", detect)


def sweep(run: Run) -> None:
    """Table 1b of the focal loss paper on BCCD, eight trials side by side, with its verdict."""
    side_by_side = 8 if run.on_gpu else 1
    overrides = ["run.cuda_graph=true", f"run.trials_per_device={side_by_side}", *_on_sweep_data(run)]
    if not run.on_gpu:
        overrides += ["sweep.seeds=[0]"]

    def table() -> dict[str, Any]:
        config = ROOT / "experiments" / "table1b_gamma.yaml"
        found = focalbench_run(run, "table1b", config, overrides)
        command = [sys.executable, "-m", "focalbench", "compare", str(run.work / "runs" / "table1b")]
        return {**found, "verdict": said([*command, "--baseline", "gamma=0-alpha=0.75", "--no-test-noise"])}

    run.measure("table 1b", table)


def _on_sweep_data(run: Run) -> list[str]:
    small = ["data.image_size=64", "optim.steps=3", "optim.batch_size=4", "optim.warmup_steps=1"]
    return [f"data.root={run.sweep_data}", *([] if run.on_gpu else small)]


def determinism(run: Run) -> None:
    """run.deterministic: the same trial twice, once stopped half-way and gone on with, and as a graph."""
    steps, canvas, batch = (300, 128, 16) if run.on_gpu else (12, 64, 4)
    config = run.work / "determinism.yaml"
    document = {
        "name": "d",
        "data": {"name": "synthetic", "num_train": 64, "num_val": 16, "image_size": canvas},
        "model": {"name": "retinanet", "backbone": "tiny"},
        "optim": {"name": "adamw", "lr": 2e-3, "steps": steps, "batch_size": batch, "warmup_steps": 0.1},
        "eval": {"every": None, "score_thresh": 0.02},
        "run": {"deterministic": True, "log_every": 1},
    }
    config.write_text(json.dumps(document), encoding="utf-8")
    base = run.work / "runs" / "determinism"
    base.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "focalbench", "run", str(config), "--device", str(run.device)]

    def start(name: str, *more: str) -> subprocess.Popen[bytes]:
        with (base / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*command, "--out", str(base / name), *more], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
            )

    if {"twice", "stopped and gone on with", "graph against eager"} <= run.known:
        return
    # Side by side: nothing is timed.
    others = {"first": start("first"), "again": start("again"), "graph": start("graph", "-s", "run.cuda_graph=true")}
    stopped = start("resumed")
    while stopped.poll() is None and max(_curve(base.glob("resumed/*")), default=0) < steps // 2:
        time.sleep(0.02)
    stopped.terminate()
    codes = {"stopped": stopped.wait()}
    stopped_after = max(_curve(base.glob("resumed/*")), default=0)
    others["resumed"] = start("resumed")
    codes |= {name: process.wait() for name, process in others.items()}

    def compare(name: str) -> dict[str, Any]:
        for one in ("first", name):
            if codes[one] != 0:
                raise RuntimeError(f"{one}: exit code {codes[one]}: {(base / f'{one}.log').read_text()[-300:]}")
        return {"codes": codes, **_same(base / "first", base / name)}

    def go_on() -> dict[str, Any]:
        if not 0 < stopped_after < steps:
            raise RuntimeError(f"stopped after step {stopped_after} of {steps}: nothing to go on with")
        return {"stopped_after": stopped_after, **compare("resumed")}

    run.measure("twice", lambda: compare("again"))
    run.measure("stopped and gone on with", go_on)
    run.measure("graph against eager", lambda: compare("graph"))


def _curve(trials: Iterable[Path], tag: str = "train/loss") -> dict[int, float]:
    """What trials have written down under a tag, by step."""
    values = []
    for file in (trial / "metrics.jsonl" for trial in trials):
        for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
            try:
                values.append(json.loads(line))
            except ValueError:
                continue  # the last line, while it is written
    return {value["step"]: value[tag] for value in values if tag in value}


def _same(one: Path, other: Path) -> dict[str, Any]:
    """How far two whole trainings lie apart."""
    mine, theirs = _curve(one.glob("*")), _curve(other.glob("*"))
    if not mine or mine.keys() != theirs.keys():
        raise RuntimeError(f"{len(mine)} and {len(theirs)} steps written down")
    maps = [
        json.loads(file.read_text(encoding="utf-8"))["val/mAP"]
        for folder in (one, other)
        for file in folder.glob("*/result.json")
    ]
    return {
        "steps_compared": len(mine),
        "largest_difference": largest_difference([theirs[step] for step in mine], [*mine.values()]),
        "map": maps,
    }
