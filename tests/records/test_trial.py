"""A trial's folder: one rule for how it stands, and documents that others may have written."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from focalbench.config.sweep import Trial
from focalbench.errors import BusyError, DataError
from focalbench.records.result import TrialResult
from focalbench.records.state import TrialState, state_of
from focalbench.records.trial import TrialFolder, TrialStatus

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("written", "has_result", "state"),
    [
        (None, False, TrialState.NEW),
        (None, True, TrialState.DONE),
        (TrialState.DONE, True, TrialState.DONE),
        (TrialState.DONE, False, TrialState.UNREADABLE),
        # Killed between the result and the status: the resumed trial writes both again.
        (TrialState.RUNNING, True, TrialState.RUNNING),
        (TrialState.FAILED, False, TrialState.FAILED),
    ],
)
def test_one_rule_says_how_a_trial_stands(written: TrialState | None, has_result: bool, state: TrialState) -> None:
    assert state_of(written, has_result=has_result) is state


def test_what_is_over_is_done_failed_or_stopped() -> None:
    assert {state for state in TrialState if state.is_final} == {"done", "failed", "stopped"}


def test_how_far_a_trial_is_stays_known_from_one_status_to_the_next(one_trial: Trial, tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path / "not made yet")
    folder.write_status(one_trial, TrialState.RUNNING)
    assert (folder.status().step, folder.status().steps) == (0, None)
    folder.write_status(one_trial, TrialState.RUNNING, step=4, steps=6)
    folder.write_status(one_trial, TrialState.INTERRUPTED, error="stopped by SIGTERM")
    status = folder.status()
    assert (status.state, status.step, status.steps) == (TrialState.INTERRUPTED, 4, 6)
    assert (status.trial, status.config_hash) == (one_trial.name, one_trial.hash)


def test_a_result_reads_back_as_it_was_written_undefined_values_as_none(tmp_path: Path) -> None:
    written = TrialResult(trial="t", seed=3, mean_ap=0.5, best_mean_ap=float("nan"), class_ap={"cat": float("nan")})
    TrialFolder(tmp_path).write_result(written)
    assert set(json.loads((tmp_path / "result.json").read_text())) == {"trial", "seed", "val/mAP", "val/mAP_best", "AP"}
    read, fault = TrialResult.read(tmp_path / "result.json")
    assert fault == ""
    assert (read.trial, read.seed, read.mean_ap, read.best_mean_ap, read.class_ap) == ("t", 3, 0.5, None, {"cat": None})


@pytest.mark.parametrize("seed", ["3", True, 1.5, [3], {"is": 3}, None])
def test_an_entry_of_a_wrong_kind_reads_as_none_and_spoils_no_other(tmp_path: Path, seed: object) -> None:
    content = {"seed": seed, "val/mAP": 1, "AP": [0.5], "of another version": 7}
    (tmp_path / "result.json").write_text(json.dumps(content))
    read, fault = TrialResult.read(tmp_path / "result.json")
    assert (fault, read.seed, read.mean_ap, read.class_ap) == ("", None, 1.0, {})
    assert read.value("of another version") == 7


def test_a_number_too_large_for_a_float_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"wall_s": 1' + 400 * "0" + ', "own": 1' + 400 * "0" + "}")
    read, _ = TrialResult.read(tmp_path / "result.json")
    assert read.value("wall_s") is None
    assert read.value("own") is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": "asleep"}', '{"step": 3}'])
def test_a_status_that_is_none_is_named_with_the_way_out(tmp_path: Path, content: str) -> None:
    (tmp_path / "status.json").write_text(content)
    with pytest.raises(DataError, match=r"status\.json: damaged.*delete this file"):
        TrialFolder(tmp_path).state()


def test_a_first_status_that_is_written_while_it_is_read_is_not_called_damaged(
    one_trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, read = TrialFolder(tmp_path), TrialStatus.read

    def read_then_written(path: Path) -> tuple[TrialStatus, str]:
        found = read(path)
        TrialStatus(state=TrialState.RUNNING).write(path)
        return found

    monkeypatch.setattr(TrialStatus, "read", read_then_written)
    assert folder.state() is TrialState.NEW
    assert folder.state() is TrialState.RUNNING


def test_a_trial_has_one_owner(tmp_path: Path) -> None:
    first, second = TrialFolder(tmp_path / "t"), TrialFolder(tmp_path / "t")
    assert not first.is_locked()
    with first.owned():
        assert second.is_locked()
        with pytest.raises(BusyError, match="another process is training this trial"), second.owned():
            pass
    assert not second.is_locked()


def test_a_renamed_trial_says_its_new_name_and_keeps_what_is_not_known(one_trial: Trial, tmp_path: Path) -> None:
    old = TrialFolder(tmp_path / "old")
    old.write_status(one_trial, TrialState.DONE, step=6, steps=6)
    (old.path / "result.json").write_text('{"trial": "old", "arm": "x", "val/mAP": 0.5, "of another version": 7}')
    (old.path / "notes.txt").write_text("mine")
    old.rename(tmp_path / one_trial.name, one_trial)
    new = TrialFolder(tmp_path / one_trial.name)
    result = new.result()
    assert result is not None
    assert (result.trial, result.arm, result.mean_ap) == (one_trial.name, one_trial.arm, 0.5)
    assert result.value("of another version") == 7
    assert (new.path / "notes.txt").read_text() == "mine"
