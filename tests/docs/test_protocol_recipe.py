"""docs/architecture.md, "Adding a protocol"."""

import json
from typing import Any

import pytest

_TRIAL = """\
data: {name: synthetic, num_train: 12, num_val: 6, image_size: 64}
model: {name: retinanet, backbone: tiny, fpn_channels: 8, head_convs: 1}
optim: {name: adamw, steps: 4, batch_size: 4}
eval: {protocol: voc12_75, score_thresh: 0.0}
"""


@pytest.fixture(scope="module")
def copy(recipe: Any) -> Any:
    """The package with the recipe's protocol in it, and a trial that was scored by it."""
    entry, names = recipe.blocks("Adding a protocol")
    recipe.insert("focalbench/metrics/protocols.py", '    "coco": Protocol(', entry)
    recipe.replace_line("focalbench/tags.py", "ProtocolName = ", names)
    recipe.write("p.yaml", _TRIAL)
    done = recipe.python("-m", "focalbench", "run", "p.yaml", "--json")
    assert done.returncode == 0, done.stderr
    return recipe


def test_a_training_is_scored_by_it(copy: Any) -> None:
    (result,) = copy.folder.glob("runs/p/*/result.json")
    assert json.loads(result.read_text())["protocol"] == "voc12_75"


def test_it_stands_beside_the_others(copy: Any) -> None:
    (trial,) = copy.folder.glob("runs/p/*-s0-*")
    done = copy.python("-m", "focalbench", "evaluate", str(trial), "--protocol", "all", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["protocols"]
    single = copy.python("-m", "focalbench", "evaluate", str(trial), "--protocol", "voc12_75", "--json")
    assert rows["voc12_75 (area, IoU .75)"]["mAP"] == json.loads(single.stdout)["mAP"]
