"""Run folders as trials leave them, written in a moment."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

WriteTrial = Callable[..., Path]


@pytest.fixture
def write_trial(tmp_path: Path) -> WriteTrial:
    """Writes one finished trial; keywords change what is in it.

    ``loss`` is the loss section; ``settings`` are further sections of config.yaml; ``result`` and ``status`` replace
    entries of the documents; ``log`` are lines of metrics.jsonl.
    """

    def write(
        folder: str,
        *,
        arm: str = "ce",
        seed: int = 0,
        value: float | None = 0.5,
        loss: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
        result: dict[str, Any] | None = None,
        status: dict[str, Any] | None = None,
        log: list[dict[str, Any]] | None = None,
    ) -> Path:
        path = tmp_path / folder
        path.mkdir(parents=True)
        config = {
            "name": "test",
            "seed": seed,
            "data": {"name": "voc", "root": "/somewhere", "cache": "auto"},
            "model": {"name": "retinanet"},
            "loss": loss or {"name": "ce" if arm == "ce" else "focal", "weight": 1.0},
            "optim": {"epochs": 2, "batch_size": 4},
            "eval": {"protocol": "voc07", "score_thresh": 0.05, "nms_thresh": 0.5},
            "run": {"devices": 1},
        }
        (path / "config.yaml").write_text(yaml.safe_dump(config | (settings or {})))
        document = {
            "trial": path.name,
            "arm": arm,
            "seed": seed,
            "config_hash": f"{abs(hash((arm, seed))):08x}"[:8],
            "val/mAP": value,
            "AP": {"cat": value, "dog": None},
            "protocol": "voc07",
            "split": ["2007/test"],
            "classes": ["cat", "dog"],
            "steps": 50,
            "data_fingerprint": ["aa", "bb"],
            "wall_s": 100.0 + seed,
        }
        (path / "result.json").write_text(json.dumps(document | (result or {})))
        (path / "status.json").write_text(json.dumps({"state": "done", "arm": arm, "seed": seed, **(status or {})}))
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log or []))
        return path

    return write


@pytest.fixture
def write_arms(write_trial: WriteTrial, tmp_path: Path) -> Callable[..., Path]:
    """Writes arms of several seeds below runs/test: name -> values by seed; keywords go to every trial."""

    def write(arms: dict[str, list[float | None]], **keywords: Any) -> Path:
        for number, (arm, values) in enumerate(arms.items()):
            loss = {"name": "ce"} if arm == "ce" else {"name": "focal", "label": number}
            for seed, value in enumerate(values):
                folder = f"runs/test/{number}-{arm}-s{seed}-0000000{seed}"
                write_trial(folder, **({"arm": arm, "seed": seed, "value": value, "loss": loss} | keywords))
        return tmp_path / "runs" / "test"

    return write


@pytest.fixture
def write_detections() -> Callable[..., None]:
    """Writes a trial's detections.npz: 40 images with one object each, of which ``found`` are detected."""

    def write(folder: Path, found: list[int], **replaced: Any) -> None:
        images = np.arange(40)
        box = np.tile(np.array([[10.0, 10, 30, 30]], np.float32), (40, 1))
        arrays: dict[str, Any] = {
            "image": np.array(found, int),
            "label": np.zeros(len(found), int),
            "score": np.linspace(0.9, 0.5, len(found), dtype=np.float32),
            "box": box[: len(found)],
            "gt_image": images,
            "gt_label": np.zeros(40, int),
            "gt_box": box,
            "gt_difficult": np.zeros(40, bool),
            "image_ids": np.array([f"{image:06d}" for image in images]),
            "classes": np.array(["cat", "dog"]),
        }
        np.savez(folder / "detections.npz", **(arrays | replaced))

    return write
