"""Sums of elementwise sigmoid losses with closed-form gradients and no temporaries of the logits' size.

In dense detection nearly every (anchor, class) pair is a negative. So every element is treated as a negative first, in
chunks that stay in the cache, the gradient written straight into the result; then the few positive elements and ignored
anchors are put right by index. On other devices than the CPU the same formulas run on the whole tensor, with masks
instead of indices, because counting positives would wait for the device.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

# Elements per chunk. Small enough for the scratch to stay in a core's second-level cache, large enough that torch
# splits each operation over the threads (it starts to at 32768 elements).
_MIN_CHUNK, _MAX_CHUNK = 65536, 131072
_SCRATCH_SHARE = 0.045  # of the logits, per scratch buffer, once the tensor is large enough for that


class Terms(Protocol):
    """An elementwise loss as value and derivative in the logit, for the two kinds of element."""

    def negative(self, x: Tensor, loss: Tensor, grad: Tensor, scratch: Tensor) -> None:
        """Write the value and the derivative of negatives with the logits ``x`` into ``loss`` and ``grad``.

        All four are contiguous (A, C) of one dtype, float32 or float64; ``scratch`` may be used at will.
        """

    def positive(self, x: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Value and derivative, (P,) each, of the positives (rows, columns), all (P,), with the logits ``x``."""


class _FusedSum(torch.autograd.Function):
    """The sum and, computed with it, the gradient; backward only scales.

    A float16 gradient is computed in backward, its scale included, because an unscaled one would underflow; so is the
    gradient of a second backward through a retained graph.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, terms: Terms, weight: Tensor | None) -> Tensor:
        now = ctx.needs_input_grad[0] and logits.dtype != torch.float16
        total, ctx.grad = _sum_on(logits)(logits, labels, terms, weight, want_grad=now)
        ctx.terms = terms
        ctx.save_for_backward(logits, labels, weight)
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, None, None, None]:
        if torch.is_grad_enabled():  # create_graph
            raise RuntimeError("this loss has no second derivative; the sigmoid and softmax focal losses have one")
        logits, labels, weight = ctx.saved_tensors
        grad, ctx.grad = ctx.grad, None
        if grad is not None:
            return scale_in_place(grad, grad_output), None, None, None
        scale = grad_output.expand(len(logits), 1)
        scaled = scale if weight is None else weight * scale
        return _sum_on(logits)(logits, labels, ctx.terms, scaled, want_grad=True)[1], None, None, None


def _sum_on(logits: Tensor) -> Any:
    return sum_on_cpu if logits.device.type == "cpu" else sum_with_masks


@torch.compiler.disable
def fused_sum(logits: Tensor, labels: Tensor, terms: Terms, weight: Tensor | None = None) -> Tensor:
    """The sum of an elementwise loss over all anchors that are not ignored, in at least float32.

    Args:
        logits: (A, C), any floating dtype.
        labels: (A,) integers: 0..C-1 the positive column, C none, -1 ignored.
        terms: the loss.
        weight: (A, 1) or (A, C) float factor on anchors or elements, or None. A constant for the gradient.

    Returns:
        () float32, or float64 for float64 logits.

    Raises:
        ValueError: a label outside -1..C (on CUDA a device-side assertion, which does not stop the stream).
    """
    return _FusedSum.apply(logits, labels, terms, weight)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a loss of logits of ``dtype`` is computed: float32, and float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def scale_in_place(grad: Tensor, scale: Tensor) -> Tensor:
    """``grad`` multiplied by the 0-d ``scale``, for free where it is 1 and looking costs nothing."""
    if scale.device.type == "cpu" and float(scale) == 1.0:
        return grad
    return grad.mul_(scale)


def split_labels(labels: Tensor, num_columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """The rows and columns of positives, (P,) each, and the ignored rows; rows ascend. Waits for the device.

    Raises:
        ValueError: a label outside -1..num_columns.
    """
    rows = (labels != num_columns).nonzero().squeeze(1)
    columns = labels[rows].long()
    ignored = columns < 0
    if bool(ignored.any()):
        if int(columns.min()) < -1:
            raise ValueError(_label_fault(int(columns.min()), num_columns))
        ignored_rows, rows, columns = rows[ignored], rows[~ignored], columns[~ignored]
    else:
        ignored_rows = rows[:0]
    if columns.numel() and int(columns.max()) > num_columns:
        raise ValueError(_label_fault(int(columns.max()), num_columns))
    return rows, columns, ignored_rows


def _label_fault(label: int, num_columns: int) -> str:
    return f"label {label} is out of range: classes are 0..{num_columns - 1}, {num_columns} is background, -1 ignored"


def assert_labels_on_device(labels: Tensor, num_columns: int) -> None:
    """Queue a check of the labels on their device; a fault surfaces at the next synchronisation, without one here."""
    fits = ((labels >= -1) & (labels <= num_columns)).all()
    torch._assert_async(fits, f"focalbench: a label is outside -1..{num_columns} (K = {num_columns} is background)")


def sum_on_cpu(
    logits: Tensor, labels: Tensor, terms: Terms, weight: Tensor | None, *, want_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """The sum, and its gradient in the logits' dtype if wanted: negatives in chunks, then positives by index."""
    dtype = compute_dtype(logits.dtype)
    num_columns = logits.shape[1]
    rows, columns, ignored_rows = split_labels(labels, num_columns)
    logits = logits.contiguous()
    grad = torch.empty_like(logits) if want_grad else None
    total = _sum_of_negatives(logits, terms, weight, (rows, columns), ignored_rows, grad)
    if rows.numel():
        loss_at, grad_at = terms.positive(logits[rows, columns].double(), rows, columns)
        if weight is not None:
            weight_at = weight.expand_as(logits)[rows, columns]
            loss_at, grad_at = loss_at * weight_at, grad_at * weight_at
        total += float(loss_at.sum(dtype=torch.float64))
        if grad is not None:
            grad.view(-1)[rows * num_columns + columns] = grad_at.to(grad.dtype)
    if grad is not None and ignored_rows.numel():
        grad[ignored_rows] = 0
    return torch.tensor(total, dtype=dtype), grad


def _sum_of_negatives(
    logits: Tensor,
    terms: Terms,
    weight: Tensor | None,
    positives: tuple[Tensor, Tensor],
    ignored_rows: Tensor,
    grad: Tensor | None,
) -> float:
    """The sum over every element that is neither positive nor ignored; ``grad`` is filled as if all were negative."""
    num_rows, num_columns = logits.shape
    if not logits.numel():
        return 0.0
    dtype = compute_dtype(logits.dtype)
    elements = min(max(int(_SCRATCH_SHARE * logits.numel()), _MIN_CHUNK), _MAX_CHUNK)
    step = max(1, elements // num_columns)
    starts = range(0, num_rows, step)
    edges = torch.arange(0, num_rows + step, step)
    rows, columns = positives
    positive_edges = torch.searchsorted(rows, edges).tolist()
    ignored_edges = torch.searchsorted(ignored_rows, edges).tolist()
    in_place = grad is not None and grad.dtype == dtype
    scratch = torch.empty(2 + (not in_place) + (logits.dtype != dtype), min(step, num_rows), num_columns, dtype=dtype)
    total = 0.0
    for index, start in enumerate(starts):
        chunk = logits[start : start + step]
        loss, spare, *others = scratch[:, : len(chunk)]
        out = grad[start : start + step] if grad is not None and in_place else others[0]
        x = chunk if chunk.dtype == dtype else others[-1].copy_(chunk)
        terms.negative(x, loss, out, spare)
        if weight is not None:
            loss.mul_(weight[start : start + step])
            out.mul_(weight[start : start + step])
        if grad is not None and not in_place:
            grad[start : start + step] = out
        first, last = positive_edges[index], positive_edges[index + 1]
        if first < last:
            loss[rows[first:last] - start, columns[first:last]] = 0
        first, last = ignored_edges[index], ignored_edges[index + 1]
        if first < last:
            loss[ignored_rows[first:last] - start] = 0
        total += float(loss.sum())
    return total


def sum_with_masks(
    logits: Tensor, labels: Tensor, terms: Terms, weight: Tensor | None, *, want_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """As ``sum_on_cpu`` for any device: whole tensors and masks of fixed shape, so the host never waits."""
    assert_labels_on_device(labels, logits.shape[1])
    x = logits.to(compute_dtype(logits.dtype)).contiguous()
    loss, grad = torch.empty_like(x), torch.empty_like(x)
    terms.negative(x, loss, grad, torch.empty_like(x))
    rows = torch.arange(len(x), device=x.device)
    columns = labels.long().clamp(0, x.shape[1] - 1)
    is_positive = (labels >= 0) & (labels < x.shape[1])
    loss_at, grad_at = terms.positive(x[rows, columns].double(), rows, columns)
    loss[rows, columns] = torch.where(is_positive, loss_at.to(x.dtype), loss[rows, columns])
    grad[rows, columns] = torch.where(is_positive, grad_at.to(x.dtype), grad[rows, columns])
    if weight is not None:
        loss.mul_(weight)
        grad.mul_(weight)
    ignored = (labels < 0)[:, None]
    total = loss.masked_fill_(ignored, 0).sum(dtype=torch.float64).to(x.dtype)
    return total, grad.masked_fill_(ignored, 0).to(logits.dtype) if want_grad else None


def initial_loss_of_terms(
    terms: Terms, num_anchors: float, num_positives: float, prior_prob: float | None, *, num_classes: int
) -> float | None:
    """The loss per positive anchor when every probability is ``prior_prob`` (None: 1/2), or None without positives."""
    if num_positives <= 0:
        return None
    prior = torch.tensor(0.5 if prior_prob is None else prior_prob, dtype=torch.float64)
    x = torch.logit(prior).expand(1, num_classes).contiguous()
    loss, grad, scratch = torch.empty_like(x), torch.empty_like(x), torch.empty_like(x)
    terms.negative(x, loss, grad, scratch)
    columns = torch.arange(num_classes)
    hit = terms.positive(x[0], torch.zeros_like(columns), columns)[0].mean()
    return float(hit + loss.mean() * (num_anchors * num_classes - num_positives) / num_positives)
