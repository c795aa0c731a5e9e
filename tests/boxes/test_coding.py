"""Encoding and decoding: inverse to each other, and equal to torchvision's BoxCoder."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder

from focalbench.boxes.coding import MAX_LOG_RATIO, decode_boxes, encode_boxes


def random_boxes(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator) * 300
    return torch.cat((corner, corner + torch.rand(*shape, 2, generator=generator) * 200 + 5), dim=-1)


def test_encoding_by_hand():
    anchor = torch.tensor([[10.0, 20, 30, 60]])  # centre (20, 40), 20 x 40
    box = torch.tensor([[15.0, 40, 55, 60]])  # centre (35, 50), 40 x 20
    expected = torch.tensor([[15 / 20, 10 / 40, math.log(2), -math.log(2)]])
    torch.testing.assert_close(encode_boxes(box, anchor), expected)
    torch.testing.assert_close(decode_boxes(expected, anchor), box)


def test_an_anchor_is_zero():
    anchors = random_boxes(5, seed=0)
    assert encode_boxes(anchors, anchors).abs().max() < 1e-6
    torch.testing.assert_close(decode_boxes(torch.zeros(5, 4), anchors), anchors)


def test_torchvision_encodes_and_decodes_the_same():
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    boxes, anchors = random_boxes(50, seed=1), random_boxes(50, seed=2)
    encoded = encode_boxes(boxes, anchors)
    torch.testing.assert_close(encoded, coder.encode_single(boxes, anchors), atol=1e-5, rtol=1e-5)
    deltas = torch.randn(50, 4, generator=torch.Generator().manual_seed(3)) * 2
    torch.testing.assert_close(
        decode_boxes(deltas, anchors), coder.decode_single(deltas, anchors), atol=1e-2, rtol=1e-4
    )


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_decoding_undoes_encoding(seed):
    boxes, anchors = random_boxes(2, 8, seed=seed), random_boxes(2, 8, seed=seed + 1)
    torch.testing.assert_close(decode_boxes(encode_boxes(boxes, anchors), anchors), boxes, atol=2e-2, rtol=1e-3)


@pytest.mark.parametrize("value", [1e4, 1e30])
def test_absurd_predictions_stay_finite(value):
    anchors = torch.tensor([[0.0, 0, 10, 20]])
    found = decode_boxes(torch.tensor([[0.0, 0, value, value]]), anchors)
    width, height = (found[0, 2:] - found[0, :2]).tolist()
    assert width == pytest.approx(10 * math.exp(MAX_LOG_RATIO))
    assert height == pytest.approx(20 * math.exp(MAX_LOG_RATIO))


def test_half_precision_deltas_give_float32_boxes():
    assert decode_boxes(torch.zeros(1, 4, dtype=torch.bfloat16), torch.tensor([[0.0, 0, 9, 9]])).dtype == torch.float32
