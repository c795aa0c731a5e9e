"""docs/architecture.md, "Adding a backbone"."""

import re
from typing import Any

import pytest

_TRIAL = """\
data: {name: synthetic, num_train: 6, num_val: 3, image_size: 64}
model: {name: retinanet, backbone: plain, fpn_channels: 8, head_convs: 1}
optim: {name: adamw, steps: 2, batch_size: 2}
"""


@pytest.fixture(scope="module")
def copy(recipe: Any) -> Any:
    """The package and its tests with the recipe's backbone in it."""
    function, entry, member = recipe.blocks("Adding a backbone")
    recipe.bring("tests/models/test_backbones.py")
    heads = "@dataclass(frozen=True)\nclass HeadDefaults:"
    recipe.insert("focalbench/models/backbones.py", heads, f"{function}\n\n")
    recipe.insert("focalbench/models/backbones.py", '    "tiny": lambda norm: tiny(),\n', entry)
    recipe.replace_line("focalbench/config/model.py", '    backbone: Literal["tiny", "resnet18"', member)
    return recipe


def test_the_backbone_passes_what_every_backbone_has_to_pass(copy: Any) -> None:
    done = copy.python("-m", "pytest", "-p", "no:cacheprovider", "tests", "-k", "plain or named", "-vv")
    assert done.returncode == 0, done.stdout
    for test in ("strides_and_widths[plain]", "no_multiple_of_the_stride[plain]", "every_backbone_can_be_named"):
        assert re.search(rf"{re.escape(test)} PASSED", done.stdout), done.stdout


def test_a_training_takes_it_by_its_name(copy: Any) -> None:
    copy.write("plain.yaml", _TRIAL)
    done = copy.python("-m", "focalbench", "run", "plain.yaml", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = copy.folder.glob("runs/plain/*/result.json")
    assert '"step": 2' in result.read_text()
