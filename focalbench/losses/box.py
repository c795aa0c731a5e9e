"""Box regression losses on encoded offsets."""

from torch import Tensor
from torch.nn import functional as F


def smooth_l1_loss(deltas: Tensor, target_deltas: Tensor, *, beta: float) -> Tensor:
    """Returns the sum of the smooth L1 loss over all elements (Fast R-CNN, eq. 3).

    Args:
        deltas: (P, 4) predicted offsets; promoted to float32.
        target_deltas: (P, 4) encoded ground truth.
        beta: width of the quadratic zone; 0 is L1.

    Returns:
        float32 scalar; 0 for no rows.
    """
    return F.smooth_l1_loss(deltas.float(), target_deltas.float(), beta=beta, reduction="sum")
