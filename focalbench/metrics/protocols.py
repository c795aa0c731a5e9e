"""``PROTOCOLS``: how detections become average precision, by the names that ``eval.protocol`` takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from focalbench.metrics.coco import coco_average_precision
from focalbench.metrics.voc import Interpolation, voc_average_precision


@dataclass(frozen=True)
class Protocol:
    """One meaning of mAP.

    Attributes:
        score: takes flat detections, ground truth and ``num_classes``; returns ``ap`` (K,) float in [0, 1], nan where
            undefined, their mean ``map``, and any further means as ``map_<name>``.
        rule: what tells it apart, in a table.
        interpolation: of precision over recall where AP is VOC's, at IoU .5: only that AP can be resampled over images
            and split by cause; None for others.
    """

    score: Callable[..., Mapping[str, Any]]
    rule: str
    interpolation: Interpolation | None = None


def _voc(rule: str, interpolation: Interpolation) -> Protocol:
    return Protocol(partial(voc_average_precision, interpolation=interpolation), rule, interpolation)


PROTOCOLS: dict[str, Protocol] = {
    "voc07": _voc("11 points", "11point"),
    "voc12": _voc("area", "area"),
    "coco": Protocol(coco_average_precision, "IoU .50:.95"),
}
