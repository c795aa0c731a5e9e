"""Sums of elementwise sigmoid losses with closed-form gradients and no temporaries of the logits' size.

In dense detection nearly every (anchor, class) pair is a negative. So every element is treated as a negative first, in
chunks that stay in the cache, the gradient written straight into the result; then the few positive elements and ignored
anchors are put right by index. On other devices than the CPU the same formulas run on the whole tensor, with masks
instead of indices, because counting positives would wait for the device.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from focalbench.losses.arguments import assert_labels_on_device, compute_dtype, split_labels

# Elements per chunk: the chunk, its gradient and its scratch stay in a core's second-level cache, and torch leaves
# operations on less than 32768 elements to the calling thread. The threads share out chunks instead of operations:
# nine barriers a chunk are what makes it slow, and on a busy machine slower than the public implementations.
_CHUNK = 32_000
_CHUNK_OF_ROWS = 65536  # elements; as few as leave a chunk and its temporaries in a core's second-level cache
_MAX_THREADS = 8  # beyond it they wait for Python's lock


class Terms(Protocol):
    """Computes an elementwise loss and its derivative in the logit, for negatives and for positives."""

    def negative(self, x: Tensor, loss: Tensor, grad: Tensor, scratch: Tensor) -> float:
        """Writes value and derivative of negatives with the logits ``x`` into ``loss`` and ``grad``.

        All four are contiguous (A, C) of one dtype, float32 or float64, and not empty; ``scratch`` may be used at will.

        Returns:
            What ``loss`` (and only it) has still to be multiplied with: a factor costs less on a sum.
        """

    def positive(self, x: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Returns values and derivatives of positives at (rows, columns) with the logits ``x``, all of them (P,)."""


@runtime_checkable
class CompiledTerms(Protocol):
    """Terms that have a compiled kernel for what ``_Chunks`` does with torch's operations."""

    def chunk_sums(
        self, logits: Tensor, labels: Tensor, grad: Tensor, rows: int
    ) -> Callable[[range], list[float]] | None:
        """Returns a function that writes a range of chunks' gradients and returns their sums; None for these tensors.

        Args:
            logits: (A, C).
            labels: (A,) int64, checked.
            grad: (A, C) of the logits' dtype.
            rows: rows of a chunk.
        """


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
    """Returns the sum of an elementwise loss over all anchors that are not ignored, in at least float32.

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


def write_softplus(x: Tensor, out: Tensor) -> None:
    """Writes log(1 + exp(x)) into ``out``, which ``torch.nn.functional.softplus`` has no argument for."""
    torch._C._nn.softplus(x, 1, 40, out=out)  # type: ignore[call-arg]


def scale_in_place(grad: Tensor, scale: Tensor) -> Tensor:
    """Returns ``grad`` multiplied by the 0-d ``scale``, for free where it is 1 and looking costs nothing."""
    if scale.device.type == "cpu" and float(scale) == 1.0:
        return grad
    return grad.mul_(scale)


def row_slices(logits: Tensor) -> Iterator[slice]:
    """Yields the rows of (A, C) ``logits`` in parts: on a CPU so small that they stay in its cache, elsewhere at once,
    because there it is launches that cost, not temporaries.
    """
    step = max(1, _CHUNK_OF_ROWS // logits.shape[1] if logits.device.type == "cpu" else len(logits))
    return (slice(start, start + step) for start in range(0, len(logits), step))


def sum_on_cpu(
    logits: Tensor, labels: Tensor, terms: Terms, weight: Tensor | None, *, want_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """Returns the sum and, if wanted, its gradient in the logits' dtype: negatives in chunks, then positives."""
    dtype = compute_dtype(logits.dtype)
    num_columns = logits.shape[1]
    rows, columns, ignored_rows = split_labels(labels, num_columns)
    logits = logits.contiguous()
    grad = torch.empty_like(logits) if want_grad else None
    work = _compiled_work(logits, labels, terms, weight, grad)
    if work is None:
        total = _sum_of_negatives(logits, terms, weight, (rows, columns), ignored_rows, grad)
    else:
        total = math.fsum(_share_out(work, _num_chunks(logits)))
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


def _rows_of_a_chunk(logits: Tensor) -> int:
    return max(1, _CHUNK // logits.shape[1])


def _num_chunks(logits: Tensor) -> int:
    return -(-len(logits) // _rows_of_a_chunk(logits))


def _compiled_work(
    logits: Tensor, labels: Tensor, terms: Terms, weight: Tensor | None, grad: Tensor | None
) -> Callable[[range], list[float]] | None:
    """What ``_sum_of_negatives`` does as compiled code, for the plain case that training is made of; else None."""
    if weight is not None or grad is None or not logits.numel() or not isinstance(terms, CompiledTerms):
        return None
    return terms.chunk_sums(logits.detach(), labels.long().contiguous(), grad, _rows_of_a_chunk(logits))


def _sum_of_negatives(
    logits: Tensor,
    terms: Terms,
    weight: Tensor | None,
    positives: tuple[Tensor, Tensor],
    ignored_rows: Tensor,
    grad: Tensor | None,
) -> float:
    """The sum over every element that is neither positive nor ignored; ``grad`` is filled as if all were negative."""
    if not logits.numel():
        return 0.0
    num_columns = logits.shape[1]
    step, num_chunks = _rows_of_a_chunk(logits), _num_chunks(logits)
    rows, columns = positives
    chunks = _Chunks(
        terms,
        compute_dtype(logits.dtype),
        logits.detach().split(step),
        None if grad is None else grad.split(step),
        None if weight is None else weight.split(step),
        _group(rows // step, rows % step * num_columns + columns, num_chunks),
        _group(ignored_rows // step, ignored_rows % step, num_chunks),
    )
    return math.fsum(_share_out(chunks.sums, num_chunks))


def _group(chunk_of: Tensor, values: Tensor, num_chunks: int) -> list[Tensor]:
    """``values`` by chunk, where ``chunk_of`` ascends."""
    return list(values.split(torch.bincount(chunk_of, minlength=num_chunks).tolist()))


@dataclass(frozen=True)
class _Chunks:
    """The parts of ``_sum_of_negatives``, one entry a chunk: rows of the inputs, and what is left out of the sum.

    Attributes:
        terms: the loss.
        dtype: in which it is computed.
        logits, grad, weight: (B, C) each, (B, 1) or (B, C) for the weight.
        positives: flat indices of positive elements in the chunk.
        ignored: indices of ignored rows in the chunk.
    """

    terms: Terms
    dtype: torch.dtype
    logits: tuple[Tensor, ...]
    grad: tuple[Tensor, ...] | None
    weight: tuple[Tensor, ...] | None
    positives: list[Tensor]
    ignored: list[Tensor]

    @torch.no_grad()
    def sums(self, indices: range) -> list[float]:
        """Returns the sums of these chunks and writes their gradients; runs on several threads, on disjoint ranges."""
        casts = self.logits[0].dtype != self.dtype
        rows = len(self.logits[0])
        loss, spare = torch.empty(2, *self.logits[0].shape, dtype=self.dtype)
        cast = torch.empty_like(loss) if casts else None
        out = torch.empty_like(loss) if casts or self.grad is None else None
        found = []
        for index in indices:
            x = self.logits[index]
            if len(x) < rows:  # the last one
                loss, spare = loss[: len(x)], spare[: len(x)]
                cast = None if cast is None else cast[: len(x)]
                out = None if out is None else out[: len(x)]
            slope = self.grad[index] if out is None and self.grad is not None else out
            assert slope is not None  # out is made where there is no grad
            if cast is not None:
                x = cast.copy_(x)
            factor = self.terms.negative(x, loss, slope, spare)
            if self.weight is not None:
                loss.mul_(self.weight[index])
                slope.mul_(self.weight[index])
            if self.grad is not None and slope is out:
                self.grad[index].copy_(slope)
            found.append(factor * self._left(index, loss))
        return found

    def _left(self, index: int, loss: Tensor) -> float:
        """The sum of what is neither positive nor ignored."""
        if len(self.positives[index]):
            loss.view(-1).index_fill_(0, self.positives[index], 0)
        if len(self.ignored[index]):
            loss.index_fill_(0, self.ignored[index], 0)
        return float(loss.sum())


def _share_out(work: Callable[[range], list[float]], num_chunks: int) -> list[float]:
    """``work`` on ranges that cover all chunks, on as many threads as torch may use; results in order of the chunks."""
    num_threads = min(torch.get_num_threads(), _MAX_THREADS, num_chunks)
    bounds = [num_chunks * index // num_threads for index in range(num_threads + 1)]
    own, *others = [range(first, last) for first, last in pairwise(bounds)]
    if not others:
        return work(own)
    waiting = [_pool(os.getpid()).submit(work, part) for part in others]
    return [*work(own), *(value for future in waiting for value in future.result())]


@cache
def _pool(pid: int) -> ThreadPoolExecutor:
    """The threads of process ``pid``: a forked child inherits the pool but not its threads."""
    return ThreadPoolExecutor(_MAX_THREADS - 1, thread_name_prefix="focalbench-loss")


def sum_with_masks(
    logits: Tensor, labels: Tensor, terms: Terms, weight: Tensor | None, *, want_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """Computes the same as ``sum_on_cpu`` on any device, with masks of fixed shape, so that the host never waits."""
    assert_labels_on_device(labels, logits.shape[1])
    x = logits.to(compute_dtype(logits.dtype)).contiguous()
    loss, grad = torch.empty_like(x), torch.empty_like(x)
    if x.numel():
        loss.mul_(terms.negative(x, loss, grad, torch.empty_like(x)))
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
    terms: Terms,
    num_anchors: float,
    num_positives: float,
    prior_prob: float | None,
    *,
    num_classes: int,
    device: torch.device,
) -> float | None:
    """Returns the loss per positive anchor, if any, when every probability is ``prior_prob`` (None: 1/2).

    Args:
        device: where the parameters of ``terms`` are.
    """
    if num_positives <= 0:
        return None
    prior = torch.tensor(0.5 if prior_prob is None else prior_prob, dtype=torch.float64, device=device)
    x = torch.logit(prior).expand(1, num_classes).contiguous()
    loss, grad, scratch = torch.empty_like(x), torch.empty_like(x), torch.empty_like(x)
    loss *= terms.negative(x, loss, grad, scratch)
    columns = torch.arange(num_classes, device=device)
    hit = terms.positive(x[0], torch.zeros_like(columns), columns)[0].mean()
    return float(hit + loss.mean() * (num_anchors * num_classes - num_positives) / num_positives)
