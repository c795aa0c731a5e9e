"""The papers' figures, and the reproduction card: does the user's curve rise and fall where the published one does?

Levels cannot be compared (another data set, detector or training), ranks can. The card takes the rank correlation with
the published curve for each seed on its own; if a curve had no effect, these correlations would scatter around 0 alike
on both sides, so the verdict's rule for paired differences (``statistics.verdict``) applies to them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from focalbench.analysis.comparison import ArmResult
from focalbench.analysis.statistics import paired_t_p, verdict
from focalbench.analysis.swept_keys import SweptGrid, swept_grids

MIN_POINTS = 3
"""Fewest shared values of the swept key: with two, any curve agrees or disagrees."""
CLEAR_CORRELATION = 0.5
"""Least rank correlation of the means, up or down, that counts as one pattern; a smaller one is shared in part."""
CardVerdict = Literal["agrees", "agrees in part", "disagrees in part", "disagrees", "underpowered"]


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
        verdict: agrees / disagrees beyond the scatter of the seeds, in part where ``correlation`` is small; or
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
    verdict: CardVerdict

    def as_document(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def reproduction_cards(results: Sequence[ArmResult]) -> list[ReproductionCard]:
    """Returns a card for each published curve that the arms' sweep shares at least ``MIN_POINTS`` values with."""
    cards = [
        _card(curve, grid)
        for curve in PUBLISHED_CURVES
        for grid in swept_grids([result for result in results if curve.fits(result.arm.settings)])
        if curve.key in grid.keys
    ]
    return [card for card in cards if card is not None]


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rho, ties by mean rank; nan where one of the two does not vary."""
    ranks = np.stack([_mean_ranks(a), _mean_ranks(b)])
    if any(len(set(row)) == 1 for row in ranks):
        return math.nan
    own, other = ranks - ranks.mean(axis=1, keepdims=True)
    return float(own @ other / math.sqrt((own @ own) * (other @ other)))


def _mean_ranks(values: Sequence[float]) -> NDArray[np.float64]:
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
    of_seeds = np.array([rank_correlation([arm.values[seed] for arm in arms], theirs) for seed in seeds])
    of_seeds = of_seeds[~np.isnan(of_seeds)]
    p = paired_t_p(of_seeds) if len(of_seeds) > 1 else math.nan
    mean = float(of_seeds.mean()) if len(of_seeds) else math.nan
    correlation = rank_correlation([arm.summary.mean for arm in arms], theirs)
    return ReproductionCard(
        published=curve.name,
        source=curve.source,
        key=curve.key,
        group=grid.title,
        values=tuple(values),
        ours=tuple(arm.summary.mean for arm in arms),
        theirs=tuple(theirs),
        correlation=correlation,
        seeds=tuple(seeds),
        mean_correlation=mean,
        p=p,
        verdict=_card_verdict(len(of_seeds), mean, p, correlation),
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


def _card_verdict(num_seeds: int, mean_correlation: float, p: float, correlation: float) -> CardVerdict:
    """Seeds that share a pattern make it real, not large: a weak one is no agreement."""
    words, clear = verdict(num_seeds, mean_correlation, p), abs(correlation) >= CLEAR_CORRELATION
    if words == "better":
        return "agrees" if clear else "agrees in part"
    if words == "worse":
        return "disagrees" if clear else "disagrees in part"
    return "underpowered"
