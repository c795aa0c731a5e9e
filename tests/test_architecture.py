"""Dependencies point down: what docs/architecture.md draws is what the imports say."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_PACKAGE = Path(__file__).parent.parent / "focalbench"
# A package may import those with a smaller number; equal numbers are siblings and do not.
_LAYERS = {
    "errors": 0,
    "structures": 0,
    "ranks": 0,
    "console": 0,
    "boxes": 0,
    "config": 1,
    "runtime": 1,
    "tracking": 1,
    "data": 2,
    "models": 2,
    "losses": 2,
    "metrics": 2,
    "training": 3,
    "experiment": 4,
    "launchers": 5,
    "analysis": 5,
    "report": 6,
    "benchmarks": 6,
    "cli": 7,
}


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
    wrong = {name for name in _imports(path) if name != here and _LAYERS[name] >= _LAYERS[here] > 0}
    # Errors and structures are leaves; console and boxes may use them.
    assert not {name for name in wrong if not (_LAYERS[here] == 0 and name in ("errors", "structures"))}


def test_every_package_has_a_layer() -> None:
    parts = [path for path in _PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    found = {path.name.removesuffix(".py") for path in parts}
    assert found - {"__init__", "__main__"} == set(_LAYERS)


@pytest.mark.parametrize("module", ["focalbench.cli", "focalbench.config.load", "focalbench.config.sweep"])
def test_torch_is_not_loaded(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'matplotlib', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
