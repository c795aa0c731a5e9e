"""Which images make the batch of a step: a pure function of (seed, step), so that resuming needs only the step."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np
import torch

Loaded = TypeVar("Loaded")

# Keeps the streams of different purposes apart although they share a seed.
_SHUFFLE_STREAM = 1
_STEP_STREAM = 2


class BatchSchedule:
    """Endless batches of a fixed size; every epoch is a permutation of all images.

    The permutations follow one another without a gap: a batch may hold the end of one epoch and the start of the next,
    so that no image is left out, every batch is full (one tensor shape, one CUDA graph), and a data set smaller than a
    batch works too.

    Args:
        num_images: N, at least 1.
        batch_size: B, at least 1.
        seed: decides all permutations.

    Raises:
        ValueError: if a number is below 1.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int) -> None:
        if num_images < 1 or batch_size < 1:
            raise ValueError(f"num_images {num_images} and batch_size {batch_size} must be at least 1")
        self.num_images, self.batch_size, self.seed = num_images, batch_size, seed
        self._epochs: dict[int, np.ndarray] = {}

    def _permutation(self, epoch: int) -> np.ndarray:
        epochs = self._epochs
        if epoch not in epochs:
            rng = np.random.default_rng([self.seed, _SHUFFLE_STREAM, epoch])
            # A batch touches neighbouring epochs only: older ones are never asked for again in a forward run. The rest
            # is replaced as a whole, for another thread may be reading.
            kept = {key: value for key, value in epochs.items() if key >= epoch - 1}
            self._epochs = epochs = {**kept, epoch: rng.permutation(self.num_images)}
        return epochs[epoch]

    def indices(self, step: int) -> np.ndarray:
        """Returns (B,) int64 image indices of ``step`` (0, 1, ...)."""
        position = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(position, self.num_images)
        parts = [self._permutation(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)]
        return np.concatenate(parts)


def step_generator(seed: int, step: int) -> torch.Generator:
    """Seeds a CPU generator for the augmentation of ``step``: equal in every arm of a seed and after every resume."""
    words = np.random.SeedSequence([seed, _STEP_STREAM, step]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))


class Prefetcher(Generic[Loaded]):
    """Calls ``load`` for the next step on a thread while the caller is busy with this one.

    The thread ends with this object, and what it read ahead goes with it.

    Args:
        load: a function of the step and nothing else, so that only the time of its call changes. One that leads back
            to this object would keep both, and all that they hold, until the garbage collector comes by.
    """

    def __init__(self, load: Callable[[int], Loaded]) -> None:
        self._load = load
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="focalbench-load")
        self._next: tuple[int, Future[Loaded]] | None = None

    def __call__(self, step: int) -> Loaded:
        """What ``load`` returns, or raises, for ``step``."""
        waiting, self._next = self._next, None
        if waiting is None or waiting[0] != step:  # the first step, or a jump
            waiting = step, self._thread.submit(self._load, step)
        loaded = waiting[1].result()
        self._next = (step + 1, self._thread.submit(self._load, step + 1))
        return loaded
