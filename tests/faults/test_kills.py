"""SIGKILL at any write: nothing is lost or doubled, and the resumed run is the unbroken one bit for bit."""

import shutil
from pathlib import Path

import pytest
from injection.bad_files import flip_a_bit, newest_checkpoint, plant_pickle, truncate
from injection.equality import differences
from injection.fork_server import KillAtMoment, KillAtWrite

# Each operation of a checkpoint's writing, and of what a trial writes beside it.
_POINTS = {
    "checksum": KillAtWrite(r"write step-00000001\.pt\.sha256", "half"),
    "between checksum and checkpoint": KillAtWrite(r"replace step-00000002\.pt\.sha256", "after"),
    "checkpoint": KillAtWrite(r"write step-00000003\.pt", "half"),
    "before its rename": KillAtWrite(r"fsync step-00000004\.pt", "after"),
    "after its rename": KillAtWrite(r"replace step-00000004\.pt", "after"),
    "between an old one and its checksum": KillAtWrite(r"unlink step-00000002\.pt", "after"),
    "best checkpoint": KillAtWrite(r"write best\.pt", "half"),
    "line of metrics": KillAtWrite(r"append metrics\.jsonl", "half", 4),
    "event file": KillAtWrite(r"flush events", "half", 2),
    "detections": KillAtWrite(r"write detections\.npz", "half"),
    "status": KillAtWrite(r"replace status\.json", "before", 4),
    "between result and status": KillAtWrite(r"replace result\.json", "after"),
}


@pytest.mark.parametrize("kill", [pytest.param(kill, id=name) for name, kill in _POINTS.items()])
def test_a_kill_at_a_write_loses_and_doubles_nothing(bench, tmp_path: Path, kill: KillAtWrite) -> None:
    ended = bench.run(tmp_path / "t", kill)
    assert ended.code == -9, ended.text
    resumed = bench.run(tmp_path / "t")
    assert (resumed.code, resumed.text) == (0, "")
    assert differences(tmp_path / "t", bench.whole) == []
    assert not [path for path in (tmp_path / "t").rglob(".*") if path.name != ".lock"]


@pytest.mark.parametrize("mark", ["start", "step 5"])
def test_a_kill_at_a_moment_loses_and_doubles_nothing(bench, tmp_path: Path, mark: str) -> None:
    assert bench.run(tmp_path / "t", KillAtMoment(mark, 0.01)).code == -9
    assert bench.run(tmp_path / "t").code == 0
    assert differences(tmp_path / "t", bench.whole) == []


def test_a_kill_loses_nothing_of_a_plugins_loss_either(bench, tmp_path: Path) -> None:
    own = Path(__file__).parents[1] / "own_losses.py"
    config = tmp_path / "own.yaml"
    schedule = "gamma: {schedule: linear, values: [0, 2]}, alpha: auto"
    config.write_text(
        bench.config.read_text().replace(
            "loss: {name: ghm}", f"plugins: ['{own}']\nloss: {{name: written, {schedule}}}"
        )
    )
    assert bench.server.run(config, tmp_path / "whole").code == 0
    kill = KillAtWrite(r"fsync step-00000004\.pt", "after")
    assert bench.server.run(config, tmp_path / "t", kill=kill).code == -9
    resumed = bench.server.run(config, tmp_path / "t")
    assert (resumed.code, resumed.text) == (0, "")
    assert differences(tmp_path / "t", tmp_path / "whole") == []


@pytest.mark.parametrize("spoil", [flip_a_bit, truncate, plant_pickle])
def test_a_spoilt_newest_checkpoint_is_passed_over_with_a_warning(bench, tmp_path: Path, spoil) -> None:
    folder = tmp_path / "t"
    assert bench.run(folder, KillAtWrite(r"write step-00000005\.pt\.sha256", "before")).code == -9
    spoil(newest_checkpoint(folder))
    resumed = bench.run(folder)
    assert resumed.code == 0
    assert "step-00000004.pt" in resumed.text
    assert "resuming from the checkpoint before it" in resumed.text
    assert not list(bench.sandbox.root.rglob("owned"))  # what the planted pickle would make
    assert differences(folder, bench.whole) == []


def test_without_a_whole_checkpoint_nothing_starts_anew_in_silence(bench, tmp_path: Path) -> None:
    folder = tmp_path / "t"
    assert bench.run(folder, KillAtWrite(r"write step-00000003\.pt", "half")).code == -9
    for path in (folder / "checkpoints").glob("step-*.pt"):
        truncate(path)
    refused = bench.run(folder)
    assert refused.code == 2
    assert "no older checkpoint is intact; to start this trial over, move its folder" in refused.text


def test_what_is_compared_would_show_a_difference(bench, tmp_path: Path) -> None:
    other = bench.server.run(bench.config, tmp_path / "t", overrides=["seed=1"])
    assert other.code == 0
    assert len(differences(tmp_path / "t", bench.whole)) == 6
    shutil.copytree(bench.whole, tmp_path / "copy")
    with (tmp_path / "copy" / "metrics.jsonl").open("a") as lines:
        lines.write((bench.whole / "metrics.jsonl").read_text().splitlines(keepends=True)[-1])
    assert differences(tmp_path / "copy", bench.whole) == ["metrics.jsonl"]
