"""A plugin that loads torch only when it is called, so that a launcher that reads its keys starts quickly."""

from typing import Any

import focalbench as fb


@fb.loss("late")
def late(logits: Any, targets: Any, *, gamma: float = 1.0) -> Any:
    """The focal loss without alpha, as one writes it down (arXiv:1708.02002, eq. 4)."""
    import torch
    import torch.nn.functional as F

    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (1 - torch.exp(-ce)) ** gamma * ce
