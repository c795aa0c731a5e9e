"""Arms laid out by the numbers that were swept: a line for one key, a grid for two."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from focalbench.analysis.arms import incomparable_keys
from focalbench.analysis.judged_arms import ArmResult
from focalbench.records.document import as_number

_ANY_LOSS = "all arms"
"""Stands for the loss that all arms share where a table of results, which holds what differs, is all there is."""
_MAX_SHOWN = 60


@dataclass(frozen=True)
class SweptGrid:
    """Arms of one loss that may be compared with each other and differ in one or two numbers only.

    Attributes:
        loss: name of the loss.
        keys: one or two dotted keys.
        fixed: what tells these arms from other groups of the same loss (switches, names, data), by key.
        cells: values of ``keys`` -> arm, in rising order.
    """

    loss: str
    keys: tuple[str, ...]
    fixed: dict[str, Any]
    cells: dict[tuple[float, ...], ArmResult]

    @property
    def title(self) -> str:
        """The loss and what is fixed, in words."""
        return ", ".join([self.loss, *(f"{key}={_text(value)[:_MAX_SHOWN]}" for key, value in self.fixed.items())])

    @property
    def form(self) -> Literal["line", "map", "sparse"]:
        """How to show it: a line along one key, a map of two, or not at all: random draws make no picture."""
        if self.line_axis is not None:
            return "line"
        size = math.prod(len(self.axis(number)) for number in range(len(self.keys)))
        return "map" if 2 * len(self.cells) >= size else "sparse"

    @property
    def line_axis(self) -> int | None:
        """The number of the key along which the arms are a line: the only one, or that of two of which each value has
        one arm, while values of the other repeat; else None.
        """
        alone = [number for number in range(len(self.keys)) if len(self.axis(number)) == len(self.cells)]
        return alone[0] if len(alone) == 1 else None

    @property
    def line_keys(self) -> tuple[str, ...]:
        """The keys of a line: the one along which it runs, then the one that goes with it."""
        return self.keys[::-1] if self.line_axis == 1 else self.keys

    @property
    def line(self) -> dict[tuple[float, ...], ArmResult]:
        """The cells of a line by the values of ``line_keys``, in rising order of the first."""
        if self.line_axis != 1:
            return self.cells
        return {cell[::-1]: self.cells[cell] for cell in sorted(self.cells, key=lambda cell: cell[::-1])}

    @property
    def rows(self) -> dict[float, list[ArmResult | None]]:
        """The rows of a map by the value of the first key: an arm for each value of the second, None where not run."""
        return {y: [self.cells.get((y, x)) for x in self.axis(1)] for y in self.axis(0)}

    def height(self, result: ArmResult) -> float:
        """Places an arm's mean between the lowest of the grid, 0, and the highest, 1; 0 where all are equal."""
        means = [cell.summary.mean for cell in self.cells.values()]
        low, span = min(means), max(means) - min(means)
        return (result.summary.mean - low) / span if span > 0 else 0.0

    def axis(self, number: int) -> list[float]:
        """Returns the values of ``keys[number]`` in rising order."""
        return sorted({cell[number] for cell in self.cells})


def swept_grids(results: Sequence[ArmResult]) -> list[SweptGrid]:
    """Returns the lines and grids among the arms that have values; arms that stand alone are in none."""
    by_loss: dict[str, list[ArmResult]] = defaultdict(list)
    for result in results:
        if result.values:
            by_loss[str(result.arm.settings.get("loss.name", _ANY_LOSS))].append(result)
    return [grid for loss, members in by_loss.items() for grid in _grids_of_loss(loss, members)]


def _grids_of_loss(loss: str, members: Sequence[ArmResult]) -> list[SweptGrid]:
    differing_facts = _varying([member.arm.facts for member in members])
    grids = []
    for comparable in _comparable_groups(members):
        switches = _switches(comparable)
        groups: dict[str, list[ArmResult]] = defaultdict(list)
        for member in comparable:
            groups[_text([_switch_value(member.arm.settings.get(key)) for key in switches])].append(member)
        for group in groups.values():
            keys = tuple(_varying([member.arm.settings for member in group]))
            if len(keys) not in (1, 2):
                continue
            cells: dict[tuple[float, ...], ArmResult] = {}
            for member in group:
                cells.setdefault(tuple(float(member.arm.settings[key]) for key in keys), member)
            first = group[0].arm
            fixed = {key: first.settings[key] for key in switches if key not in keys and key in first.settings}
            fixed |= {key: first.facts[key] for key in differing_facts if key not in keys}
            grids.append(SweptGrid(loss, keys, fixed, dict(sorted(cells.items()))))
    return grids


def _comparable_groups(members: Sequence[ArmResult]) -> list[list[ArmResult]]:
    """Each arm with those that ``compare`` would compare it with."""
    groups: list[list[ArmResult]] = []
    for member in members:
        for group in groups:
            if not any(incomparable_keys(member.arm, other.arm) for other in group):
                group.append(member)
                break
        else:
            groups.append([member])
    return groups


def _switches(members: Sequence[ArmResult]) -> list[str]:
    """The keys that differ and are no number everywhere."""
    tables = [member.arm.settings for member in members]
    return [key for key in _varying(tables) if any(as_number(table.get(key)) is None for table in tables)]


def _switch_value(value: Any) -> Any:
    """Equal for all numbers, so that one `auto` or null beside them does not tear their line apart."""
    return value if as_number(value) is None else 0


def _varying(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for table in tables for key in table)
    return [key for key in keys if len({_text(table.get(key)) for table in tables}) > 1]


def _text(value: Any) -> str:
    return json.dumps(value, default=str)
