"""The moving average of the weights that is evaluated in their place."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from focalbench.models.detector import Detector


class MovingAverage(AveragedModel):
    """Exponential moving average of parameters and buffers; whole numbers among them are copied.

    torch's own update looks at its count of updates in every step. Here that is a buffer on the model's device, so that
    the update may be recorded as a part of a CUDA graph, and nothing is asked of it: whether there was an update is
    known on the host.

    Args:
        model: on its device; copied.
        decay: share of the average that an update keeps, in (0, 1).
    """

    module: Detector

    def __init__(self, model: Detector, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self.n_averaged = self.n_averaged.to(next(model.parameters()).device)
        self._decay, self._started = decay, False
        self.register_load_state_dict_post_hook(_look_at_count)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Moves the average towards ``model``; the first call copies it."""
        started, self._started = self._started, True
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        moved = [pair for pair in pairs if started and pair[0].is_floating_point()]
        if moved:
            own, new = zip(*moved, strict=True)
            torch._foreach_lerp_(own, new, 1 - self._decay)
        for average, value in pairs:
            if not (started and average.is_floating_point()):
                average.copy_(value)
        self.n_averaged += 1


def _look_at_count(average: MovingAverage, incompatible_keys: object) -> None:
    """A checkpoint brings the number of updates so far."""
    average._started = bool(average.n_averaged)


def _tensors(model: nn.Module) -> chain[Tensor]:
    return chain(model.parameters(), model.buffers())
