"""Does what ``focalbench analyze`` does: writes a trained network's loss distribution, hard tail, calibration and
errors as files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from focalbench.analysis.box_kinds import KINDS
from focalbench.analysis.hard_tail import Crop, crop_regions
from focalbench.analysis.loss_distribution import LossDistribution, class_loss, figures, measure
from focalbench.console import points
from focalbench.figures import new_figure, save_figure
from focalbench.figures.detections import draw_crops
from focalbench.figures.lettering import label_of
from focalbench.figures.loss_distribution import (
    NEGATIVE_COLOR,
    POSITIVE_COLOR,
    plot_cumulative_loss,
    plot_gradient_norms,
    plot_loss_against_probability,
)
from focalbench.metrics.calibration import Reliability, reliability
from focalbench.metrics.loss_histogram import (
    MarginHistogram,
    figure_4_curves,
    gradient_norm_counts,
    probability_counts,
    total_loss,
)
from focalbench.metrics.protocols import PROTOCOLS
from focalbench.metrics.tide import errors_by_cause
from focalbench.storage import storage_faults, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from focalbench.data.dataset import DetectionData
    from focalbench.trained.trial import TrainedTrial

NUMBERS_FILE = "analysis.json"


def write_analysis(trained: TrainedTrial, data: DetectionData, folder: Path, *, errors: bool) -> dict[str, Any]:
    """Runs the network over ``data`` once and writes figures and ``analysis.json`` into ``folder``.

    Args:
        errors: whether to split the missing AP by cause too.

    Returns:
        the content of ``analysis.json``.

    Raises:
        StorageError: when the folder cannot be written.
    """
    with storage_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
    found = measure(trained, data)
    truth = data.ground_truth()
    calibration = reliability(found.detections, truth, num_classes=len(trained.classes))
    document: dict[str, Any] = {
        "trial": trained.name,
        "step": trained.step,
        "out": str(folder),
        "images": len(data),
        "detections": len(found.detections["label"]),
        "loss": figures(found.histogram, found.tail.gamma),
        # Beside the loss of all elements as the training weighs them.
        "hard_tail": found.tail.document(
            negative_loss=total_loss(found.histogram.negatives, found.tail.gamma),
            class_loss=class_loss(trained, found.histogram),
            image_ids=[record.image_id for record in data.records],
            classes=trained.classes,
        ),
        "kinds": KINDS,
        "calibration": _calibration_document(calibration),
    }
    _write_loss_figures(found.histogram, trained.name, folder)
    save_figure(plot_reliability(calibration, trained.name), folder / "calibration.png")
    crops = [_captioned(crop, trained.classes) for crop in crop_regions(data, found.tail.regions)]
    with storage_faults(folder):
        Image.fromarray(draw_crops(crops)).save(folder / "hard_negatives.png")
    if errors:
        document["errors"] = _errors(found, truth, trained, folder)
    write_json(folder / NUMBERS_FILE, document)
    return document


def _write_loss_figures(histogram: MarginHistogram, title: str, folder: Path) -> None:
    positives, negatives = histogram.positives, histogram.negatives
    by_p = probability_counts(positives), probability_counts(negatives)
    save_figure(plot_loss_against_probability(*by_p, title), folder / "loss_against_p_t.png")
    curves = figure_4_curves(positives), figure_4_curves(negatives)
    save_figure(plot_cumulative_loss(*curves, title), folder / "cumulative_loss.png")
    norms = gradient_norm_counts(positives), gradient_norm_counts(negatives)
    save_figure(plot_gradient_norms(*norms, title), folder / "gradient_norms.png")


def _captioned(crop: Crop, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    region = crop.region
    names = [label_of(name, label) for label, name in enumerate(classes)]
    beside = f", {names[region.overlapped]} IoU {region.overlap:.2f}" if region.overlapped >= 0 else ""
    caption = f"{names[region.label]} {region.score:.2f}\n{region.kind}{beside}"
    return crop.pixels, crop.box, crop.truth_boxes, caption


def _calibration_document(found: Reliability) -> dict[str, Any]:
    return {
        "d_ece": found.d_ece,
        "edges": found.edges.tolist(),
        "count": found.count.tolist(),
        "mean_score": found.mean_score.tolist(),
        "precision": found.precision.tolist(),
    }


def _errors(found: LossDistribution, truth: dict[str, Any], trained: TrainedTrial, folder: Path) -> dict[str, Any]:
    interpolation = PROTOCOLS[trained.config.eval.protocol].interpolation or "area"
    split = errors_by_cause(found.detections, truth, num_classes=len(trained.classes), interpolation=interpolation)
    if math.isfinite(split.map):  # else there is nothing to find, and nothing to draw
        cost = {str(cause): cost for cause, cost in split.cost.items()}
        save_figure(plot_errors(cost, trained.name), folder / "errors.png")
    return {
        "mAP": split.map,
        "interpolation": interpolation,
        "by_cause": {cause: {"count": split.count[cause], "cost": split.cost[cause]} for cause in split.cost},
        "cost_of_false_positives": split.cost_of_false_positives,
        "cost_of_false_negatives": split.cost_of_false_negatives,
    }


def plot_reliability(found: Reliability, title: str) -> Figure:
    """Draws the reliability diagram: precision of the detections in each bin of score, and below how many there are."""
    figure, (above, below) = new_figure(rows=2, width=5.4, height=3.2)
    width = np.diff(found.edges)
    above.bar(found.edges[:-1], np.nan_to_num(found.precision), width, align="edge", color="#3b528b", edgecolor="white")
    above.plot([0, 1], [0, 1], color=POSITIVE_COLOR, linestyle="--", label="score = precision")
    above.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="precision")
    above.legend(loc="upper left", frameon=False)
    below.stairs(found.count, found.edges, color=NEGATIVE_COLOR, fill=True, alpha=0.5)
    below.set(xlabel="score", ylabel="detections", ylim=(0, None))
    below.set_yscale("symlog", linthresh=1)
    d_ece = "undefined" if math.isnan(found.d_ece) else f"{found.d_ece:.3f}"
    figure.suptitle(f"{title}\nD-ECE {d_ece}")
    return figure


def plot_errors(cost: Mapping[str, float], title: str) -> Figure:
    """Draws what each cause of error costs, in points of mAP."""
    figure, (axes,) = new_figure(width=6.4, height=3.4)
    names = list(cost)[::-1]
    values = [100 * cost[name] for name in names]
    bars = axes.barh(names, values, color="#3b528b")
    axes.bar_label(bars, [points(cost[name]) for name in names], padding=3)
    axes.set(xlabel="mAP gained if only this were fixed, points", xlim=(min(0, *values), max(*values, 1) * 1.15))
    axes.set_title(title)
    return figure
