"""The papers' figures, and the reproduction card: does the user's curve rise and fall where the published one does?

Levels cannot be compared (another data set, detector or training), ranks can. The card takes the rank correlation with
the published curve for each seed on its own and asks two questions. Do the seeds agree on it (t test over the seeds)?
Seeds of one sweep nearly always share some curve, whatever it is, so that says little alone. And would few other orders
of the key's values fit as well (permutation test over the values)? The card makes a claim only if both are a yes.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from focalbench.analysis.judged_arms import ArmResult
from focalbench.analysis.swept_keys import SweptGrid, swept_grids
from focalbench.statistics.paired_tests import paired_t_tests
from focalbench.statistics.verdict import MIN_SEEDS

MIN_POINTS = 3
"""Fewest shared values of the swept key: with two, any curve agrees or disagrees."""
MIN_POINTS_FOR_CLAIM = 4
"""Fewest values for a claim: the smallest V of whose V! orders a single one is less than ``CARD_LEVEL``."""
CARD_LEVEL = 0.05
"""Both p of a card have to be below it."""
CARD_RULE = (
    f"agrees / disagrees: p over seeds (t test of each seed's rank correlation, from {MIN_SEEDS} seeds on) and "
    f"p over values (share of all orders of the values that fit at least as well) are both < {CARD_LEVEL:g}."
)
_EXACT_POINTS = 8  # 8! = 40 320 orders; of more values they are drawn at random
_RANDOM_ORDERS = 20_000
_ROUNDING = 1e-9  # correlations that differ by less are ties
CardVerdict = Literal["agrees", "disagrees", "underpowered"]


@dataclass(frozen=True)
class PublishedCurve:
    """One published series.

    Attributes:
        name: short name.
        source: paper or note, table, data set and detector.
        arms: settings of the arms that it may be held against, as alternatives: the loss, the detector, and which of
            its terms the loss replaces.
        key: the swept configuration key.
        metric: what the figures are, in per cent.
        points: value of the key -> figure.
        partner: the second key that was chosen for each value of the first; empty where there was none.
        chosen: value of the key -> value of ``partner``.
    """

    name: str
    source: str
    arms: tuple[dict[str, Any], ...]
    key: str
    metric: str
    points: dict[float, float]
    partner: str = ""
    chosen: dict[float, float] = field(default_factory=dict)

    def fits(self, settings: Mapping[str, Any]) -> bool:
        """Tells whether an arm with these settings may be held against it."""
        return any(all(settings.get(key) == value for key, value in wanted.items()) for wanted in self.arms)


_RETINANET = {"model.name": "retinanet"}


PUBLISHED_CURVES = (
    PublishedCurve(
        "balanced CE by alpha",
        "arXiv:1708.02002, table 1a: RetinaNet R50-FPN, 600 px, COCO minival",
        ({"loss.name": "balanced_ce"} | _RETINANET, {"loss.name": "focal", "loss.gamma": 0} | _RETINANET),
        "loss.alpha",
        "COCO AP",
        {0.1: 0.0, 0.25: 10.8, 0.5: 30.2, 0.75: 31.1, 0.9: 30.8, 0.99: 28.7, 0.999: 25.1},
    ),
    PublishedCurve(
        "focal loss by gamma, best alpha each",
        "arXiv:1708.02002, table 1b: RetinaNet R50-FPN, 600 px, COCO minival",
        ({"loss.name": "focal"} | _RETINANET,),
        "loss.gamma",
        "COCO AP",
        {0.0: 31.1, 0.1: 31.4, 0.2: 31.9, 0.5: 32.9, 1.0: 33.7, 2.0: 34.0, 5.0: 32.2},
        "loss.alpha",
        {0.0: 0.75, 0.1: 0.75, 0.2: 0.75, 0.5: 0.5, 1.0: 0.25, 2.0: 0.25, 5.0: 0.25},
    ),
    *(
        PublishedCurve(
            f"softmax focal loss by gamma, YOLOv2 {side} px",
            "YOLOv2 note (pytorch-yolo2, docs/references.md): VOC07+12 -> VOC07 test, single runs, no seeds",
            ({"loss.name": "softmax_focal", "model.name": "yolov2", "loss.apply_to": "class"},),
            "loss.gamma",
            "VOC07 mAP",
            points,
        )
        for side, points in (
            (416, {0.0: 73.05, 1.0: 73.63, 2.0: 74.08, 3.0: 73.73, 4.0: 73.53}),
            (544, {0.0: 74.69, 1.0: 75.26, 2.0: 75.49, 3.0: 75.20, 4.0: 74.95}),
        )
    ),
)

PUBLISHED_FIGURES = (
    ("CE without the prior, RetinaNet R50", "COCO AP", "diverges", "arXiv:1708.02002, sec. 4.1"),
    ("CE with prior .01, RetinaNet R50", "COCO AP", "30.2", "arXiv:1708.02002, table 1a (alpha .5)"),
    ("OHEM best (128, NMS .5), R101", "COCO AP", "32.8", "arXiv:1708.02002, table 1d"),
    ("OHEM 1:3, R101", "COCO AP", "31.1", "arXiv:1708.02002, table 1d"),
    ("focal loss, R101", "COCO AP", "36.0", "arXiv:1708.02002, table 1d"),
    ("YOLOv2 416 px", "VOC07 mAP", "76.8", "YOLOv2 paper"),
    ("YOLOv2 544 px", "VOC07 mAP", "78.6", "YOLOv2 paper"),
    ("RetinaNet R50, VOC07+12", "VOC07 mAP", "79.2 (others 64 to 81.6)", "MMDetection"),
    ("run-to-run sd of one VOC07+12 configuration", "VOC07 mAP", "0.4 to 0.5", "MMDetection issue 2773"),
    ("GHM-C over focal", "COCO AP", "+0.1 to +0.3", "RetinaNet R50"),
    ("quality focal over focal", "COCO AP", "+0.8", "RetinaNet R50"),
    ("varifocal over focal", "COCO AP", "+0.9", "RetinaNet R50"),
)
"""Single published figures: what, metric, value, where."""


@dataclass(frozen=True)
class ReproductionCard:
    """The user's curve beside a published one.

    Attributes:
        published: name of the published curve.
        source: where it was published.
        key: the swept key.
        group: which of the user's arms: loss and fixed switches.
        values: values of the key that both have, rising.
        ours: the user's mean at each; where a second key was swept, that of the arm that stands for the value.
        theirs: the published figure at each.
        correlation: Spearman's rank correlation of the two; nan if ours does not vary.
        seeds: seeds that all of the user's points have.
        mean_correlation: mean over the seeds of each seed's own rank correlation.
        p: two-sided t test of those correlations against 0; nan for fewer than two seeds.
        p_permutation: share of all orders of the published figures whose ``mean_correlation`` is at least as far from 0
            on the same side; nan without a seed whose curve varies.
        verdict: agrees / disagrees where both p are below ``CARD_LEVEL`` with at least ``MIN_SEEDS`` seeds; or
            underpowered.
    """

    published: str
    source: str
    key: str
    group: str
    values: tuple[float, ...]
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    correlation: float
    seeds: tuple[int, ...]
    mean_correlation: float
    p: float
    p_permutation: float
    verdict: CardVerdict

    @property
    def caveat(self) -> str:
        """Says that the values are too few for any claim; empty where they are not."""
        num_values = len(self.values)
        if num_values >= MIN_POINTS_FOR_CLAIM:
            return ""
        least = 1 / math.factorial(num_values)
        return f"{num_values} values are too few for a claim: their p over values is at least {least:.2f}."

    def as_document(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


class Agreement(NamedTuple):
    """Says how far the curves of several seeds agree with a published one; fields as in :class:`ReproductionCard`."""

    mean_correlation: float
    p: float
    p_permutation: float
    verdict: CardVerdict


def reproduction_cards(results: Sequence[ArmResult]) -> list[ReproductionCard]:
    """Returns a card for each published curve that the arms' sweep shares at least ``MIN_POINTS`` values with."""
    cards = [
        _card(curve, grid)
        for curve in PUBLISHED_CURVES
        for grid in swept_grids([result for result in results if curve.fits(result.arm.settings)])
        if curve.key in grid.keys
    ]
    return [card for card in cards if card is not None]


def agreement(ours: ArrayLike, theirs: ArrayLike) -> Agreement:
    """Compares the curves of several seeds with a published one.

    Args:
        ours: (S, V) one curve for each seed; one that does not vary is left out.
        theirs: (V,) the published figures.
    """
    of_seeds = np.array([rank_correlation(curve, theirs) for curve in np.asarray(ours)])
    of_seeds = of_seeds[~np.isnan(of_seeds)]
    mean = float(of_seeds.mean()) if len(of_seeds) else math.nan
    p = float(paired_t_tests(of_seeds[None]).p[0]) if len(of_seeds) > 1 else math.nan
    p_permutation = permutation_p(ours, theirs)
    return Agreement(mean, p, p_permutation, _card_verdict(len(of_seeds), mean, p, p_permutation))


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rho, ties by mean rank; nan where one of the two does not vary."""
    return float(_unit_ranks(a) @ _unit_ranks(b))


def permutation_p(ours: ArrayLike, theirs: ArrayLike) -> float:
    """Returns the one-sided p of the permutation test of the mean rank correlation over the seeds.

    It is the share of orders of the published figures, one order for all seeds at once, whose mean correlation is at
    least as far from 0 on the side observed. If the key had nothing to do with the published curve, every order would
    be equally likely. Of more than 8 values a fixed draw of orders is tried.

    Args:
        ours: (S, V) one curve for each seed; one that does not vary is left out.
        theirs: (V,) the published figures.
    """
    published = _unit_ranks(theirs)
    curves = [ranks for ranks in map(_unit_ranks, np.asarray(ours)) if not np.isnan(ranks).any()]
    if not curves or np.isnan(published).any():
        return math.nan
    # The mean of the seeds' correlations is the correlation with the mean of their ranks: one dot product an order.
    mean_ranks = np.mean(curves, axis=0)
    observed = mean_ranks @ published
    least = abs(observed) - _ROUNDING
    as_far = published[_orders(len(published))] @ (mean_ranks * (1 if observed >= 0 else -1)) >= least
    if len(published) > _EXACT_POINTS:
        return float((1 + as_far.sum()) / (1 + len(as_far)))  # the order observed is one of them
    return float(as_far.mean())


@functools.cache
def _orders(num_values: int) -> NDArray[np.intp]:
    """All orders of so many values, or a fixed draw of them, one a row."""
    if num_values <= _EXACT_POINTS:
        return np.array(list(itertools.permutations(range(num_values))))
    rows = np.tile(np.arange(num_values), (_RANDOM_ORDERS, 1))
    return np.random.default_rng(0).permuted(rows, axis=1)


def _unit_ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Return ranks around 0 and of length 1, so that the dot product of two is Spearman's rho; nan if all are equal."""
    ranks = _mean_ranks(values)
    centred = ranks - ranks.mean()
    length = np.linalg.norm(centred)
    return centred / length if length else np.full_like(centred, math.nan)


def _mean_ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Return ranks from 1, the mean of their places for values that are equal."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values, "left") + 1 + np.searchsorted(ordered, values, "right")) / 2


def _card(curve: PublishedCurve, grid: SweptGrid) -> ReproductionCard | None:
    one_by_value = _one_by_value(curve, grid)
    values = sorted(one_by_value)
    if len(values) < MIN_POINTS:
        return None
    arms = [one_by_value[value] for value in values]
    theirs = [curve.points[value] for value in values]
    seeds = sorted(set.intersection(*(set(arm.values) for arm in arms)))
    ours = tuple(arm.summary.mean for arm in arms)
    return ReproductionCard(
        published=curve.name,
        source=curve.source,
        key=curve.key,
        group=grid.title,
        values=tuple(values),
        ours=ours,
        theirs=tuple(theirs),
        correlation=rank_correlation(ours, theirs),
        seeds=tuple(seeds),
        **agreement([[arm.values[seed] for arm in arms] for seed in seeds], theirs)._asdict(),
    )


def _one_by_value(curve: PublishedCurve, grid: SweptGrid) -> dict[float, ArmResult]:
    """Value of the curve's key -> the arm that stands for it, for the values that the curve has.

    Where a second key was swept, it is the arm with the highest mean, as the paper chose the best alpha for each gamma,
    if every value has as many arms: the best of many is higher than the only one by chance alone. Else it is the arm
    with the value of the second key that the paper chose.
    """
    axis = grid.keys.index(curve.key)
    by_value: dict[float, dict[tuple[float, ...], ArmResult]] = defaultdict(dict)
    for cell, arm in grid.cells.items():
        if cell[axis] in curve.points:
            by_value[cell[axis]][cell] = arm
    if len({len(arms) for arms in by_value.values()}) == 1:
        return {value: max(arms.values(), key=lambda arm: arm.summary.mean) for value, arms in by_value.items()}
    if curve.partner not in grid.keys:
        return {}
    other = grid.keys.index(curve.partner)
    return {
        value: arm
        for value, arms in by_value.items()
        for cell, arm in arms.items()
        if cell[other] == curve.chosen[value]
    }


def _card_verdict(num_seeds: int, mean_correlation: float, p: float, p_permutation: float) -> CardVerdict:
    if num_seeds < MIN_SEEDS or not (p < CARD_LEVEL and p_permutation < CARD_LEVEL):
        return "underpowered"
    return "agrees" if mean_correlation > 0 else "disagrees"
