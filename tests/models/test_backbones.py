"""Backbones: strides, widths, and what frozen and synchronised batch norm change."""

import pytest
import torch
import torchvision

from focalbench.errors import ConfigError
from focalbench.models.backbones import BACKBONES, HEAD_DEFAULTS

NAMES = sorted(BACKBONES)


@pytest.mark.parametrize("name", NAMES)
def test_strides_and_widths(name):
    with torch.device("meta"):
        backbone = BACKBONES[name]("batch").eval()
        features = backbone(torch.empty(2, 3, 64, 96))
    assert [tuple(x.shape) for x in features] == [
        (2, width, 64 // stride, 96 // stride) for width, stride in zip(backbone.channels, (8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_canvas_that_is_no_multiple_of_the_stride(name):
    with torch.device("meta"):
        features = BACKBONES[name]("batch").eval()(torch.empty(1, 3, 75, 101))
    assert [tuple(x.shape[2:]) for x in features] == [(10, 13), (5, 7), (3, 4)]


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "mobilenet_v3_large"])
def test_it_is_torchvisions_network_without_its_classifier(name):
    with torch.device("meta"):
        backbone = BACKBONES[name]("batch")
        net = getattr(torchvision.models, name)()
    classifier = net.fc if name.startswith("resnet") else net.classifier
    expected = sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in classifier.parameters())
    assert sum(p.numel() for p in backbone.parameters()) == expected
    renamed = {
        new + key[len(old) :]
        for key in net.state_dict()
        for old, new in backbone.published.names.items()
        if key.startswith(old)
    }
    assert renamed == set(backbone.state_dict())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large"])
def test_frozen_norm_neither_learns_nor_moves(name):
    torch.manual_seed(0)
    backbone = BACKBONES[name]("frozen").train()
    assert not any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in backbone.modules())
    before = {key: value.clone() for key, value in backbone.named_buffers()}
    assert before
    images = torch.randn(2, 3, 64, 64)
    backbone(images)
    assert all(torch.equal(value, before[key]) for key, value in backbone.named_buffers())
    alone = backbone(images[:1])[-1]
    torch.testing.assert_close(backbone(images)[-1][:1], alone, atol=1e-4, rtol=1e-4)  # no statistics of the batch


def test_sync_norm_is_torchs():
    backbone = BACKBONES["resnet18"]("sync")
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(module, torch.nn.SyncBatchNorm) for module in norms)
    assert backbone.train()(torch.randn(2, 3, 64, 64))[-1].shape == (2, 512, 2, 2)  # one process: as batch norm


@pytest.mark.parametrize(("stages", "learning"), [(0, set()), (1, {"3"}), (4, {"0", "1", "2", "3"})])
def test_only_the_last_stages_learn_and_the_others_stay_as_in_evaluation(stages, learning):
    torch.manual_seed(0)
    backbone = BACKBONES["resnet18"]("batch")
    backbone.freeze(stages)
    backbone.eval().train()
    assert {name.split(".")[1] for name, p in backbone.named_parameters() if p.requires_grad} == learning
    assert not backbone.stem[0].weight.requires_grad
    before = {key: value.clone() for key, value in backbone.named_buffers()}
    maps = backbone(torch.randn(2, 3, 64, 64))
    moved = {key.split(".")[1] for key, value in backbone.named_buffers() if not torch.equal(value, before[key])}
    assert moved == learning
    # What takes no gradient keeps nothing for the backward pass.
    assert [x.requires_grad for x in maps] == [str(stage) in learning for stage in (1, 2, 3)]


def test_more_stages_than_there_are():
    with pytest.raises(ConfigError, match=r"model\.trainable_stages: 4: this backbone has 3 stages; null trains all"):
        BACKBONES["mobilenet_v3_large"]("batch").freeze(4)


def test_the_tiny_trunk_is_tiny_and_has_its_own_head():
    assert sum(p.numel() for p in BACKBONES["tiny"]("batch").parameters()) < 400_000
    assert set(HEAD_DEFAULTS) <= set(BACKBONES)
