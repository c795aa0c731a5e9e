"""What a part is asked, how it answers, and how it takes the time."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gpu_figures import CONTEXT_LOST, NOT_ALL


@dataclass
class Run:
    """What one part was asked, and how it answers.

    Attributes:
        device: cuda:N, or cpu for stand-ins of everything that are small enough for a rehearsal.
        work: folder for trainings, shared by all parts.
        known: cases that are measured already.
        left: returns the seconds that are left.
        failures: cases that have failed.
        is_complete: whether no case was left out.
    """

    part: str
    device: torch.device
    work: Path
    out: Path
    data: str | None
    train: list[str]
    val: list[str]
    sweep_data: str | None
    known: frozenset[str]
    left: Callable[[], float]
    failures: int = 0
    is_complete: bool = True

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def exit_code(self) -> int:
        return 1 if self.failures else 0 if self.is_complete else NOT_ALL

    def say(self, case: str, **facts: Any) -> None:
        self.is_complete &= "left_out" not in facts
        print(json.dumps({"part": self.part, "case": case, **rounded(facts)}), flush=True)

    def measure(self, case: str, work: Callable[[], dict[str, Any]], *, needs_s: float = 4.0) -> None:
        """Says what ``work`` finds, unless it is known or there is no time; a case that fails leaves its reason."""
        if case in self.known:
            return
        if self.left() < needs_s:
            self.say(case, left_out="no time left")
            return
        began = time.perf_counter()
        try:
            self.say(case, **work(), case_s=time.perf_counter() - began)
        except Exception as fault:
            self.failures += 1
            reason = f"{type(fault).__name__}: {str(fault)[:400]}"
            self.say(case, failed=reason, trace=traceback.format_exc().splitlines()[-8:])
            self._require_context(case)

    def _require_context(self, case: str) -> None:
        """Ends the process after a CUDA error that sticks: nothing after it would be true."""
        if not self.on_gpu:
            return
        try:
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()
        except Exception:
            self.say(case, failed="the CUDA context is lost")
            sys.exit(CONTEXT_LOST)

    def wait(self) -> None:
        """Waits for the device."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)


def rounded(value: Any) -> Any:
    """Returns ``value`` with its floats cut to five digits: a line is to be read."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    return [rounded(entry) for entry in value] if isinstance(value, list | tuple) else value


def timed(run: Run, work: Callable[[], object], calls: int, rounds: int = 3) -> tuple[float, float]:
    """Returns the median, among rounds of ``calls`` that follow each other without waiting, of ms a call, and how far
    the rounds lie apart, in units of it.
    """
    found = []
    for _ in range(rounds):
        run.wait()
        began = time.perf_counter()
        for _ in range(calls):
            work()
        run.wait()
        found.append(1e3 * (time.perf_counter() - began) / calls)
    middle = statistics.median(found)
    return middle, (max(found) - min(found)) / middle


def replayed(run: Run, work: Callable[[], object], calls: int = 20) -> tuple[float, float]:
    """``timed`` for a CUDA graph of ``work``: kernels alone, without the host that launches them."""
    if not run.on_gpu:
        return timed(run, work, 1)
    with torch.cuda.device(run.device):
        graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        with torch.cuda.stream(side):
            work()
        run.wait()
        with torch.cuda.graph(graph, stream=side):
            work()
        return timed(run, graph.replay, calls)


@contextmanager
def watched(run: Run) -> Iterator[list[warnings.WarningMessage]]:
    """Within the block torch warns wherever the host waits for the GPU; other warnings are left out."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", message=".*synchronizing CUDA operation")
        if run.on_gpu:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield caught
        finally:
            if run.on_gpu:
                torch.cuda.set_sync_debug_mode("default")


def largest_difference(found: Sequence[float], expected: Sequence[float]) -> float:
    """Returns the largest relative difference of numbers that should be equal."""
    return max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))


def said(command: Sequence[str]) -> list[str]:
    """Returns what a command prints, and the end of what it complains of."""
    done = subprocess.run(command, capture_output=True, text=True)
    return [*done.stdout.splitlines(), *done.stderr.splitlines()[-5:]]
