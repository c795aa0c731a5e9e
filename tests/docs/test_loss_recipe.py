"""docs/architecture.md, "Adding a loss"."""

import re
from typing import Any

import pytest

_TRIAL = """\
data: {name: synthetic, num_train: 12, num_val: 6, image_size: 64}
model: {name: retinanet, backbone: tiny, fpn_channels: 8, head_convs: 1}
loss: {name: poly, epsilon: 2}
optim: {name: adamw, steps: 4, batch_size: 4}
"""


@pytest.fixture(scope="module")
def copy(recipe: Any) -> Any:
    """The package and its tests with the recipe's loss in it."""
    module, section, member = recipe.blocks("Adding a loss")
    recipe.bring("tests/losses/test_family.py")
    recipe.write("focalbench/losses/poly.py", module)
    recipe.insert("focalbench/config/loss.py", "LossConfig = Annotated[\n", section + "\n\n")
    recipe.insert("focalbench/config/loss.py", "    | AsymmetricConfig,\n", member)
    return recipe


def test_the_loss_passes_what_every_loss_has_to_pass(copy: Any) -> None:
    done = copy.python("-m", "pytest", "-p", "no:cacheprovider", "tests", "-k", "poly or named or every", "-v")
    assert done.returncode == 0, done.stdout
    (passed,) = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed) >= 15  # one test alone selected would pass for the wrong reason


def test_a_training_takes_it_by_its_name(copy: Any) -> None:
    copy.write("poly.yaml", _TRIAL)
    done = copy.python("-m", "focalbench", "run", "poly.yaml", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = copy.folder.glob("runs/poly/poly-s0-*/result.json")
    assert '"step": 4' in result.read_text()


def test_a_bad_parameter_is_named_as_for_any_loss(copy: Any) -> None:
    copy.write("bad.yaml", _TRIAL.replace("epsilon: 2", "epsilon: -2"))
    done = copy.python("-m", "focalbench", "validate", "bad.yaml")
    assert done.returncode == 2
    assert "loss.epsilon" in done.stderr
