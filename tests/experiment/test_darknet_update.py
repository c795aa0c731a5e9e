"""experiments/yolov2_voc.yaml trains by darknet's update rule, worked out in numpy from pjreddie/darknet.

A batch: src/network.c, ``train_network_datum``, ``get_current_batch`` and ``get_current_rate``; the update:
src/convolutional_layer.c, ``update_convolutional_layer``; the numbers: cfg/yolov2-voc.cfg, whose ``power`` is the
default of src/parser.c.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from focalbench.config.load import load_config
from focalbench.config.schema import ExperimentConfig
from focalbench.experiment.build import build_plan
from focalbench.training.optim import build_optimizer

_FILE = Path(__file__).parents[2] / "experiments" / "yolov2_voc.yaml"
_BATCH, _RATE, _MOMENTUM, _DECAY, _BURN_IN, _POWER = 64, 1e-3, 0.9, 5e-4, 1000, 4
_MAX_BATCHES, _DROPS, _DROP = 80_200, (40_000, 60_000), 0.1
_BOXES = 2.4 * _BATCH
"""Responsible boxes of a batch: the average of VOC 2007 + 2012."""

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def config() -> ExperimentConfig:
    return load_config(_FILE).config


def darknet_rate(step: int) -> float:
    """The rate of the update after ``step`` others: the batch counts as seen before the rate is asked for."""
    batch = step + 1
    if batch < _BURN_IN:
        return _RATE * (batch / _BURN_IN) ** _POWER
    return float(_RATE * _DROP ** sum(batch >= drop for drop in _DROPS))


class Layer:
    """darknet's convolution (1x1 on one pixel) with scales and biases, and its updates, which carry the momentum."""

    def __init__(self, weights: Array, scales: Array, biases: Array) -> None:
        self.values = {"weights": weights.copy(), "scales": scales.copy(), "biases": biases.copy()}
        self.updates = {name: np.zeros_like(value) for name, value in self.values.items()}

    def backward(self, x: Array, target: Array, strength: float) -> None:
        """Adds the negative gradient of strength * |y - target|^2 / 2, SUMMED over the objects."""
        normed = x @ self.values["weights"].T
        delta = strength * (target - (normed * self.values["scales"] + self.values["biases"]))
        self.updates["biases"] += delta.sum(axis=0)
        self.updates["scales"] += (delta * normed).sum(axis=0)
        self.updates["weights"] += (delta * self.values["scales"]).T @ x

    def update(self, rate: float) -> None:
        self.updates["weights"] -= _DECAY * _BATCH * self.values["weights"]
        for name, value in self.values.items():
            value += rate / _BATCH * self.updates[name]
            self.updates[name] *= _MOMENTUM


class Network(nn.Module):
    """The same layer in torch."""

    def __init__(self, weights: Array, scales: Array, biases: Array) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.from_numpy(weights.copy())[:, :, None, None])
        self.scales, self.biases = nn.Parameter(torch.from_numpy(scales)), nn.Parameter(torch.from_numpy(biases))

    def loss(self, x: Array, target: Array, strength: float) -> Tensor:
        """What a criterion returns: the sum over the objects, divided by the responsible boxes."""
        y = nn.functional.conv2d(torch.from_numpy(x)[:, :, None, None], self.weights)[..., 0, 0]
        found = y * self.scales + self.biases
        return 0.5 * strength * (found - torch.from_numpy(target)).square().sum() / _BOXES


def test_the_rate_of_every_step_is_darknets(config: ExperimentConfig) -> None:
    plan = build_plan(config, num_train=16_551)
    assert plan.total_steps == _MAX_BATCHES
    steps = [*range(1_003), *range(39_990, 40_010), *range(59_990, 60_010), _MAX_BATCHES - 1]
    ours = [plan.learning_rate(step) for step in steps]
    assert ours == pytest.approx([2.4 * darknet_rate(step) for step in steps], rel=1e-12)


@pytest.mark.parametrize(
    ("start", "strength"),
    # The first steps move float64 weights visibly only where the gradient is enormous beside the decay.
    [(0, 1e12), (300, 1e-3), (997, 1e-3), (39_997, 1e-3), (59_997, 1e-3)],
)
def test_five_steps_are_darknets(config: ExperimentConfig, start: int, strength: float) -> None:
    optim = config.optim
    assert optim.name == "sgd"
    assert (optim.batch_size, optim.clip_norm, optim.nesterov) == (_BATCH, None, False)
    rng = np.random.default_rng(start)
    values = rng.normal(size=(4, 3)), rng.normal(size=4), rng.normal(size=4)
    reference, network = Layer(*values), Network(*values)
    before = {name: value.copy() for name, value in reference.values.items()}
    optimizer = build_optimizer(
        network, optim.name, lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay
    )
    plan = build_plan(config, num_train=16_551)
    for step in range(start, start + 5):
        x, target = rng.normal(size=(154, 3)), rng.normal(size=(154, 4))
        reference.backward(x, target, strength)
        reference.update(darknet_rate(step))
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate(step)
        optimizer.zero_grad()
        network.loss(x, target, strength).backward()
        optimizer.step()
    for name, value in reference.values.items():
        moved = getattr(network, name).detach().numpy().reshape(value.shape) - before[name]
        np.testing.assert_allclose(moved, value - before[name], rtol=1e-6, atol=0, err_msg=name)
