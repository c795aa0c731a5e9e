"""Selection of detections, with a plain loop and torchvision's NMS as oracle, and the GPU's form against the CPU's."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torchvision.ops import nms

from focalbench.models import postprocess
from focalbench.models.postprocess import _Rule, class_scores, select_detections, top_candidates

FORMS = {"one by one": postprocess._select_one_by_one, "together": postprocess._select_together}


@pytest.fixture(params=FORMS.values(), ids=FORMS)
def _form(request, monkeypatch):
    """Both forms on a CPU."""
    monkeypatch.setattr(postprocess, "_select_one_by_one", request.param)


def test_scores_by_hand():
    logits = torch.tensor([[0.0, 100.0, -100.0]])
    torch.testing.assert_close(class_scores(logits, "sigmoid"), torch.tensor([[0.5, 1.0, 0.0]]))
    torch.testing.assert_close(class_scores(torch.zeros(1, 4), "softmax"), torch.full((1, 3), 0.25))


def test_scores_are_float32_for_half_precision_logits():
    assert class_scores(torch.zeros(2, 3, dtype=torch.bfloat16), "sigmoid").dtype == torch.float32


def test_top_candidates_are_taken_level_by_level():
    scores = torch.rand(2, 7, 3)
    values, indices = top_candidates(scores, (5, 2), 4)
    assert values.shape == (2, 8)
    for image in range(2):
        flat = scores[image].flatten()
        for start, stop, part in ((0, 15, slice(0, 4)), (15, 21, slice(4, 8))):
            expected = sorted(range(start, stop), key=lambda i: -flat[i])[:4]
            assert indices[image, part].tolist() == expected
        torch.testing.assert_close(values[image], flat[indices[image]])


def test_small_levels_give_all_they_have():
    values, indices = top_candidates(torch.rand(1, 3, 2), (2, 1), 100)
    assert sorted(indices[0].tolist()) == list(range(6))
    assert values.shape == (1, 6)


def reference(scores, labels, boxes, size, thresh, nms_thresh, limit):
    """One image, one class at a time."""
    found = []
    for label in range(3):
        chosen = [i for i in range(len(scores)) if labels[i] == label and scores[i] > thresh]
        if not chosen:
            continue
        cut = boxes[chosen].clamp(min=0)
        cut[:, 0::2] = cut[:, 0::2].clamp(max=size[1])
        cut[:, 1::2] = cut[:, 1::2].clamp(max=size[0])
        found += [(float(scores[chosen[i]]), label, cut[i].tolist()) for i in nms(cut, scores[chosen], nms_thresh)]
    return sorted(found, key=lambda item: -item[0])[:limit]


@pytest.mark.parametrize("limit", [5, 1000])
@pytest.mark.usefixtures("_form")
def test_selection_equals_a_plain_loop(limit):
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(3, 60, 2, generator=generator) * 60 - 10
    boxes = torch.cat((corner, corner + torch.rand(3, 60, 2, generator=generator) * 40 + 1), dim=2)
    scores = torch.rand(3, 60, generator=generator)
    indices = torch.randint(0, 300, (3, 60), generator=generator)
    found = select_detections(
        scores, indices, boxes, num_classes=3, canvas=(64, 48), score_thresh=0.2, nms_thresh=0.4, max_detections=limit
    )
    for image in range(3):
        expected = reference(scores[image], indices[image] % 3, boxes[image], (64, 48), 0.2, 0.4, limit)
        assert len(expected) > 3
        assert found[image].labels.tolist() == [label for _, label, _ in expected]
        assert found[image].scores.tolist() == [score for score, _, _ in expected]
        torch.testing.assert_close(found[image].boxes, torch.tensor([box for *_, box in expected]))


@pytest.mark.usefixtures("_form")
def test_an_image_is_judged_alike_alone_and_anywhere_in_a_batch():
    """Two boxes whose IoU is a hair above the threshold: shifted by image and class in float32 they would be kept."""
    pair = torch.tensor([[0.1, 0.1, 10.1, 10.1], [0.1, 0.1, 10.1, 5.1005]])
    num_images, num_classes = 64, 80

    def select(count):
        return select_detections(
            torch.tensor([[0.9, 0.8]]).repeat(count, 1),
            torch.full((count, 2), num_classes - 1),
            pair.repeat(count, 1, 1),
            num_classes=num_classes,
            canvas=(640, 640),
            score_thresh=0.5,
            nms_thresh=0.5,
            max_detections=10,
        )

    (alone,) = select(1)
    assert alone.boxes.tolist() == pair[:1].tolist()
    for found in select(num_images):
        torch.testing.assert_close(found.boxes, alone.boxes, rtol=0, atol=0)


@pytest.mark.usefixtures("_form")
def test_an_image_without_detections_among_others():
    scores = torch.tensor([[0.1], [0.9]])
    boxes = torch.tensor([[[0.0, 0, 5, 5]], [[1.0, 1, 6, 6]]])
    found = select_detections(
        scores,
        torch.tensor([[0], [4]]),
        boxes,
        num_classes=3,
        canvas=(10, 10),
        score_thresh=0.5,
        nms_thresh=0.5,
        max_detections=10,
    )
    assert found[0].boxes.shape == (0, 4)
    assert found[1].labels.tolist() == [1]


@pytest.mark.usefixtures("_form")
def test_the_threshold_itself_is_no_detection():
    found = select_detections(
        torch.tensor([[0.5]]),
        torch.tensor([[0]]),
        torch.tensor([[[0.0, 0, 5, 5]]]),
        num_classes=1,
        canvas=(10, 10),
        score_thresh=0.5,
        nms_thresh=0.5,
        max_detections=10,
    )
    assert len(found[0].boxes) == 0


@pytest.mark.usefixtures("_form")
def test_of_equal_scores_the_first_candidate_is_the_better_one():
    """Many of them: torch's sort leaves a few in their order by itself."""
    count = 50
    boxes = (
        torch.tensor([[0.0, 0, 10, 10], [20.0, 0, 30, 10]])[torch.arange(count) % 2] + torch.arange(count)[:, None] / 64
    )
    (found,) = select_detections(
        torch.full((1, count), 0.5),
        torch.arange(count)[None] // 25,
        boxes[None],
        num_classes=2,
        canvas=(40, 40),
        score_thresh=0.1,
        nms_thresh=0.5,
        max_detections=3,
    )
    assert torch.equal(found.boxes, boxes[[0, 1, 25]])
    assert found.labels.tolist() == [0, 0, 1]


def random_scene(seed, num_images, num_candidates, *, coarse):
    """Scores, labels and boxes, partly outside the canvas of 64 x 48; if coarse, many of each are equal."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(num_images, num_candidates, generator=generator)
    corner, size = (torch.rand(2, num_images, num_candidates, 2, generator=generator) * 60).unbind()
    if coarse:
        scores, corner, size = (scores * 4).floor() / 4, (corner / 16).floor() * 16, (size / 16).floor() * 16
    labels = torch.randint(0, 3, (num_images, num_candidates), generator=generator)
    return scores, labels, torch.cat((corner - 10, corner - 10 + size), dim=2)


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name in ("boxes", "scores", "labels"):
            ours, theirs = getattr(one, name), getattr(other, name)
            assert ours.dtype == theirs.dtype
            assert ours.device.type == "cpu"
            assert torch.equal(ours, theirs)


@given(
    seed=st.integers(0, 10_000),
    num_images=st.integers(1, 4),
    num_candidates=st.sampled_from([0, 1, 2, 30, 120]),
    coarse=st.booleans(),
    score_thresh=st.sampled_from([-1.0, 0.0, 0.25, 0.9, 1.0]),
    nms_thresh=st.sampled_from([0.0, 1 / 3, 0.5, 1.0]),
    limit=st.sampled_from([1, 7, 1000]),
)
@example(seed=0, num_images=2, num_candidates=1200, coarse=False, score_thresh=0.0, nms_thresh=0.5, limit=300)
@settings(max_examples=60, deadline=None)
def test_both_forms_find_the_same(seed, num_images, num_candidates, coarse, score_thresh, nms_thresh, limit):
    scene = random_scene(seed, num_images, num_candidates, coarse=coarse)
    one_by_one, together = (form(*scene, _Rule((48, 64), score_thresh, nms_thresh, limit)) for form in FORMS.values())
    assert_same(together, one_by_one)


def test_scores_that_are_no_numbers_push_nothing_out():
    scores, labels, boxes = random_scene(1, 2, 30, coarse=False)
    scores[:, ::3] = float("nan")
    one_by_one, together = (form(scores, labels, boxes, _Rule((48, 64), 0.2, 0.5, 10)) for form in FORMS.values())
    assert_same(together, one_by_one)
    assert len(together[0].scores) > 3


def test_a_chain_longer_than_the_rounds_is_followed_to_its_end(monkeypatch):
    reads, real = [], postprocess._wait_for
    monkeypatch.setattr(postprocess, "_wait_for", lambda tensor: reads.append(tensor.shape) or real(tensor))
    x = 2.0 * torch.arange(100)
    boxes = torch.stack((x, 0 * x, x + 6, 0 * x + 4), dim=1)[None]
    scene = torch.linspace(0.9, 0.1, 100)[None], torch.zeros(1, 100, dtype=torch.int64), boxes
    one_by_one, together = (form(*scene, _Rule((10, 300), 0.05, 0.4, 1000)) for form in FORMS.values())
    assert_same(together, one_by_one)
    assert len(together[0].scores) == 50
    assert len(reads) == 1 + 3  # 16, 64 and 256 rounds


def test_more_candidates_than_fit_into_memory_are_judged_on_the_host(monkeypatch):
    scene = random_scene(2, 3, 80, coarse=True)
    one_by_one, together = FORMS.values()
    expected = one_by_one(*scene, _Rule((48, 64), 0.3, 0.5, 20))
    monkeypatch.setattr(postprocess, "MAX_BOXES", 40)
    monkeypatch.setattr(postprocess, "suppress", None)
    assert_same(together(*scene, _Rule((48, 64), 0.3, 0.5, 20)), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("coarse", [False, True])
def test_a_gpu_selects_as_the_cpu_does(coarse):
    scores, labels, boxes = random_scene(5, 4, 500, coarse=coarse)
    options = {"num_classes": 3, "canvas": (48, 64), "score_thresh": 0.1, "nms_thresh": 0.6, "max_detections": 100}
    on_gpu = select_detections(scores.cuda(), labels.cuda(), boxes.cuda(), **options)
    assert_same(on_gpu, select_detections(scores, labels, boxes, **options))
