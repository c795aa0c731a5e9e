"""Figures of one trained network and of comparisons, by matplotlib, without a display.

Every function returns a figure that belongs to the caller; :func:`save_figure` writes it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from focalbench.metrics.calibration import Reliability
from focalbench.storage import write_atomically
from focalbench.tracking.drawing import PREDICTION_COLOR, TRUTH_COLOR
from focalbench.tracking.loss_figures import (
    NEGATIVE_COLOR,
    POSITIVE_COLOR,
    Curves,
    draw_cumulative_loss,
    draw_loss_against_probability,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TILE, _CAPTION, _GAP = 180, 34, 6  # pixels


def save_figure(figure: Figure, path: Path, *, dpi: int = 120) -> None:
    """Writes ``figure`` in the format that the suffix of ``path`` names (.png, .svg), in the place of an older file.

    Raises:
        StorageError: when the folder cannot be written.
    """
    buffer = io.BytesIO()
    # Without a date equal figures are equal files.
    metadata: dict[str, str | None] = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(buffer, format=path.suffix.removeprefix("."), dpi=dpi, metadata=metadata)
    write_atomically(path, buffer.getvalue())


def new_figure(columns: int = 1, rows: int = 1, *, width: float = 6.0, height: float = 4.2) -> tuple[Figure, list]:
    """A figure and its axes, row by row; rows share their x axis. Sizes in inches, of one of them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, sharex="col").flat)


def plot_loss_against_probability(positives: NDArray[np.int64], negatives: NDArray[np.int64], title: str) -> Figure:
    """The paper's figure 1 with the network's elements by p_t, (B,) each, in bins of equal width."""
    figure, (above, below) = new_figure(rows=2, width=7, height=3)
    draw_loss_against_probability(above, below, positives, negatives)
    figure.suptitle(title)
    return figure


def plot_cumulative_loss(positives: Curves, negatives: Curves, title: str) -> Figure:
    """The paper's figure 4: positives to the left, negatives to the right."""
    figure, (left, right) = new_figure(2, width=5.2)
    draw_cumulative_loss(left, positives, "positives")
    draw_cumulative_loss(right, negatives, "negatives")
    figure.suptitle(title)
    return figure


def plot_gradient_norms(positives: NDArray[np.int64], negatives: NDArray[np.int64], title: str) -> Figure:
    """GHM's figure 2: elements by gradient norm 1 - p_t, (B,) each, in bins of equal width, on a log scale."""
    figure, (axes,) = new_figure(width=7)
    edges = np.linspace(0, 1, len(positives) + 1)
    total = max(int(positives.sum() + negatives.sum()), 1)
    for counts, color, name in ((negatives, NEGATIVE_COLOR, "negatives"), (positives, POSITIVE_COLOR, "positives")):
        axes.stairs(counts / total, edges, color=color, label=name, linewidth=1.8)
    axes.set(yscale="log", xlim=(0, 1), xlabel="gradient norm $1 - p_t$ (0 easy, 1 hard)", ylabel="share of elements")
    axes.set_title(title)
    axes.legend(frameon=False)
    return figure


def plot_reliability(found: Reliability, title: str) -> Figure:
    """Reliability diagram: precision of the detections in each bin of score, and below how many there are."""
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
    """What each cause of error costs, in points of mAP."""
    figure, (axes,) = new_figure(width=6.4, height=3.4)
    names = list(cost)[::-1]
    values = [100 * cost[name] for name in names]
    bars = axes.barh(names, values, color="#3b528b")
    axes.bar_label(bars, [f"{value:.1f}" for value in values], padding=3)
    axes.set(xlabel="mAP gained if only this were mended, points", xlim=(min(0, *values), max(*values, 1) * 1.15))
    axes.set_title(title)
    return figure


def draw_crops(crops: Sequence[tuple[NDArray[np.uint8], NDArray, NDArray, str]], columns: int = 6) -> NDArray[np.uint8]:
    """Crops as a grid of tiles with a caption each; the box in question orange, annotated objects blue.

    Args:
        crops: pixels (H, W, 3) uint8, box (4,) and truth boxes (G, 4), xyxy pixels of the crop, 0-based, and the
            caption, two lines at most.
        columns: tiles in a row.

    Returns:
        (H', W', 3) uint8; one empty tile when there are no crops.
    """
    columns = max(1, min(columns, len(crops)))
    rows = max(1, math.ceil(len(crops) / columns))
    size = (columns * (_TILE + _GAP) + _GAP, rows * (_TILE + _CAPTION + _GAP) + _GAP)
    sheet = Image.new("RGB", size, (255, 255, 255))
    for number, (pixels, box, truth_boxes, caption) in enumerate(crops):
        corner = _GAP + number % columns * (_TILE + _GAP), _GAP + number // columns * (_TILE + _CAPTION + _GAP)
        sheet.paste(draw_tile(pixels, box, truth_boxes), corner)
        ImageDraw.Draw(sheet).multiline_text(
            (corner[0], corner[1] + _TILE + 1), caption, fill=(0, 0, 0), font=ImageFont.load_default(11), spacing=1
        )
    return np.array(sheet)


def draw_tile(pixels: NDArray[np.uint8], box: NDArray, truth_boxes: NDArray) -> Image.Image:
    """One crop with its box orange and annotated objects blue, enlarged or shrunk to fit a square."""
    factor = _TILE / max(pixels.shape[:2])
    width, height = max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor))
    tile = Image.new("RGB", (_TILE, _TILE), (235, 235, 235))
    tile.paste(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC), (0, 0))
    draw = ImageDraw.Draw(tile)
    for rectangle, color in [*((truth, TRUTH_COLOR) for truth in truth_boxes), (box, PREDICTION_COLOR)]:
        x1, y1, x2, y2 = np.clip(np.asarray(rectangle) * factor, 0, [width - 1, height - 1] * 2).tolist()
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=color, width=2)
    return tile
