"""Builds TensorBoard's messages: scalars, pictures, precision-recall curves, texts, chart layouts, hyperparameters.

torch's and TensorBoard's own helpers need torch or TensorFlow for some of them; these need neither, so that the process
that drives a sweep can write them without waiting for torch to load.
"""

from __future__ import annotations

import io
import time
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.plugins.hparams.summary_v2 import Metric, hparams_pb
from tensorboard.plugins.pr_curve import metadata as curve_metadata
from tensorboard.plugins.text import metadata as text_metadata

from focalbench.records.state import TrialState
from focalbench.tags import MEAN_AP
from focalbench.tracking.hparams import Column, Scalar

METRICS = (Metric(MEAN_AP, display_name="mAP", description="mean average precision of the last evaluation, in [0, 1]"),)
"""Of the HPARAMS page, which ticks the first five it is given: mAP alone compares across arms."""

Layout = Mapping[str, Mapping[str, Sequence[tuple[str, str, str]]]]
"""Charts by the title of their group and their own; the lines of each as the tags of value, lower and upper bound."""

_STATUS = {TrialState.DONE: api_pb2.STATUS_SUCCESS, TrialState.FAILED: api_pb2.STATUS_FAILURE}
_TYPE = {
    "number": api_pb2.DATA_TYPE_FLOAT64,
    "bool": api_pb2.DATA_TYPE_BOOL,
    "string": api_pb2.DATA_TYPE_STRING,
}
_CURVE_DESCRIPTION = (
    "The points lie evenly along recall, so 'Threshold' is not a score: it is the share of the objects found that "
    "a point "
    "leaves out. 0 counts every detection."
)


def scalar(tag: str, value: float) -> Summary:
    """Returns one point of a curve; ``value`` has to be finite."""
    return Summary(value=[Summary.Value(tag=tag, simple_value=value)])


def picture(tag: str, image: NDArray[np.uint8]) -> Summary:
    """Returns a uint8 picture (H, W, 3) as JPEG: a fifth of a PNG's bytes and a seventh of its time, for TensorBoard's
    checksum is plain Python.
    """
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, format="JPEG", quality=90, subsampling=0)  # full colour keeps names legible
    height, width = image.shape[:2]
    content = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded.getvalue())
    return Summary(value=[Summary.Value(tag=tag, image=content)])


def precision_recall_curve(tag: str, rows: NDArray[np.float64]) -> Summary:
    """Returns a curve for the PR CURVES page.

    Args:
        tag: its name.
        rows: (6, T) true positives, false positives, true negatives, false negatives, precision, recall; the loosest
            threshold first.
    """
    about = curve_metadata.create_summary_metadata("", _CURVE_DESCRIPTION, rows.shape[1])
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in rows.shape])
    tensor = TensorProto(dtype="DT_FLOAT", float_val=rows.reshape(-1).tolist(), tensor_shape=shape)
    return Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=tensor)])


def text(tag: str, markdown: str) -> Summary:
    """Returns a text for the TEXT page."""
    about = text_metadata.create_summary_metadata("", "")
    tensor = TensorProto(dtype="DT_STRING", string_val=[markdown.encode()], tensor_shape=TensorShapeProto())
    return Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=tensor)])


def margin_charts(layout: Layout) -> Summary:
    """Returns the layout of the CUSTOM SCALARS page: charts of lines with a band, one line a run."""
    categories = []
    for title, charts in layout.items():
        category = layout_pb2.Category(title=title)
        for name, lines in reversed(list(charts.items())):  # TensorBoard's page shows the last one first
            series = [
                layout_pb2.MarginChartContent.Series(value=value, lower=low, upper=high) for value, low, high in lines
            ]
            category.chart.add(title=name, margin=layout_pb2.MarginChartContent(series=series))
        categories.append(category)
    content = layout_pb2.Layout(category=categories).SerializeToString()
    about = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=layout_metadata.PLUGIN_NAME))
    tensor = TensorProto(dtype="DT_STRING", string_val=[content], tensor_shape=TensorShapeProto())
    return Summary(value=[Summary.Value(tag=layout_metadata.CONFIG_SUMMARY_TAG, metadata=about, tensor=tensor)])


def experiment(columns: Mapping[str, Column], ticked: Collection[str]) -> Summary:
    """Returns what declares the columns of the HPARAMS page, their domains and the metrics.

    TensorBoard takes the first one it meets below its folder: one for each sweep is enough.

    Args:
        columns: all there are.
        ticked: those shown as the page opens; it has room for five.
    """
    infos = []
    for name, column in columns.items():
        info = api_pb2.HParamInfo(name=name, type=_TYPE[column.kind], differs=name in ticked)
        if column.values:
            info.domain_discrete.extend(column.values)
        elif column.kind == "bool":
            info.domain_discrete.extend([False, True])
        elif column.minimum is not None and column.maximum is not None:
            info.domain_interval.min_value = column.minimum
            info.domain_interval.max_value = column.maximum
        infos.append(info)
    content = api_pb2.Experiment(hparam_infos=infos, metric_infos=[metric.as_proto() for metric in METRICS])
    return _hparams_summary(metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=content))


def session_start(values: Mapping[str, Scalar]) -> Summary:
    """Returns what makes a run a row of the HPARAMS page, with these values."""
    return hparams_pb(dict(values), trial_id="")  # no group: a row a trial


def session_end(state: TrialState) -> Summary:
    """Returns what ends a run's row on the HPARAMS page: ``state`` is done or failed."""
    end = plugin_data_pb2.SessionEndInfo(status=_STATUS[state], end_time_secs=time.time())
    return _hparams_summary(metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=end))


def _hparams_summary(tag: str, message: plugin_data_pb2.HParamsPluginData) -> Summary:
    """A summary that carries an hparams message in its metadata, as TensorBoard's plugin reads it."""
    summary = Summary()
    summary.value.add(tag=tag, metadata=metadata.create_summary_metadata(message), tensor=metadata.NULL_TENSOR)
    return summary
