"""Figures 1 and 4 of the focal loss paper (arXiv:1708.02002) with a network's own anchors on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE_1_GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)
# Dark to light with gamma, from matplotlib's viridis: told apart without colour too.
GAMMA_COLORS = {0.0: "#440154", 0.5: "#3b528b", 1.0: "#21918c", 2.0: "#5ec962", 5.0: "#c8b400"}
OWN_COLOR = "#d62728"
POSITIVE_COLOR, NEGATIVE_COLOR = "#ff8200", "#4d4d4d"

# gamma -> (share of elements, cumulative share of loss), both rising from 0 to 1.
Curves = Mapping[float, tuple[NDArray[np.float64], NDArray[np.float64]]]


def gamma_color(gamma: float) -> str:
    """The same colour for a gamma in every figure."""
    return GAMMA_COLORS.get(gamma, OWN_COLOR)


def draw_loss_against_probability(axes: Axes, positives: NDArray[np.int64], negatives: NDArray[np.int64]) -> None:
    """Figure 1: focal loss against p_t as lines, and where the network's elements lie as filled steps.

    Args:
        positives, negatives: (B,) elements by p_t, in bins of equal width over [0, 1].
    """
    p_t = np.linspace(0.003, 1, 300)
    for gamma in FIGURE_1_GAMMAS:
        loss = -((1 - p_t) ** gamma) * np.log(p_t)
        axes.plot(p_t, loss, color=gamma_color(gamma), label=f"γ = {gamma:g}")
    axes.set(xlim=(0, 1), ylim=(0, 5), xlabel="$p_t$, probability of the right answer", ylabel="loss, nats")
    axes.legend(loc="upper right", frameon=False, title="loss")
    counts = axes.twinx()
    edges = np.linspace(0, 1, len(positives) + 1)
    for values, color, name in ((negatives, NEGATIVE_COLOR, "negatives"), (positives, POSITIVE_COLOR, "positives")):
        counts.stairs(np.maximum(values, 0.5), edges, baseline=0.5, color=color, fill=True, alpha=0.25, label=name)
    top = max(int(positives.max(initial=1)), int(negatives.max(initial=1)), 1)
    counts.set(yscale="log", ylim=(0.5, top * 3), ylabel="anchors in the bin")
    counts.legend(loc="upper center", frameon=False)


def draw_cumulative_loss(axes: Axes, curves: Curves, group: str) -> None:
    """Figure 4 for one group: share of the loss that the easiest share of elements holds."""
    for gamma, (fraction, share) in curves.items():
        axes.plot(fraction, share, color=gamma_color(gamma), label=f"γ = {gamma:g}")
    axes.set(xlim=(0, 1.005), ylim=(0, 1.005), xlabel=f"fraction of {group}, easiest first")
    axes.set_ylabel("cumulative normalised loss")
    if any(len(share) for _, share in curves.values()):
        axes.legend(loc="upper left", frameon=False)
    else:
        axes.text(0.5, 0.5, f"no {group}", ha="center", va="center")


def loss_distribution_figure(
    positives_by_p: NDArray[np.int64], negatives_by_p: NDArray[np.int64], positives: Curves, negatives: Curves
) -> Figure:
    """Figure 1 and both halves of figure 4 side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.5, 4), dpi=80, layout="tight")
    first, second, third = figure.subplots(1, 3)
    draw_loss_against_probability(first, positives_by_p, negatives_by_p)
    draw_cumulative_loss(second, positives, "positives")
    draw_cumulative_loss(third, negatives, "negatives")
    return figure
