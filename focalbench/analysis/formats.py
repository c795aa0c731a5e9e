"""Writes numbers and what is made of them as people read them, alike in the terminal and on the page; nan is a dash.

Average precisions, and what is made of them, are written in points: people speak of 78.71, files hold 0.7871.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from focalbench.console import points
from focalbench.tags import is_average_precision

if TYPE_CHECKING:
    from focalbench.analysis.comparison import Comparison, Exaggeration
    from focalbench.analysis.judged_arms import ArmComparison
    from focalbench.statistics.power import SeedsNeeded


def unit(metric: str) -> str:
    """Returns what stands behind a value of ``metric`` in a sentence: `` points``, or nothing."""
    return " points" if is_average_precision(metric) else ""


def heading(metric: str) -> str:
    """Returns what a table or an axis of values of ``metric`` is titled: ``val/mAP in points``, ``wall_s``."""
    return f"{metric} in points" if is_average_precision(metric) else metric


def scale(metric: str) -> float:
    """Returns what values of ``metric`` are multiplied by before they are drawn."""
    return 100.0 if is_average_precision(metric) else 1.0


def value(x: float, metric: str) -> str:
    """Writes a value of ``metric``, or its sd: an average precision in points, else four decimals, and five digits from
    10 on.
    """
    if is_average_precision(metric):
        return points(x)
    if math.isnan(x):
        return "-"
    return f"{x:z.4f}" if abs(x) < 10 else f"{x:.5g}"


def difference(x: float, metric: str) -> str:
    """Writes a difference of two values of ``metric``: what :func:`value` does, with a sign."""
    if not is_average_precision(metric):
        return signed(x)
    return "-" if math.isnan(x) else f"{100 * x:+z.2f}"


def interval(ends: tuple[float, float], metric: str) -> str:
    """Writes both ends of an interval of differences; empty where they are unknown.

    An end that is 0 itself, and not only next to it, is written ``0``.
    """
    low, high = ("0" if end == 0 else difference(end, metric) for end in ends)
    return "" if math.isnan(ends[0]) else f"{low} to {high}"


def signed(x: float) -> str:
    """Writes a number that is no average precision, such as a correlation, with its sign."""
    if math.isnan(x):
        return "-"
    return f"{x:+z.4f}" if abs(x) < 10 else f"{x:+.5g}"


def p_value(p: float) -> str:
    """Writes four decimals without the leading zero, as tables of statistics have it."""
    if math.isnan(p):
        return "-"
    return "<.0001" if p < 0.0001 else f"{p:.4f}".removeprefix("0")


def points_words(size: float) -> str:
    """Writes a difference of average precisions in a sentence: ``1 point``, ``0.5 points``."""
    return f"{100 * size:g} point{'s' * (100 * size != 1)}"


def verdict_words(entry: ArmComparison, metric: str, margin: float | None) -> str:
    """Writes what is said of an arm with the figures that belong to it."""
    found = entry.judgement
    if found is None:
        return entry.verdict
    words: str = found.word
    if found.word == "undecided":
        low, high = (difference(end, metric) for end in found.ci)
        words = f"undecided: at most {high}, at least {low}"
    elif found.word == "no practical difference" and margin is not None:
        words = f"no practical difference within {points_words(margin)}"
    failures = found.failures
    if failures is None:
        return words
    low_share, high_share = (f"{100 * share:.0f}" for share in failures.interval)
    failed = f"failed {len(failures.seeds)} of {failures.n} seeds, 95 % {low_share} to {high_share} %"
    return f"{words}: {failed}" if found.word == "unstable" else f"{words}; {failed}"


def decision_words(entry: ArmComparison, comparison: Comparison) -> str:
    """Writes that an arm needs no more seeds, and why."""
    found, metric = entry.judgement, comparison.metric
    words = verdict_words(entry, metric, comparison.margin)
    if found is None or math.isnan(found.difference):
        return f"{entry.arm}: {words}; it gets no more seeds"
    size = f"{difference(found.difference, metric)}{unit(metric)} ({interval(found.ci, metric)})"
    return f"{entry.arm}: {words}, {size} after {found.n} seeds; it gets no more"


def distance_words(entry: ArmComparison, comparison: Comparison) -> str:
    """Writes how far an arm is from a word: from which difference on it would be called different, and up to which one
    practically alike, at the spread of its seeds so far.
    """
    found, metric = entry.judgement, comparison.metric
    if found is None or math.isnan(found.different_from):
        return f"{entry.arm}: {entry.verdict}"
    words = (
        f"{entry.arm}: {difference(found.difference, metric)}; called different at "
        f"{value(found.different_from, metric)} or more"
    )
    if math.isnan(found.alike_within):
        return words
    if found.alike_within <= 0:
        return f"{words}, not yet alike at any difference: the seeds scatter too much"
    return f"{words}, alike within {value(found.alike_within, metric)}"


def standing_lines(
    comparison: Comparison, undecided: Sequence[ArmComparison], num_seeds: int, looks: Sequence[int]
) -> list[str]:
    """Writes how far the arms are from a word after the look at ``num_seeds``, a line each; none where all have
    one.
    """
    if not undecided:
        return []
    following = next((size for size in looks if size > num_seeds), None)
    what = f"the next look is at {following}" if following is not None else "there are no more"
    return [f"after {num_seeds} seeds, {what}:", *(distance_words(entry, comparison) for entry in undecided)]


def seeds_words(needed: SeedsNeeded) -> str:
    """Writes how many seeds find a difference as large as the margin."""
    size = points_words(needed.difference)
    if needed.n is None:
        return f"seeds needed to find a true difference of {size} in 8 of 10 sweeps: more than 10 000"
    high = "more than 10 000" if needed.high is None else str(needed.high)
    arms = f"{needed.num_arms} arms" if needed.num_arms > 1 else "one arm"
    return (
        f"seeds needed to find a true difference of {size} in 8 of 10 sweeps: about {needed.n}, "
        f"95 % {needed.low} to {high}, by the spread of {arms}"
    )


def exaggeration_words(over: Exaggeration, metric: str) -> str:
    """Writes by how much a claim may be overstated."""
    return (
        f"A claim that only just passes overstates the difference: with the seeds and spread of {over.arm}, a "
        "true difference of "
        f"{points_words(over.difference)} is found in {100 * over.power:.0f} % of sweeps, and where it is found "
        f"it reads {value(over.reads, metric)} on average."
    )


def resolution_sentences(comparison: Comparison) -> list[str]:
    """Writes what stands below the table of what the seeds can resolve."""
    needed, over = comparison.seeds_needed, comparison.exaggeration
    words = [] if needed is None else [seeds_words(needed)]
    return words + ([] if over is None else [exaggeration_words(over, comparison.metric)])


WORDS = (
    (
        "better, worse",
        "So large a difference would rarely arise by luck alone: of sweeps without any true difference, about 1 "
        "in 20 call an arm better or worse. The interval says how large the difference may really be.",
    ),
    (
        "no practical difference",
        "Not different, and shown to be smaller than the margin, either way: take whichever arm is simpler.",
    ),
    (
        "undecided",
        "The seeds show neither. The difference may lie anywhere in the interval, 0 included; that is no sign that the "
        "arms are alike.",
    ),
    (
        "unstable",
        "The arm failed or diverged in more seeds than luck explains next to the baseline, or in all: look at "
        "that before its mean.",
    ),
    ("not enough seeds", "Fewer than six pairs: the figures are shown, but no claim is made."),
    (
        "not comparable",
        "The arms differ in something that they must share, such as the data or the length of training; the "
        "verdict names it.",
    ),
)
"""What the words of a verdict mean, for somebody who knows a t test."""

RESOLUTION = ("arm", "wins", "corr.", "sd of pairs", "exact p", "detectable")
"""Headings of :func:`resolution_cells`."""
RESOLUTION_OF_IMAGES = ("95 %, new images too", "test-set sd")
"""Further headings, where the test images were resampled."""
RESOLUTION_NOTE = (
    "wins: pairs in which the arm is ahead. corr.: correlation of arm and baseline over the seeds; pairing helps where "
    "it is above 0. exact p: all arms' signs flipped seed by seed, corrected for all arms; at least 2 / 2^n, "
    ".0312 for 6 pairs. detectable: the true difference that 8 of 10 such sweeps find."
)
NEW_IMAGES_NOTE = (
    " new images too: the interval for another test set of this kind and size; test-set sd: of the difference over "
    "resampled test images, apart from the seeds."
)


def resolution_cells(entry: ArmComparison, metric: str, *, with_images: bool) -> list[str]:
    """Writes what the seeds of a paired comparison can resolve: a cell for each of ``RESOLUTION``, and with
    ``with_images`` for each of ``RESOLUTION_OF_IMAGES``.
    """
    found, noise = entry.judgement, entry.noise
    assert found is not None
    correlation = "-" if math.isnan(entry.correlation) else f"{entry.correlation:+z.2f}"
    cells = [entry.arm, f"{entry.wins} of {found.n}", correlation, value(found.sd, metric), p_value(found.p_exact)]
    cells.append(value(entry.detectable, metric))
    images = ["-", "-"] if noise is None else [interval(entry.ci_new_images, metric), value(noise.sd, metric)]
    return cells + (images if with_images else [])
