"""Significance levels for looking several times at data that keep coming, so that all looks together keep one level.

The level is spent in proportion to the seeds (error spending: Lan and DeMets, Biometrika 70, 1983), and the level of
each look follows from the recursion of Armitage, McPherson and Rowe (J. R. Stat. Soc. A 132, 1969) for a sum with
independent increments.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy import special

_NODES = 96  # of the quadrature; the levels are good to 1e-9 with half of them
_FARTHEST = 40.0  # sd beyond which a normal variable does not come
_PRECISION = 1e-11  # of a bound, in sd


@lru_cache(maxsize=65536)
def nominal_levels(sizes: tuple[int, ...], shares: tuple[float, ...], level: float) -> tuple[float, ...]:
    """Returns the two-sided p below which each look claims a difference.

    Args:
        sizes: pairs at each look, rising.
        shares: of ``level``, spent by the end of each look, rising to at most 1.
        level: chance of a claim at any look where there is no difference.

    Returns:
        one level a look; 0 where a look spends nothing.
    """
    if len(sizes) == 1:
        return (level * shares[0],)
    spent = [level * share for share in shares]
    levels: list[float] = []
    walk = _Walk()
    for look, size in enumerate(sizes):
        wanted = spent[look] - (spent[look - 1] if look else 0.0)
        if wanted <= 0:  # nothing ends here: the walk passes
            levels.append(0.0)
            continue
        bound = walk.bound(size, wanted)
        levels.append(2 * float(special.ndtr(-bound / math.sqrt(size))))
        walk.stop_beyond(bound, size)
    return tuple(levels)


class _Walk:
    """A sum of independent normal steps that ends where it passes a bound; its density, as far as it has not ended."""

    def __init__(self) -> None:
        self._size = 0
        self._points = np.zeros(1)
        self._mass = np.ones(1)

    def beyond(self, bound: float, size: int) -> float:
        """Returns the chance that the sum has not ended before and lies outside of +-``bound`` after ``size`` steps."""
        scale = math.sqrt(size - self._size)
        outside = special.ndtr((self._points - bound) / scale) + special.ndtr((-self._points - bound) / scale)
        return float(self._mass @ outside)

    def bound(self, size: int, chance: float) -> float:
        """Returns the bound that the sum passes with ``chance``, by halving: ``beyond`` falls."""
        low, high = 0.0, _FARTHEST * math.sqrt(size)
        while high - low > _PRECISION * math.sqrt(size):
            middle = (low + high) / 2
            low, high = (middle, high) if self.beyond(middle, size) > chance else (low, middle)
        return high

    def stop_beyond(self, bound: float, size: int) -> None:
        """Goes on to ``size`` steps, and ends the sums that lie outside of +-``bound`` there."""
        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        points, scale = nodes * bound, math.sqrt(size - self._size)
        density = np.exp(-0.5 * ((points[:, None] - self._points) / scale) ** 2) @ self._mass
        self._mass = density * weights * bound / (scale * math.sqrt(2 * math.pi))
        self._points, self._size = points, size
