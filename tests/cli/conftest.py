"""The command line in the process of the tests."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from focalbench.cli import main


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Call = Callable[..., Done]


@pytest.fixture
def focalbench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """``focalbench ARGUMENTS`` in an empty folder and in this process: one import of torch for all tests."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["focalbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        streams = capsys.readouterr()
        return Done(int(end.value.code or 0), streams.out, streams.err)

    return call
