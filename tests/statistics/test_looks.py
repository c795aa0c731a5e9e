"""focalbench/statistics/looks.py."""

import subprocess
import sys
from itertools import pairwise

import pytest

from focalbench.statistics.looks import FIRST_LOOK, MOST_SEEDS, look_sizes, seed_sequence


@pytest.mark.parametrize(
    ("first", "most", "sizes"),
    [
        (6, 20, (6, 8, 10, 12, 16, 20)),
        (6, 30, (6, 8, 10, 12, 16, 20, 24, 30)),
        (3, 20, (6, 8, 10, 12, 16, 20)),
        (8, 20, (8, 10, 12, 16, 20)),
        (9, 20, (9, 10, 12, 16, 20)),
        (6, 17, (6, 8, 10, 12, 16, 17)),
        (6, 7, (6, 7)),
        (6, 6, (6,)),
        (20, 20, (20,)),
    ],
)
def test_looks_as_the_specification_has_them(first: int, most: int, sizes: tuple[int, ...]) -> None:
    assert look_sizes(first, most) == sizes


def test_looks_rise_from_the_first_seeds_to_all() -> None:
    for most in range(FIRST_LOOK, MOST_SEEDS + 1):
        for first in range(1, most + 1):
            sizes = look_sizes(first, most)
            assert sizes[0] == max(first, FIRST_LOOK)
            assert sizes[-1] == most
            assert all(a < b for a, b in pairwise(sizes))


@pytest.mark.parametrize(
    ("first", "most", "seeds"),
    [
        ([0], 4, (0, 1, 2, 3)),
        ([0, 1, 2], 3, (0, 1, 2)),
        ([7, 3], 5, (7, 3, 8, 9, 10)),
        ([5, 1, 9, 2], 2, (5, 1)),
        ([-2], 3, (-2, -1, 0)),
    ],
)
def test_seeds_go_on_from_the_largest(first: list[int], most: int, seeds: tuple[int, ...]) -> None:
    assert seed_sequence(first, most) == seeds


def test_no_seed_comes_twice() -> None:
    for first in ([0], [4, 2, 9], [99, 0]):
        seeds = seed_sequence(first, 40)
        assert len(seeds) == len(set(seeds)) == 40


def test_it_loads_no_library() -> None:
    code = "import sys, focalbench.statistics.looks; print('numpy' in sys.modules, 'scipy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]
