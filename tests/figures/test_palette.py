"""Colours of classes are told apart, and names can be read on each of them."""

from itertools import combinations

import pytest

from focalbench.figures.palette import BLACK, IGNORED_COLOR, PALETTE, class_color, ink_on, relative_luminance


def test_twenty_classes_have_twenty_colours_and_the_next_ones_begin_again() -> None:
    assert len({class_color(label) for label in range(20)}) == 20
    assert [class_color(label) for label in range(200)] == [*PALETTE] * 10
    assert IGNORED_COLOR not in PALETTE


def test_no_two_colours_are_close() -> None:
    for one, other in combinations((*PALETTE, IGNORED_COLOR), 2):
        assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) > 60**2


@pytest.mark.parametrize("color", [*PALETTE, IGNORED_COLOR, (0, 0, 0), (255, 255, 255), (117, 117, 117)])
def test_names_stand_out_on_every_colour(color: tuple[int, int, int]) -> None:
    darker, lighter = sorted((relative_luminance(color), relative_luminance(ink_on(color))))
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def test_ink_on_yellow_is_black() -> None:
    assert ink_on((240, 228, 66)) == BLACK
