"""The same logits through the conventions of public code: the numbers of the table in docs/losses.md.

Each function is written from a description of the convention, not from its source.
"""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from focalbench.losses import FocalLoss, sigmoid_focal_loss, softmax_focal_loss

DOCUMENT = Path(__file__).parents[2] / "docs" / "losses.md"
GAMMA, ALPHA = 2.0, 0.25
CLASSES = 3
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [-0.5, 1.5, -2.0], [-3.0, 0.0, -1.0], [1.0, -4.0, -2.5]], dtype=torch.float64)
LABELS = torch.tensor([0, 2, 3, 3])  # 3 is the background; anchors 0 and 1 are one image, 2 and 3 another
BACKGROUND_LOGIT = torch.tensor([[-1.0], [0.0], [1.0], [2.0]], dtype=torch.float64)
NUM_POSITIVES = 2


def sigmoid_elements() -> Tensor:
    """-alpha_t (1 - p_t)^gamma log p_t, (4, 3)."""
    targets = F.one_hot(LABELS, CLASSES + 1)[:, :CLASSES].double()
    p_t = torch.where(targets > 0, LOGITS.sigmoid(), 1 - LOGITS.sigmoid())
    alpha_t = torch.where(targets > 0, ALPHA, 1 - ALPHA)
    return -alpha_t * (1 - p_t) ** GAMMA * p_t.log()


def softmax_rows(logits: Tensor, labels: Tensor, alpha: Tensor) -> Tensor:
    """-alpha[y] (1 - p_y)^gamma log p_y, one per row."""
    p = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    return -alpha[labels] * (1 - p) ** GAMMA * p.log()


def torchvision_mean() -> Tensor:
    """The operation's own mean: over all elements."""
    return sigmoid_elements().mean()


def torchvision_retinanet() -> Tensor:
    """Its RetinaNet: each image's sum over that image's positives (at least 1), then the mean over images."""
    images = sigmoid_elements().sum(1).view(2, 2).sum(1)
    return (images / torch.tensor([2.0, 1.0])).mean()


def mmdetection_mean() -> Tensor:
    """Without avg_factor: over all N * K elements."""
    return sigmoid_elements().sum() / (4 * CLASSES)


def mmdetection_avg_factor() -> Tensor:
    """With avg_factor, as its heads call it: over the positives of the batch."""
    return sigmoid_elements().sum() / NUM_POSITIVES


def mmcv_mean() -> Tensor:
    """The CUDA operation asked for a mean: over N anchors, not N * K."""
    return sigmoid_elements().sum() / 4


def softmax_note() -> Tensor:
    """Softmax, background FIRST; a single alpha sits on the background and 1 - alpha on every class; mean over rows."""
    logits = torch.cat([BACKGROUND_LOGIT, LOGITS], 1)
    alpha = torch.full((CLASSES + 1,), 1 - ALPHA, dtype=torch.float64)
    alpha[0] = ALPHA
    return softmax_rows(logits, (LABELS + 1) % (CLASSES + 1), alpha).mean()


def yolov2_note() -> Tensor:
    """Softmax over the classes alone, for anchors that hold an object; alpha 1; mean over rows."""
    return softmax_rows(LOGITS[:2], LABELS[:2], torch.ones(CLASSES, dtype=torch.float64)).mean()


def with_background() -> Tensor:
    return torch.cat([LOGITS, BACKGROUND_LOGIT], 1)


def ours(**arguments) -> Tensor:
    return sigmoid_focal_loss(LOGITS, LABELS, gamma=GAMMA, alpha=ALPHA, **arguments)


ROWS = {
    "torchvision, operation": (torchvision_mean, lambda: ours(reduction="mean")),
    "torchvision, RetinaNet": (
        torchvision_retinanet,
        lambda: torch.stack(
            [
                sigmoid_focal_loss(LOGITS[part], LABELS[part], reduction="mean", avg_factor=positives)
                for part, positives in ((slice(0, 2), 2), (slice(2, 4), 1))
            ]
        ).mean(),
    ),
    "MMDetection, mean": (mmdetection_mean, lambda: FocalLoss()(LOGITS, LABELS)),
    "MMDetection, avg_factor": (
        mmdetection_avg_factor,
        lambda: FocalLoss()(LOGITS, LABELS, avg_factor=NUM_POSITIVES),
    ),
    "mmcv, mean": (mmcv_mean, lambda: ours(reduction="sum") / 4),
    "softmax note": (
        softmax_note,
        lambda: softmax_focal_loss(with_background(), LABELS, alpha=ALPHA, alpha_on="background", reduction="mean"),
    ),
    "YOLOv2 note": (yolov2_note, lambda: softmax_focal_loss(LOGITS[:2], LABELS[:2], reduction="mean")),
    "focalbench, sigmoid": (mmdetection_avg_factor, lambda: ours(reduction="mean", avg_factor=NUM_POSITIVES)),
    "focalbench, softmax": (
        lambda: softmax_rows(with_background(), LABELS, torch.tensor([0.25, 0.25, 0.25, 0.75]).double()).sum() / 2,
        lambda: softmax_focal_loss(with_background(), LABELS, alpha=ALPHA, reduction="mean", avg_factor=NUM_POSITIVES),
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_the_convention_is_reached_by_a_call_of_ours(row):
    convention, call = ROWS[row]
    torch.testing.assert_close(call(), convention(), rtol=1e-12, atol=0)


def test_torchvisions_operation_is_what_its_row_says():
    torchvision_ops = pytest.importorskip("torchvision.ops")
    targets = F.one_hot(LABELS, CLASSES + 1)[:, :CLASSES].double()
    theirs = torchvision_ops.sigmoid_focal_loss(LOGITS, targets, alpha=ALPHA, gamma=GAMMA, reduction="mean")
    torch.testing.assert_close(theirs, torchvision_mean())


def test_sums_in_float16_overflow_in_torchvision_but_not_in_float32_as_in_fvcore():
    torchvision_ops = pytest.importorskip("torchvision.ops")
    logits = torch.full((2000, 20), 4.0, dtype=torch.float16)
    targets = torch.zeros_like(logits)
    in_half = torchvision_ops.sigmoid_focal_loss(logits, targets, reduction="sum")
    in_float32 = torchvision_ops.sigmoid_focal_loss(logits.float(), targets.float(), reduction="sum")  # as fvcore does
    assert in_half.isinf()
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets, reduction="sum"), in_float32)


@pytest.mark.parametrize("x", [20.0, -20.0])
def test_torchvisions_gradient_is_not_finite_for_gamma_below_one(x):
    torchvision_ops = pytest.importorskip("torchvision.ops")
    logits = torch.full((1, 1), x, requires_grad=True)
    targets = (logits > 0).float()
    theirs = torchvision_ops.sigmoid_focal_loss(logits, targets, gamma=0.5, reduction="sum")
    assert torch.autograd.grad(theirs, logits)[0].isnan()
    ours = sigmoid_focal_loss(logits, targets, gamma=0.5, reduction="sum")
    assert torch.autograd.grad(ours, logits)[0].isfinite()


def test_an_alpha_without_a_second_axis_spoils_the_yolov2_notes_loss_in_both_modes():
    """There the rows' terms are (N, 1), and alpha[labels] of an alpha (C,) is (N,): their product is (N, N)."""
    alpha = torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64)
    labels = torch.tensor([0, 2, 1, 2])
    p = LOGITS.softmax(1).gather(1, labels[:, None])
    terms = -((1 - p) ** GAMMA) * p.log()
    ours = softmax_focal_loss(LOGITS, labels, gamma=GAMMA, alpha=alpha)
    right, wrong = alpha[:, None][labels] * terms, alpha[labels] * terms
    assert right.shape == (4, 1)
    assert wrong.shape == (4, 4)
    torch.testing.assert_close(right[:, 0], ours)
    torch.testing.assert_close(wrong.mean(), alpha[labels].mean() * terms.mean())  # each alpha on every row
    torch.testing.assert_close(wrong.sum(), alpha[labels].sum() * terms.sum())
    assert not torch.isclose(wrong.mean(), ours.mean(), rtol=0.01)
    assert not torch.isclose(wrong.sum(), ours.sum(), rtol=0.01)


def test_kornias_soft_targets_are_another_formula():
    """kornia mixes the losses of both sides: binary_focal_loss_with_logits, kornia/losses/focal.py."""
    x = torch.tensor([[2.0]], dtype=torch.float64)
    p = x.sigmoid()

    def kornia(t):
        return t * ALPHA * (1 - p) ** GAMMA * -p.log() + (1 - t) * (1 - ALPHA) * p**GAMMA * -(1 - p).log()

    for t in (0.0, 1.0):
        torch.testing.assert_close(sigmoid_focal_loss(x, torch.full_like(x, t), gamma=GAMMA, alpha=ALPHA), kornia(t))
    ours = sigmoid_focal_loss(x, torch.full_like(x, 0.5), gamma=GAMMA, alpha=ALPHA)
    assert f"{ours.item():.5f} here and {kornia(0.5).item():.5f} there" in DOCUMENT.read_text()


@pytest.mark.parametrize("avg_factor", [0.0, 1.0, 2.0, 500.0])
def test_mmdetections_divisor_differs_by_at_most_its_epsilon(avg_factor):
    """It divides by avg_factor + eps: weight_reduce_loss, mmdet/models/losses/utils.py."""
    theirs = sigmoid_elements().sum() / (avg_factor + torch.finfo(torch.float32).eps)
    torch.testing.assert_close(FocalLoss()(LOGITS, LABELS, avg_factor=avg_factor), theirs, rtol=1.2e-7, atol=0)


def test_the_documents_table_holds_these_numbers():
    printed = dict(re.findall(r"^\| ([^|]+?) \| (\d\.\d{5}) \|", DOCUMENT.read_text(), flags=re.MULTILINE))
    assert printed == {row: f"{float(convention()):.5f}" for row, (convention, _) in ROWS.items()}
