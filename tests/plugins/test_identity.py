"""Which trials are trained anew when a plugin changes: those whose loss or network it brings, and no others."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pretended import finish

from focalbench.config.load import load_config
from focalbench.launchers.job import Job
from focalbench.plugins import loading

Call = Callable[..., Any]
Write = Callable[..., Path]

OWN = """\
import focalbench as fb


@fb.loss("mine")
def mine(logits, targets, *, slope: float = 1.0):
    return slope * (logits - targets).square()
"""
OTHER = OWN.replace("mine", "other")
LINES = """\
plugins: [own.py, other.py]
sweep:
  list: [{name: ce, loss: {name: ce}}, {name: mine, loss: {name: mine}}, {name: other, loss: {name: other}}]
"""


@pytest.fixture
def states(focalbench: Call, write_config: Write, tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """How a run would find each arm of the finished sweep."""
    Path("own.py").write_text(OWN)
    Path("other.py").write_text(OTHER)
    for trial in load_config(write_config(LINES)).trials:
        finish(tmp_path / "o", trial, 0.5)

    def found(lines: str = LINES) -> dict[str, str]:
        done = focalbench("run", write_config(lines), "--out", tmp_path / "o", "--dry-run", "--no-timing", "--json")
        assert done.code == 0, done.err
        return {trial["arm"]: trial["state"] for trial in json.loads(done.out)["trials"]}

    return found


DONE = {"ce": "done", "mine": "done", "other": "done"}


@pytest.mark.parametrize("text", [OWN.replace("square", "abs"), OWN + "# a remark\n"], ids=["code", "comment"])
def test_an_edited_plugin_trains_its_own_arms_anew(states: Call, text: str) -> None:
    assert states() == DONE
    Path("own.py").write_text(text)
    assert states() == {**DONE, "mine": "new"}
    Path("own.py").write_text(OWN)
    assert states() == DONE


def test_a_plugin_may_lie_elsewhere_under_another_name_beside_others(states: Call, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    Path("own.py").rename(tmp_path / "elsewhere" / "renamed.py")
    (tmp_path / "third.py").write_text(OWN.replace("mine", "third"))
    places = ["other.py", str(tmp_path / "elsewhere" / "renamed.py"), str(tmp_path / "third.py")]
    assert states(LINES.replace("[own.py, other.py]", json.dumps(places))) == DONE


def test_a_default_that_is_written_out_is_the_same_trial_and_another_value_is_not(states: Call) -> None:
    assert states(LINES.replace("{name: mine}", "{name: mine, slope: 1.0}")) == DONE
    assert states(LINES.replace("{name: mine}", "{name: mine, slope: 2.0}"))["mine"] == "new"


def test_a_job_carries_the_source_to_a_worker_that_has_other_files(
    states: Call, write_config: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = {trial.arm: trial for trial in load_config(write_config(LINES)).trials}
    assert [source.origin for source in trials["mine"].plugins] == ["own.py"]
    assert trials["ce"].plugins == ()
    Path("own.py").write_text("raise SystemExit")
    Path("other.py").unlink()
    monkeypatch.setattr(loading, "_LOADED", {})
    for name in ("mine", "other"):
        job = Job(trial=trials[name], folder=tmp_path / "t", devices=("cpu",), threads=1)
        (source,) = Job.from_line(job.to_line()).trial.plugins
        (plugin,) = loading.load_plugins([source])
        assert [entry.name for entry in plugin.registrations] == [name]
