"""The Python names that users and scripts rely on, where they rely on them."""

import inspect

import numpy as np
import pytest

from focalbench.losses import FocalLoss, sigmoid_focal_loss, softmax_focal_loss
from focalbench.metrics import voc_average_precision
from focalbench.models import MODELS


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (sigmoid_focal_loss, "logits labels gamma=2.0 alpha=0.25 weight=None reduction='none' avg_factor=None"),
        (softmax_focal_loss, "logits labels gamma=2.0 alpha=None weight=None reduction='none' avg_factor=None"),
        (FocalLoss, "use_sigmoid=True gamma=2.0 alpha=0.25 reduction='mean' loss_weight=1.0 activated=False"),
        (FocalLoss.forward, "pred target weight=None avg_factor=None reduction_override=None"),
        (voc_average_precision, "detections ground_truth num_classes iou_thresh=0.5 interpolation='11point'"),
    ],
)
def test_names_and_defaults_stay(function, parameters):
    found = [
        name if parameter.default is inspect.Parameter.empty else f"{name}={parameter.default!r}"
        for name, parameter in inspect.signature(function).parameters.items()
    ]
    remaining = iter(found)
    assert all(word in remaining for word in parameters.split()), found  # in this order; more may stand between


def test_average_precision_is_a_dict_of_ap_and_map():
    one = {"image": np.array([0]), "label": np.array([0]), "box": np.array([[1.0, 1.0, 9.0, 9.0]])}
    found = voc_average_precision(
        {**one, "score": np.array([0.5])}, {**one, "difficult": np.array([False])}, num_classes=2
    )
    assert found["map"] == pytest.approx(1.0)
    assert found["ap"][0] == pytest.approx(1.0)
    assert np.isnan(found["ap"][1])


def test_models_are_built_by_name():
    assert MODELS["retinanet"](num_classes=3, backbone="tiny").num_classes == 3
