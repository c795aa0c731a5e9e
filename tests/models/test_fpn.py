"""The feature pyramid against torchvision's, with the same weights."""

from collections import OrderedDict

import pytest
import torch
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from focalbench.models.fpn import FeaturePyramid


def test_it_equals_torchvisions_pyramid():
    torch.manual_seed(0)
    ours = FeaturePyramid((8, 16, 32), 12, 2)
    reference = FeaturePyramidNetwork([8, 16, 32], 12, LastLevelP6P7(12, 12))
    with torch.no_grad():
        for index in range(3):
            reference.inner_blocks[index][0].load_state_dict(ours.lateral[index].state_dict())
            reference.layer_blocks[index][0].load_state_dict(ours.output[index].state_dict())
        reference.extra_blocks.p6.load_state_dict(ours.extra[0].state_dict())
        reference.extra_blocks.p7.load_state_dict(ours.extra[1].state_dict())
        for bias in (module.bias for module in ours.modules() if isinstance(module, torch.nn.Conv2d)):
            assert bias.abs().max() == 0
        features = [torch.randn(2, 8, 16, 24), torch.randn(2, 16, 8, 12), torch.randn(2, 32, 4, 6)]
        expected = list(reference(OrderedDict(enumerate(features))).values())
        found = ours(features)
    assert len(found) == 5
    for level, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(level, wanted)


@pytest.mark.parametrize("num_extra", [0, 1, 2])
def test_extra_levels_halve_the_last(num_extra):
    levels = FeaturePyramid((4, 4, 4), 8, num_extra)([torch.zeros(1, 4, size, size) for size in (20, 10, 5)])
    assert [x.shape[-1] for x in levels] == [20, 10, 5, 3, 2][: 3 + num_extra]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_level_of_one_pixel_has_the_gradient_of_the_whole_kernel(precision):
    torch.manual_seed(0)
    pyramid = FeaturePyramid((4, 4, 4), 16, 2).to(memory_format=torch.channels_last)
    features = [torch.randn(2, 4, size, size) for size in (4, 2, 1)]
    for _ in range(3):
        pyramid.zero_grad()
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            levels = pyramid(features)
        dirt = [torch.full((size,), float("nan"), dtype=precision) for size in (2304, 4608) for _ in range(8)]
        del dirt  # what the allocator hands out next is this
        sum(level.float().square().sum() for level in levels).backward()
        for index, conv in enumerate(pyramid.extra):
            before = levels[2 + index].detach()
            x = before if index == 0 else before.relu()
            torch.testing.assert_close(levels[3 + index].float(), conv(x.float()), rtol=0.05, atol=0.05)
            assert conv.weight.grad[:, :, 1, 1].abs().max() > 0
            rim = conv.weight.grad.clone()
            rim[:, :, 1, 1] = 0
            assert (rim == 0).all()


def test_odd_sizes_are_joined():
    sizes = ((10, 13), (5, 7), (3, 4))
    levels = FeaturePyramid((4, 4, 4), 8, 1)([torch.zeros(1, 4, *size) for size in sizes])
    assert [tuple(x.shape[2:]) for x in levels] == [*sizes, (2, 2)]
