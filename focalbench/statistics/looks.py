"""Says at how many seeds a sweep that ends by itself is looked at; it loads no library."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, islice

FIRST_LOOK = 6
"""Fewest seeds at which anything can be said."""
MOST_SEEDS = 100
_SIZES = (FIRST_LOOK, 8, 10, 12, 16, 20, 24, 30, 40, 50, 60, 80, MOST_SEEDS)


def look_sizes(first: int, most: int) -> tuple[int, ...]:
    """Returns the numbers of seeds at which the arms are looked at: the first look at ``first`` or ``FIRST_LOOK``, the
    last at ``most``, those between further and further apart.
    """
    start = max(first, FIRST_LOOK)
    return (*sorted({start, *(size for size in _SIZES if start < size < most)} - {most}), most)


def seed_sequence(first: Sequence[int], most: int) -> tuple[int, ...]:
    """Returns ``most`` different seeds: ``first``, then counting on from the largest of them."""
    return (*first, *islice(count(max(first) + 1), max(0, most - len(first))))[:most]
