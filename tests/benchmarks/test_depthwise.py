"""The contest of depthwise convolutions: the network's layers, the same gradients on both sides."""

import json

import pytest

from focalbench.benchmarks.depthwise import Layer, bench_depthwise, depthwise_layers


def test_the_layers_are_those_of_the_last_three_stages() -> None:
    layers = depthwise_layers(224)
    # Table 1 of arXiv:1905.11946 from the third row of blocks on: 2 + 3 + 3 + 4 + 1 blocks.
    assert sum(layers.values()) == 13
    assert layers[Layer(channels=480, side=14, kernel=5, stride=1, padding=2)] == 1
    assert layers[Layer(channels=1152, side=7, kernel=5, stride=1, padding=2)] == 3
    assert layers[Layer(channels=144, side=59, kernel=5, stride=2, padding=0)] == 1  # 56, padded as TensorFlow pads


def test_gradients_agree_and_figures_belong_together() -> None:
    result = bench_depthwise(canvas=32, batch=2, repeats=1)
    assert len(result["layers"]) == len(depthwise_layers(32))
    limit = {"float32": 1e-5, "bfloat16": 2e-2}[result["precision"]]
    assert max(layer["max_difference"] for layer in result["layers"]) < limit
    for side in ("focalbench", "torch"):
        assert result["ms"][side] == pytest.approx(sum(one["times"] * one["ms"][side] for one in result["layers"]))
    assert result["ratio"] == pytest.approx(result["ms"]["torch"] / result["ms"]["focalbench"])
    json.dumps(result)
