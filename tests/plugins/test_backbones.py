"""Backbones of plugins: named alone or with keys, looked at before they are trained."""

import pytest
import torch

from focalbench.config.dump import dump_yaml
from focalbench.config.load import load_config
from focalbench.errors import ConfigError, PluginError
from focalbench.experiment.build import build_model
from focalbench.models.retinanet import RetinaNet
from focalbench.plugins.loading import load_plugins

_NETS = """
from typing import Annotated
from pydantic import Field
from torch import nn
import focalbench as fb

class Plain(nn.Module):
    def __init__(self, width, strides):
        super().__init__()
        widths = [3, width, width, width, 2 * width, 4 * width]
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, s, 1) for a, b, s in zip(widths, widths[1:], strides))
        self.channels = tuple(widths[3:])

    def forward(self, x):
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[2:]

@fb.backbone("plain")
def plain(*, width: Annotated[int, Field(ge=1)] = 4):
    return Plain(width, (2, 2, 2, 2, 2))

@fb.backbone("shallow")
def shallow():
    return Plain(4, (2, 2, 1, 2, 2))

@fb.backbone("no_widths")
def no_widths():
    return nn.Conv2d(3, 4, 3)
"""
_HEAD = "model.fpn_channels=8", "model.head_convs=0"


@pytest.fixture
def trial(plugin):
    """The one trial of a configuration that names the plugin, whose code this process has executed."""

    def trial(backbone: str, *overrides: str):
        with open("exp.yaml", "w") as file:
            file.write(f"plugins: [{plugin(_NETS)}]\nmodel: {{name: retinanet, backbone: {backbone}}}\n")
        (found,) = load_config("exp.yaml", [*_HEAD, *overrides]).trials
        return found

    return trial


def test_a_name_alone_stands_for_its_defaults(trial):
    alone, spelled = trial("plain"), trial("{name: plain, width: 4}")
    assert alone.hash == spelled.hash != trial("{name: plain, width: 5}").hash
    section = alone.config.model.backbone
    assert (section.name, section.model_extra) == ("plain", {"width": 4})
    assert [source.name for source in alone.plugins] == ["mine.py"]


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        ("plian", "model.backbone: should be one of plain, shallow, .*, tiny, .* not 'plian'; did you mean 'plain'"),
        ("{name: plain, width: 0}", "model.backbone.width: should be at least 1, not 0"),
        ("{name: plain, with: 2}", "model.backbone.with: unknown key; did you mean 'width'"),
        ("{name: resnet18}", "model.backbone: should be one of "),
        ("{width: 3}", "model.backbone: should be one of "),
    ],
)  # fmt: skip
def test_a_fault_is_told_as_for_a_built_in_backbone(trial, backbone, words):
    with pytest.raises(ConfigError, match=words):
        trial(backbone)


def test_built_in_and_timm_names_stay(trial):
    assert trial("resnet18").config.model.backbone == "resnet18"
    assert trial("timm/resnet18").config.model.backbone == "timm/resnet18"
    assert trial("tiny").plugins == ()


def test_a_width_can_be_swept_and_the_resolved_configuration_run_again(trial):
    trial("{name: plain, width: 4}")
    experiment = load_config("exp.yaml", ["sweep={grid: {model.backbone.width: [2, 3]}}"])
    assert [trial.config.model.backbone.model_extra["width"] for trial in experiment.trials] == [2, 3]
    with open("again.yaml", "w") as file:
        file.write(dump_yaml(experiment.config))
    assert [trial.hash for trial in load_config("again.yaml").trials] == [trial.hash for trial in experiment.trials]


def test_it_trains_in_retinanet_like_any_other(trial, tmp_path):
    found = trial("{name: plain, width: 2}")
    load_plugins(found.plugins)
    model = build_model(found.config, 3)
    assert isinstance(model, RetinaNet)
    assert model.backbone.channels == (2, 4, 8)
    outputs = model(torch.randn(1, 3, 64, 64))
    outputs.cls_logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.backbone.parameters())
    assert build_model(found.config, 3).state_dict().keys() == model.state_dict().keys()
    torch.save(model.backbone.module.state_dict(), tmp_path / "weights.pt")
    loaded = build_model(trial("{name: plain, width: 2}", "model.weights=weights.pt", "seed=1").config, 3)
    torch.testing.assert_close(loaded.backbone.state_dict(), model.backbone.state_dict())


@pytest.mark.parametrize(
    ("backbone", "overrides", "fault", "words"),
    [
        ("shallow", (), PluginError, r"mine\.py:\d+: shallow: the map of stride 8 is .* not \(1, 4, 8, 8\)"),
        ("no_widths", (), PluginError, r"mine\.py:\d+: no_widths: has no attribute channels"),
        ("plain", ("model.norm=sync",), ConfigError, "model.norm: sync: a plugin's backbone is made with its own"),
        ("plain", ("model.weights=imagenet",), ConfigError, "has no weights for the plugin's backbone plain"),
        ("plain", ("model.weights=w.pt", "model.trainable_stages=1"), ConfigError, "this backbone has 0 stages"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_backbone_is_refused(trial, backbone, overrides, fault, words):
    found = trial(backbone, *overrides)
    (plugin,) = load_plugins(found.plugins)
    if "model.weights=w.pt" in overrides:
        torch.save(plugin.registrations[0].target().state_dict(), "w.pt")
    with pytest.raises(fault, match=words):
        build_model(found.config, 3)
