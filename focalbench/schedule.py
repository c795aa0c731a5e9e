"""Values that move during training: gamma and alpha as pure functions of the fraction of training done."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Any, Literal, get_args

Kind = Literal["constant", "step", "linear", "cosine"]

MOVES = "moves"
"""Marks, in an annotation, a number that may be a schedule."""


@dataclass(frozen=True)
class Schedule:
    """A value over training, a pure function of the fraction done, so that a resumed run has nothing to restore.

    Attributes:
        schedule: ``constant``; ``step`` jumps to ``values[i + 1]`` at ``at[i]``; ``linear`` and ``cosine`` pass through
            ``values[i]`` at ``at[i]`` and hold the ends.
        values: the values in order of training.
        at: fractions of training in [0, 1], rising; for ``step`` one less than values (a leading 0 may be written);
            None spreads them evenly.
    """

    schedule: Kind
    values: tuple[float, ...]
    at: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Check the parts against each other.

        Raises:
            ValueError: unknown kind, a value that is no number, numbers of values and fractions that do not fit,
                fractions that do not rise.
        """
        if self.schedule not in get_args(Kind):
            raise ValueError(f"schedule must be one of {', '.join(get_args(Kind))}, got {self.schedule!r}")
        if not all(isinstance(value, Real) for value in self.values):
            raise ValueError(f"a schedule's values must be numbers, got {list(self.values)}")
        object.__setattr__(self, "values", tuple(float(value) for value in self.values))
        object.__setattr__(self, "at", place_knots(self.schedule, len(self.values), self.at))

    def __call__(self, fraction: float) -> float:
        """Returns the value in force when ``fraction`` of the training, clamped to [0, 1], is done."""
        knots = self.at or ()
        if self.schedule == "constant":
            return self.values[0]
        fraction = min(max(fraction, 0.0), 1.0)
        after = bisect_right(knots, fraction)
        if self.schedule == "step":
            return self.values[after]
        if after == 0:
            return self.values[0]
        if after == len(knots):
            return self.values[-1]
        share = (fraction - knots[after - 1]) / (knots[after] - knots[after - 1])
        if self.schedule == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return self.values[after - 1] + share * (self.values[after] - self.values[after - 1])


def place_knots(schedule: Kind, count: int, at: Sequence[float] | None) -> tuple[float, ...]:
    """Returns the fractions of training at which ``count`` values are reached (``step``: at which all but the first
    start), as ``Schedule.at`` gives them or evenly spread.

    Raises:
        ValueError: numbers of values and fractions that do not fit, fractions that do not rise.
    """
    if schedule == "constant":
        if count != 1 or at:
            raise ValueError("a constant schedule takes one value and no `at`")
        return ()
    if count < 2:
        raise ValueError(f"a {schedule} schedule needs at least two values, got {count}")
    wanted = count - 1 if schedule == "step" else count
    if at is None:
        starts = [index / count for index in range(1, count)]
        return tuple(starts if schedule == "step" else [index / (count - 1) for index in range(count)])
    if schedule == "step" and len(at) == count and at[0] == 0:
        at = at[1:]
    if len(at) != wanted:
        raise ValueError(f"a {schedule} schedule of {count} values needs {wanted} fractions in `at`, got {len(at)}")
    if not all(0 <= fraction <= 1 for fraction in at) or any(b <= a for a, b in pairwise(at)):
        raise ValueError(f"`at` must rise within [0, 1], got {list(at)}")
    return tuple(float(fraction) for fraction in at)


def as_schedule(value: Any) -> Schedule | None:
    """Returns ``value`` as a schedule when it is one (or a mapping of its fields), else None."""
    if isinstance(value, Schedule):
        return value
    if isinstance(value, Mapping):
        unknown = set(value) - {"schedule", "values", "at"}
        if unknown or not {"schedule", "values"} <= set(value):
            raise ValueError(f"a schedule has the keys schedule, values and at, got {sorted(value)}")
        return Schedule(**value)
    return None
