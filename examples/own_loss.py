"""A loss of one's own: Poly-1, cross entropy plus epsilon (1 - p_t) (arXiv:2204.12511, eq. 5)."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field

import focalbench as fb


@fb.loss("poly")
def poly(logits: torch.Tensor, targets: torch.Tensor, *, epsilon: Annotated[float, Field(ge=-1)] = 1.0) -> torch.Tensor:
    """Cross entropy plus epsilon (1 - p_t); 0 is cross entropy, and above 0 what is uncertain counts more."""
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return ce + epsilon * (1 - torch.exp(-ce))
