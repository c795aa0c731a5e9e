"""A checkpoint is whole or it is not used; nothing in it is ever run."""

import contextlib
import hashlib
import os
import pickle
import re
from pathlib import Path

import pytest
import torch

from focalbench.errors import CheckpointError, StorageError
from focalbench.training import checkpoint
from focalbench.training.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    load_newest,
    remove_leftovers,
    save_best,
    save_checkpoint,
)


def _state(step: int) -> dict[str, object]:
    weights = {"weight": torch.arange(10.0) + step}
    return {"step": step, "model": weights, "names": ["a", "b"], "nested": {"x": [1, 2.5]}}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "c", _state(3), step=3, keep=2)
    state = load_checkpoint(path)
    assert torch.equal(state["model"]["weight"], torch.arange(10.0) + 3)
    assert (state["names"], state["nested"]) == (["a", "b"], {"x": [1, 2.5]})


def test_the_newest_by_step_wins_and_only_some_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 100):
        save_checkpoint(tmp_path, _state(step), step=step, keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-00000100.pt", "step-00000010.pt"]
    names = [f"step-{step}.pt{end}" for step in ("00000010", "00000100") for end in ("", ".sha256")]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    newest = load_newest(tmp_path)
    assert newest is not None
    assert newest["step"] == 100


def test_no_folder_means_no_checkpoint(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "missing") is None


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_newest_falls_back_with_a_warning(tmp_path: Path, damage: str) -> None:
    save_checkpoint(tmp_path, _state(1), step=1, keep=2)
    path = save_checkpoint(tmp_path, _state(2), step=2, keep=2)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    path.write_bytes({"flip": content, "truncate": content[:-100], "empty": b""}[damage])
    with pytest.warns(UserWarning, match=r"step-00000002\.pt: damaged"):
        state = load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 1


def test_all_damaged_is_an_error_that_names_the_way_out(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, _state(1), step=1, keep=2)
    path.write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match="to start this trial over, move its folder"):
        load_newest(tmp_path)


def test_without_its_checksum_a_checkpoint_is_not_trusted_and_nothing_starts_anew_in_silence(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, _state(1), step=1, keep=2)
    path.with_name(path.name + ".sha256").unlink()
    with pytest.raises(CheckpointError, match=r"cannot be read with its checksum.*to start this trial over"):
        load_newest(tmp_path)


class _Killed(BaseException):
    """Stands for SIGKILL: nothing of the writer runs after it."""


@pytest.mark.parametrize("replacing", [False, True])
@pytest.mark.parametrize("operation", ["fsync", "replace"])
@pytest.mark.parametrize("number", range(6))
def test_a_kill_between_any_two_operations_leaves_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replacing: bool, operation: str, number: int
) -> None:
    save_checkpoint(tmp_path, _state(1), step=1, keep=1)  # one only: there is nothing to fall back to
    real, calls = getattr(os, operation), []

    def killed(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) > number:
            raise _Killed
        return real(*arguments)

    new = {**_state(9), "step": 1} if replacing else _state(9)
    with monkeypatch.context() as patch, contextlib.suppress(_Killed):
        patch.setattr(os, operation, killed)
        save_checkpoint(tmp_path, new, step=1 if replacing else 9, keep=1)
    remove_leftovers(tmp_path)
    found = load_newest(tmp_path)
    assert found is not None
    assert found["model"]["weight"][0].item() in (1.0, 9.0)
    assert {path.suffix for path in tmp_path.iterdir()} == {".pt", ".sha256"}


def test_content_is_on_the_disk_before_its_name_and_the_name_before_the_next_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def record(name: str) -> None:
        real = getattr(os, name)

        def recorded(*arguments: object) -> object:
            target = os.readlink(f"/proc/self/fd/{arguments[0]}") if name == "fsync" else str(arguments[1])
            calls.append(f"{name} {Path(target).name}")
            return real(*arguments)

        monkeypatch.setattr(os, name, recorded)

    record("fsync")
    record("replace")
    save_checkpoint(tmp_path / "c", _state(1), step=1, keep=1)
    order = [re.sub(r"^fsync \.(.*)\.[0-9a-f]{8}$", r"fsync \1", call) for call in calls]
    names = ("step-00000001.pt.sha256", "step-00000001.pt")
    assert order == [call for name in names for call in (f"fsync {name}", f"replace {name}", "fsync c")]


def test_a_damaged_newer_one_never_displaces_a_whole_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, _state(5), step=5, keep=2)
    damaged = save_checkpoint(tmp_path, _state(9), step=9, keep=2)
    damaged.write_bytes(b"rubbish")
    save_checkpoint(tmp_path, _state(7), step=7, keep=1)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000007.pt"]
    newest = load_newest(tmp_path)
    assert newest is not None
    assert newest["step"] == 7


class _Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.target),)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    target, path = tmp_path / "owned", tmp_path / "step-00000001.pt"
    torch.save({"format": checkpoint.FORMAT_VERSION, "payload": _Payload(target)}, path)
    path.with_name(path.name + ".sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(CheckpointError, match="not a checkpoint of plain tensors"):
        load_checkpoint(path)
    assert not target.exists()
    assert pickle.loads(pickle.dumps(_Payload(target))) is None  # the payload does work where pickle is trusted
    assert target.exists()


def test_another_format_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 99)
    path = save_checkpoint(tmp_path, _state(1), step=1, keep=1)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format 99"):
        load_checkpoint(path)


def test_a_failing_write_keeps_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, _state(1), step=1, keep=1)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"step-00000002.*No space left"):
        save_checkpoint(tmp_path, _state(2), step=2, keep=1)
    monkeypatch.undo()
    newest = load_newest(tmp_path)
    assert newest is not None
    assert newest["step"] == 1


def test_the_best_is_replaced(tmp_path: Path) -> None:
    save_best(tmp_path, _state(1))
    assert load_checkpoint(save_best(tmp_path, _state(7)))["step"] == 7


def test_leftovers_of_a_killed_writer_go(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, _state(1), step=1, keep=1)
    (tmp_path / ".step-00000002.pt.1a2b3c4d").write_bytes(b"half")
    (tmp_path / "step-00000002.pt.sha256").write_text("0 step-00000002.pt")
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, f"{path.name}.sha256"]
