"""``clean``: finished trials keep their networks, what is not finished keeps everything."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from focalbench.cli import app
from focalbench.training.checkpoint import keep_weights, list_checkpoints, load_newest, save_best, save_checkpoint

WriteTrial = Callable[..., Path]


def _save(trial: Path) -> Path:
    for step in (1, 2):
        state = {"model": {"w": torch.zeros(1000)}, "optimizer": {"m": torch.zeros(2000)}, "step": step}
        save_checkpoint(trial / "checkpoints", state, step=step, keep=2)
    return trial / "checkpoints"


def test_finished_trials_keep_their_weights_and_others_everything(write_trial: WriteTrial) -> None:
    done = _save(write_trial("runs/x/ce-s0-1"))
    stopped = _save(write_trial("runs/x/ce-s1-2", status={"state": "interrupted", "step": 2}, result=None))
    ended = CliRunner().invoke(app, ["clean", str(done.parents[2])])
    assert ended.exit_code == 0
    assert ended.output.splitlines() == [f"{done.parents[1]}: 0.0 MB freed"]
    assert len(list_checkpoints(done)) == 1
    assert load_newest(done)["optimizer"] is None
    assert len(list_checkpoints(stopped)) == 2
    assert load_newest(stopped)["optimizer"] is not None


def test_what_a_kill_left_goes_too_and_the_best_is_no_second_copy(write_trial: WriteTrial) -> None:
    folder = _save(write_trial("runs/x/ce-s0-1"))
    save_best(folder, {"model": {"w": torch.zeros(1000)}, "step": 2})
    keep_weights(folder)
    left = folder / ".step-00000002.pt.0123abcd"
    left.write_bytes(b"half")
    (folder / "best.pt").unlink()  # as if killed before it was linked
    save_best(folder, {"model": {"w": torch.zeros(1000)}, "step": 2})
    assert keep_weights(folder) > 0
    assert not left.exists()
    assert (folder / "best.pt").samefile(list_checkpoints(folder)[0])


def test_a_damaged_checkpoint_is_named_and_left(write_trial: WriteTrial, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _save(write_trial("runs/x/ce-s0-1"))
    for path in list_checkpoints(folder):
        path.write_bytes(b"x")
    ended = CliRunner().invoke(app, ["clean", str(folder.parents[1])])
    assert ended.exit_code == 0
    assert "damaged" in ended.stderr
    assert len(list_checkpoints(folder)) == 2
