"""docs/plugins.md and examples/: every block is a plugin that works, every command runs in its small form."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from focalbench.config.load import load_config, schema_of_plugins

pytestmark = pytest.mark.slow

_ROOT = Path(__file__).parents[2]
_PAGE = (_ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
_TINY = [
    *("-s", "data={name: synthetic, num_train: 8, num_val: 4, image_size: 64}", "-s", "optim.steps=2"),
    *("-s", "optim.batch_size=4", "-s", "model.fpn_channels=8", "-s", "model.head_convs=1"),
]

_TWO_ARMS = "sweep.list=[{name: ce, loss: {name: ce}}, {name: poly+1, loss: {name: poly, epsilon: 1}}]"


def blocks(language: str) -> list[str]:
    """The blocks of one language; of Python those that register something."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", _PAGE, re.M | re.S)
    return [block for block in found if language != "python" or "@fb." in block]


def named(text: str) -> str:
    return re.findall(r'@fb\.\w+\("(\w+)"', text)[0]


@pytest.mark.parametrize("block", blocks("python")[1:], ids=named)
def test_every_block_of_the_page_is_a_plugin_whose_losses_are_right(block: str, focalbench: Any) -> None:
    Path("mine.py").write_text(block)
    assert focalbench("plugin", "check", "mine.py").code == 0


def test_a_configuration_of_the_page_names_keys_of_the_plugin_beside_it(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    python = {named(block): block for block in blocks("python")}
    for file, name in (("my_losses.py", "poly"), ("my_nets.py", "plain"), ("my_trackers.py", "wandb")):
        Path(file).write_text(python[name])
    configurations = blocks("yaml")
    assert len(configurations) == 3
    for text in configurations:
        Path("config.yaml").write_text(text if "plugins:" in text else f"plugins: [my_trackers.py]\n{text}")
        assert load_config("config.yaml").trials


def test_the_commands_lead_from_ten_lines_to_a_verdict(focalbench: Any) -> None:
    loss = blocks("python")[0]
    assert len([line for line in loss.splitlines() if line.strip()]) <= 10
    Path("my_losses.py").write_text(loss)
    Path("poly.yaml").write_text(blocks("yaml")[0])
    names = []
    for block in blocks("console"):
        for line in block.splitlines():
            words = shlex.split(line.removeprefix("$ focalbench "))
            trial = next(Path("runs/poly").glob("poly+1-s0-*"), Path("none")).name
            small = [*_TINY, "-s", "sweep.seeds=1", "-s", _TWO_ARMS] if words[0] == "run" else []
            done = focalbench(*(word.replace("TRIAL", trial) for word in words), *small)
            assert done.code == 0, done.err
            names.append(words[0])
    assert names == ["plugin", "run", "compare", "report", "analyze"]
    results = [json.loads(path.read_text()) for path in Path().glob("runs/poly/*/result.json")]
    assert {result["arm"] for result in results} == {"ce", "poly+1"}
    assert Path("poly.html").stat().st_size > 10_000


@pytest.fixture
def examples(focalbench: Any) -> Any:
    """The command, in a folder that holds the examples."""
    shutil.copytree(_ROOT / "examples", "examples")
    return focalbench


def test_the_examples_train_together(examples: Any, extra_timm: None) -> None:
    """A loss, a tracker and a backbone of one's own choice, in one training."""
    plugins = ["-s", "plugins=[examples/own_loss.py, examples/csv_tracker.py]", "-s", "loss.name=poly"]
    done = examples("run", "examples/timm_backbone.yaml", *_TINY, *plugins, "-s", "sweep=null")
    assert done.code == 0, done.err
    (folder,) = Path().glob("runs/timm-backbone/poly-s0-*")
    with (folder / "scalars.csv").open(newline="") as file:
        *rows, last = list(csv.reader(file))
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [[int(step), tag] for step, tag, _ in rows] == [
        [line["step"], tag] for line in logged for tag in line if tag != "step"
    ]
    assert last == ["-1", "state", "done"]
    assert list((folder / "pictures").glob("*.png"))


def test_every_example_is_a_plugin_or_a_configuration_that_is_valid(examples: Any) -> None:
    for path in sorted(Path("examples").iterdir()):
        if path.suffix == ".py":
            assert schema_of_plugins([str(path)])
        elif path.suffix == ".yaml":
            assert load_config(path).trials
