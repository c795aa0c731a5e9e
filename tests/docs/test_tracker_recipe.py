"""docs/architecture.md, "Adding a tracker"."""

import csv
import json
from typing import Any

_TRIAL = """\
data: {name: synthetic, num_train: 12, num_val: 6, image_size: 64}
model: {name: retinanet, backbone: tiny, fpn_channels: 8, head_convs: 1}
optim: {name: adamw, steps: 4, batch_size: 4}
run: {log_every: 2}
"""


def test_a_training_reports_to_it(recipe: Any) -> None:
    module, its_import, entry = recipe.blocks("Adding a tracker")
    recipe.write("focalbench/tracking/table.py", module)
    recipe.insert("focalbench/tracking/trackers.py", "from focalbench.tracking.tensorboard import", its_import)
    recipe.insert("focalbench/tracking/trackers.py", '    "tensorboard": TensorBoardTracker,\n', entry)
    recipe.write("t.yaml", _TRIAL)
    done = recipe.python("-m", "focalbench", "run", "t.yaml", "--json")
    assert done.returncode == 0, done.stderr
    (trial,) = recipe.folder.glob("runs/t/*-s0-*")
    lines = [json.loads(line) for line in (trial / "metrics.jsonl").read_text().splitlines()]
    logged = [[line["step"], tag] for line in lines for tag in line if tag != "step"]
    with (trial / "scalars.csv").open(newline="") as file:
        assert [[int(step), tag] for step, tag, _ in csv.reader(file)] == logged
