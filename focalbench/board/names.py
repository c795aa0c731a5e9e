"""Names of TensorBoard's runs and tags that belong to a whole sweep."""

from __future__ import annotations

from focalbench.tags import MEAN_AP

ARMS, VERDICT = "arms", "verdict"
"""Folders beside the trials: TensorBoard's run of each arm, and that of the verdict."""
DIFFERENCE = f"difference/{MEAN_AP}"
"""Tag of an arm's mAP minus the baseline's, paired by seed."""


def bounds(tag: str) -> tuple[str, str]:
    """Returns the tags of the lower and the upper end of the interval around ``tag``."""
    return f"arm/{tag}/low", f"arm/{tag}/high"
