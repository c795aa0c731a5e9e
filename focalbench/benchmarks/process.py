"""Contestants that are processes of their own: how they are called, and what they hand back."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from focalbench.boxes.voc import voc_from_continuous
from focalbench.errors import FocalbenchError

if TYPE_CHECKING:
    from torch import Tensor


def call_module(
    arguments: list[str], environment: Mapping[str, str], stdin: str = "", *, limit: float | None = None
) -> str:
    """Returns what ``python -m`` with ``arguments``, a module first, prints on stdout.

    Args:
        limit: seconds after which it is ended; None: never.

    Raises:
        FocalbenchError: when it fails, with its last words, or takes longer.
    """
    name, command = " ".join(arguments[:2]), [sys.executable, "-m", *arguments]
    try:
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, env=dict(environment), timeout=limit
        )
    except subprocess.TimeoutExpired:
        raise FocalbenchError(f"{name} was ended after {limit:g} s") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise FocalbenchError(f"{name} ended with {done.returncode}: {last}")
    return done.stdout


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
