"""Writes numbers and what is made of them as people read them, alike in the terminal and on the page; nan is a dash."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from focalbench.analysis.comparison import ArmComparison


def number(value: float) -> str:
    """Writes four decimals, and five digits from 10 on."""
    if math.isnan(value):
        return "-"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.5g}"


def signed(value: float) -> str:
    """Writes what :func:`number` does, with a sign."""
    if math.isnan(value):
        return "-"
    return f"{value:+.4f}" if abs(value) < 10 else f"{value:+.5g}"


def p_value(value: float) -> str:
    """Writes four decimals without the leading zero, as tables of statistics have it."""
    if math.isnan(value):
        return "-"
    return "<.0001" if value < 0.0001 else f"{value:.4f}".removeprefix("0")


def interval(ends: tuple[float, float]) -> str:
    """Writes both ends of an interval of differences; empty where they are unknown."""
    return "" if math.isnan(ends[0]) else f"{signed(ends[0])} to {signed(ends[1])}"


def resolution_cells(entry: ArmComparison) -> list[str]:
    """Writes what the seeds of a paired comparison can resolve: arm, pairs, their sd, exact p and the least it can be,
    detectable difference, seeds for one point, and the sd and range of the test-set noise.
    """
    pair, noise = entry.paired, entry.noise
    assert pair is not None
    exact = f"{p_value(pair.p_exact)} ({p_value(pair.smallest_p)})"
    test_set = ["-", "-"] if noise is None else [number(noise.sd), interval(noise.ci)]
    resolved = [number(pair.detectable), str(pair.seeds_for_one_point or "-")]
    return [entry.arm, str(pair.n), number(pair.sd), exact, *resolved, *test_set]
