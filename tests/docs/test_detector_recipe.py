"""docs/architecture.md, "Adding a detector"."""

import json
import re
from typing import Any

import pytest
from PIL import Image

_TRIAL = """\
data: {name: synthetic, num_train: 12, num_val: 6, image_size: 64}
model: {name: ssd, backbone: tiny, anchor_scale: 2}
optim: {name: adamw, steps: 4, batch_size: 4}
sweep: {grid: {loss.name: [ce, softmax_focal]}}
"""


@pytest.fixture(scope="module")
def copy(recipe: Any) -> Any:
    """The package and its tests with the recipe's detector in it, and a sweep of two losses on it."""
    network, criterion, section, member = recipe.blocks("Adding a detector")
    recipe.bring("tests/models/test_family.py", "tests/experiment/test_build_loss.py")
    recipe.write("focalbench/models/ssd.py", network)
    recipe.write("focalbench/losses/multibox.py", criterion)
    recipe.insert("focalbench/config/model.py", "ModelConfig = Annotated[", section + "\n\n")
    recipe.replace_line("focalbench/config/model.py", "ModelConfig = Annotated[", member)
    recipe.write("ssd.yaml", _TRIAL)
    done = recipe.python("-m", "focalbench", "run", "ssd.yaml", "--json")
    assert done.returncode == 0, done.stderr
    return recipe


def test_the_detector_passes_what_every_detector_has_to_pass(copy: Any) -> None:
    done = copy.python("-m", "pytest", "-p", "no:cacheprovider", "tests", "-k", "ssd or names_classes", "-vv")
    assert done.returncode == 0, done.stdout
    (passed,) = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed) == 16
    assert "test_a_section_names_classes_of_its_kind PASSED" in done.stdout
    assert "test_each_key_of_a_model_reaches_the_network_or_the_criterion[ssd] PASSED" in done.stdout


def test_a_sweep_trains_it_with_both_kinds_of_outputs_and_its_own_criterion(copy: Any) -> None:
    results = [json.loads(path.read_text()) for path in copy.folder.glob("runs/ssd/*/result.json")]
    assert [result["step"] for result in results] == [4, 4]
    for result in results:  # three negatives a positive: without the criterion there would be a hundred
        assert result["initial_loss"]["diagnosis"] is None


@pytest.mark.parametrize("command", ["analyze", "predict"])
def test_a_trained_one_can_be_looked_at(copy: Any, command: str) -> None:
    (trial,) = copy.folder.glob("runs/ssd/*ce-s0-*")
    Image.new("RGB", (64, 64), "grey").save(copy.folder / "grey.png")
    image = ["grey.png"] if command == "predict" else []
    done = copy.python("-m", "focalbench", command, str(trial), *image, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
