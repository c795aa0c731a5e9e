"""Processes in one sweep's folder know of each other; a second descriptor of the lock file stands for a second one."""

from pathlib import Path

import pytest

from focalbench.errors import BusyError, ConfigError, StorageError
from focalbench.records.sweep_lock import hold_sweep


def test_the_first_is_alone_and_lets_others_in(tmp_path: Path) -> None:
    with hold_sweep(tmp_path / "o") as first:
        assert first.alone
        first.share()
        with hold_sweep(tmp_path / "o") as second, hold_sweep(tmp_path / "o") as third:
            assert not second.alone
            assert not third.alone
    with hold_sweep(tmp_path / "o") as later:
        assert later.alone


def test_a_folder_in_use_is_not_set_aside(tmp_path: Path) -> None:
    out = tmp_path / "o"
    with hold_sweep(out) as first:
        first.share()
        (out / "mine").write_text("")
        with pytest.raises(BusyError, match="another process is working there"), hold_sweep(out, fresh=True):
            pass
    assert (out / "mine").exists()
    with hold_sweep(out, fresh=True) as alone:
        assert alone.alone
        assert not (out / "mine").exists()
    assert len(list(tmp_path.glob("o.*/mine"))) == 1


@pytest.mark.parametrize("out", [".", "..", "/", "../here"])
def test_the_folder_that_the_command_runs_in_is_not_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ConfigError, match=f"--out {out}: --fresh would set the current folder aside"):
        hold_sweep(Path(out), fresh=True).__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "o").write_text("mine")
    with pytest.raises(StorageError, match="--out"), hold_sweep(tmp_path / "o", fresh=True):
        pass
    assert (tmp_path / "o").read_text() == "mine"
