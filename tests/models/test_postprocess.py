"""Selection of detections, with a plain loop and torchvision's NMS as oracle."""

import pytest
import torch
from torchvision.ops import nms

from focalbench.models.postprocess import class_scores, select_detections, top_candidates


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
