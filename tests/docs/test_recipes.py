"""The recipes of docs/architecture.md, carried out block by block on one copy of the package, which then trains."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytestmark = pytest.mark.slow

_SWEEP = """\
data: {name: synthetic, num_train: 12, num_val: 6, image_size: 64}
model: {name: retinanet, backbone: tiny, fpn_channels: 8, head_convs: 1}
optim: {name: adamw, steps: 4, batch_size: 4}
eval: {protocol: voc12_75, score_thresh: 0.0}
run: {log_every: 2}
sweep:
  list:
    - {name: poly, loss: {name: poly, epsilon: 2}}
    - {name: plain, model.backbone: plain}
    - {name: ssd-ce, model: {name: ssd, backbone: tiny, anchor_scale: 2}, loss: {name: ce}}
    - {name: ssd-softmax, model: {name: ssd, backbone: tiny, anchor_scale: 2}, loss: {name: softmax_focal}}
"""
_TESTS = (
    "tests/losses/test_family.py",
    "tests/models/test_backbones.py",
    "tests/models/test_family.py",
    "tests/experiment/test_build_loss.py",
    "tests/config/test_components.py",
)


@pytest.fixture(scope="module")
def copy(recipe: Any) -> Any:
    """The package with all recipes in it."""
    _add_loss(recipe)
    _add_backbone(recipe)
    _add_detector(recipe)
    _add_protocol(recipe)
    _add_tracker(recipe)
    return recipe


def _add_loss(recipe: Any) -> None:
    module, section, member = recipe.blocks("Adding a loss")
    recipe.write("focalbench/losses/poly.py", module)
    recipe.insert("focalbench/config/loss.py", "BuiltInLoss = (\n", section + "\n\n")
    recipe.insert("focalbench/config/loss.py", "    | AsymmetricConfig\n", member)


def _add_backbone(recipe: Any) -> None:
    function, entry, member = recipe.blocks("Adding a backbone")
    heads = "@dataclass(frozen=True)\nclass HeadDefaults:"
    recipe.insert("focalbench/models/backbones.py", heads, f"{function}\n\n")
    recipe.insert("focalbench/models/backbones.py", '    "tiny": lambda norm: tiny(),\n', entry)
    recipe.replace_line("focalbench/config/model.py", 'BackboneName = Literal["tiny"', member)


def _add_detector(recipe: Any) -> None:
    network, criterion, section, member = recipe.blocks("Adding a detector")
    recipe.write("focalbench/models/ssd.py", network)
    recipe.write("focalbench/losses/multibox.py", criterion)
    recipe.insert("focalbench/config/model.py", "BuiltInDetector = ", section + "\n\n")
    recipe.replace_line("focalbench/config/model.py", "BuiltInDetector = ", member)


def _add_protocol(recipe: Any) -> None:
    entry, names = recipe.blocks("Adding a protocol")
    recipe.insert("focalbench/metrics/protocols.py", '    "coco": Protocol(', entry)
    recipe.replace_line("focalbench/tags.py", "ProtocolName = ", names)


def _add_tracker(recipe: Any) -> None:
    module, its_import, entry = recipe.blocks("Adding a tracker")
    recipe.write("focalbench/tracking/table.py", module)
    recipe.insert("focalbench/tracking/trackers.py", "from focalbench.tracking.tensorboard import", its_import)
    recipe.insert("focalbench/tracking/trackers.py", '    "tensorboard": TensorBoardTracker,\n', entry)


def test_what_was_added_passes_the_tests_of_its_kind(copy: Any) -> None:
    copy.bring("tests/conftest.py", *_TESTS)
    chosen = "poly or plain or ssd or named or names_classes or every"
    done = copy.python("-m", "pytest", "-p", "no:cacheprovider", "tests", "-k", chosen, "-vv")
    assert done.returncode == 0, done.stdout
    passed = re.findall(r"^(\S+) PASSED", done.stdout, re.MULTILINE)
    for name, at_least in {"poly": 12, "plain": 2, "ssd": 14}.items():
        assert len([test for test in passed if re.search(rf"\[.*\b{name}\b.*\]", test)]) >= at_least, (name, passed)
    for test in (
        "strides_and_widths[plain]",
        "no_multiple_of_the_stride[plain]",
        "every_backbone_can_be_named",
        "test_a_section_names_classes_of_its_kind",
        "test_each_key_of_a_model_reaches_the_network_or_the_criterion[ssd]",
    ):
        assert any(name.endswith(test) for name in passed), (test, passed)


def test_a_bad_parameter_is_named_as_for_any_loss(copy: Any) -> None:
    copy.write("bad.yaml", _SWEEP.replace("epsilon: 2", "epsilon: -2"))
    done = copy.python("-m", "focalbench", "validate", "bad.yaml")
    assert done.returncode == 2
    assert "loss.epsilon" in done.stderr


@pytest.fixture(scope="module")
def trials(copy: Any) -> dict[str, Path]:
    """A sweep over all that was added: the folder of each arm."""
    copy.write("added.yaml", _SWEEP)
    done = copy.python("-m", "focalbench", "run", "added.yaml", "--json")
    assert done.returncode == 0, done.stderr
    return {folder.name.partition("-s0-")[0]: folder for folder in copy.folder.glob("runs/added/*-s0-*")}


def test_a_sweep_trains_loss_backbone_and_detector_by_their_names(trials: dict[str, Path]) -> None:
    results = {arm: json.loads((folder / "result.json").read_text()) for arm, folder in trials.items()}
    assert {arm: result["step"] for arm, result in results.items()} == dict.fromkeys(
        ("poly", "plain", "ssd-ce", "ssd-softmax"), 4
    )
    for arm in ("ssd-ce", "ssd-softmax"):  # three negatives a positive: without the criterion there would be a hundred
        assert results[arm]["initial_loss"]["diagnosis"] is None


def test_a_training_reports_to_the_tracker(trials: dict[str, Path]) -> None:
    lines = [json.loads(line) for line in (trials["poly"] / "metrics.jsonl").read_text().splitlines()]
    logged = [[line["step"], tag] for line in lines for tag in line if tag != "step"]
    with (trials["poly"] / "scalars.csv").open(newline="") as file:
        assert [[int(step), tag] for step, tag, _ in csv.reader(file)] == logged


def test_what_was_trained_can_be_scored_and_looked_at(copy: Any, trials: dict[str, Path]) -> None:
    Image.new("RGB", (64, 64), "grey").save(copy.folder / "grey.png")
    scores, _, _ = copy.focalbench(
        ["evaluate", trials["ssd-ce"], "--protocol", "all", "--json"],
        ["analyze", trials["ssd-ce"], "--json"],
        ["predict", trials["ssd-ce"], "grey.png", "--json"],
    )
    result = json.loads((trials["ssd-ce"] / "result.json").read_text())
    assert result["protocol"] == "voc12_75"
    assert scores["protocols"]["voc12_75 (area, IoU .75)"]["mAP"] == result["val/mAP"]
