"""``plugin check``, and ``schema --plugin``."""

import json
import subprocess
import sys

import pytest

GOOD = """
from typing import Annotated, Literal
import torch.nn.functional as F
from pydantic import Field
import focalbench as fb

@fb.loss("tempered")
def tempered(logits, targets, *, temperature: Annotated[float, Field(gt=0, le=4)] = 1.0, side: Literal["a", "b"] = "a"):
    return F.binary_cross_entropy_with_logits(logits / temperature, targets, reduction="none")
"""
WRONG = """
import focalbench as fb

@fb.loss("summed")
def summed(logits, targets):
    return (logits * targets).sum()

@fb.backbone("none")
def none(width: int = 8):
    return None
"""


@pytest.fixture
def file(tmp_path):
    def write(text, name="my_losses.py"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_a_sound_plugin_is_listed_and_passes(focalbench, file):
    done = focalbench("plugin", "check", file(GOOD))
    lines = done.out.splitlines()
    assert done.code == 0
    assert lines[0].startswith("my_losses.py: ")
    (temperature,) = [line.split() for line in lines if line.startswith("loss tempered")][:1]
    assert temperature[2:] == ["temperature", "number", ">", "0,", "<=", "4", "or", "a", "schedule", "1"]
    assert any(line.endswith(": 18 checks passed") for line in lines)
    assert "finite at the ends of ranges: temperature 0.01, temperature 4, side a, side b" in done.out


def test_what_is_wrong_is_said_with_exit_code_2(focalbench, file):
    path = file(WRONG)
    done = focalbench("plugin", "check", path)
    assert done.code == 2
    assert "leave sum and mean to the caller" in done.out
    assert "returns NoneType, not a torch.nn.Module" in done.out
    document = json.loads(focalbench("plugin", "check", path, "none", "--json").out)
    (registered,) = document["registered"]
    assert (document["ok"], registered["kind"], registered["ok"]) == (False, "backbone", False)
    assert registered["keys"] == [{"key": "width", "takes": "whole number", "default": 8}]
    assert {"name": "widths", "state": "failed"}.items() <= registered["findings"][-1].items()


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("x = 1", None, "registers nothing"),
        ("x = (", None, "my_losses.py:1: is not Python"),
        ("import a_package_that_is_not_there", None, "my_losses.py:1: ModuleNotFoundError"),
        (GOOD.replace("tempered", "focal"), None, "the loss focal is built in"),
        (GOOD.replace("1.0", "None"), None, "its own default None is refused"),
        (GOOD, "temperd", "did you mean tempered?"),
        (GOOD, "x", "it registers tempered"),
    ],
)
def test_what_cannot_be_looked_at_is_said_in_a_line(focalbench, file, text, name, words):
    arguments = ["plugin", "check", file(text), *([name] if name else [])]
    done = focalbench(*arguments)
    assert (done.code, done.out, words in done.err) == (2, "", True), done.err
    document = json.loads(focalbench(*arguments, "--json").out)
    assert (document["ok"], words in document["error"]) == (False, True)


def test_a_missing_file_has_a_suggestion(focalbench, file):
    path = file(GOOD)
    done = focalbench("plugin", "check", path.with_name("my_loses.py"))
    assert (done.code, f"did you mean {path}?" in done.err) == (2, True)


def test_the_schema_has_the_keys_of_plugins(focalbench, file):
    done = focalbench("schema", "--plugin", file(GOOD), "--plugin", file(WRONG.split("@fb.backbone")[0], "more.py"))
    found = json.loads(done.out)["definitions"]
    assert found["loss_tempered"]["properties"]["side"]["enum"] == ["a", "b"]
    assert "loss_summed" in found
    assert "loss_tempered" not in json.loads(focalbench("schema").out)["definitions"]
    assert focalbench("schema", "--plugin", "none.py").code == 2


def test_help_loads_no_torch():
    code = (
        "import sys\n"
        "sys.argv = ['focalbench', 'plugin', 'check', '--help']\n"
        "from focalbench.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(sorted({'torch', 'numpy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
