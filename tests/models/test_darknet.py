"""Darknet-19 against the published layer list, and the passthrough against darknet's index arithmetic."""

import pytest
import torch

from focalbench.models.darknet import ConvBlock, darknet19, reorganise, tiny_darknet
from focalbench.models.darknet_weights import count_values
from focalbench.models.yolov2 import YoloV2

# darknet's yolov2-voc.cfg read by hand: (inputs, filters, kernel, batch norm).
YOLOV2_VOC = [
    (3, 32, 3, True),
    (32, 64, 3, True),
    (64, 128, 3, True), (128, 64, 1, True), (64, 128, 3, True),
    (128, 256, 3, True), (256, 128, 1, True), (128, 256, 3, True),
    (256, 512, 3, True), (512, 256, 1, True), (256, 512, 3, True), (512, 256, 1, True), (256, 512, 3, True),
    (512, 1024, 3, True), (1024, 512, 1, True), (512, 1024, 3, True), (1024, 512, 1, True), (512, 1024, 3, True),
    (1024, 1024, 3, True), (1024, 1024, 3, True),
    (512, 64, 1, True),
    (1280, 1024, 3, True),
    (1024, 125, 1, False),
]  # fmt: skip


def floats_of(layers):
    return sum(filters * (inputs * kernel**2 + (4 if norm else 1)) for inputs, filters, kernel, norm in layers)


def test_yolov2_voc_holds_as_many_numbers_as_the_published_file():
    # yolov2-voc.weights: 202,704,260 bytes, 16 of them header.
    assert floats_of(YOLOV2_VOC) == (202_704_260 - 16) // 4 == 50_676_061
    with torch.device("meta"):
        model = YoloV2(num_classes=20)
    assert sum(count_values(layer) for layer in model.darknet_layers()) == 50_676_061
    numbers = [v.numel() for k, v in model.state_dict().items() if k != "priors" and "num_batches_tracked" not in k]
    assert sum(numbers) == 50_676_061


def test_every_layer_has_the_published_shape():
    with torch.device("meta"):
        layers = YoloV2(num_classes=20).darknet_layers()
    assert len(layers) == len(YOLOV2_VOC) == 23
    for layer, (inputs, filters, kernel, norm) in zip(layers, YOLOV2_VOC, strict=True):
        conv = layer.conv if isinstance(layer, ConvBlock) else layer
        assert isinstance(layer, ConvBlock) is norm
        assert tuple(conv.weight.shape) == (filters, inputs, kernel, kernel)
        assert (conv.bias is None) is norm


def test_the_trunk_is_the_first_18_layers():
    with torch.device("meta"):
        trunk = darknet19()
    assert sum(count_values(block) for block in trunk.modules() if isinstance(block, ConvBlock)) == floats_of(
        YOLOV2_VOC[:18]
    )


@pytest.mark.parametrize(("build", "stride"), [(darknet19, 32), (tiny_darknet, 16)])
def test_trunk_strides_and_widths(build, stride):
    with torch.device("meta"):
        trunk = build().eval()
        fine, coarse = trunk(torch.empty(2, 3, 96, 160))
    assert trunk.stride == stride
    assert fine.shape == (2, trunk.channels[0], 2 * 96 // stride, 2 * 160 // stride)
    assert coarse.shape == (2, trunk.channels[1], 96 // stride, 160 // stride)


def reorg_by_index(x):
    """darknet's reorg_cpu with forward = 0, as its yolov2 layers call it, on flat memory."""
    channels, height, width = x.shape
    memory = x.flatten().tolist()
    result = [0.0] * len(memory)
    out_channels = channels // 4
    for k in range(channels):
        for j in range(height):
            for i in range(width):
                offset = k // out_channels
                column, row = 2 * i + offset % 2, 2 * j + offset // 2
                result[i + width * (j + height * k)] = memory[
                    column + 2 * width * (row + 2 * height * (k % out_channels))
                ]
    return torch.tensor(result).view(channels * 4, height // 2, width // 2)


@pytest.mark.parametrize("shape", [(4, 2, 2), (8, 4, 6), (64, 6, 4)])
def test_reorganise_moves_what_darknet_moves(shape):
    x = torch.arange(2 * shape[0] * shape[1] * shape[2], dtype=torch.float32).view(2, *shape)
    assert torch.equal(reorganise(x), torch.stack([reorg_by_index(image) for image in x]))


def test_reorganise_does_not_depend_on_the_memory_format():
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(reorganise(x.to(memory_format=torch.channels_last)), reorganise(x))


def test_reorganise_is_not_space_to_depth():
    x = torch.arange(4 * 4 * 4, dtype=torch.float32).view(1, 4, 4, 4)
    assert not torch.equal(reorganise(x), torch.nn.functional.pixel_unshuffle(x, 2))
