"""How long `focalbench compare` takes over many arms: writes a sweep's files and times the command, imports included.

python scripts/compare_figures.py [--arms 200] [--seeds 20] [--images 0]

With --images each trial keeps detections on as many test images, which compare resamples too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from focalbench.config.identity import IDENTITY_VERSION

_OBJECTS = 5  # on each image, and as many detections


def write_sweep(run: Path, num_arms: int, num_seeds: int, num_images: int) -> None:
    """Writes the files of finished trials as ``run`` leaves them, with made-up results."""
    rng = np.random.default_rng(0)
    rows = []
    for arm in range(num_arms):
        for seed in range(num_seeds):
            name, digest = f"gamma={arm}-s{seed}-{arm:04x}{seed:04x}", f"{arm:04x}{seed:04x}"
            folder = run / name
            folder.mkdir(parents=True)
            loss = {"name": "focal", "gamma": float(arm)} if arm else {"name": "ce"}
            config = {"name": "many", "seed": seed, "model": {"name": "retinanet"}, "loss": loss}
            config |= {"optim": {"steps": 100, "batch_size": 8}, "eval": {"protocol": "voc07"}}
            (folder / "config.yaml").write_text(yaml.safe_dump(config))
            result = {"arm": f"gamma={arm}", "seed": seed, "config_hash": digest, "step": 100, "steps": 100}
            result |= {
                "val/mAP": 0.7 + 0.01 * rng.normal(),
                "AP": {"cat": 0.7},
                "protocol": "voc07",
                "classes": ["cat"],
            }
            (folder / "result.json").write_text(json.dumps(result))
            (folder / "status.json").write_text(json.dumps({"state": "done", "arm": f"gamma={arm}", "seed": seed}))
            rows.append({"name": name, "arm": f"gamma={arm}", "seed": seed, "hash": digest, "differs": {}})
            if num_images:
                _write_detections(folder, num_images, rng)
    document = {"name": "many", "identity": IDENTITY_VERSION, "trials": rows}
    (run / "sweep.json").write_text(json.dumps(document))


def _write_detections(folder: Path, num_images: int, rng: np.random.Generator) -> None:
    image = np.repeat(np.arange(num_images), _OBJECTS)
    box = np.tile(np.array([[10, 10, 50, 50]], np.float32), (len(image), 1)) + 60 * (np.arange(len(image)) % _OBJECTS)[
        :, None
    ].astype(np.float32)
    moved = box + rng.integers(0, 30, (len(image), 1)).astype(np.float32)
    label = np.zeros(len(image), np.int64)
    np.savez(
        folder / "detections.npz",
        image=image, label=label, score=rng.random(len(image)).astype(np.float32), box=moved,
        gt_image=image, gt_label=label, gt_box=box, gt_difficult=np.zeros(len(image), bool),
        image_ids=np.array([f"{number:06d}" for number in range(num_images)]), classes=np.array(["cat"]),
    )  # fmt: skip


def main() -> None:
    """Prints seconds of three runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--images", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "many"
        write_sweep(run, options.arms, options.seeds, options.images)
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        for _ in range(3):
            began = time.perf_counter()
            command = [sys.executable, "-m", "focalbench", "compare", str(run)]
            one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=one_thread)
            seconds = time.perf_counter() - began
            print(f"{options.arms} arms x {options.seeds} seeds: {seconds:.2f} s, exit {done.returncode}")
        print(done.stderr[:400])


if __name__ == "__main__":
    main()
