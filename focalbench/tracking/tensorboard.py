"""A trial's TensorBoard folder: scalars, pictures, precision-recall curves and hyperparameters in one place.

torch's ``add_hparams`` would make a second run folder, and TensorBoard's own helper for the end of a session
needs TensorFlow; here the hparams messages go to the trial's own writer. Importing this module imports torch.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.plugins.hparams.summary_v2 import Metric, hparams_pb
from torch.utils.tensorboard import summary as summaries

from focalbench.records.state import TrialState
from focalbench.storage import storage_faults
from focalbench.tags import BEST_MEAN_AP, CLASS_AP, MEAN_AP, TRAIN_LOSS
from focalbench.tracking.event_file import PATTERN, EventFile
from focalbench.tracking.hparams import Column, fit
from focalbench.tracking.tracker import MatchedScores, TrackedTrial, Tracker

METRICS = (
    Metric(MEAN_AP, display_name="mAP", description="mean average precision of the last evaluation, in [0, 1]"),
    Metric(BEST_MEAN_AP, display_name="best mAP", description="highest so far: chosen by the test set, it flatters"),
    Metric(TRAIN_LOSS, display_name="loss", description="weighted sum of the class and the box loss"),
    Metric("train/cls", display_name="class loss", description="per positive anchor"),
    Metric("train/box", display_name="box loss", description="per positive anchor"),
)
"""The same five columns on every sweep's HPARAMS page: TensorBoard takes them from the first trial it meets."""

SHOWN_FIRST = frozenset({"arm", "seed", "loss.name", "loss.gamma", "loss.alpha"})
"""The page ticks five columns when it opens: those said to differ between trials, then by the alphabet."""

LAYOUT = {
    "Average precision": {
        "per class": ["Multiline", [f"{CLASS_AP}.+"]],
        "mean": ["Multiline", [MEAN_AP, BEST_MEAN_AP]],
    },
    "Loss": {"all terms": ["Multiline", [TRAIN_LOSS, "train/cls", "train/box", "train/obj"]]},
    "Focusing": {"gamma": ["Multiline", ["train/gamma"]], "alpha": ["Multiline", ["train/alpha"]]},
}
"""Charts of the CUSTOM SCALARS page; tags are regular expressions, so that one layout fits every set of classes."""

_NUM_THRESHOLDS = 127  # TensorBoard's writers hold no more
_END_SUFFIX = ".end"
_LAST_STEP = 2**62  # the end of a session hides nothing
_STATUS = {TrialState.DONE: api_pb2.STATUS_SUCCESS, TrialState.FAILED: api_pb2.STATUS_FAILURE}
_TYPE = {
    "number": api_pb2.DATA_TYPE_FLOAT64,
    "bool": api_pb2.DATA_TYPE_BOOL,
    "string": api_pb2.DATA_TYPE_STRING,
}


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
            for path in self._folder.glob(f"{PATTERN}{_END_SUFFIX}" if resumed else PATTERN):
                path.unlink()
            self._events = EventFile(self._folder, first_step=0 if trial.resume_step is None else trial.resume_step + 1)
            self._events.add(_experiment(trial.columns))
            values = {"trial": trial.name, "arm": trial.arm, **trial.hparams}
            self._events.add(hparams_pb(fit(values, trial.columns), trial_id=""))  # no group: a row a trial
            self._events.add(summaries.custom_scalars(LAYOUT))
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
            self._events.add(_picture(tag, image), step)

    def pr_curves(self, step: int, curves: Mapping[str, MatchedScores]) -> None:
        """Writes one curve a class under ``PR/<class>``; a class without objects has none."""
        with storage_faults(self._folder):
            for name, curve in curves.items():
                if curve.num_objects:
                    rows = precision_recall_rows(curve)
                    self._events.add(summaries.pr_curve_raw(f"PR/{name}", *rows), step)

    def finish(self, state: TrialState) -> None:
        """Ends the session on the HPARAMS page, in an event file of its own so that a retry can take it back."""
        end = plugin_data_pb2.SessionEndInfo(status=_STATUS[state], end_time_secs=time.time())
        message = plugin_data_pb2.HParamsPluginData(session_end_info=end)
        with storage_faults(self._folder):
            events = EventFile(self._folder, first_step=_LAST_STEP, suffix=_END_SUFFIX)
            events.add(_hparams_summary(metadata.SESSION_END_INFO_TAG, message))
            events.close()

    def flush(self) -> None:
        with storage_faults(self._folder):
            self._events.flush()

    def close(self) -> None:
        with storage_faults(self._folder):
            self._events.close()


def precision_recall_rows(curve: MatchedScores) -> NDArray[np.float64]:
    """Returns what TensorBoard's PR CURVES page needs at 127 even score thresholds in [0, 1].

    Recall counts the objects that were never found; TensorBoard's own helper leaves them out.

    Returns:
        (6, 127): true positives, false positives, true negatives (0: boxes have none), false negatives,
        precision, recall.
    """
    thresholds = np.linspace(0, 1, _NUM_THRESHOLDS)
    hits = np.sort(curve.scores[curve.is_hit])
    misses = np.sort(curve.scores[~curve.is_hit])
    true = (len(hits) - np.searchsorted(hits, thresholds, side="left")).astype(np.float64)
    false = (len(misses) - np.searchsorted(misses, thresholds, side="left")).astype(np.float64)
    precision = true / np.maximum(true + false, 1)
    no_negatives = np.zeros_like(true)
    return np.stack([true, false, no_negatives, curve.num_objects - true, precision, true / curve.num_objects])


def _picture(tag: str, image: NDArray[np.uint8]) -> Summary:
    """One JPEG: a fifth of a PNG's bytes and a seventh of its time, for TensorBoard's checksum is plain Python."""
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, format="JPEG", quality=90, subsampling=0)  # full colour keeps names legible
    height, width = image.shape[:2]
    picture = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded.getvalue())
    return Summary(value=[Summary.Value(tag=tag, image=picture)])


def _experiment(columns: Mapping[str, Column]) -> Summary:
    """The message that declares the columns, their domains and the metrics."""
    infos = []
    for name, column in columns.items():
        info = api_pb2.HParamInfo(name=name, type=_TYPE[column.kind], differs=name in SHOWN_FIRST)
        if column.values:
            info.domain_discrete.extend(column.values)
        elif column.kind == "bool":
            info.domain_discrete.extend([False, True])
        elif column.minimum is not None and column.maximum is not None:
            info.domain_interval.min_value = column.minimum
            info.domain_interval.max_value = column.maximum
        infos.append(info)
    experiment = api_pb2.Experiment(hparam_infos=infos, metric_infos=[metric.as_proto() for metric in METRICS])
    return _hparams_summary(metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=experiment))


def _hparams_summary(tag: str, message: plugin_data_pb2.HParamsPluginData) -> Summary:
    """A summary that carries an hparams message in its metadata, as TensorBoard's plugin reads it."""
    summary = Summary()
    summary.value.add(tag=tag, metadata=metadata.create_summary_metadata(message), tensor=metadata.NULL_TENSOR)
    return summary
