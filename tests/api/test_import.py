"""``import focalbench`` loads next to nothing, and yet every name is there."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import focalbench as fb

_LIGHT = ["focalbench", "focalbench.errors", "focalbench.version"]
_SOURCE = ast.parse(Path(fb.__file__).read_text(encoding="utf-8"))


def test_nothing_is_loaded_before_a_name_is_used() -> None:
    code = (
        "import sys; before = set(sys.modules); import focalbench as fb; dir(fb); fb.FocalbenchError;"
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = ast.literal_eval(done.stdout)
    assert [name for name in loaded if name.startswith("focalbench")] == _LIGHT
    assert not {"torch", "numpy", "pydantic", "typing", "inspect"} & set(loaded)


def test_results_are_read_without_torch() -> None:
    code = "import sys, focalbench as fb; fb.load; print(*(name in sys.modules for name in ('torch', 'pandas')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("name", fb.__all__)
def test_every_name_is_found_and_listed(name: str) -> None:
    assert getattr(fb, name) is not None
    assert name in dir(fb)


def test_type_checkers_are_told_the_same_names() -> None:
    block = next(node for node in _SOURCE.body if isinstance(node, ast.If))
    told = {alias.asname: node.module for node in block.body for alias in node.names}
    assert told == fb._MODULE_OF | dict.fromkeys(fb._SUBPACKAGES, "focalbench")


def test_subpackages_are_attributes_and_the_rest_is_none() -> None:
    assert fb.losses is importlib.import_module("focalbench.losses")
    assert not hasattr(fb, "los")
    with pytest.raises(ImportError):
        exec("from focalbench import nothing_of_the_kind")
