"""Limits that a configuration sets and the data go beyond: said with the figure, silent where there is none."""

import numpy as np
import pytest

from focalbench.config.load import default_config
from focalbench.data.sizes import ObjectSizes
from focalbench.experiment.limits import limits


def _sizes(counts=(2, 2), side=40.0, image=(640, 480)):
    rows = np.array([(*image, count) for count in counts])
    return ObjectSizes(rows, np.full((sum(counts), 2), side, np.float32))


def _told(*overrides, train=None, val=None):
    return limits(default_config(overrides), train or _sizes([2] * 100), val or _sizes())


def test_a_sound_configuration_is_left_alone():
    assert _told() == []


def test_too_few_detections_are_told_with_the_recall_that_is_left():
    """150 and 50 objects, 100 detections: 150 of 200 can be found."""
    (told,) = _told(val=_sizes([150, 50]))
    assert told.startswith("eval.max_detections: 100: 1 image of val holds more objects, up to 150: ")
    assert "75.0 %" in told
    assert told.endswith("set it to 300")
    assert _told("eval.max_detections=150", val=_sizes([150, 50])) == []


@pytest.mark.parametrize(("side", "words"), [(4.0, "[480, 640] would do"), (3.0, "cut the images into tiles")])
def test_objects_that_vanish_on_the_canvas_are_counted_with_the_canvas_that_would_do(side, words):
    (told,) = _told("data.image_size=[240,320]", train=_sizes([2] * 100, side))
    assert "200 of 200 objects of train are less than 4 px wide or high" in told
    assert words in told


def test_a_few_small_objects_among_large_ones_are_usual():
    sizes = _sizes([2] * 100)
    sizes.objects[:20] = 1
    assert _told(train=sizes) == []
    sizes.objects[:21] = 1
    assert len(_told(train=sizes)) == 1


def test_epochs_of_few_images_that_make_less_than_a_step_each_are_told():
    (told,) = _told("optim.epochs=3", train=_sizes([1] * 5))
    assert told.startswith("optim.epochs: 3 with 5 training images and optim.batch_size 16 make only 1 step in all")
    assert _told("optim.epochs=3", "optim.batch_size=4", train=_sizes([1] * 5)) == []
    assert _told("optim.steps=1", "optim.warmup_steps=0", train=_sizes([1] * 5)) == []


def test_without_objects_there_is_nothing_to_judge():
    assert _told(train=_sizes([0] * 50), val=_sizes([0])) == []
