"""Whatever is wrong with a plugin is said with its file and line; in a sweep the other arms finish."""

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml

from focalbench.cli import main
from focalbench.config.load import load_config
from focalbench.errors import DivergedError, PluginError
from focalbench.experiment.trial import run_trial
from focalbench.losses.function_loss import registered_loss
from focalbench.plugins.registration import Registration
from focalbench.records.metrics import read_metrics
from focalbench.records.trial import TrialFolder
from focalbench.runtime import StopFlag

Call = Callable[..., Any]

HEAD = """\
import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

import focalbench as fb

calls = []


def ce(logits, targets):
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


class Sum(fb.losses.ClassificationLoss):
    activation = "sigmoid"


class Broken(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise ValueError("no gradient today")


"""


class Bad(NamedTuple):
    """A loss, or its class, and the words that it must end with; {line}: that of the word LINE in it."""

    code: str
    words: str


OF_FUNCTIONS = {
    "raises": Bad(
        'calls.append(0)\n    if len(calls) > 5:\n        raise RuntimeError("no more\\nthan this")  # LINE\n'
        "    return ce(logits, targets)",
        "{line}: RuntimeError: no more",
    ),
    "shape": Bad("return ce(logits, targets).sum(dim=1)", "{name} returns a tensor (2040,) for logits (2040, 4)"),
    "scalar": Bad("return ce(logits, targets).mean()", "{name} returns a tensor () for logits (2040, 4)"),
    "number": Bad("return 1.0", "{name} returns float for logits (2040, 4); one value per element is needed"),
    "value": Bad("return ce(logits, targets) * float('nan')", "{name} is nan for a logit of "),
    "gradient": Bad("return ce(logits, targets) + (0 * logits).sqrt()", "grad_norm nan"),
    "backward": Bad("return ce(Broken.apply(logits), targets)", "ValueError: no gradient today"),
    "detached": Bad("return ce(logits.detach(), targets)", "{name} has no gradient"),
    "package": Bad(
        "import there_is_none  # LINE\n    return there_is_none.loss(logits)",
        "{line}: ModuleNotFoundError: No module named 'there_is_none': install it wherever trials run",
    ),
    "exits": Bad("sys.exit(7)  # LINE", "{line}: ends the process (sys.exit)"),
}
OF_CLASSES = {
    "unwritten": Bad("depth = 1", "the class has neither a total nor a forward of its own"),
    "vector": Bad("def total(self, logits, labels):\n        return logits.sum(dim=1)", "returns a tensor (2040,)"),
    "plain": Bad("def total(self, logits, labels):\n        return 1.0", "returns float; one tensor () is needed"),
    "closed": Bad("def __init__(self):\n        pass\n\n    total = ce", "__init__() takes 1 positional argument"),
    "orphan": Bad(
        "def __init__(self, num_classes):\n        torch.nn.Module.__init__(self)\n\n    total = ce",
        "its __init__ does not call super().__init__",
    ),
}
EDITS = """
@fb.loss("edits")
def edits(logits, targets):
    own = Path(__file__)
    if own.read_text() != "no longer Python":
        own.write_text("no longer Python")
        os._exit(1)
    return ce(logits, targets)
"""
TORN = """\
import focalbench as fb


@fb.tracker("torn")
class Torn(fb.tracking.Tracker):
    def __init__(self, trial, *, by: str = ""):
        self.by = by
        self.tear("opening")

    def tear(self, what):
        if what == self.by:
            raise ConnectionError("the server is gone")

    def scalars(self, step, values):
        self.tear("step" if step > 1 else "")

    def finish(self, state):
        self.tear("the end")


@fb.loss("worse")
def worse(logits, targets):
    raise RuntimeError("before it")
"""

CONFIG = {
    "data": {"name": "synthetic", "num_train": 8, "num_val": 2, "image_size": 64},
    "model": {"name": "retinanet", "backbone": "tiny", "fpn_channels": 8, "head_convs": 1},
    "optim": {"name": "adamw", "lr": 1e-3, "steps": 4, "batch_size": 4, "warmup_steps": 2},
    "eval": {"every": None, "score_thresh": 0.0, "max_detections": 20},
    "run": {"log_every": 1, "checkpoint_every": 100, "device": "cpu"},
}


def source() -> str:
    functions = (
        f'@fb.loss("{name}")\ndef {name}(logits, targets):\n    {bad.code}\n' for name, bad in OF_FUNCTIONS.items()
    )
    classes = (f'@fb.loss("{name}")\nclass {name.title()}(Sum):\n    {bad.code}\n' for name, bad in OF_CLASSES.items())
    return HEAD + "\n\n".join([*functions, *classes]) + EDITS


class Ended(NamedTuple):
    """A sweep of all bad losses, an arm of cross entropy and one whose loss edits its own file."""

    code: int
    out: Path
    document: dict[str, Any]
    said: str
    plugin: Path


def ended(base: Path) -> Ended:
    patch = pytest.MonkeyPatch()
    patch.chdir(base)
    Path("bad.py").write_text(source())
    arms = [*OF_FUNCTIONS, *OF_CLASSES, "edits", "ce"]
    entries = [{"name": name, "loss": {"name": name}} for name in arms]
    Path("bad.yaml").write_text(yaml.safe_dump({**CONFIG, "plugins": ["bad.py"], "sweep": {"list": entries}}))
    patch.setattr("sys.argv", ["focalbench", "run", "bad.yaml", "--out", "o", "--json"])
    patch.setattr("focalbench.runtime.num_cores", lambda: 1)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
        main()
    patch.undo()
    return Ended(int(end.value.code or 0), base / "o", json.loads(out.getvalue()), err.getvalue(), base / "bad.py")


@pytest.mark.slow
def test_each_bad_loss_fails_its_arm_and_the_others_finish_with_the_source_that_the_sweep_began_with(
    tmp_path: Path,
) -> None:
    found = ended(tmp_path)  # no fixture: two processes of the tests would each train the sweep
    for name in (*OF_FUNCTIONS, *OF_CLASSES):
        _failed_with_file_line_and_reason(found, name)
    _others_finished(found)


def _failed_with_file_line_and_reason(ended: Ended, name: str) -> None:
    bad = {**OF_FUNCTIONS, **OF_CLASSES}[name]
    (trial,) = (trial for trial in ended.document["trials"] if trial["arm"] == name)
    lines = source().splitlines()
    first = next(number for number, line in enumerate(lines, 1) if f'@fb.loss("{name}")' in line)
    marked = next((number for number, line in enumerate(lines, 1) if number > first and "# LINE" in line), 0)
    assert trial["state"] == "failed", name
    assert "bad.py:" in trial["error"]
    assert bad.words.format(name=name, line=f"bad.py:{marked}") in trial["error"]
    assert "a bug in focalbench itself" not in trial["error"]


def _others_finished(ended: Ended) -> None:
    assert ended.code == 3
    states = {trial["arm"]: trial["state"] for trial in ended.document["trials"]}
    assert {arm for arm, state in states.items() if state == "done"} == {"edits", "ce"}
    assert ended.plugin.read_text() == "no longer Python"
    (kept,) = ended.out.glob("edits-*/plugins/bad.py")
    assert kept.read_text() == source()
    assert not list(ended.out.glob("ce-*/plugins"))
    assert "edits-s0-" in ended.said
    assert "its process died (exit code 1); resuming from its checkpoint" in ended.said
    assert "a bug in focalbench itself" not in ended.said


@pytest.mark.parametrize("by", ["opening", "step", "the end"])
def test_a_tracker_that_raises_fails_the_trial_which_goes_on_without_it(tmp_path: Path, by: str) -> None:
    (tmp_path / "torn.py").write_text(TORN)
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({**CONFIG, "plugins": [str(tmp_path / "torn.py")], "loss": {"name": "ce"}}))
    quiet = {"device": "cpu", "stop": StopFlag(), "progress": lambda *values: None, "warn": lambda message: None}
    (trial,) = load_config(config, [f"run.trackers=[{{name: torn, by: {by}}}]"]).trials
    with pytest.raises(PluginError, match=r"torn\.py:12: ConnectionError: the server is gone"):
        run_trial(trial, tmp_path / "t", **quiet)
    assert TrialFolder(tmp_path / "t").state() == "failed"
    (without,) = load_config(config).trials
    assert without.name == trial.name
    assert run_trial(without, tmp_path / "t", **quiet).step == 4
    assert [line["step"] for line in read_metrics(tmp_path / "t") if "train/loss" in line] == [1, 2, 3, 4]


def test_a_tracker_that_cannot_say_the_end_does_not_hide_why_the_training_ended(tmp_path: Path) -> None:
    (tmp_path / "torn.py").write_text(TORN)
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({**CONFIG, "plugins": [str(tmp_path / "torn.py")]}))
    (trial,) = load_config(config, ["loss.name=worse", "run.trackers=[{name: torn, by: the end}]"]).trials
    with pytest.raises(PluginError, match="RuntimeError: before it"):
        run_trial(trial, tmp_path / "t", device="cpu", stop=StopFlag(), progress=lambda *values: None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def (", "c.yaml:1:11: plugins[0]: {file}:1: is not Python"),
        ("x = 1\nx.y\n", "c.yaml:1:11: plugins[0]: {file}:2: AttributeError"),
        ("import there_is_none\n", "{file}:1: ModuleNotFoundError: No module named 'there_is_none': install it"),
        ("import sys\nsys.exit(0)\n", "{file}:2: ends the process (sys.exit)"),
        (
            "import focalbench as fb\n\n\n@fb.loss('focal')\ndef focal(logits, targets):\n    return logits\n",
            "{file}:4: the loss focal is built in: give yours another name",
        ),
        (
            "import focalbench as fb\n" + "\n\n@fb.loss('mine')\ndef mine(logits, targets):\n    return logits\n" * 2,
            "{file}:9: a loss mine is defined twice, first at line 4",
        ),
        ("print('loaded')\n", "{file}: registers nothing"),
    ],
    ids=["syntax", "import", "package", "exit", "built in", "twice", "nothing"],
)
def test_a_plugin_that_cannot_be_loaded_is_refused_before_anything_starts(
    focalbench: Call, tmp_path: Path, text: str, words: str
) -> None:
    file, config = tmp_path / "bad.py", tmp_path / "c.yaml"
    file.write_text(text)
    config.write_text(f"plugins: ['{file}']\n")
    done = focalbench("run", config, "--out", tmp_path / "o", "--json")
    assert done.code == 2
    assert words.format(file=file) in done.err
    assert "a bug in focalbench itself" not in done.err
    assert not done.out
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_value_that_only_one_of_several_ranks_sees_is_left_to_what_all_of_them_see(
    monkeypatch: pytest.MonkeyPatch, num_ranks: int
) -> None:
    """One that raised alone would leave the others waiting for it."""
    entry = Registration("loss", "nowhere", lambda x, t: x * float("nan"), {"activation": "sigmoid"}, "", "own.py", 1)
    monkeypatch.setattr("focalbench.losses.function_loss.world_size", lambda: num_ranks)
    loss = registered_loss(entry)(3)
    logits, labels = torch.zeros(1, 2, 3, requires_grad=True), torch.tensor([[0, 3]])
    if num_ranks == 1:
        with pytest.raises(DivergedError, match=r"own\.py:1: nowhere is nan for a logit of 0\.0"):
            loss(logits, labels)
    else:
        assert loss(logits, labels).isnan()
