"""Draws how a network's loss is spread over its elements: figures 1 and 4 of the focal loss paper, figure 2 of GHM's.

The numbers come from ``metrics.loss_histogram``. arXiv:1708.02002 (focal loss), arXiv:1811.05181 (GHM).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from focalbench.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE_1_GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)
# Dark to light with gamma, from matplotlib's viridis: told apart without colour too.
GAMMA_COLORS = {0.0: "#440154", 0.5: "#3b528b", 1.0: "#21918c", 2.0: "#5ec962", 5.0: "#c8b400"}
OWN_COLOR = "#d62728"
_MAX_POINTS = 400
_LARGE = 19  # points of letters that can still be read in a picture of 400 pixels
POSITIVE_COLOR, NEGATIVE_COLOR = "#ff8200", "#4d4d4d"

# gamma -> (share of elements, cumulative share of loss), both rising from 0 to 1.
Curves = Mapping[float, tuple[NDArray[np.float64], NDArray[np.float64]]]


def gamma_color(gamma: float) -> str:
    """Returns the colour that stands for a gamma in every figure."""
    return GAMMA_COLORS.get(gamma, OWN_COLOR)


def draw_loss_against_probability(
    above: Axes, below: Axes, positives: NDArray[np.int64], negatives: NDArray[np.int64]
) -> None:
    """Draws figure 1: focal loss against p_t above, and below it where the network's elements lie.

    Args:
        above, below: axes one upon the other.
        positives, negatives: (B,) elements by p_t, in bins of equal width over [0, 1].
    """
    p_t = np.linspace(0.003, 1, 300)
    for gamma in FIGURE_1_GAMMAS:
        loss = -((1 - p_t) ** gamma) * np.log(p_t)
        above.plot(p_t, loss, color=gamma_color(gamma), label=f"γ = {gamma:g}")
    above.set(xlim=(0, 1), ylim=(0, 5), ylabel="loss, nats")
    above.legend(loc="upper right", frameon=False)
    edges = np.linspace(0, 1, len(positives) + 1)
    for values, color, name in ((negatives, NEGATIVE_COLOR, "negatives"), (positives, POSITIVE_COLOR, "positives")):
        below.stairs(np.maximum(values, 0.5), edges, baseline=0.5, color=color, fill=True, alpha=0.35, label=name)
    top = max(int(positives.max(initial=1)), int(negatives.max(initial=1)), 1)
    below.set(yscale="log", xlim=(0, 1), ylim=(0.5, top * 3), ylabel="elements")
    below.minorticks_off()
    below.set_xlabel("$p_t$, probability of the right answer")
    below.legend(loc="upper left", frameon=False)


def _thinned(
    fraction: NDArray[np.float64], share: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most ``_MAX_POINTS`` of a rising line, as far apart along it as the eye sees."""
    if len(fraction) <= _MAX_POINTS:
        return fraction, share
    way = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(fraction), np.diff(share)))])
    kept = np.unique(np.searchsorted(way, np.linspace(0, way[-1], _MAX_POINTS)).clip(max=len(way) - 1))
    return fraction[kept], share[kept]


def loss_distribution_figure(positives: Curves, negatives: Curves, title: str) -> Figure:
    """Draws which share of the loss the hardest elements hold, the background's above that of the objects.

    640 x 640 pixels with letters so large that they can be read at 400, the width at which TensorBoard shows it.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(8, 8), dpi=80)
    # Fixed margins: measuring every text for an automatic layout would double the time, and this is drawn in training.
    grid = figure.add_gridspec(2, 1, left=0.15, right=0.95, bottom=0.12, top=0.8, hspace=0.5)
    figure.text(0.5, 0.965, title, ha="center", va="center", fontsize=_LARGE)
    for row, (curves, group) in enumerate(((negatives, "background"), (positives, "objects"))):
        draw_hardest_share(figure.add_subplot(grid[row]), curves, group)
    figure.text(0.55, 0.025, "in the hardest … % of elements", ha="center", va="center", fontsize=_LARGE)
    lines = [Line2D([], [], color=gamma_color(gamma), linewidth=5) for gamma in negatives]
    names = [f"γ {gamma:g}" for gamma in negatives]
    figure.legend(
        lines,
        names,
        loc="center",
        bbox_to_anchor=(0.52, 0.91),
        ncols=4,
        frameon=False,
        fontsize=_LARGE,
        handlelength=1,
        columnspacing=1,
        handletextpad=0.4,
    )
    return figure


def draw_hardest_share(
    axes: Axes, curves: Curves, group: str, *, font_size: float = _LARGE, line_width: float = 4
) -> None:
    """Draws the share of a group's loss that the hardest of its elements hold, these as a share on a log scale.

    It is the paper's figure 4 from the other end: on its linear axis all that happens lies in the last thousandth.
    """
    for gamma, (fraction, share) in curves.items():
        hardest, held = 1 - fraction[:-1], 1 - share[:-1]
        axes.plot(
            *_thinned(np.log10(hardest), held), color=gamma_color(gamma), linewidth=line_width, label=f"γ = {gamma:g}"
        )
    percent = (-5, -4, -3, -2, -1, 0)
    axes.set(xlim=(-5, 0), ylim=(0, 1.03))
    axes.set_xticks(percent, [f"{100 * 10.0**power:g}" for power in percent])
    axes.set_yticks((0, 0.5, 1), ("0", "50 %", "100 %"))
    axes.tick_params(labelsize=font_size)
    axes.grid(color="0.85")
    axes.set_title(f"{group}: share of the loss", fontsize=font_size, loc="left")
    if not any(len(share) for _, share in curves.values()):
        axes.text(-2.5, 0.5, f"no {group}", ha="center", va="center", fontsize=font_size)


def plot_loss_against_probability(positives: NDArray[np.int64], negatives: NDArray[np.int64], title: str) -> Figure:
    """Draws the paper's figure 1 with the network's elements by p_t, (B,) each, in bins of equal width."""
    figure, (above, below) = new_figure(rows=2, width=7, height=3)
    draw_loss_against_probability(above, below, positives, negatives)
    figure.suptitle(title)
    return figure


def plot_cumulative_loss(positives: Curves, negatives: Curves, title: str) -> Figure:
    """Draws which share of the loss the hardest elements hold: objects to the left, background to the right."""
    figure, (left, right) = new_figure(2, width=5.2)
    for axes, curves, group in ((left, positives, "objects"), (right, negatives, "background")):
        draw_hardest_share(axes, curves, group, font_size=10, line_width=1.8)
        axes.set_xlabel("in the hardest … % of elements")
    if left.lines:
        left.legend(loc="upper left", frameon=False)  # of objects no single percent holds half of the loss
    figure.suptitle(title)
    return figure


def plot_gradient_norms(positives: NDArray[np.int64], negatives: NDArray[np.int64], title: str) -> Figure:
    """Draws GHM's figure 2: elements by gradient norm 1 - p_t, (B,) each, in bins of equal width, on a log scale."""
    figure, (axes,) = new_figure(width=7)
    edges = np.linspace(0, 1, len(positives) + 1)
    total = max(int(positives.sum() + negatives.sum()), 1)
    for counts, color, name in ((negatives, NEGATIVE_COLOR, "negatives"), (positives, POSITIVE_COLOR, "positives")):
        axes.stairs(counts / total, edges, color=color, label=name, linewidth=1.8)
    axes.set(yscale="log", xlim=(0, 1), xlabel="gradient norm $1 - p_t$ (0 easy, 1 hard)", ylabel="share of elements")
    axes.set_title(title)
    axes.legend(frameon=False)
    return figure
