"""Arms laid out by the numbers that were swept: a line for one key, a grid for two."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from focalbench.analysis.comparison import ArmResult
from focalbench.analysis.runs import as_number


@dataclass(frozen=True)
class SweptGrid:
    """Arms of one loss that differ in one or two numbers only.

    Attributes:
        loss: name of the loss.
        keys: one or two dotted keys.
        fixed: what tells these arms from other groups of the same loss (switches, names), by key.
        cells: values of ``keys`` -> arm, in rising order.
    """

    loss: str
    keys: tuple[str, ...]
    fixed: dict[str, Any]
    cells: dict[tuple[float, ...], ArmResult]

    @property
    def title(self) -> str:
        """The loss and what is fixed, in words."""
        return ", ".join([self.loss, *(f"{key}={json.dumps(value)}" for key, value in self.fixed.items())])

    @property
    def is_dense(self) -> bool:
        """Whether at least half of the grid is filled; random draws are not, and make no picture."""
        return 2 * len(self.cells) >= math.prod(len(self.axis(number)) for number in range(len(self.keys)))

    def axis(self, number: int) -> list[float]:
        """The values of ``keys[number]`` in rising order."""
        return sorted({cell[number] for cell in self.cells})


def swept_grids(results: Sequence[ArmResult]) -> list[SweptGrid]:
    """The lines and grids among the arms that have values; arms that stand alone are in none."""
    by_loss: dict[str, list[ArmResult]] = defaultdict(list)
    for result in results:
        if result.values:
            by_loss[str(result.arm.settings.get("loss.name"))].append(result)
    return [grid for loss, members in by_loss.items() for grid in _grids_of_loss(loss, members)]


def _grids_of_loss(loss: str, members: Sequence[ArmResult]) -> list[SweptGrid]:
    varying = _varying_keys(members)
    switches = [key for key in varying if any(as_number(member.arm.settings.get(key)) is None for member in members)]
    groups: dict[str, list[ArmResult]] = defaultdict(list)
    for member in members:
        groups[json.dumps([member.arm.settings.get(key) for key in switches], default=str)].append(member)
    grids = []
    for group in groups.values():
        keys = tuple(_varying_keys(group))
        if len(keys) not in (1, 2):
            continue
        cells: dict[tuple[float, ...], ArmResult] = {}
        for member in group:
            cells.setdefault(tuple(float(member.arm.settings[key]) for key in keys), member)
        fixed = {key: group[0].arm.settings.get(key) for key in switches}
        grids.append(SweptGrid(loss, keys, fixed, dict(sorted(cells.items()))))
    return grids


def _varying_keys(members: Sequence[ArmResult]) -> list[str]:
    keys = dict.fromkeys(key for member in members for key in member.arm.settings)
    return [
        key for key in keys if len({json.dumps(member.arm.settings.get(key), default=str) for member in members}) > 1
    ]
