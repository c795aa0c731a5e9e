"""A trial's TensorBoard folder: scalars, pictures, precision-recall curves and hyperparameters in one place.

torch's ``add_hparams`` would make a second run folder; here the hparams messages go to the trial's own writer. What
TensorBoard shows of a whole sweep is written by ``focalbench.board``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from focalbench.records.state import TrialState
from focalbench.storage import storage_faults
from focalbench.tracking import summaries
from focalbench.tracking.event_file import PATTERN, EventFile, retire
from focalbench.tracking.hparams import fit
from focalbench.tracking.tracker import MatchedScores, TrackedTrial, Tracker

_NUM_POINTS = 127  # of a curve
_END_SUFFIX = ".end"
_LAST_STEP = 2**62  # the end of a session hides nothing


class TensorBoardTracker(Tracker):
    """Writes event files into the trial's own folder, which TensorBoard shows as one run and one session of the
    HPARAMS page. What an earlier process wrote behind the checkpoint is hidden, or removed where the trial starts anew.

    Raises:
        StorageError: when the folder cannot be written.
    """

    def __init__(self, trial: TrackedTrial) -> None:
        self._folder = trial.folder
        resumed = trial.resume_step is not None
        with storage_faults(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            # TensorBoard keeps the first end of a session it meets: a retried trial must lose the old one.
            retire(self._folder.glob(f"{PATTERN}{_END_SUFFIX}" if resumed else PATTERN))
            self._events = EventFile(self._folder, first_step=0 if trial.resume_step is None else trial.resume_step + 1)
            values = {"trial": trial.name, "arm": trial.arm, **trial.hparams}
            self._events.add(summaries.session_start(fit(values, trial.columns)))
        self.flush()  # a trial that dies at once still has its row

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one point a tag; undefined values get none, for a NaN makes TensorBoard's answers invalid JSON."""
        with storage_faults(self._folder):
            for tag, value in values.items():
                if math.isfinite(value):
                    self._events.add(summaries.scalar(tag, value), step)

    def images(self, step: int, tag: str, image: NDArray[np.uint8]) -> None:
        """Writes one uint8 picture (H, W, 3); TensorBoard shows the last ten of a tag."""
        with storage_faults(self._folder):
            self._events.add(summaries.picture(tag, image), step)

    def pr_curves(self, step: int, curves: Mapping[str, MatchedScores]) -> None:
        """Writes one curve a class under ``PR/<class>``; a class without objects has none."""
        with storage_faults(self._folder):
            for name, curve in curves.items():
                if curve.num_objects:
                    rows = precision_recall_rows(curve)
                    self._events.add(summaries.precision_recall_curve(f"PR/{name}", rows), step)

    def finish(self, state: TrialState) -> None:
        """Ends the session on the HPARAMS page, in an event file of its own so that a retry can take it back."""
        with storage_faults(self._folder):
            events = EventFile(self._folder, first_step=_LAST_STEP, suffix=_END_SUFFIX)
            events.add(summaries.session_end(state))
            events.close()

    def flush(self) -> None:
        with storage_faults(self._folder):
            self._events.flush()

    def close(self) -> None:
        with storage_faults(self._folder):
            self._events.close()


def precision_recall_rows(curve: MatchedScores) -> NDArray[np.float64]:
    """Returns what TensorBoard's PR CURVES page needs at 127 points of the curve, evenly spread over its recall.

    Even score thresholds, which TensorBoard's own helpers take, put all that scores near 1 into one point. Recall
    counts the objects that were never found, which those helpers leave out.

    Returns:
        (6, 127): true positives, false positives, true negatives (0: boxes have none), false negatives,
        precision, recall; from all detections down to the highest score alone.
    """
    order = np.argsort(-curve.scores, kind="stable")
    scores, is_hit = curve.scores[order], curve.is_hit[order]
    last_of_score = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(scores) else np.zeros(0, int)
    true = np.cumsum(is_hit)[last_of_score]
    if len(true):
        wanted = np.linspace(0, true[-1], _NUM_POINTS - 1)
        points = np.concatenate([np.searchsorted(true, wanted), [len(true) - 1]])
        points[0] = 0  # the highest score, a hit or not
        true, kept = true[points], last_of_score[points] + 1
    else:
        true = kept = np.zeros(_NUM_POINTS, int)
    true, kept = true[::-1].astype(np.float64), kept[::-1].astype(np.float64)
    missed = curve.num_objects - true
    precision = true / np.maximum(kept, 1)
    return np.stack([true, kept - true, np.zeros_like(true), missed, precision, true / curve.num_objects])
