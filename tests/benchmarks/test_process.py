"""A contestant of its own process ends with whoever called it, and takes what it started along."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from focalbench.benchmarks.process import call_module
from focalbench.errors import FocalbenchError, InterruptedTrial

# Writes the numbers of a process below it and of itself, and heeds SIGTERM as it is told to.
STAND_IN = """
import os, signal, subprocess, sys, time
if "stubborn" in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)
below = subprocess.Popen(["sleep", "100"])
with open("pids.part", "w") as file: file.write(f"{below.pid} {os.getpid()}")
os.rename("pids.part", "pids")
time.sleep(100)
"""


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Where ``stand_in`` is a module."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    return dict(os.environ)


def _started() -> list[int]:
    """The stand-in and the process below it, once they are there."""
    until = time.monotonic() + 60
    while not Path("pids").exists() and time.monotonic() < until:
        time.sleep(0.01)
    return [int(word) for word in Path("pids").read_text().split()]


def _are_gone(pids: list[int]) -> bool:
    until = time.monotonic() + 20
    while any(map(_runs, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(_runs, pids))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _when_started(act: Callable[[], None]) -> None:
    def wait() -> None:
        _started()
        act()

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.parametrize(("signum", "error"), [(signal.SIGTERM, InterruptedTrial), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_ends_the_child_and_what_it_started(
    environment: dict[str, str], signum: signal.Signals, error: type[BaseException]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    _when_started(lambda: os.kill(os.getpid(), signum))
    with pytest.raises(error):
        call_module(["stand_in"], environment)
    assert _are_gone(_started())
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_child_that_does_not_heed_is_killed(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("focalbench.benchmarks.process._GRACE_S", 0.1)
    _when_started(lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(InterruptedTrial, match="stopped by SIGTERM"):
        call_module(["stand_in", "stubborn"], environment)
    assert _are_gone(_started())


def test_a_child_has_no_more_time_than_it_was_given(environment: dict[str, str]) -> None:
    with pytest.raises(FocalbenchError, match=r"^stand_in was stopped after 0\.01 s$"):
        call_module(["stand_in"], environment, limit=0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process that its parent is gone")
def test_a_child_ends_when_its_caller_is_killed(environment: dict[str, str]) -> None:
    code = "import os; from focalbench.benchmarks.process import call_module; call_module(['stand_in'], os.environ)"
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as caller:
        _, child = _started()
        caller.kill()
    assert _are_gone([child])


def test_the_module_sees_its_own_arguments_and_standard_input(environment: dict[str, str]) -> None:
    Path("echo.py").write_text("import sys; print(__name__, sys.argv[1:], input())")
    assert call_module(["echo", "--json", "1"], environment, "hello") == "__main__ ['--json', '1'] hello\n"
