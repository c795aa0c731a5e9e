"""Dependencies point down: what docs/architecture.md draws is what the imports say."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_PACKAGE = Path(__file__).parent.parent / "focalbench"
_PAGE = Path(__file__).parent.parent / "docs" / "architecture.md"


def _drawn_layers() -> dict[str, int]:
    """Packages by their row in the page's picture, 0 at the bottom."""
    picture = _PAGE.read_text(encoding="utf-8").split("```mermaid\n")[1].split("```")[0]
    rows = re.findall(r'^ *(\w+)\["<b>(.+?)</b>', picture, re.MULTILINE)
    (chain,) = [line for line in picture.splitlines() if "-->" in line]
    assert chain.split() == " --> ".join(name for name, _ in rows).split()
    return {package: row for row, (_, text) in enumerate(reversed(rows)) for package in text.split(" · ")}


# A package may import those with a smaller number; equal numbers are siblings and do not.
_LAYERS = _drawn_layers()


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "focalbench" and len(parts) > 1 and parts[1] in _LAYERS:
                yield parts[1]


@pytest.mark.parametrize("path", sorted(_PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(_PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    here = path.relative_to(_PACKAGE).parts[0].removesuffix(".py")
    if here in ("__init__", "__main__"):
        return
    # These are leaves: their siblings in the last row may use them.
    leaves = {"errors", "kernels", "structures"} if _LAYERS[here] == 0 else set()
    assert not {name for name in _imports(path) if name != here and _LAYERS[name] >= _LAYERS[here]} - leaves


def test_parts_take_plain_arguments() -> None:
    """Only the tables of names in a package's ``__init__`` read the configuration."""
    parts = ("data", "models", "losses", "metrics", "training")
    found = [path for part in parts for path in (_PACKAGE / part).glob("*.py") if "config" in _imports(path)]
    assert {path.relative_to(_PACKAGE).as_posix() for path in found} == {"losses/__init__.py", "models/__init__.py"}


def test_every_package_has_a_layer() -> None:
    parts = [path for path in _PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    found = {path.name.removesuffix(".py") for path in parts}
    assert found - {"__init__", "__main__"} == set(_LAYERS)


@pytest.mark.parametrize("module", ["focalbench.cli", "focalbench.config.load", "focalbench.config.sweep"])
def test_torch_is_not_loaded(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'matplotlib', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "module"),
    [
        ("done", "records/state.py"),
        ("val/mAP", "tags.py"),
        ("config.yaml", "records/trial.py"),
        ("status.json", "records/trial.py"),
        ("result.json", "records/trial.py"),
        ("metrics.jsonl", "records/metrics.py"),
        ("detections.npz", "records/detections.py"),
        ("sweep.json", "records/sweep.py"),
        ("results.csv", "records/results_table.py"),
    ],
)
def test_what_a_trial_leaves_has_its_name_in_one_place(text: str, module: str) -> None:
    found = [
        str(path.relative_to(_PACKAGE))
        for path in _PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value == text
    ]
    assert found == [module]


def test_files_are_replaced_in_one_place() -> None:
    found = {
        str(path.relative_to(_PACKAGE))
        for path in _PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "os.replace"
    }
    # The cache renames a folder that it has built, and a download its part once that is whole.
    assert found == {"storage.py", "data/cache.py", "data/download.py"}
