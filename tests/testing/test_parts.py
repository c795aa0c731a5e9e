"""``check_part``: what a backbone, a detector or a tracker has to be."""

from typing import ClassVar

import pytest
import torch
from torch import nn

import focalbench
from focalbench.models.backbones import tiny
from focalbench.models.retinanet import RetinaNet
from focalbench.testing import check_part
from focalbench.tracking.tracker import Tracker


class Trunk(nn.Module):
    """Three convolutions of stride 8, 2 and 2."""

    channels: ClassVar = (4, 5, 6)

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 4, 8, 8), nn.Conv2d(4, 5, 2, 2), nn.Conv2d(5, 6, 2, 2)])

    def forward(self, images):
        maps = [images]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        return maps[1:]


class OneMap(Trunk):
    def forward(self, images):
        return super().forward(images)[-1]


class TwoMaps(Trunk):
    def forward(self, images):
        return super().forward(images)[:2]


class OtherWidths(Trunk):
    channels = (4, 5, 7)


class NoWidths(Trunk):
    channels = None


class Idle(Trunk):
    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(2, 2)


class Frozen(Trunk):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)


class Raising(Trunk):
    def forward(self, images):
        raise RuntimeError("no room")


def words_of(part):
    report = check_part(part)
    return report.ok, "; ".join(str(finding) for finding in report.findings if finding.state != "ok")


def test_a_backbone_that_focalbench_has_passes():
    @focalbench.backbone("own")
    def own(width: int = 16):
        return tiny()

    report = check_part(own)
    assert [finding.state for finding in report.findings] == ["ok"] * 4
    assert report.findings[0].words == "width"
    assert "0.308 M trainable" in report.findings[-1].words or "trainable parameters" in report.findings[-1].words


@pytest.mark.parametrize(
    ("module", "good", "words"),
    [
        (Trunk, True, ""),
        (OneMap, False, "returns Tensor: a list of three maps is needed"),
        (TwoMaps, False, "returns 2 maps, not three"),
        (OtherWidths, False, "the map of stride 32 is (2, 6, 2, 3) for (2, 3, 64, 96) images, not (2, 7, 2, 3)"),
        (NoWidths, False, "the three widths of its maps are needed"),
        (Idle, True, "warning  training: unused.weight and 1 more: no gradient"),
        (Frozen, True, "nothing in it can be trained"),
        (Raising, False, "test_parts.py:"),
        (dict, False, "returns dict, not a torch.nn.Module"),
    ],
)
def test_what_is_wrong_with_a_backbone_is_named(module, good, words):
    found = words_of(focalbench.backbone("own")(lambda: module()))
    assert (found[0], words in found[1]) == (good, True), found


def test_classes_of_detectors_and_trackers_are_looked_at():
    class Own(Tracker):
        def __init__(self, trial, *, project: str = "a"):
            raise AssertionError("no server is to be asked")

        def scalars(self, step, values):
            pass

    report = check_part(focalbench.tracker("own")(Own))
    assert [finding.words for finding in report.findings] == ["project", "Own, a Tracker", "takes scalars"]
    assert "takes nothing" in words_of(focalbench.tracker("none")(type("Empty", (Tracker,), {})))[1]
    assert "not a subclass of focalbench.tracking.Tracker" in words_of(focalbench.tracker("own")(type("T", (), {})))[1]
    assert words_of(focalbench.detector("net")(type("Net", (RetinaNet,), {"__init__": lambda self: None})))[0]
    partial = type("Net", (focalbench.models.Detector,), {"__init__": lambda self: None})
    assert "does not define anchors_for, forward" in words_of(focalbench.detector("net")(partial))[1]
    wrong = focalbench.detector("net", criterion=nn.Linear)(type("Net", (RetinaNet,), {"__init__": lambda self: None}))
    assert not words_of(wrong)[0]


def test_what_is_not_decorated_is_refused():
    for part in (tiny, focalbench.loss("a")(lambda logits, targets: logits)):
        with pytest.raises(TypeError, match="check_part takes"):
            check_part(part)


def test_random_numbers_stay_as_they_were():
    before = torch.get_rng_state()
    check_part(focalbench.backbone("own")(lambda: Trunk()))
    assert torch.equal(torch.get_rng_state(), before)
