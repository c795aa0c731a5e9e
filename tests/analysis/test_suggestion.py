"""What is suggested for a data set, over pictures and objects of known sizes."""

import numpy as np
import pytest

from focalbench.analysis.suggestion import CPU_AREA, GPU_AREA, choose_canvas
from focalbench.data.sizes import ObjectSizes


def _sizes(image, shorter, number=20):
    """A picture of (width, height) with squares of one side, in pixels."""
    return ObjectSizes(np.array([(*image, number)]), np.full((number, 2), shorter, np.float32))


@pytest.mark.parametrize(
    ("image", "shorter", "area", "expected"),
    [
        ((640, 480), 32, CPU_AREA, (240, 320)),  # 16 px of the canvas, which is what they should have
        ((640, 480), 16, CPU_AREA, (240, 320)),  # smaller ones would need more pixels than two cores take
        ((640, 480), 16, GPU_AREA, (384, 512)),
        ((640, 480), 45, CPU_AREA, (176, 224)),  # larger ones can do with fewer
        ((640, 480), 300, CPU_AREA, (128, 160)),
        ((480, 640), 32, CPU_AREA, (320, 240)),
        ((256, 192), 8, CPU_AREA, (192, 256)),  # nothing is gained by enlarging the pictures
        ((250, 190), 8, GPU_AREA, (176, 240)),
        ((64, 48), 20, CPU_AREA, (48, 64)),
        ((5000, 100), 50, CPU_AREA, (96, 480)),
    ],
)
def test_the_canvas_suits_the_smallest_objects_and_is_no_larger_than_the_pictures(image, shorter, area, expected):
    assert choose_canvas(_sizes(image, shorter), area) == expected
