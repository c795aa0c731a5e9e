"""One training of Ultralytics' YOLO11n from random weights, as a contestant of `bench quality`: a process of its own.

The package is no part of focalbench (its licence is the AGPL) and is only taken where the user has installed it. Its
own defaults for optimizer, schedule and augmentation stand. Nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from focalbench.benchmarks.process import answer, flat_detections
from focalbench.devices import resolve_device, use_device


def write_data(request: Mapping[str, Any], folder: Path) -> Path:
    """Writes the images of ``request`` as links, with their objects, in Ultralytics' layout; returns its YAML file.

    A line of an object is its class and its centre and size, as shares of the image's.
    """
    for split in ("train", "val"):
        images, labels = folder / "images" / split, folder / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number, entry in enumerate(request[split]):
            path = Path(entry["path"])
            (images / f"{number}{path.suffix}").symlink_to(path)
            left, top, right, bottom = np.asarray(entry["boxes"], np.float64).reshape(-1, 4).T
            shares = np.stack([left + right, top + bottom, 2 * (right - left), 2 * (bottom - top)], 1) / 2
            shares /= np.array([entry["width"], entry["height"]] * 2)
            lines = (
                f"{label} {' '.join(f'{value:.6f}' for value in row)}\n"
                for label, row in zip(entry["labels"], shares, strict=True)
            )
            (labels / f"{number}.txt").write_text("".join(lines), encoding="utf-8")
    path = folder / "data.yaml"
    document = {
        "path": str(folder),
        "train": "images/train",
        "val": "images/val",
        "names": dict(enumerate(request["classes"])),
    }
    path.write_text(json.dumps(document), encoding="utf-8")  # JSON is YAML
    return path


def run(request: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], float]:
    """Returns the detections on ``request["val"]`` and when training ended, by ``time.perf_counter``.

    The length is the whole number of epochs nearest to ``request["steps"]``, at least 1; the canvas is a square of the
    longer side.
    """
    import torch
    from ultralytics import YOLO

    where = resolve_device(request["device"])
    use_device(where)
    device = "cpu" if where.type == "cpu" else str(where.index)
    folder, side = Path(request["folder"]), max(request["canvas"])
    ended: list[float] = []
    model = YOLO("yolo11n.yaml")
    model.add_callback("on_train_epoch_end", lambda trainer: ended.append(time.perf_counter()))  # evaluations follow it
    # By itself it leaves a core idle.
    model.add_callback("on_train_start", lambda trainer: torch.set_num_threads(request["threads"]))
    model.train(
        data=str(write_data(request, folder / "data")),
        epochs=max(1, round(request["steps"] * request["batch_size"] / len(request["train"]))),
        batch=request["batch_size"],
        imgsz=side,
        pretrained=False,
        amp=False,
        cache="ram",
        val=False,
        plots=False,
        device=device,
        project=str(folder),
        name="trained",
    )
    trained, scoring = YOLO(folder / "trained" / "weights" / "last.pt"), request["detection"]
    found = []
    for entry in request["val"]:
        (result,) = trained.predict(
            entry["path"],
            conf=scoring["score_thresh"],
            iou=scoring["nms_thresh"],
            max_det=scoring["detections_per_img"],
            imgsz=side,
            device=device,
            verbose=False,
        )
        boxes = result.boxes
        found.append((boxes.cls, boxes.conf, boxes.xyxy.cpu().numpy()))
    return flat_detections(found), ended[-1]


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    # Read once, on import: no look for updates, no statistics sent, settings of its own.
    os.environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": asked["folder"]}
    with redirect_stdout(sys.stderr):
        detections, trained_at = run(asked)
    answer(asked["output"], detections, trained_at)
