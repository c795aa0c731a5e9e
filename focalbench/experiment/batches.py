"""What training asks of the data, put together from a data set, its schedule of batches and its augmentation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from focalbench.data.dataset import DetectionData
from focalbench.data.loader import BatchSchedule, Prefetcher, step_generator
from focalbench.data.transforms import Augment
from focalbench.structures import Targets

# (images, targets, step) to the same at another size.
Resize = Callable[[Tensor, Targets, int], tuple[Tensor, Targets]]


class AugmentedBatches:
    """The training batch of any step, the same for every arm of one seed; or the share of it that a rank trains on.

    Args:
        batch_size: of the whole batch, a multiple of ``num_ranks``.
        rank, num_ranks: which share; images and augmentation are those that one process would have there.
    """

    def __init__(
        self,
        data: DetectionData,
        augment: Augment,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        channels_last: bool,
        resize: Resize | None = None,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self._data, self._augment, self._resize = data, augment, resize
        self._seed, self._device = seed, device
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        schedule, size = BatchSchedule(len(data), batch_size, seed), batch_size // num_ranks
        self._first = first = rank * size

        def indices(step: int) -> np.ndarray:
            return schedule.indices(step)[first : first + size]

        def load(step: int) -> tuple[Tensor, Targets]:
            return data.load(indices(step), device)

        self._indices = indices
        # On a CPU the cores have the network to compute; a GPU leaves them time to read the next images.
        self._load = Prefetcher(load) if device.type == "cuda" else load

    def __call__(self, step: int) -> tuple[Tensor, Targets]:
        """Normalised, augmented images (B / num_ranks, 3, H, W) and their targets on the training device."""
        images, targets = self._change(*self._data.send(self._load(step), self._device), step)
        return images.contiguous(memory_format=self._format), targets

    def first_images(self, step: int, num_images: int) -> tuple[Tensor, Targets, Targets]:
        """Returns the first images of the batch of ``step`` with its targets, and the difficult objects in them, which
        no training sees.

        What calls get before and after it stays the same: nothing here remembers, or draws from a generator of all.
        """
        indices = self._indices(step)[:num_images]
        raw, targets = self._data.batch(indices, self._device)
        images, learned = self._change(raw, targets, step)
        _, difficult = self._change(raw, self._data.difficult(indices).to(self._device), step)
        return images, learned, difficult

    def _change(self, images: Tensor, targets: Targets, step: int) -> tuple[Tensor, Targets]:
        images, targets = self._augment(images, targets, step_generator(self._seed, step), skip=self._first)
        return (images, targets) if self._resize is None else self._resize(images, targets, step)
