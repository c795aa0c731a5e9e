"""Trials in forked processes that are killed at a chosen write, or at a chosen moment.

The server imports torch and focalbench once, without computing anything, and forks a child for each job; the child
enters ``run_trial`` as a worker does. So a kill costs no import. A child that is to die at a write kills itself in
the middle of it: writes, fsync, rename and unlink are wrapped in the child only. A child that is to die at a moment is
killed from outside, some time after it has reached a mark.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

_FAULTS = Path(__file__).parents[1]
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}$")


@dataclass(frozen=True)
class KillAtWrite:
    """SIGKILL at the ``occurrence``-th operation whose label matches ``pattern``.

    Labels are ``OPERATION FILE``, such as ``replace step-00000003.pt``; operations are write, append, flush, fsync,
    replace and unlink, and a temporary file has the name that it will get.

    Attributes:
        when: before | half (of the bytes are written) | after.
    """

    pattern: str
    when: str
    occurrence: int = 1


@dataclass(frozen=True)
class KillAtMoment:
    """SIGKILL ``delay`` seconds after ``mark``: start | step N (N steps are begun) | checkpoint N (the N-th begins)."""

    mark: str
    delay: float


@dataclass(frozen=True)
class Forked:
    """How a job ended.

    Attributes:
        code: exit code, -9 after the kill.
        text: what was warned of and what went wrong.
    """

    code: int
    seconds: float
    text: str


class ForkServer:
    """The caller's end; a context manager. Jobs run one after the other."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        paths = [str(_FAULTS), *filter(None, [environment.get("PYTHONPATH")])]
        self._log = folder / "fork_server.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "injection.fork_server"],
                env={**environment, "PYTHONPATH": os.pathsep.join(paths)},
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *fault: object) -> None:
        self._process.communicate(timeout=60)

    def run(
        self,
        config: Path,
        folder: Path,
        *,
        overrides: Sequence[str] = (),
        kill: KillAtWrite | KillAtMoment | None = None,
        record: Path | None = None,
    ) -> Forked:
        """Trains the one trial of ``config`` in ``folder``, from its newest checkpoint or anew.

        Args:
            kill: where to end it.
            record: file that gets the label of every write, one a line.
        """
        job = {
            "config": str(config),
            "folder": str(folder),
            "overrides": list(overrides),
            "kill": kill and [type(kill).__name__, asdict(kill)],
            "record": record and str(record),
        }
        return Forked(**self._ask(job))

    def save_over_and_over(self, folder: Path, *, plain: bool, delay: float) -> Forked:
        """A process that does nothing but save checkpoints, killed ``delay`` seconds after the first one is there.

        Args:
            plain: ``torch.save`` to the file itself, for comparison.
        """
        kill = KillAtMoment("checkpoint 1", delay)
        job = {
            "saver": "plain" if plain else "sound",
            "folder": str(folder),
            "kill": [type(kill).__name__, asdict(kill)],
        }
        return Forked(**self._ask(job))

    def _ask(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the fork server died: {self._log.read_text()[-2000:]}")
        return json.loads(answer)


class _Saboteur:
    """Counts the writes of this process, and kills it at one of them."""

    def __init__(self, kill: KillAtWrite | None, record: Path | None) -> None:
        self._kill, self._left = kill, kill.occurrence if kill else 0
        self._record = record.open("w", buffering=1) if record else None

    def act(self, label: str, whole: Callable[[], Any], half: Callable[[], Any] = lambda: None) -> Any:
        """Does ``whole``, unless this is the operation to die at."""
        if self._record:
            self._record.write(f"{label}\n")
        if self._kill is None or not re.fullmatch(self._kill.pattern, label):
            return whole()
        self._left -= 1
        if self._left:
            return whole()
        if self._kill.when != "before":
            {"half": half, "after": whole}[self._kill.when]()
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    def wrap_writes(self) -> None:
        """From here on every write of this process is counted."""
        fsync, replace, unlink, opened = os.fsync, os.replace, os.unlink, Path.open

        def path_open(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            file = opened(path, mode, *arguments, **options)
            return _WatchedFile(file, path, self) if mode in ("xb", "ab") else file

        def named(descriptor: int) -> str:
            return os.readlink(f"/proc/self/fd/{descriptor}")

        os.fsync = lambda fd: self.act(f"fsync {_shown(named(fd))}", lambda: fsync(fd))
        os.replace = lambda a, b: self.act(f"replace {_shown(b)}", lambda: replace(a, b))
        os.unlink = lambda path, **options: self.act(f"unlink {_shown(path)}", lambda: unlink(path, **options))
        Path.open = path_open  # type: ignore[assignment, method-assign]


def _shown(path: object) -> str:
    name = os.path.basename(os.fspath(path))  # type: ignore[call-overload]
    temporary = _TEMPORARY.fullmatch(name)
    return "events" if name.startswith("events.") else temporary[1] if temporary else name


class _WatchedFile:
    """A binary file whose writes a saboteur sees. Event files gather them until they are flushed, as Python's do."""

    def __init__(self, file: IO[bytes], path: Path, saboteur: _Saboteur) -> None:
        self._file, self._saboteur, self._name = file, saboteur, _shown(path)
        self._append, self._gathered = "a" in file.mode, bytearray() if self._name == "events" else None

    def write(self, content: bytes) -> int:
        if self._gathered is not None:
            self._gathered += content
            return len(content)
        label = f"{'append' if self._append else 'write'} {self._name}"
        return int(self._saboteur.act(label, lambda: self._file.write(content), lambda: self._write_half(content)))

    def flush(self) -> None:
        if self._gathered:
            content = bytes(self._gathered)
            self._gathered.clear()
            self._saboteur.act(
                f"flush {self._name}", lambda: self._file.write(content), lambda: self._write_half(content)
            )
        self._file.flush()

    def close(self) -> None:
        if not self._file.closed:
            self.flush()
        self._file.close()

    def _write_half(self, content: bytes) -> None:
        self._file.write(content[: len(content) // 2])
        self._file.flush()

    def __enter__(self) -> _WatchedFile:
        return self

    def __exit__(self, *fault: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def serve() -> None:
    """Reads jobs as JSON lines on stdin, answers on stdout; ends with stdin."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    from focalbench.runtime import prepare_process, set_threads

    prepare_process()
    _import_all()
    set_threads(1)
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")
        answers.flush()


def _import_all() -> None:
    """Whatever a trial imports, so that children need not."""

    import focalbench.experiment.trial
    import focalbench.launchers.worker  # noqa: F401


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    marks, child_end = os.pipe()
    texts, child_text = os.pipe()
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(marks)
        os.close(texts)
        _be_the_child(job, child_end, child_text)
    os.close(child_end)
    os.close(child_text)
    kill = _kill_of(job)
    with open(marks) as lines, open(texts, errors="replace") as text:
        for line in lines:
            if isinstance(kill, KillAtMoment) and line.strip() == kill.mark:
                time.sleep(kill.delay)
                os.kill(pid, signal.SIGKILL)  # not waited for yet: the id is still the child's
        _, status = os.waitpid(pid, 0)
        return {
            "code": os.waitstatus_to_exitcode(status),
            "seconds": time.monotonic() - started,
            "text": text.read(),
        }


def _kill_of(job: Mapping[str, Any]) -> KillAtWrite | KillAtMoment | None:
    if not job.get("kill"):
        return None
    name, fields = job["kill"]
    return {"KillAtWrite": KillAtWrite, "KillAtMoment": KillAtMoment}[name](**fields)


def _be_the_child(job: dict[str, Any], marks: int, text: int) -> None:
    """Runs the job; never returns."""
    from focalbench.errors import FocalbenchError

    def say(message: object) -> None:
        os.write(text, f"{message}\n".encode())

    code = 0
    try:
        os.write(marks, b"start\n")
        if "saver" in job:
            _save_for_ever(Path(job["folder"]), job["saver"] == "plain", marks)
        _train(job, marks, say)
    except FocalbenchError as fault:
        say(fault)
        code = fault.exit_code
    except BaseException:
        say(traceback.format_exc())
        code = 1
    finally:
        os._exit(code)


def _train(job: dict[str, Any], marks: int, warn: Callable[[str], None]) -> None:
    from focalbench.config.load import load_config
    from focalbench.experiment import events
    from focalbench.experiment.trial import run_trial
    from focalbench.runtime import StopFlag
    from focalbench.training import loop

    _mark(marks, events, "save_checkpoint", "checkpoint")
    _mark(marks, loop, "train_step", "step")
    kill = _kill_of(job)
    record = Path(job["record"]) if job["record"] else None
    if record or isinstance(kill, KillAtWrite):
        _Saboteur(kill if isinstance(kill, KillAtWrite) else None, record).wrap_writes()
    (trial,) = load_config(Path(job["config"]), job["overrides"]).trials
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_trial(
            trial,
            Path(job["folder"]),
            device="cpu",
            stop=StopFlag(),
            progress=lambda step, steps, values: None,
            warn=warn,
        )


def _mark(marks: int, module: Any, function: str, name: str) -> None:
    """From here on the N-th call of ``module.function`` sends the mark ``name N``."""
    real, calls = getattr(module, function), [0]

    def marked(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        os.write(marks, f"{name} {calls[0]}\n".encode())
        return real(*arguments, **options)

    setattr(module, function, marked)


def _save_for_ever(folder: Path, plain: bool, marks: int) -> None:
    import torch

    from focalbench.training.checkpoint import save_checkpoint

    state = {f"layer{i}": torch.full((256, 256), float(i)) for i in range(64)}  # 16 MiB
    step = 0
    while True:
        step += 1
        if plain:
            torch.save({"format": 1, "step": step, **state}, folder / "plain.pt")
        else:
            save_checkpoint(folder, {"step": step, **state}, step=step, keep=2)
        if step == 1:
            os.write(marks, b"checkpoint 1\n")


if __name__ == "__main__":
    serve()
