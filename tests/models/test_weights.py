"""First weights: torch files made here, torchvision's state dicts, and files that must be refused."""

import pytest
import torch
import torchvision

from focalbench.errors import ConfigError, DataError
from focalbench.models import backbones as backbones_module
from focalbench.models.backbones import BACKBONES
from focalbench.models.retinanet import RetinaNet
from focalbench.models.weights import check_backbone_weights, load_backbone_weights
from focalbench.models.yolov2 import YoloV2


def snapshot(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def resnet18():
    """A torchvision classifier whose batch norms are not at their defaults either."""
    torch.manual_seed(1)
    net = torchvision.models.resnet18()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return net.eval()


@pytest.mark.parametrize("norm", ["batch", "frozen", "sync"])
def test_a_torchvision_classifier_fills_the_backbone(tmp_path, resnet18, norm):
    torch.save(resnet18.state_dict(), tmp_path / "resnet18.pth")
    backbone = BACKBONES["resnet18"](norm).eval()
    load_backbone_weights(backbone, "resnet18", str(tmp_path / "resnet18.pth"))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        stem = resnet18.maxpool(resnet18.relu(resnet18.bn1(resnet18.conv1(images))))
        c3 = resnet18.layer2(resnet18.layer1(stem))
        expected = [c3, resnet18.layer3(c3), resnet18.layer4(resnet18.layer3(c3))]
        for found, wanted in zip(backbone(images), expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_a_mobilenet_classifier_fills_the_backbone(tmp_path):
    torch.manual_seed(2)
    net = torchvision.models.mobilenet_v3_large().eval()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    backbone = BACKBONES["mobilenet_v3_large"]("batch").eval()
    load_backbone_weights(backbone, "mobilenet_v3_large", str(tmp_path / "net.pth"))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images)[-1], net.features(images))


def test_imagenet_asks_torchvision(monkeypatch, resnet18):
    asked = []

    def answer(name):
        asked.append(name)
        return resnet18.state_dict()

    monkeypatch.setattr(backbones_module, "torchvision_state", answer)
    model = RetinaNet(num_classes=2, backbone="resnet18", weights="imagenet", fpn_channels=16, head_convs=1)
    assert asked == ["resnet18"]
    assert torch.equal(model.backbone.stem[0].weight, resnet18.conv1.weight)


def test_without_network_imagenet_says_where_to_get_it(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("unreachable")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", refuse)
    with pytest.raises(
        DataError, match=r"https://download\.pytorch\.org/models/resnet18-f37072fd\.pth .*model\.weights"
    ):
        RetinaNet(num_classes=2, backbone="resnet18", weights="imagenet")


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: RetinaNet(num_classes=2, backbone="tiny", weights="imagenet"), "tiny has no ImageNet weights"),
        (lambda: YoloV2(num_classes=2, backbone="tiny", weights="imagenet"), "no tiny for YOLOv2"),
    ],
)
def test_imagenet_weights_that_do_not_exist(build, reason):
    with pytest.raises(ConfigError, match=reason):
        build()


def test_a_retinanet_of_ours_gives_its_backbone(tmp_path):
    torch.manual_seed(3)
    first = RetinaNet(num_classes=2, backbone="tiny")
    for form, state in {"plain": first.state_dict(), "checkpoint": {"model": first.state_dict(), "step": 7}}.items():
        torch.save(state, tmp_path / form)
        second = RetinaNet(num_classes=5, backbone="tiny", weights=str(tmp_path / form))
        assert equal(second.backbone.state_dict(), first.backbone.state_dict())


def test_a_yolov2_of_ours_is_read_whole_or_as_a_trunk(tmp_path):
    torch.manual_seed(4)
    first = YoloV2(num_classes=3, backbone="tiny")
    torch.save(first.state_dict(), tmp_path / "whole.pt")
    torch.save({k: v for k, v in first.state_dict().items() if k.startswith("trunk.")}, tmp_path / "trunk.pt")
    whole = YoloV2(num_classes=3, backbone="tiny", weights=str(tmp_path / "whole.pt"))
    assert equal(whole.state_dict(), first.state_dict())
    other = YoloV2(num_classes=7, backbone="tiny", weights=str(tmp_path / "trunk.pt"))
    assert equal(other.trunk.state_dict(), first.trunk.state_dict())
    with pytest.raises(DataError, match=r"predict\.weight \(40, 128, 1, 1\) for \(60, 128, 1, 1\)"):
        YoloV2(num_classes=7, backbone="tiny", weights=str(tmp_path / "whole.pt"))


def damaged(state, kind):
    state = dict(state)
    if kind == "missing":
        del state["layer1.0.conv1.weight"]
    elif kind == "left over":
        state["layer1.7.conv1.weight"] = torch.zeros(1)
    elif kind == "shape":
        state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    else:
        state["layer4.1.bn2.bias"] = torch.full((512,), torch.nan)
    return state


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", r"1 missing \(stages\.0\.0\.conv1\.weight\)"),
        ("left over", r"1 not in this network \(stages\.0\.7\.conv1\.weight\)"),
        ("shape", r"1 of another shape \(stem\.0\.weight \(64, 1, 7, 7\) for \(64, 3, 7, 7\)\)"),
        ("nan", r"1 not finite \(stages\.3\.1\.bn2\.bias\)"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(tmp_path, resnet18, kind, reason):
    torch.save(damaged(resnet18.state_dict(), kind), tmp_path / "bad.pth")
    backbone = BACKBONES["resnet18"]("batch")
    before = snapshot(backbone)
    with pytest.raises(DataError, match=reason):
        load_backbone_weights(backbone, "resnet18", str(tmp_path / "bad.pth"))
    assert equal(snapshot(backbone), before)


def test_another_network_is_refused_in_one_readable_line(tmp_path):
    torch.save(torchvision.models.mobilenet_v3_large().state_dict(), tmp_path / "other.pth")
    with pytest.raises(DataError, match=r"missing .*not in this network") as fault:
        load_backbone_weights(BACKBONES["resnet18"]("batch"), "resnet18", str(tmp_path / "other.pth"))
    assert len(str(fault.value)) < 600


def test_a_missing_file():
    with pytest.raises(DataError, match="no such weight file"):
        RetinaNet(num_classes=2, backbone="resnet18", weights="resnet18.pht")


def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "encoder.", "backbone.0.body."])
def test_one_common_prefix_is_cut_off_whatever_it_is_called(tmp_path, resnet18, prefix):
    beside = {"fc.weight": torch.zeros(2), "neck.0.bias": torch.zeros(2)}
    torch.save({"state_dict": prefixed(prefix, resnet18.state_dict()) | beside}, tmp_path / "net.pth")
    backbone = BACKBONES["resnet18"]("batch")
    load_backbone_weights(backbone, "resnet18", str(tmp_path / "net.pth"))
    assert torch.equal(backbone.stages[3][1].conv2.weight, resnet18.layer4[1].conv2.weight)


def test_torchvisions_retinanet_gives_its_body(tmp_path):
    torch.manual_seed(5)
    body = torchvision.models.detection.backbone_utils.resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    theirs = torchvision.models.detection.RetinaNet(body, num_classes=3)
    torch.save(theirs.state_dict(), tmp_path / "retinanet.pth")
    backbone = BACKBONES["resnet18"]("frozen")
    load_backbone_weights(backbone, "resnet18", str(tmp_path / "retinanet.pth"))
    assert torch.equal(backbone.stem[0].weight, theirs.backbone.body.conv1.weight)
    assert torch.equal(backbone.stages[2][0].conv1.weight, theirs.backbone.body.layer3[0].conv1.weight)


def test_a_prefix_before_our_own_names_is_cut_off_too(tmp_path):
    first = RetinaNet(num_classes=2, backbone="tiny")
    torch.save(prefixed("module.", first.state_dict()), tmp_path / "net.pth")
    second = RetinaNet(num_classes=3, backbone="tiny", weights=str(tmp_path / "net.pth"))
    assert equal(second.backbone.state_dict(), first.backbone.state_dict())
    yolo = YoloV2(num_classes=3, backbone="tiny")
    torch.save(prefixed("module.", yolo.state_dict()), tmp_path / "yolo.pth")
    assert equal(
        YoloV2(num_classes=3, backbone="tiny", weights=str(tmp_path / "yolo.pth")).state_dict(), yolo.state_dict()
    )


def test_a_network_that_is_there_twice_is_not_chosen_from(tmp_path, resnet18):
    twice = prefixed("encoder_q.", resnet18.state_dict()) | prefixed("encoder_k.", resnet18.state_dict())
    torch.save(twice, tmp_path / "moco.pth")
    with pytest.raises(DataError, match=r"holds this network 2 times \(encoder_q\., encoder_k\.\)"):
        load_backbone_weights(BACKBONES["resnet18"]("batch"), "resnet18", str(tmp_path / "moco.pth"))


def test_below_a_prefix_too_the_network_has_to_be_whole(tmp_path, resnet18):
    torch.save(prefixed("module.", damaged(resnet18.state_dict(), "missing")), tmp_path / "bad.pth")
    with pytest.raises(DataError, match=r"does not fit: 1 missing \(stages\.0\.0\.conv1\.weight\): check"):
        load_backbone_weights(BACKBONES["resnet18"]("batch"), "resnet18", str(tmp_path / "bad.pth"))


def test_a_network_without_memory_is_enough_to_tell_whether_weights_fit(tmp_path, resnet18):
    torch.save(resnet18.state_dict(), tmp_path / "resnet18.pth")
    with torch.device("meta"):
        fitting, other = BACKBONES["resnet18"]("batch"), BACKBONES["resnet34"]("batch")
    check_backbone_weights(fitting, "resnet18", str(tmp_path / "resnet18.pth"))
    with pytest.raises(DataError, match="80 missing"):
        check_backbone_weights(other, "resnet34", str(tmp_path / "resnet18.pth"))
