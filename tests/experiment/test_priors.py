"""``model.priors: auto``: clustered from the training set, alike for all arms and seeds, kept in checkpoints."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from focalbench.boxes.priors import average_best_iou
from focalbench.config.load import load_config
from focalbench.errors import ConfigError
from focalbench.experiment.build import build_data, build_model

Write = Callable[..., Path]
_YOLO = ["model={name: yolov2, backbone: tiny, priors: auto, num_priors: 3}"]


def test_they_fit_the_training_boxes_and_follow_from_the_data_alone(write_config: Write) -> None:
    config = load_config(write_config(), _YOLO).config
    data = build_data(config)
    model = build_model(config, 4, data.train)
    assert model.priors.shape == (3, 2)
    targets = data.train.targets(range(len(data.train)))
    sizes = ((targets.boxes[..., 2:] - targets.boxes[..., :2])[targets.labels >= 0] / 32).numpy()
    assert average_best_iou(sizes, model.priors.numpy()) > 0.7

    others = ["seed=5", "loss={name: softmax_focal}"]
    other = load_config(write_config(), [*_YOLO, *others]).config
    assert torch.equal(build_model(other, 4, data.train).priors, model.priors)
    # Without the data, as when a trained trial is opened, the checkpoint brings them.
    empty = build_model(config, 4, None)
    empty.load_state_dict(model.state_dict())
    assert torch.equal(empty.anchors_for((64, 64)), model.anchors_for((64, 64)))


def test_more_than_there_are_box_sizes_is_the_users_fault(write_config: Write) -> None:
    config = load_config(write_config(), [*_YOLO, "model.num_priors=50"]).config
    with pytest.raises(ConfigError, match=r"model\.num_priors"):
        build_model(config, 4, build_data(config).train)
