"""Matching: worked out by hand, against torchvision's Matcher, and the GPU's forms against the CPU's."""

from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreted import check
from scenes import random_scene
from sm90 import Kernel, machine_code
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from focalbench.boxes import matching
from focalbench.boxes.matching import BACKGROUND, IGNORE, match_anchors


def batched(anchors, boxes, labels, pos_iou, neg_iou, force_best):
    """What a GPU computes where Triton is missing."""
    return matching._assign(matching._batched_iou(anchors, boxes, labels), pos_iou, neg_iou, force_best)


def test_thresholds_by_hand():
    """One 10 x 10 object; anchors shifted so that the IoU is 1, .5, .45, .4 - and 1/3."""
    box = torch.tensor([[[0.0, 0, 10, 10]]])
    widths = [10.0, 20.0, 10 / 0.45, 25.5, 30.0]
    anchors = torch.tensor([[0.0, 0, width, 10] for width in widths])
    found = match_anchors(anchors, box, torch.tensor([[2]]), pos_iou=0.5, neg_iou=0.4)
    assert found.tolist() == [[0, 0, IGNORE, BACKGROUND, BACKGROUND]]


def test_exactly_at_the_thresholds():
    """IoU .5 is positive, .25 is not below .25: ignored."""
    box = torch.tensor([[[0.0, 0, 16, 16]]])
    anchors = torch.tensor([[0.0, 0, 16, 16], [0.0, 0, 32, 16], [0.0, 0, 32, 32]])
    found = match_anchors(anchors, box, torch.tensor([[0]]), pos_iou=0.5, neg_iou=0.25)
    assert found.tolist() == [[0, 0, IGNORE]]


def test_every_object_gets_its_best_anchors_ties_included():
    box = torch.tensor([[[8.0, 0, 12, 4]]])  # small: IoU 1/16 with either anchor
    anchors = torch.tensor([[0.0, 0, 16, 16], [4.0, 0, 20, 16], [100.0, 0, 116, 16]])
    options = {"pos_iou": 0.5, "neg_iou": 0.4}
    labels = torch.tensor([[1]])
    assert match_anchors(anchors, box, labels, **options).tolist() == [[0, 0, BACKGROUND]]
    without = match_anchors(anchors, box, labels, **options, force_best=False)
    assert without.tolist() == [[BACKGROUND] * 3]


def test_an_object_that_touches_no_anchor_forces_none():
    box = torch.tensor([[[500.0, 500, 510, 510]]])
    anchors = torch.tensor([[0.0, 0, 16, 16]])
    assert match_anchors(anchors, box, torch.tensor([[1]]), pos_iou=0.5, neg_iou=0.4).tolist() == [[BACKGROUND]]


def test_a_forced_anchor_answers_for_what_it_overlaps_most():
    """The small object's best anchor overlaps the large one more, and keeps it: as torchvision and detectron2 do."""
    boxes = torch.tensor([[[0.0, 0, 15, 16], [10.0, 0, 14, 4]]])
    anchors = torch.tensor([[0.0, 0, 16, 16]])
    assert match_anchors(anchors, boxes, torch.tensor([[0, 1]]), pos_iou=0.5, neg_iou=0.4).tolist() == [[0]]


@pytest.mark.parametrize("form", [match_anchors, None])
@pytest.mark.parametrize("grid", [False, True])
@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31))
def test_torchvisions_matcher_agrees(form, grid, seed):
    anchors, boxes, labels = random_scene(seed, grid=grid)
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    if form is None:
        found = batched(anchors, boxes, labels, 0.5, 0.4, True)
    else:
        found = form(anchors, boxes, labels, pos_iou=0.5, neg_iou=0.4)
    for image in range(len(boxes)):
        kept = (labels[image] >= 0).nonzero().flatten()
        if len(kept) == 0:
            assert (found[image] == BACKGROUND).all()
            continue
        quality = box_iou(boxes[image][kept], anchors)
        expected = matcher(quality)
        expected = torch.where(expected >= 0, kept[expected.clamp(min=0)], expected)
        # torchvision forces an object's best anchors even at IoU 0, which here would be every anchor.
        if (quality.amax(dim=1) > 0).all():
            assert torch.equal(found[image], expected)


@pytest.mark.parametrize("force_best", [False, True])
@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31), grid=st.booleans())
def test_both_forms_are_one_rule(force_best, seed, grid):
    anchors, boxes, labels = random_scene(seed, grid=grid)
    on_cpu = match_anchors(anchors, boxes, labels, pos_iou=0.5, neg_iou=0.3, force_best=force_best)
    assert torch.equal(on_cpu, batched(anchors, boxes, labels, 0.5, 0.3, force_best))


def test_the_interpreted_kernels_match_as_the_cpu_does():
    pytest.importorskip("triton")
    check(Path(__file__).with_name("interpreted_matching.py"))


def test_the_kernels_compile_without_contraction_or_spills(tmp_path):
    """A product contracted into a sum would be rounded otherwise: then thresholds and ties would fall elsewhere."""
    module, options = "focalbench.boxes.matching_triton", {"num_warps": 8, "enable_fp_fusion": False}
    given = {"anchors": "*fp32", "boxes": "*fp32", "labels": "*i64"}
    sizes = {"num_anchors": "i32", "num_objects": "i32"}
    kernels = [
        Kernel(
            module,
            "_best_kernel",
            {**given, "best": "*i32", **sizes},
            {"block": 1024, "blocks": 4, "objects": 4},
            options=options,
        ),
        Kernel(
            module,
            "_assign_kernel",
            {**given, "best": "*fp32", "matched": "*i64", **sizes, "pos_iou": "fp32", "neg_iou": "fp32"},
            {"background": BACKGROUND, "ignore": IGNORE, "force_best": True, "block": 1024},
            options=options,
        ),
    ]
    for code in machine_code(kernels, tmp_path):
        names = code.names()
        divisions = names.count("FCHK")  # one in each division, beside five multiplications with a sum
        assert divisions > 0
        assert sum(name == "FFMA" for name in names[: names.index("EXIT")]) == 5 * divisions
        assert not {name for name in names if name.startswith(("LDL", "STL"))}, "spilled"


def test_kernels_are_launched_on_the_device_of_the_anchors(monkeypatch):
    """Triton launches on the current device, whatever that of the arguments is."""
    pytest.importorskip("triton")
    from focalbench.boxes import matching_triton

    events = []

    class Recorder:
        def __init__(self, name):
            self.name = name

        def __getitem__(self, grid):
            return lambda *args, **options: events.append((self.name, options["enable_fp_fusion"]))

    @contextmanager
    def device_of(tensor):
        events.append(("enter", tensor.shape))
        yield
        events.append("leave")

    for name in ("_best_kernel", "_assign_kernel"):
        monkeypatch.setattr(matching_triton, name, Recorder(name))
    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    anchors, boxes, labels = random_scene(0)
    matching_triton.match(anchors, boxes, labels, 0.5, 0.4, True, BACKGROUND, IGNORE)
    assert events == [("enter", anchors.shape), ("_best_kernel", False), ("_assign_kernel", False), "leave"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_matches_as_the_cpu_does():
    anchors, boxes, labels = random_scene(3)
    options = {"pos_iou": 0.5, "neg_iou": 0.4}
    on_gpu = match_anchors(anchors.cuda(), boxes.cuda(), labels.cuda(), **options)
    assert torch.equal(on_gpu.cpu(), match_anchors(anchors, boxes, labels, **options))


def test_an_empty_batch_and_empty_images_are_background():
    anchors, boxes, labels = random_scene(0)
    options = {"pos_iou": 0.5, "neg_iou": 0.4}
    assert (match_anchors(anchors, boxes[:, :0], labels[:, :0], **options) == BACKGROUND).all()
    labels[1] = -1
    assert (match_anchors(anchors, boxes, labels, **options)[1] == BACKGROUND).all()


def test_padding_may_stand_anywhere():
    anchors, boxes, labels = random_scene(1)
    labels[:, 0] = -1
    found = match_anchors(anchors, boxes, labels, pos_iou=0.5, neg_iou=0.4)
    assert not (found == 0).any()
    assert (found > 0).any()


def test_thresholds_the_wrong_way_round():
    anchors, boxes, labels = random_scene(0)
    with pytest.raises(ValueError, match="exceeds"):
        match_anchors(anchors, boxes, labels, pos_iou=0.3, neg_iou=0.4)
