"""Draws the curves of the page: learning curves, one swept key, AP per class, precision against recall.

Names from files never enter a figure as markup: a dollar sign is a dollar sign, and a class whose name no font can
write is its number. Most figures carry no legend; the page has one for all of them, in the same colours and dashes.
"""

from __future__ import annotations

import base64
import io
import math
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from focalbench.analysis import formats
from focalbench.analysis.arms import Arm
from focalbench.analysis.swept_keys import SweptGrid
from focalbench.figures import new_figure
from focalbench.figures.lettering import font_path, label_of
from focalbench.records.document import as_number
from focalbench.report.evaluation_set import RECALL_GRID, SCORE_GRID
from focalbench.statistics.summary import t_interval
from focalbench.tags import CLASS_AP

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

# Okabe and Ito's colours, told apart by colour-blind eyes, the light ones darkened for white paper.
_COLORS = ("#0072b2", "#d55e00", "#007a5a", "#b0568c", "#3a9bd6", "#b87800", "#222222", "#6a51a3")
_DASHES = ("", "6 3", "2 2", "8 3 2 3")
MAX_DRAWN = len(_COLORS)
"""Arms that one figure can hold and still be read."""
MAX_BANDS = 4
"""Arms whose bands can lie upon each other and still be told apart where curves are steep."""
_MAX_NAME = 40
_WIDTH = 4.6  # inches; shrunk to a phone the text is still read, and a wide window enlarges the figure


@dataclass(frozen=True)
class Picture:
    """Holds a picture inside the page.

    Attributes:
        uri: data URI.
        alt: what it shows, for those who do not see it.
        width, height: pixels.
    """

    uri: str
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class LineStyle:
    """Says how an arm is drawn everywhere; ``dashes`` as SVG's stroke-dasharray, empty for a full line."""

    color: str
    dashes: str

    def keywords(self) -> dict[str, Any]:
        """Returns the style as keywords of matplotlib's ``plot``."""
        lengths = tuple(float(length) for length in self.dashes.split())
        return {"color": self.color, "linestyle": (0, lengths) if lengths else "-", "linewidth": 1.7}


def line_styles(labels: Sequence[str]) -> dict[str, LineStyle]:
    """Returns a style for each of at most ``MAX_DRAWN`` arms, by label."""
    return {
        label: LineStyle(_COLORS[number % len(_COLORS)], _DASHES[number % len(_DASHES)])
        for number, label in enumerate(labels)
    }


@dataclass(frozen=True)
class Plot:
    """Holds a figure and what it shows in words."""

    figure: Figure
    alt: str

    def written(self, kind: str) -> bytes:
        """Returns the figure as ``svg`` or ``pdf``; equal figures are equal bytes."""
        import matplotlib

        metadata = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None, "Creator": None}}[kind]
        # Type 42: journals refuse matplotlib's own fonts of type 3.
        buffer = io.BytesIO()
        with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": "focalbench", "pdf.fonttype": 42}):
            warnings.filterwarnings("ignore", message="Glyph .* missing from")  # keys and values in any script
            self.figure.savefig(buffer, format=kind, metadata=metadata)
        return buffer.getvalue()

    def embedded(self) -> Picture:
        """Returns the figure as SVG in a data URI; it loads nothing and runs nothing."""
        width, height = (round(96 * inches) for inches in self.figure.get_size_inches())
        data = base64.b64encode(self.written("svg")).decode()
        return Picture("data:image/svg+xml;base64," + data, self.alt, width, height)


def plain(name: str) -> str:
    """Returns a name as a figure's text: no mathematics, no control characters, cut to a readable length."""
    text = "".join(character if character.isprintable() else " " for character in name)
    text = text if len(text) <= _MAX_NAME else text[: _MAX_NAME - 1] + "…"
    return text.replace("$", r"\$")


def _in_its_font(place: Text, text: str) -> None:
    """Gives ``place`` a font that has the letters of ``text``."""
    from matplotlib.font_manager import FontProperties

    place.set_fontproperties(FontProperties(fname=str(font_path(text)), size=place.get_fontsize()))


def plot_learning_curves(arms: Sequence[Arm], key: str, words: str, styles: Mapping[str, LineStyle]) -> Plot | None:
    """Draws a logged number over the steps: mean of the seeds, one standard deviation as a band; None for one step."""
    figure, axes = _new_axes(height=3.0)
    num_bands = num_steps = 0
    for arm in arms:
        step, mean, sd = _over_seeds(arm, key)
        if not len(step):
            continue
        mean, sd = formats.scale(key) * mean, formats.scale(key) * sd
        num_steps = max(num_steps, len(step))
        axes.plot(step, mean, **styles[arm.label].keywords(), marker="o" if len(step) < 12 else None, markersize=3)
        if np.isfinite(sd).any():
            axes.fill_between(step, mean - sd, mean + sd, color=styles[arm.label].color, alpha=0.15, linewidth=0)
            num_bands += 1
    if num_steps < 2:
        return None
    axes.set(xlabel="training step", ylabel=words, xlim=(0, None))
    if key.startswith("train/"):
        axes.set_yscale("log")
    band = "mean and one sd over the seeds" if num_bands else "one seed, no band"
    return Plot(
        figure, f"{words} against the training step for {len(axes.lines)} arm{'s'[: len(axes.lines) != 1]}; {band}"
    )


def plot_swept_line(grid: SweptGrid, metric: str) -> Plot:
    """Draws the metric along one swept key: mean of the seeds, its 95 % interval by t, and every seed as a dot.

    Where a second key was changed with it, its values stand below those of the first.
    """
    figure, axes = _new_axes(height=3.0)
    ticks = ["\n".join(f"{value:g}" for value in cell) for cell in grid.line]
    results = list(grid.line.values())
    seeds = [formats.scale(metric) * np.array(list(result.values.values())) for result in results]
    means = np.array([formats.scale(metric) * result.summary.mean for result in results])
    intervals = np.array([t_interval(values) for values in seeds])
    half = np.nan_to_num(intervals[:, 1] - means)
    place = np.arange(len(ticks))  # evenly apart: swept values mostly grow by factors
    for number, values in enumerate(seeds):
        axes.plot([number] * len(values), values, "o", color="#888888", markersize=3)
    axes.errorbar(place, means, yerr=half, color=_COLORS[0], marker="s", markersize=5, capsize=4, linewidth=1.7)
    axes.set_xticks(place, ticks)
    axes.set(xlabel=", below it ".join(plain(key) for key in grid.line_keys), ylabel=plain(formats.heading(metric)))
    words = "; ".join(
        f"{', '.join(tick.split())}: {formats.value(result.summary.mean, metric)}"
        for tick, result in zip(ticks, results, strict=True)
    )
    keys = " with ".join(grid.line_keys)
    return Plot(figure, f"{formats.heading(metric)} against {keys}, mean and 95 % interval: {words}")


def plot_class_ap(classes: Mapping[int, str], arms: Sequence[Arm], styles: Mapping[str, LineStyle]) -> Plot:
    """Draws the AP of every class, label to name, as a row of dots, one an arm, with one standard deviation over the
    seeds.
    """
    figure, axes = _new_axes(height=max(2.2, 0.9 + 0.34 * len(classes)))
    spread = 0.6 / max(len(arms), 1)
    for number, arm in enumerate(arms):
        for row, name in enumerate(classes.values()):
            metric = f"{CLASS_AP}{name}"
            values = formats.scale(metric) * np.array(list(arm.values(metric).values()))
            if len(values):
                sd = float(values.std(ddof=1)) if len(values) > 1 else 0.0
                y = row + (number - (len(arms) - 1) / 2) * spread
                axes.errorbar(values.mean(), y, xerr=sd, fmt="o", color=styles[arm.label].color, markersize=4)
    names = [label_of(name, label) for label, name in classes.items()]
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        _in_its_font(tick, name)
    axes.set(xlim=(0, None), ylim=(len(classes) - 0.4, -0.6), xlabel="AP in points")
    words = (
        f"AP in points of {len(classes)} classes for {len(arms)} arm{'s'[: len(arms) != 1]}, with one sd over the seeds"
    )
    return Plot(figure, words)


def plot_precision_recall(
    curves: Mapping[str, Sequence[NDArray[np.float64]]],
    title: str,
    styles: Mapping[str, LineStyle],
    *,
    label: int | None = None,
) -> Plot:
    """Draws precision against recall, mean over the seeds; the wide figure, of all classes, has the range of few arms
    as a band.

    Args:
        curves: label of the arm -> (101,) precision at each recall, for each seed.
        title: of the figure; the name of the class where it is of one.
        label: of that class; None: of all classes.
    """
    wide = label is None
    figure, axes = _new_axes(_WIDTH if wide else 3.2, height=3.2 if wide else 2.6)
    with_bands = wide and len(curves) <= MAX_BANDS
    for arm, of_seeds in curves.items():
        table = np.stack(of_seeds)
        axes.plot(RECALL_GRID, table.mean(axis=0), **styles[arm].keywords())
        if with_bands and len(table) > 1:
            axes.fill_between(
                RECALL_GRID, table.min(axis=0), table.max(axis=0), color=styles[arm].color, alpha=0.12, linewidth=0
            )
    words = title if label is None else label_of(title, label)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title=plain(words))
    _in_its_font(axes.title, words)
    return Plot(figure, f"Precision against recall, {title}, for {len(curves)} arm{'s'[: len(curves) != 1]}")


def plot_f1(curves: Mapping[str, Sequence[NDArray[np.float64]]], styles: Mapping[str, LineStyle]) -> Plot:
    """Draws F1 against the score from which on detections count, mean over the seeds.

    Args:
        curves: label of the arm -> (101,) F1 at each score, for each seed.
    """
    figure, axes = _new_axes(height=3.2)
    best = []
    for arm, of_seeds in curves.items():
        mean = np.mean(of_seeds, axis=0)
        axes.plot(SCORE_GRID, mean, **styles[arm].keywords())
        if len(curves) <= MAX_BANDS and len(of_seeds) > 1:
            low, high = np.min(of_seeds, axis=0), np.max(of_seeds, axis=0)
            axes.fill_between(SCORE_GRID, low, high, color=styles[arm].color, alpha=0.12, linewidth=0)
        best.append(f"{arm}: {mean.max():.2f} at {SCORE_GRID[mean.argmax()]:.2f}")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="lowest score that counts", ylabel="F1")
    return Plot(figure, f"F1 against the lowest score that counts; highest of {'; '.join(best)}")


def mean_over_classes(precision: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Returns the (101,) mean of the (K, 101) curves of classes that have objects; None where none has."""
    defined = precision[~np.isnan(precision[:, 0])]
    return defined.mean(axis=0) if len(defined) else None


def _over_seeds(arm: Arm, key: str) -> tuple[NDArray, NDArray, NDArray]:
    """Steps at which every seed logged ``key``, mean and sample sd (nan for one seed) there."""
    by_step: dict[int, list[float]] = defaultdict(list)
    num_seeds = 0
    for trial in arm.trials.values():
        logged = [(line.get("step"), as_number(line.get(key))) for line in trial.metrics]
        values = {step: value for step, value in logged if isinstance(step, int) and value is not None}
        num_seeds += bool(values)
        for step, value in values.items():
            by_step[step].append(value)
    steps = sorted(step for step, values in by_step.items() if len(values) == num_seeds)
    mean = np.array([np.mean(by_step[step]) for step in steps])
    sd = np.array([np.std(by_step[step], ddof=1) if num_seeds > 1 else math.nan for step in steps])
    return np.array(steps), mean, sd


def _new_axes(width: float = _WIDTH, *, height: float) -> tuple[Figure, Axes]:
    figure, (axes,) = new_figure(width=width, height=height)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    return figure, axes
