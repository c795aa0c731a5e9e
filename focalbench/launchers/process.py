"""A worker process as its launcher sees it: jobs go in, reports come out, and it ends when told or left."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from focalbench.launchers.job import Job

_RANKS_STOP_S = 60
"""What ranks get to write a checkpoint before they are killed; one that waits for a dead rank uses all of it. The agent
of torch 2.11 and before cannot be told, and gives 30 s."""


class WorkerProcess:
    """One worker: a process, or, for jobs on several devices, torch's elastic agent with a process for each.

    The agent ends all ranks when one dies, and passes signals on. Such a worker takes one job only.

    Args:
        devices: the devices of each of its jobs.
        threads: intra-op threads of a process.
        log: file that its stderr is appended to.
        environment: variables beside this process's own.
    """

    def __init__(
        self, devices: Sequence[str], threads: int, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._log = log
        # OpenMP reads its number of threads when torch loads; a user's own setting must not split two cores four ways.
        own = {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        if len(devices) > 1:  # a variable: an agent that does not know it passes over it, and refuses such an option
            own["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(_RANKS_STOP_S)
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                _command(devices),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **(environment or {}), **own},
                start_new_session=True,
            )

    def give(self, job: Job, **changes: Any) -> None:
        """Hands over a job with ``changes``; that a worker died meanwhile shows in the end of its reports."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(job.model_copy(update={"log": self._log, **changes}).to_line().encode() + b"\n")
            self.process.stdin.flush()

    def reports(self) -> Iterator[dict[str, Any]]:
        """Returns what the worker says, until it has ended."""
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError):  # a line torn by a kill; the end of the stream tells the rest
                    yield json.loads(line)
        self.process.wait()

    def close(self) -> None:
        """Ends the stream of jobs: the worker ends by itself; a job under way stops at its next step, after a
        checkpoint.
        """
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def how_it_ended(self) -> str:
        """Returns the exit code or signal, in words."""
        code = self.process.returncode
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def _command(devices: Sequence[str]) -> list[str]:
    if len(devices) == 1:
        return [sys.executable, "-m", "focalbench.launchers.worker"]
    agent = [
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={len(devices)}",
        "--local-addr=127.0.0.1",
        "--max-restarts=0",  # the launcher starts anew, and counts
        "--monitor-interval=0.5",
    ]
    return [sys.executable, "-m", *agent, "-m", "focalbench.launchers.rank", *devices]
