"""The check for import circles sees every kind of import, and names file and line."""

from pathlib import Path

import import_circles
import pytest


def _package(tmp_path: Path, files: dict[str, str]) -> Path:
    """Writes the package ``shop``, which has a subpackage ``till``; keys of ``files`` are paths within it."""
    package = tmp_path / "shop"
    (package / "till").mkdir(parents=True)
    for name, text in {"__init__.py": "", "till/__init__.py": "", **files}.items():
        (package / name).write_text(text)
    return package


@pytest.mark.parametrize(
    ("back", "line"),
    [
        ("import shop.goods\n", 1),
        ("from shop.goods import PRICE\n", 1),
        ("from shop import goods\n", 1),
        ("from .goods import PRICE\n", 1),
        ("def price():\n    from shop.goods import PRICE\n", 2),
        ("from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from shop.goods import Price\n", 4),
    ],
)
def test_a_planted_circle_is_found(tmp_path: Path, back: str, line: int) -> None:
    package = _package(tmp_path, {"goods.py": "import os\nfrom shop.stock import count\n", "stock.py": back})
    graph = import_circles.import_graph(package)
    (circle,) = import_circles.circles(graph)
    assert sorted(circle[:-1]) == ["shop.goods", "shop.stock"]
    assert circle[0] == circle[-1]
    first, *places = import_circles.describe(circle, graph, package).splitlines()
    assert first == " -> ".join(circle)
    assert sorted(places) == [
        f"    {package}/goods.py:2 imports shop.stock",
        f"    {package}/stock.py:{line} imports shop.goods",
    ]


def test_a_circle_through_the_name_of_a_package(tmp_path: Path) -> None:
    files = {"till/__init__.py": "from shop.goods import PRICE\n", "goods.py": "from shop.till import open_till\n"}
    package = _package(tmp_path, files)
    graph = import_circles.import_graph(package)
    (circle,) = import_circles.circles(graph)
    assert set(circle) == {"shop.till", "shop.goods"}
    assert f"{package}/till/__init__.py:1 imports shop.goods" in import_circles.describe(circle, graph, package)


def test_circles_apart_and_circles_that_share_a_module_are_all_found(tmp_path: Path) -> None:
    imports = {"a": "bc", "b": "a", "c": "a", "d": "e", "e": "d"}
    files = {f"{name}.py": "".join(f"import shop.{other}\n" for other in others) for name, others in imports.items()}
    found = import_circles.circles(import_circles.import_graph(_package(tmp_path, files)))
    expected = {frozenset(f"shop.{name}" for name in names) for names in ("ab", "ac", "de")}
    assert {frozenset(circle) for circle in found} == expected


def test_a_package_may_import_its_submodules_and_they_their_siblings(tmp_path: Path) -> None:
    files = {
        "till/__init__.py": "from shop.till.coins import COINS\n",
        "till/coins.py": "from shop import goods\n",
        "goods.py": "",
    }
    graph = import_circles.import_graph(_package(tmp_path, files))
    assert set(graph) == {"shop", "shop.till", "shop.till.coins", "shop.goods"}
    assert set(graph["shop.till.coins"]) == {"shop.goods"}
    assert import_circles.circles(graph) == []
