"""Finds import circles of the package, imports inside functions and under TYPE_CHECKING included.

python scripts/import_circles.py
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from itertools import pairwise
from pathlib import Path

# Imports of one module: name of the imported module -> line of the first import of it.
Imports = dict[str, int]


def import_graph(package: Path) -> dict[str, Imports]:
    """Returns what each module below the folder ``package`` imports of the others, by dotted names.

    ``from a import b`` is an import of a.b where that is a module, else of a. That loading a submodule loads its parent
    packages does not count: they may import it.
    """
    files = {_module_name(path, package): path for path in sorted(package.rglob("*.py"))}
    return {module: _imports(module, path, set(files)) for module, path in files.items()}


def circles(graph: dict[str, Imports]) -> list[list[str]]:
    """Returns the import circles, each as its modules from one back to itself: one for each import that has to go."""
    left = {module: set(imports) for module, imports in graph.items()}
    found = []
    while True:
        try:
            TopologicalSorter({module: sorted(imports) for module, imports in left.items()}).prepare()
            return found
        except CycleError as error:
            circle = error.args[1][::-1]  # it goes from the imported module to the one that imports
            left[circle[-2]].remove(circle[-1])
            found.append(circle)


def describe(circle: list[str], graph: dict[str, Imports], package: Path) -> str:
    """Returns the circle as ``a -> b -> a`` and, below, FILE:LINE of each of its imports."""
    lines = [" -> ".join(circle)]
    for module, imported in pairwise(circle):
        lines.append(f"    {_file(module, package)}:{graph[module][imported]} imports {imported}")
    return "\n".join(lines)


def _module_name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _file(module: str, package: Path) -> Path:
    path = package.parent / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _imports(module: str, path: Path, modules: set[str]) -> Imports:
    parent = module if path.name == "__init__.py" else module.rpartition(".")[0]
    imports: Imports = {}
    for name, line in _names(ast.parse(path.read_text(encoding="utf-8")), parent):
        target = name if name in modules else name.rpartition(".")[0]
        if target in modules and target != module:
            imports.setdefault(target, line)
    return imports


def _names(tree: ast.Module, parent: str) -> Iterator[tuple[str, int]]:
    """Dotted names of all that a module imports, wherever it does, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), parent)
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def main() -> int:
    """Prints the circles of focalbench; the exit status is 1 if there is one."""
    package = Path(__file__).parent.parent / "focalbench"
    graph = import_graph(package)
    found = circles(graph)
    for circle in found:
        print(describe(circle, graph, package))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
