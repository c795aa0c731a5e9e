"""Online hard example mining: which anchors are kept."""

import pytest
import torch
from torchvision.ops import nms

from focalbench.losses import LOSSES
from focalbench.losses.ohem import anchor_cross_entropy

APART = 10 * torch.arange(8.0)[None, :, None] + torch.tensor([0.0, 0.0, 5.0, 5.0])


def kept(logits: torch.Tensor, labels: torch.Tensor, boxes: torch.Tensor | None = None, **fields) -> list[int]:
    """The anchors of the first image that get a gradient."""
    leaf = logits.clone().requires_grad_()
    loss = LOSSES["ohem"](num_classes=logits.shape[-1], **fields)(leaf, labels, boxes=boxes)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient[0].abs().sum(1).nonzero().squeeze(1).tolist()


def ladder() -> tuple[torch.Tensor, torch.Tensor]:
    """Eight anchors of one class, all background, each harder than the one before."""
    return torch.linspace(-3, 3, 8)[None, :, None], torch.ones(1, 8, dtype=torch.long)


def test_the_hardest_are_kept():
    logits, labels = ladder()
    assert kept(logits, labels, nms_thresh=None, num_hardest=3) == [5, 6, 7]
    assert kept(logits, labels, APART, num_hardest=3) == [5, 6, 7]


def test_overlapping_easier_boxes_are_suppressed():
    logits, labels = ladder()
    boxes = APART.clone()
    boxes[0, 6] = boxes[0, 7]
    assert kept(logits, labels, boxes, num_hardest=3) == [4, 5, 7]


@pytest.mark.parametrize("spread", [4.0, 40.0, 400.0])  # nearly all suppress each other; some do; few do
def test_the_kept_are_those_of_a_suppression_of_all_anchors(spread):
    torch.manual_seed(int(spread))
    corner = spread * torch.rand(1, 900, 2)
    boxes = torch.cat((corner, corner + 10 + 5 * torch.rand(1, 900, 2)), dim=-1)
    logits, labels = torch.randn(1, 900, 1), torch.ones(1, 900, dtype=torch.long)
    everything = nms(boxes[0], logits[0, :, 0], 0.5)
    expected = sorted(everything[:50].tolist())
    assert kept(logits, labels, boxes, num_hardest=50, nms_thresh=0.5) == expected


def test_ignored_anchors_are_never_kept():
    logits, labels = ladder()
    labels[0, 7] = -1
    assert kept(logits, labels, APART, num_hardest=2) == [5, 6]


def test_one_to_three_keeps_positives_first():
    logits, labels = ladder()
    labels[0, [0, 7]] = 0  # positive: the hardest is 0 (logit -3), the easiest 7
    chosen = kept(logits, labels, nms_thresh=None, num_hardest=8, negatives_per_positive=3)
    assert chosen == [0, 1, 2, 3, 4, 5, 6, 7]
    chosen = kept(logits, labels, nms_thresh=None, num_hardest=4, negatives_per_positive=3)
    assert chosen == [0, 4, 5, 6]


def test_one_to_three_keeps_no_more_positives_than_a_quarter_of_the_batch():
    logits, labels = ladder()
    labels[:] = 0  # all positive: the hardest are the first
    assert kept(logits, labels, nms_thresh=None, num_hardest=8, negatives_per_positive=3) == [0, 1]


def test_one_to_three_without_positives_still_learns():
    logits, labels = ladder()
    assert kept(logits, labels, nms_thresh=None, num_hardest=8, negatives_per_positive=3) == [5, 6, 7]


def test_each_image_keeps_its_own():
    logits, labels = ladder()
    leaf = torch.cat([logits, logits - 10]).requires_grad_()
    loss = LOSSES["ohem"](num_classes=1, nms_thresh=None, num_hardest=2)
    (gradient,) = torch.autograd.grad(loss(leaf, torch.cat([labels, labels])), leaf)
    assert (gradient != 0).sum(1).squeeze(1).tolist() == [2, 2]


def test_keeping_everything_is_cross_entropy():
    logits, labels = torch.randn(2, 30, 4), torch.randint(-1, 5, (2, 30))
    loss = LOSSES["ohem"](num_classes=4, nms_thresh=None, num_hardest=30)(logits, labels)
    torch.testing.assert_close(loss, LOSSES["ce"](num_classes=4)(logits, labels))


def test_hardness_is_the_cross_entropy_of_the_anchor():
    logits, labels = torch.randn(40, 4, dtype=torch.float64), torch.randint(-1, 5, (40,))
    each = torch.stack([LOSSES["ce"](num_classes=4)(logits[None, [i]], labels[None, [i]]) for i in range(40)])
    torch.testing.assert_close(anchor_cross_entropy(logits, labels), each)


@pytest.mark.parametrize("ratio", [None, 3.0, 0.4])
@pytest.mark.parametrize("num_hardest", [1, 8, 64, 500])
def test_masks_keep_what_indices_do(monkeypatch, ratio, num_hardest):
    """As on a GPU; many anchors are equally hard, one image has no positives and one nothing but ignored anchors."""
    generator = torch.Generator().manual_seed(num_hardest)
    logits = torch.randint(-3, 4, (5, 200, 2), generator=generator).float()
    labels = torch.randint(-1, 3, (5, 200), generator=generator)
    labels[1] = labels[1].clamp(max=0) * 3 + 2  # background or ignored
    labels[2] = -1
    labels[3] = 0
    loss = LOSSES["ohem"](num_classes=2, nms_thresh=None, num_hardest=num_hardest, negatives_per_positive=ratio)
    found = []
    for is_cuda in (False, True):
        leaf = logits.clone().requires_grad_()
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "is_cuda", property(lambda tensor, is_cuda=is_cuda: is_cuda), raising=False)
            value = loss(leaf, labels)
        found.append((value, torch.autograd.grad(3 * value, leaf)[0]))
    (by_index, gradient), (by_mask, same_gradient) = found
    torch.testing.assert_close(by_mask, by_index, rtol=1e-6, atol=0)
    assert torch.equal(same_gradient, gradient)


def test_only_nms_waits_for_the_device():
    assert LOSSES["ohem"](num_classes=1).waits_for_device
    assert not LOSSES["ohem"](num_classes=1, nms_thresh=None, negatives_per_positive=3).waits_for_device


def test_boxes_are_asked_for():
    logits, labels = ladder()
    with pytest.raises(ValueError, match="predicted boxes"):
        LOSSES["ohem"](num_classes=1)(logits, labels)
