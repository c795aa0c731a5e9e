"""What filling the image cache and evaluating cost in memory, and how that grows with the number of images.

Anonymous memory alone: pages of the cache file are the system's to drop. Prints one Markdown table, and what the growth
comes to for VOC 2007 + 2012 (16,551 images to train on, 4,952 to evaluate on).
Usage: python scripts/memory_figures.py [CANVAS [IMAGES IMAGES]]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from focalbench.data.synthetic import synthesize

VOC_TRAIN, VOC_TEST = 16_551, 4_952
_INTERVAL_S = 0.02


def measure(root: Path, num_images: int, canvas: int) -> dict[str, float]:
    """Peaks, in MiB, of the phases in this process: libraries loaded, cache filled, evaluated."""
    import torch

    from focalbench.data.dataset import load_data
    from focalbench.metrics.voc import voc_average_precision
    from focalbench.models import MODELS
    from focalbench.training.evaluate import DetectionSettings, detect

    sampler = _Peak()
    model = MODELS["retinanet"](num_classes=4, backbone="tiny")
    peaks = {"start": sampler.take()}
    data = load_data(root, (f"2007/first{num_images}",), "auto", canvas)
    peaks["cache"] = sampler.take()
    # Every image yields as many detections as an evaluation keeps.
    settings = DetectionSettings(score_thresh=0.0, nms_thresh=0.5, max_detections=100, batch_size=16)
    found = detect(model, data, settings, device=torch.device("cpu"), precision=torch.float32)
    peaks["detect"] = sampler.take()
    voc_average_precision(found, data.ground_truth(), num_classes=4)
    peaks["score"] = sampler.take()
    return peaks


class _Peak:
    """The largest anonymous memory between two looks."""

    def __init__(self) -> None:
        self._largest = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self._largest = max(self._largest, _anonymous_mib())
            threading.Event().wait(_INTERVAL_S)

    def take(self) -> float:
        """MiB since the last call."""
        largest, self._largest = max(self._largest, _anonymous_mib()), 0.0
        return largest


def _anonymous_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def in_process(root: Path, num_images: int, canvas: int) -> dict[str, float]:
    """:func:`measure` in a process of its own, with an empty cache."""
    with tempfile.TemporaryDirectory(dir=root.parent) as cache:
        command = [sys.executable, __file__, "--measure", str(root), str(num_images), str(canvas)]
        environment = {**os.environ, "FOCALBENCH_CACHE": cache}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


def growth(rows: list[dict[str, Any]], phase: str) -> float:
    """MiB an image, from the smallest to the largest set; not below 0."""
    first, last = rows[0], rows[-1]
    return max(0.0, (last[phase] - first[phase]) / (last["images"] - first["images"]))


def main() -> None:
    """Measure and print."""
    canvas = int(sys.argv[1]) if len(sys.argv) > 1 else 512
    counts = sorted(map(int, sys.argv[2:])) or [100, 400]
    with tempfile.TemporaryDirectory(prefix="focalbench-memory-") as folder:
        root = synthesize(folder, num_train=counts[-1], num_val=1, image_size=canvas)
        main_folder = root / "VOC2007" / "ImageSets" / "Main"
        names = (main_folder / "train.txt").read_text().split()
        for count in counts:
            (main_folder / f"first{count}.txt").write_text("\n".join(names[:count]) + "\n")
        rows = [{"images": count, **in_process(root, count, canvas)} for count in counts]
    phases = ("start", "cache", "detect", "score")
    print(f"Peak anonymous memory, MiB, at {canvas} px:\n")
    print("| images | libraries and network | filling the cache | detecting | scoring |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row['images']} | " + " | ".join(f"{row[phase]:.0f}" for phase in phases) + " |")
    cache = rows[-1]["cache"] + growth(rows, "cache") * VOC_TRAIN
    evaluation = max(rows[-1][phase] + growth(rows, phase) * VOC_TEST for phase in ("detect", "score"))
    print(f"\nVOC 2007 + 2012, extrapolated: filling the cache {cache:.0f} MiB, evaluating {evaluation:.0f} MiB.")
    print(f"The cache file: {(VOC_TRAIN + VOC_TEST) * canvas * canvas * 3 / 2**30:.1f} GiB on disk.")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
