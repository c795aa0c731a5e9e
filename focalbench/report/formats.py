"""Writes numbers as people read them, the same in the terminal and on the page; nan is a dash."""

from __future__ import annotations

import math


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
