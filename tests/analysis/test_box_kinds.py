"""What is annotated at a box."""

import numpy as np
import pytest

from focalbench.analysis.box_kinds import what_is_annotated


@pytest.mark.parametrize(
    ("iou", "labels", "difficult", "found"),
    [
        ([0.6, 0.9], [1, 0], [0, 0], ("object", 0)),
        ([0.6, 0.9], [1, 0], [1, 0], ("difficult", 0)),
        ([0.4, 0.9], [1, 0], [0, 0], ("other class", 1)),
        ([0.2, 0.4], [1, 0], [0, 0], ("near", 0)),  # its own class first
        ([0.05, 0.4], [1, 0], [0, 0], ("near", 1)),
        ([0.5, 0.1], [1, 1], [0, 0], ("near", 0)),  # VOC's IoU is above .5
        ([0.1, 0.0], [1, 1], [0, 0], ("nothing", -1)),
        ([], [], [], ("nothing", -1)),
    ],
)
def test_what_is_annotated_there(iou: list, labels: list, difficult: list, found: tuple[str, int]) -> None:
    assert what_is_annotated(1, np.array(iou), np.array(labels, int), np.array(difficult, bool)) == found
