"""Whether a run that was broken off and resumed equals one that never was, bit for bit, clocks left out."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from focalbench.records.metrics import read_metrics
from focalbench.training.checkpoint import BEST, OPTIMIZER, list_checkpoints, load_checkpoint

_MEMORY = {"peak_memory_mb", "gpu_memory_mb", "gpu_reserved_mb"}
_CLOCKS = {"images_per_s", "perf/images_per_s", "perf/time_s", "wall_s", "train_s", "seconds"} | _MEMORY


def differences(broken: Path, whole: Path) -> list[str]:
    """What differs between two finished trials; empty where nothing does.

    Compared are metrics.jsonl, result.json, detections.npz, the newest and the best checkpoint (weights, criterion,
    generators, everything else in it) and every scalar that TensorBoard reads. A finished trial keeps no optimizer:
    that is compared at each kill, see :func:`checkpoint_differences`.
    """
    parts = {
        "metrics.jsonl": _metrics,
        "result.json": _result,
        "detections.npz": _detections,
        "newest checkpoint": lambda folder: _kept(load_checkpoint(list_checkpoints(folder / "checkpoints")[0])),
        "best checkpoint": _best,
        "event file": _scalars,
    }
    found = []
    for name, read in parts.items():
        try:
            if not _equal(_without_clocks(read(broken)), _without_clocks(read(whole))):
                found.append(name)
        except Exception as fault:  # whatever is wrong with a file is a difference
            found.append(f"{name}: {type(fault).__name__}: {fault}")
    return found


def checkpoint_differences(broken: Path, states: dict[int, dict[str, Any]]) -> list[str]:
    """What is wrong with the newest checkpoint after a kill: it must be whole, and the unbroken run's of its step.

    Args:
        states: of the unbroken run, by step.
    """
    paths = list_checkpoints(broken / "checkpoints")
    if not paths:
        return []  # killed before the first one
    try:
        state = load_checkpoint(paths[0])
    except Exception as fault:
        return [f"{paths[0].name}: {fault}"]
    return (
        [] if _equal(_without_clocks(state), _without_clocks(states[state["step"]])) else [f"{paths[0].name} differs"]
    )


def remains(checkpoints: Path) -> str:
    """In which part of a checkpoint's writing a kill came, told from the files: for the count of where kills landed."""
    names = [path.name for path in checkpoints.iterdir()] if checkpoints.is_dir() else []
    half = [name for name in names if name.startswith(".")]
    if half:
        return "a half-written checksum" if ".sha256." in half[0] else "a half-written checkpoint"
    sums = {name.removesuffix(".sha256") for name in names if name.endswith(".sha256")}
    return "a checksum without its checkpoint" if sums - set(names) else "nothing half-done"


def _kept(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != OPTIMIZER}


def _best(folder: Path) -> dict[str, Any]:
    """Without what only the newest checkpoint has, which may be the same file."""
    state = load_checkpoint(folder / "checkpoints" / BEST)
    return {key: state[key] for key in ("config", "classes", "data", "step", "model")}


def _metrics(folder: Path) -> list[dict[str, Any]]:
    return read_metrics(folder)


def _result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def _detections(folder: Path) -> dict[str, Any]:
    with np.load(folder / "detections.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def _scalars(folder: Path) -> dict[str, Any]:
    """Steps and values by tag; a value that was written twice is there twice."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every step that it rightly hides
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 1, "images": 1})
        events.Reload()
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def _without_clocks(value: Any) -> Any:
    """How often a run saves and what it keeps is not part of it either: see ``run`` in the configuration."""
    if isinstance(value, dict):
        kept = (key for key in value if key not in _CLOCKS and not str(key).startswith("run."))
        return {key: _without_clocks(value[key]) for key in kept}
    return [_without_clocks(item) for item in value] if isinstance(value, list) else value


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)
