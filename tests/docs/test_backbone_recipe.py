"""docs/architecture.md, "Adding a backbone": the recipe carried out, block by block, on a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_TRIAL = """\
data: {name: synthetic, num_train: 6, num_val: 3, image_size: 64}
model: {name: retinanet, backbone: plain, fpn_channels: 8, head_convs: 1}
optim: {name: adamw, steps: 2, batch_size: 2}
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package and its tests with the recipe's backbone in it."""
    page = (_ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    recipe = page.split("## Adding a backbone")[1].split("\n## ")[0]
    found = re.findall(r"^   ```python\n(.*?)^   ```$", recipe, re.MULTILINE | re.DOTALL)
    function, entry, member = [re.sub("^   ", "", block, flags=re.MULTILINE) for block in found]
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(_ROOT / "focalbench", folder / "focalbench", ignore=shutil.ignore_patterns("__pycache__"))
    for name in (
        "tests/conftest.py",
        "tests/config/test_components.py",
        "tests/models/test_backbones.py",
        "pyproject.toml",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(_ROOT / name, folder / name)
    backbones, model = folder / "focalbench/models/backbones.py", folder / "focalbench/config/model.py"
    _put(backbones, r"@dataclass\(frozen=True\)\nclass HeadDefaults:", f"{function}\n\n\\g<0>")
    _put(backbones, r'    "tiny": lambda norm: tiny\(\),\n', f"{entry}\\g<0>")
    _put(model, r'    backbone: Literal\["tiny", "resnet18".*\n', member)
    return folder


def _put(path: Path, pattern: str, text: str) -> None:
    content, count = re.subn(pattern, text, path.read_text(encoding="utf-8"))
    assert count == 1
    path.write_text(content, encoding="utf-8")


def _python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_the_backbone_passes_what_every_backbone_has_to_pass(copy: Path) -> None:
    done = _python(copy, "-m", "pytest", "-p", "no:cacheprovider", "tests", "-k", "plain or named", "-vv")
    assert done.returncode == 0, done.stdout
    for test in ("strides_and_widths[plain]", "no_multiple_of_the_stride[plain]", "every_backbone_can_be_named"):
        assert re.search(rf"{re.escape(test)} PASSED", done.stdout), done.stdout


def test_a_training_takes_it_by_its_name(copy: Path) -> None:
    (copy / "plain.yaml").write_text(_TRIAL)
    done = _python(copy, "-m", "focalbench", "run", "plain.yaml", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = copy.glob("runs/plain/*/result.json")
    assert '"step": 2' in result.read_text()
