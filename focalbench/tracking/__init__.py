"""What a training reports to while it runs: metrics.jsonl (the source of truth) and TensorBoard's event files.

A tracker receives scalars, uint8 images (H, W, 3) and matched scores (D detections of one class) and stores them;
``MultiTracker`` hands each to several. Tags are those of ``focalbench.tags``. Nothing here decides when or what to log.
"""

from focalbench.tracking.tracker import MatchedScores, TrackedTrial, Tracker

__all__ = ["MatchedScores", "TrackedTrial", "Tracker"]
