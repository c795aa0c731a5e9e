"""docs/architecture.md, "Adding a protocol" and "Adding a tracker", carried out together: one training shows both."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

_TRIAL = """\
data: {name: synthetic, num_train: 12, num_val: 6, image_size: 64}
model: {name: retinanet, backbone: tiny, fpn_channels: 8, head_convs: 1}
optim: {name: adamw, steps: 4, batch_size: 4}
eval: {protocol: voc12_75, score_thresh: 0.0}
run: {log_every: 2}
"""


@pytest.fixture(scope="module")
def trial(recipe: Any) -> Path:
    """A trial of the package with both recipes in it."""
    entry, names = recipe.blocks("Adding a protocol")
    recipe.insert("focalbench/metrics/protocols.py", '    "coco": Protocol(', entry)
    recipe.replace_line("focalbench/tags.py", "ProtocolName = ", names)
    module, its_import, entry = recipe.blocks("Adding a tracker")
    recipe.write("focalbench/tracking/table.py", module)
    recipe.insert("focalbench/tracking/trackers.py", "from focalbench.tracking.tensorboard import", its_import)
    recipe.insert("focalbench/tracking/trackers.py", '    "tensorboard": TensorBoardTracker,\n', entry)
    recipe.write("small.yaml", _TRIAL)
    done = recipe.python("-m", "focalbench", "run", "small.yaml", "--json")
    assert done.returncode == 0, done.stderr
    (folder,) = recipe.folder.glob("runs/small/*-s0-*")
    return folder


def test_a_training_is_scored_by_the_protocol_which_stands_beside_the_others(recipe: Any, trial: Path) -> None:
    result = json.loads((trial / "result.json").read_text())
    assert result["protocol"] == "voc12_75"
    done = recipe.python("-m", "focalbench", "evaluate", str(trial), "--protocol", "all", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["protocols"]["voc12_75 (area, IoU .75)"]["mAP"] == result["val/mAP"]


def test_a_training_reports_to_the_tracker(trial: Path) -> None:
    lines = [json.loads(line) for line in (trial / "metrics.jsonl").read_text().splitlines()]
    logged = [[line["step"], tag] for line in lines for tag in line if tag != "step"]
    with (trial / "scalars.csv").open(newline="") as file:
        assert [[int(step), tag] for step, tag, _ in csv.reader(file)] == logged
