"""docs/architecture.md, "Adding a loss": the recipe carried out, block by block, on a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_TRIAL = """\
data: {name: synthetic, num_train: 12, num_val: 6, image_size: 64}
model: {name: retinanet, backbone: tiny, fpn_channels: 8, head_convs: 1}
loss: {name: poly, epsilon: 2}
optim: {name: adamw, steps: 4, batch_size: 4}
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package and its tests with the recipe's loss in it."""
    page = (_ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    recipe = page.split("## Adding a loss")[1].split("\n## ")[0]
    found = re.findall(r"^   ```python\n(.*?)^   ```$", recipe, re.MULTILINE | re.DOTALL)
    blocks = [re.sub("^   ", "", block, flags=re.MULTILINE) for block in found]
    module, its_import, entry, section, member = blocks
    folder = tmp_path_factory.mktemp("copy")
    leave_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(_ROOT / "focalbench", folder / "focalbench", ignore=leave_out)
    for name in (
        "tests/conftest.py",
        "tests/config/test_components.py",
        "tests/losses/test_family.py",
        "pyproject.toml",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(_ROOT / name, folder / name)
    (folder / "focalbench/losses/poly.py").write_text(module)
    _insert(folder / "focalbench/losses/__init__.py", "from focalbench.losses.quality import", its_import)
    _insert(folder / "focalbench/losses/__init__.py", '    "asymmetric": Asymmetric,\n', entry)
    _insert(folder / "focalbench/config/loss.py", "LossConfig = Annotated[\n", section + "\n\n")
    _insert(folder / "focalbench/config/loss.py", "    | AsymmetricConfig,\n", member)
    return folder


def _insert(path: Path, before: str, text: str) -> None:
    content = path.read_text(encoding="utf-8")
    assert content.count(before) == 1
    path.write_text(content.replace(before, text + before), encoding="utf-8")


def _python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_the_loss_passes_what_every_loss_has_to_pass(copy: Path) -> None:
    done = _python(copy, "-m", "pytest", "-p", "no:cacheprovider", "tests", "-k", "poly or named or every", "-v")
    assert done.returncode == 0, done.stdout
    (passed,) = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed) >= 15  # one test alone selected would pass for the wrong reason


def test_a_training_takes_it_by_its_name(copy: Path) -> None:
    (copy / "poly.yaml").write_text(_TRIAL)
    done = _python(copy, "-m", "focalbench", "run", "poly.yaml", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = copy.glob("runs/poly/poly-s0-*/result.json")
    assert '"step": 4' in result.read_text()


def test_a_bad_parameter_is_named_as_for_any_loss(copy: Path) -> None:
    (copy / "bad.yaml").write_text(_TRIAL.replace("epsilon: 2", "epsilon: -2"))
    done = _python(copy, "-m", "focalbench", "validate", "bad.yaml")
    assert done.returncode == 2
    assert "loss.epsilon" in done.stderr
