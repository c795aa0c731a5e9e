"""The training step: its waits, its rivals, where its time goes, and its pace under other settings."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import IO, Any

import torch
from gpu_figures import ROOT

from focalbench.benchmarks.loss import NUM_CLASSES
from focalbench.benchmarks.step import TrainingStep, bench_step, training_step
from focalbench.config.schema import ExperimentConfig
from focalbench.devices import set_determinism
from focalbench.training.graph import CudaRecorder, GraphedStep
from focalbench.training.loop import StepFunction, train_step
from gpu_parts.run import Run, largest_difference, timed, watched

PACER = [sys.executable, "-m", "gpu_parts"]


def step_config(
    run: Run, backbone: str, canvas: int | tuple[int, int], batch: int, cache: str = "auto", **optim: Any
) -> ExperimentConfig:
    """Returns the training that is measured; on a CPU the smallest."""
    canvas, batch = (canvas, batch) if run.on_gpu else (64, 2)
    model: dict[str, Any] = {"name": "retinanet", "backbone": backbone if run.on_gpu else "tiny"}
    if backbone == "darknet19":
        model = {"name": "yolov2", "backbone": backbone if run.on_gpu else "tiny"}
    return ExperimentConfig.model_validate(
        {
            "name": "figures",
            "data": {"name": "synthetic", "num_train": 64, "num_val": 8, "image_size": canvas, "cache": cache},
            "model": model,
            "optim": {"name": "adamw", "lr": 1e-4, "steps": 1000, "batch_size": batch, **optim},
        }
    )


def graphed(run: Run, warn: Callable[[str], None]) -> StepFunction:
    """Returns what carries out recorded steps; plain ones on a CPU."""
    return GraphedStep(CudaRecorder(run.device), warn) if run.on_gpu else train_step


def waits(run: Run) -> None:
    """Every place where a training step makes the host wait: data, step and sums for the log."""

    def places(backbone: str) -> dict[str, Any]:
        step = training_step(step_config(run, backbone, 320, 8), run.device, NUM_CLASSES)
        found: Counter[str] = Counter()
        for _ in range(4):
            step.state.meter.add(step.whole())
        run.wait()
        with watched(run) as caught:
            for _ in range(3):
                step.state.criterion.set_progress(0.5)
                step.state.meter.add(step.whole())
        for one in caught:
            place = one.filename.split("site-packages/")[-1].removeprefix(f"{ROOT}/")
            found[f"{place}:{one.lineno}: {str(one.message)[:80]}"] += 1
        return {"steps": 3, "places": dict(found)}

    run.measure("retinanet", lambda: places("resnet18"))
    run.measure("yolov2", lambda: places("darknet19"))


def step(run: Run) -> None:
    """A step against torchvision's, and against the same step without data; plain and as a CUDA graph."""

    def race() -> dict[str, Any]:
        cases = None if run.on_gpu else {"tiny": (64, 2)}
        found = bench_step(device=str(run.device), repeats=5 if run.on_gpu else 1, cases=cases)
        (case,) = found["cases"]
        return {**found, **case}

    run.measure("bench step", race)


def profile(run: Run) -> None:
    """Where the time of the goal's step goes: kernels a step, time that the GPU is busy, a table beside the figures."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    set_determinism(False)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if run.on_gpu else [])]

    def trace(name: str, carry_out: StepFunction) -> dict[str, Any]:
        step = training_step(step_config(run, "resnet18", 320, 32), run.device, NUM_CLASSES, step=carry_out)
        for _ in range(8):
            step.static()
        run.wait()
        with profiler(activities=activities, acc_events=True) as seen:
            for _ in range(5):
                step.static()
            run.wait()
        kernels = [event for event in seen.events() if event.device_type == torch.autograd.DeviceType.CUDA]
        order = "self_device_time_total" if run.on_gpu else "self_cpu_time_total"
        table = seen.key_averages().table(sort_by=order, row_limit=45, max_name_column_width=90)
        with (run.out / "profile.txt").open("a", encoding="utf-8") as file:
            file.write(f"five steps, {name}\n{table}\n")
        return {"kernels_a_step": len(kernels) / 5, "busy_ms": sum(one.device_time_total for one in kernels) / 5e3}

    run.measure("profile eager", lambda: trace("eager", train_step))
    run.measure("profile graph", lambda: trace("graph", graphed(run, _refuse)))


def graph(run: Run) -> None:
    """Whether the recorded step trains as the plain one does: float32, deterministic, twelve steps."""
    set_determinism(True)

    def losses(backbone: str, carry_out: StepFunction) -> list[float]:
        step = training_step(
            step_config(run, backbone, 320, 8, precision="fp32"), run.device, NUM_CLASSES, step=carry_out
        )
        return [step.whole()["loss"].item() for _ in range(12 if run.on_gpu else 3)]

    def compare(backbone: str) -> dict[str, Any]:
        recorded = losses(backbone, graphed(run, _refuse))
        plain, again = losses(backbone, train_step), losses(backbone, train_step)
        return {
            "plain": plain,
            "recorded": recorded,
            "largest_difference": largest_difference(recorded, plain),
            "between_two_plain_runs": largest_difference(again, plain),
            "wanted": {"largest_difference at most": 1e-5},
        }

    run.measure("retinanet", lambda: compare("resnet18"))
    run.measure("yolov2", lambda: compare("darknet19"))


def _refuse(reason: str) -> None:
    raise RuntimeError(reason)


def cases(run: Run) -> None:
    """Other canvases, batches and networks, eager and as a graph: speed and memory."""
    set_determinism(False)
    table: list[tuple[str, int | tuple[int, int], int]] = [
        ("tiny", (192, 256), 16),
        ("resnet18", 256, 32),
        ("darknet19", 416, 16),
        ("tiny", 128, 16),
        ("resnet18", 320, 64),
        ("resnet50", 512, 16),
    ]
    for backbone, canvas, batch in table:
        for record in (False, True):
            name = f"{backbone} {canvas} batch {batch} {'graph' if record else 'eager'}"
            config = step_config(run, backbone, canvas, batch)
            run.measure(name, lambda config=config, record=record: pace(run, config, record=record), needs_s=6.0)


def variants(run: Run) -> None:
    """The goal's step with images on disk, in other precisions, and compiled."""
    _variant(run, "bf16 graph, images on disk", record=True, cache="disk")
    _variant(run, "fp32 eager", precision="fp32")
    _variant(run, "fp32 graph", precision="fp32", record=True)
    if run.on_gpu:
        _variant(run, "fp16 eager", precision="fp16")
    _variant(run, "bf16 compiled, eager", compile=True)
    _variant(run, "bf16 compiled, graph", compile=True, record=True)


def without_search(run: Run) -> None:
    """The goal's step without cuDNN's search: a process of its own, for one that has searched keeps what it found."""
    _variant(run, "bf16 eager, no cuDNN search", search=False)
    _variant(run, "bf16 graph, no cuDNN search", record=True, search=False)


def _variant(run: Run, name: str, *, record: bool = False, search: bool = True, **settings: Any) -> None:
    def work() -> dict[str, Any]:
        set_determinism(False)
        torch.backends.cudnn.benchmark = search
        return pace(run, step_config(run, "resnet18", 320, 32, **settings), record=record)

    run.measure(name, work, needs_s=40.0 if settings.get("compile") and run.on_gpu else 6.0)


def pace(run: Run, config: ExperimentConfig, *, record: bool) -> dict[str, Any]:
    """Returns how fast a training is with its data and on one batch, and the memory that it takes."""
    reasons: list[str] = []
    began = time.perf_counter()
    step = training_step(config, run.device, NUM_CLASSES, step=graphed(run, reasons.append) if record else train_step)
    if config.optim.compile:
        step.state.model.compile()
    run.wait()
    built = time.perf_counter() - began
    began = time.perf_counter()
    step.static()
    run.wait()
    first = time.perf_counter() - began
    step.whole()
    if run.on_gpu:  # cuDNN's search is over, whose trials take memory of their own; no step is recorded yet
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(run.device)
    _warm_up(step)
    static, static_spread = timed(run, step.static, 20 if run.on_gpu else 1)
    whole, whole_spread = timed(run, step.whole, 20 if run.on_gpu else 1)
    batch = config.optim.batch_size
    facts = {
        "static_ms": static, "static_spread": static_spread, "whole_ms": whole, "whole_spread": whole_spread,
        "images_per_s": 1e3 * batch / whole, "static_images_per_s": 1e3 * batch / static,
        "end_to_end": static / whole, "built_s": built, "first_step_s": first, "stayed_plain": reasons,
        "loss": step.static()["loss"].item(),
    }  # fmt: skip
    if run.on_gpu:
        facts |= {
            "allocated_gib": torch.cuda.max_memory_allocated(run.device) / 2**30,
            "reserved_gib": torch.cuda.max_memory_reserved(run.device) / 2**30,
        }
    return facts


def _warm_up(step: TrainingStep) -> None:
    """Kernels are chosen, graphs recorded."""
    for _ in range(8):
        step.whole()
    step.static()


def side_by_side(run: Run) -> None:
    """Images a second of one, two, four and eight processes that train on the GPU together, plain and as graphs."""
    counts = (1, 2, 4, 8) if run.on_gpu else (1, 2)
    table = [(kind, count) for kind in ("eager", "graph") for count in counts]
    if all(f"{count} {kind}" in run.known for kind, count in table):
        return
    request = json.dumps({"part": "pacer", "device": str(run.device), "work": str(run.work), "seconds": run.left()})
    pacers = [
        subprocess.Popen([*PACER, request], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        for _ in range(counts[-1])
    ]

    def together(kind: str, count: int) -> dict[str, Any]:
        for pacer in pacers[:count]:
            _ends_of(pacer)[0].write(f"{kind}\n")
        found = [float(_ends_of(pacer)[1].readline()) for pacer in pacers[:count]]
        return {"images_per_s": sum(found), "slowest": min(found), "fastest": max(found)}

    try:
        for pacer in pacers:
            _ends_of(pacer)[1].readline()  # it is warm
        for kind, count in table:
            run.measure(f"{count} {kind}", partial(together, kind, count))
    finally:
        for pacer in pacers:
            pacer.terminate()
            pacer.communicate()


def _ends_of(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def pace_on_demand(run: Run) -> None:
    """Trains whenever a line on stdin says how, and answers with its images a second; ends with stdin."""
    seconds, batch = (2.5, 16) if run.on_gpu else (0.1, 2)
    set_determinism(False)
    config = step_config(run, "tiny", (192, 256), batch)
    steps = {
        "eager": training_step(config, run.device, NUM_CLASSES),
        "graph": training_step(config, run.device, NUM_CLASSES, step=graphed(run, _refuse)),
    }
    for step in steps.values():
        _warm_up(step)
    run.wait()
    print("warm", flush=True)
    for line in sys.stdin:
        step, done, began = steps[line.strip()], 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            for _ in range(10):
                step.whole()
            run.wait()
            done += 10
        print(done * batch / (time.perf_counter() - began), flush=True)
