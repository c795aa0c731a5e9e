"""Commands in a sandbox: what they cost, what they leave behind, and what they wrote where."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_HOOK = Path(__file__).parent / "hook"
_CHECKOUT = Path(__file__).parents[3]  # whose focalbench is tried
_LARGEST_READ = 64 * 2**20


def digest_of(root: Path) -> str:
    """Hex digits over names, modes, sizes, times of change and content of all below ``root``, links not followed."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        digest.update(repr((str(path), status.st_mode, status.st_size, status.st_mtime_ns)).encode("utf-8", "replace"))
        if stat.S_ISREG(status.st_mode) and status.st_size <= _LARGEST_READ:
            digest.update(path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Ended:
    """A command that has ended.

    Attributes:
        code: its exit code, negative for a signal.
        peak_mb: its largest resident memory in MiB.
    """

    code: int
    seconds: float
    peak_mb: float
    stdout: str
    stderr: str

    @property
    def traceback(self) -> bool:
        """Whether a traceback was printed."""
        return "Traceback (most recent call last)" in self.stdout + self.stderr


@dataclass(frozen=True)
class Sandbox:
    """A folder that stands for the user's machine: everything that a command may write lies in it.

    Its parts: ``work`` (the current folder), ``home``, ``tmp``.
    """

    root: Path

    def __post_init__(self) -> None:
        for name in ("work", "home", "tmp"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    @property
    def _writes(self) -> Path:
        return self.root / "writes.log"

    @property
    def work(self) -> Path:
        """Where commands are run."""
        return self.root / "work"

    def environment(self, **change: str) -> dict[str, str]:
        """A plain one: nothing of the caller's but the PATH, and the PYTHONPATH behind this checkout."""
        modules = [str(_HOOK), str(_CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
        plain = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root / "home"),
            "TMPDIR": str(self.root / "tmp"),
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join(modules),
            "FAULTS_WRITES": str(self._writes),
        }
        return plain | change

    def written(self) -> list[Path]:
        """Every path that a command opened for writing, made, linked or renamed, whether or not it is still there."""
        if not self._writes.exists():
            return []
        return sorted({Path(os.fsdecode(line)) for line in self._writes.read_bytes().splitlines()})

    def start(self, *arguments: object, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """``focalbench ARGUMENTS`` in a session of its own, output through pipes."""
        return subprocess.Popen(
            [sys.executable, "-m", "focalbench", *map(str, arguments)],
            cwd=self.work,
            env=self.environment() if environment is None else dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def run(self, *arguments: object, limit_s: float = 300, environment: Mapping[str, str] | None = None) -> Ended:
        """``focalbench ARGUMENTS`` to its end, or to SIGKILL after ``limit_s``."""
        started = time.monotonic()
        process = self.start(*arguments, environment=environment)
        timer = threading.Timer(limit_s, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        texts: dict[str, str] = {}

        def read(name: str) -> None:
            with getattr(process, name) as stream:
                texts[name] = stream.read()

        readers = [threading.Thread(target=read, args=(name,)) for name in ("stdout", "stderr")]
        for reader in readers:
            reader.start()
        peak_mb = 0.0
        while process.poll() is None:
            peak_mb = max(peak_mb, _peak_mb(process.pid))
            time.sleep(0.01)
        timer.cancel()
        for reader in readers:
            reader.join()
        seconds = time.monotonic() - started
        return Ended(process.returncode, seconds, peak_mb, texts["stdout"], texts["stderr"])


def _peak_mb(pid: int) -> float:
    """Largest resident memory so far, MiB. Not wait4's figure, in which a child inherits its parent's."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def processes_with(marker: str) -> list[int]:
    """Ids of the living processes whose environment holds ``marker``."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            dead = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            if not dead and marker.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def wait_until_gone(marker: str, limit_s: float) -> float | None:
    """Seconds until no process with ``marker`` in its environment lives; None when one still does after ``limit_s``."""
    started = time.monotonic()
    while processes_with(marker):
        if time.monotonic() - started > limit_s:
            return None
        time.sleep(0.05)
    return time.monotonic() - started


def wait_for_handlers(pid: int, limit_s: float) -> bool:
    """Waits until the process catches SIGUSR1, as ``focalbench run`` does before it reads data; False if it ends."""
    bit = 1 << (signal.SIGUSR1 - 1)
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return False
        if any(line.startswith("SigCgt:") and int(line.split()[1], 16) & bit for line in lines):
            return True
        time.sleep(0.02)
    return False
