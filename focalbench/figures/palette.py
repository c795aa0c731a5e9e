"""Colours of classes, and the ink that can be read on them."""

from __future__ import annotations

Color = tuple[int, int, int]

IGNORED_COLOR: Color = (150, 150, 150)
BLACK: Color = (0, 0, 0)
WHITE: Color = (255, 255, 255)

# First those of Okabe and Ito, which colour-blind eyes tell apart too; then, one by one, the colour that lies farthest
# in CIELAB from all before it and from black, white and the gray of ignored objects.
PALETTE: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (204, 121, 167),
    (0, 114, 178),
    (213, 94, 0),
    (240, 228, 66),
    (0, 0, 255),
    (0, 255, 0),
    (255, 0, 225),
    (75, 30, 150),
    (255, 0, 90),
    (90, 90, 0),
    (75, 165, 0),
    (120, 15, 30),
    (0, 255, 150),
    (0, 255, 255),
    (255, 165, 135),
    (195, 225, 150),
    (195, 135, 255),
)


def class_color(label: int) -> Color:
    """Returns the colour of a class, the same in every picture; the 21st class has that of the first again."""
    return PALETTE[label % len(PALETTE)]


def ink_on(background: Color) -> Color:
    """Returns black or white, whichever stands out more: at least 4.5 : 1 (WCAG 2.1) on any background."""
    luminance = relative_luminance(background)
    # Contrast is (lighter + .05) / (darker + .05).
    return BLACK if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else WHITE


def relative_luminance(color: Color) -> float:
    """Returns how bright an sRGB colour is, from 0 (black) to 1 (white), as WCAG 2.1 defines it."""
    linear = [_linear(value / 255) for value in color]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
