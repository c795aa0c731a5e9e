"""Contestants that are processes of their own: how they are called, and what they hand back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

import numpy as np

from focalbench.boxes.voc import voc_from_continuous
from focalbench.errors import FocalbenchError, InterruptedTrial

if TYPE_CHECKING:
    from torch import Tensor


_GRACE_S = 20.0  # for a sweep to stop its own workers


def call_module(
    arguments: list[str], environment: Mapping[str, str], stdin: str = "", *, limit: float | None = None
) -> str:
    """Returns what ``python -m`` with ``arguments``, a module first, prints on stdout.

    However this ends, ^C and SIGTERM among it, the process and those that it has started are gone then; where this
    process is killed, the other one is told to end: see :mod:`focalbench.benchmarks.child`.

    Args:
        limit: seconds after which it is ended; None: never.

    Raises:
        FocalbenchError: when it fails, with its last words, or takes longer.
        InterruptedTrial: when SIGTERM arrives meanwhile.
    """
    name = " ".join(arguments[:2])
    command = [sys.executable, "-m", "focalbench.benchmarks.child", str(os.getpid()), *arguments]
    with _started(command, environment) as child:
        try:
            output, errors = child.communicate(stdin, timeout=limit)
        except subprocess.TimeoutExpired:
            raise FocalbenchError(f"{name} was stopped after {limit:g} s") from None
    if child.returncode != 0:
        last = (errors.strip().splitlines() or ["no message"])[-1]
        raise FocalbenchError(f"{name} ended with {child.returncode}: {last}")
    return output


@contextmanager
def _started(command: list[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process in a group of its own, which has ended when the block has; a terminal's ^C reaches its caller alone."""
    with _sigterm_raises():
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(environment),
            start_new_session=True,
        )
        try:
            yield child
        finally:
            _end_group(child)


def _end_group(child: subprocess.Popen[str]) -> None:
    """Asks the processes of the child's group to end, and ends them after a while, or at once when asked again."""
    try:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)
            child.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with suppress(ProcessLookupError, PermissionError):  # the whole group is gone
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                stream.close()


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Within the block SIGTERM is an exception, as ^C is; outside the main thread it is what it was."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise InterruptedTrial("stopped by SIGTERM; all measurements are lost", signum)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def flat_detections(images: Iterable[tuple[Tensor, Tensor, np.ndarray]]) -> dict[str, np.ndarray]:
    """Returns detections as the metrics take them: image, label, score, and box in VOC's pixels.

    Args:
        images: of each image in turn, labels (D,), scores (D,) and boxes (D, 4), 0-based continuous xyxy in pixels of
            the original.
    """
    parts = [
        (
            np.full(len(labels), number, np.int64),
            labels.cpu().numpy().astype(np.int64),
            scores.float().cpu().numpy(),
            voc_from_continuous(boxes).astype(np.float32),
        )
        for number, (labels, scores, boxes) in enumerate(images)
    ]
    columns = (np.concatenate(column) for column in zip(*parts, strict=True))
    return dict(zip(("image", "label", "score", "box"), columns, strict=True))


def answer(path: str, detections: Mapping[str, np.ndarray], trained_at: float) -> None:
    """Writes the detections to ``path`` and prints how long it is, in seconds, that training ended.

    Args:
        trained_at: by ``time.perf_counter``.
    """
    with open(path, "wb") as file:
        np.savez(file, allow_pickle=False, **detections)
    print(json.dumps({"evaluation_s": time.perf_counter() - trained_at}))
