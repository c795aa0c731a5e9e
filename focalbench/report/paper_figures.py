"""Does what ``focalbench report --figures`` does: the figures of a comparison as PDF and SVG, each to stand alone."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from focalbench.analysis import formats
from focalbench.analysis.arms import Arm
from focalbench.analysis.comparison import Comparison
from focalbench.analysis.judged_arms import ArmComparison
from focalbench.analysis.swept_keys import swept_grids
from focalbench.figures import new_figure
from focalbench.report.curves import (
    LineStyle,
    Plot,
    line_styles,
    plain,
    plot_class_ap,
    plot_learning_curves,
    plot_swept_line,
)
from focalbench.report.evidence import choose_arms, classes_with_ap
from focalbench.report.facts import class_names
from focalbench.statistics.verdict import DIFFERENT
from focalbench.storage import storage_faults, write_atomically
from focalbench.tags import MEAN_AP

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KINDS = ("pdf", "svg")
_LONGEST_NAME = 80
_ROW, _FRAME = 0.34, 1.0  # inches: of an arm, and of what is above and below the rows
_CALLED, _NOT_CALLED = "#0072b2", "#777777"


def write_figures(comparison: Comparison, folder: Path) -> list[Path]:
    """Writes every figure that the comparison has values for, as NAME.pdf and NAME.svg.

    ``verdicts``: the differences with their intervals; ``mean_ap_over_steps``; ``class_ap``; and one for each key that
    the sweep varies, named after it, with a number where several losses have it.

    Args:
        folder: made where missing; older files of these names are replaced.

    Raises:
        StorageError: when the folder cannot be written.
    """
    with storage_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, plot in _plots(comparison):
        for kind in _KINDS:
            path = folder / f"{name}.{kind}"
            write_atomically(path, plot.written(kind))
            written.append(path)
    return written


def _plots(comparison: Comparison) -> Iterator[tuple[str, Plot]]:
    forest = plot_verdicts(comparison)
    if forest is not None:
        yield "verdicts", forest
    drawn, _ = choose_arms(comparison)
    styles = line_styles([arm.label for arm in drawn])
    curves = plot_learning_curves(drawn, MEAN_AP, "evaluated mAP in points", styles)
    if curves is not None:
        yield "mean_ap_over_steps", _with_legend(curves, drawn, styles)
    names = class_names([trial for arm in drawn for trial in arm.trials.values()])
    with_ap = classes_with_ap(drawn, names)
    if with_ap:
        yield "class_ap", _with_legend(plot_class_ap(with_ap, drawn, styles), drawn, styles)
    taken: Counter[str] = Counter()
    for grid in swept_grids(comparison.arms):
        if grid.form == "line":
            name = _file_name("over_" + "_".join(grid.line_keys))
            taken[name] += 1
            plot = plot_swept_line(grid, comparison.metric)
            plot.figure.axes[0].set_title(plain(grid.title))
            yield (name if taken[name] == 1 else f"{name}_{taken[name]}"), plot


def _file_name(words: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", words).strip("_")[:_LONGEST_NAME]


def _with_legend(plot: Plot, arms: Sequence[Arm], styles: Mapping[str, LineStyle]) -> Plot:
    """The plot with the arms' names above it: on the page one legend is there for all figures."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=plain(arm.label), **styles[arm.label].keywords()) for arm in arms]
    plot.figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False, fontsize="small")
    return plot


def plot_verdicts(comparison: Comparison) -> Plot | None:
    """Draws each arm's difference from the baseline with its 95 % interval, the largest on top, and says its verdict.

    An arm that failed in every seed has its verdict alone, at the bottom; one that was stopped early, or has no seed in
    common with the baseline, is left out. The margin of what does not matter in practice is shaded. None where no arm
    has a difference.
    """
    judged = [entry for entry in comparison.comparisons if _has_difference(entry)]
    if not judged:
        return None
    judged.sort(key=lambda entry: _difference(entry))
    failed = [entry for entry in reversed(comparison.without_result) if entry.verdict == "unstable"]
    rows = [*failed, *judged]  # from the bottom up
    metric = comparison.metric
    figure, (axes,) = new_figure(width=6.6, height=_FRAME + _ROW * len(rows))
    _draw_ground(axes, comparison)
    for row, entry in enumerate(judged, start=len(failed)):
        _draw_interval(axes, row, entry, metric)
    axes.set_yticks(range(len(rows)), [plain(entry.arm) for entry in rows])
    right = axes.secondary_yaxis("right")
    verdicts = [formats.verdict_words(entry, metric, comparison.margin) for entry in rows]
    right.set_yticks(range(len(rows)), verdicts)  # our own words: nothing to escape, and whole
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)
    of_baseline = f"difference from {comparison.baseline}"
    words = " in points" if formats.unit(metric) else ""
    axes.set(xlabel=f"{plain(metric + words)},\n{plain(of_baseline)}", ylim=(-0.6, len(rows) - 0.4))
    told = "; ".join(_told(entry, metric) for entry in reversed(rows))
    return Plot(figure, f"{metric}, {of_baseline}{words}, with 95 % intervals: {told}")


def _told(entry: ArmComparison, metric: str) -> str:
    if not _has_difference(entry):
        return f"{entry.arm}: {entry.verdict}"
    return f"{entry.arm}: {formats.difference(_difference(entry), metric)} ({entry.verdict})"


def _has_difference(entry: ArmComparison) -> bool:
    return entry.judgement is not None and math.isfinite(entry.judgement.difference)


def _difference(entry: ArmComparison) -> float:
    assert entry.judgement is not None
    return entry.judgement.difference


def _draw_ground(axes: Axes, comparison: Comparison) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)
    if comparison.margin is not None:
        half = formats.scale(comparison.metric) * comparison.margin
        axes.axvspan(-half, half, color="#009e73", alpha=0.12, linewidth=0)
    axes.axvline(0, color="#444444", linewidth=0.8)


def _draw_interval(axes: Axes, row: int, entry: ArmComparison, metric: str) -> None:
    assert entry.judgement is not None
    scale, found = formats.scale(metric), entry.judgement
    color = _CALLED if entry.verdict in DIFFERENT else _NOT_CALLED
    if all(map(math.isfinite, found.ci)):
        axes.plot([scale * end for end in found.ci], [row, row], color=color, linewidth=1.7, solid_capstyle="butt")
    axes.plot([scale * found.difference], [row], "s", color=color, markersize=5)
