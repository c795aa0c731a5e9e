"""Sums of elementwise sigmoid losses with closed-form gradients and no temporaries of the logits' size.

In dense detection nearly every (anchor, class) pair is a negative. So every element is treated as a negative first, in
chunks that stay in the cache, the gradient written straight into the result; then the few positive elements and ignored
anchors are put right by index. On other devices than the CPU the same formulas run on the whole tensor, with masks
instead of indices, because counting positives would wait for the device.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from focalbench.losses.base import check_class_weights, check_number

# Elements per chunk: the chunk, its gradient and its scratch stay in a core's second-level cache, and torch leaves
# operations on less than 32768 elements to the calling thread. The threads share out chunks instead of operations:
# nine barriers a chunk are what makes it slow, and on a busy machine slower than the public implementations.
_CHUNK = 32_000
_CHUNK_OF_ROWS = 65536  # elements; as few as leave a chunk and its temporaries in a core's second-level cache
_MAX_THREADS = 8  # beyond it they wait for Python's lock
_FLAT_CLASSES = "the class axis last and the others flattened: x.movedim(1, -1).flatten(0, -2) for (N, K, H, W)"


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


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype in which a loss of logits of ``dtype`` is computed: float32, and float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def write_softplus(x: Tensor, out: Tensor) -> None:
    """Writes log(1 + exp(x)) into ``out``, which ``torch.nn.functional.softplus`` has no argument for."""
    torch._C._nn.softplus(x, 1, 40, out=out)  # type: ignore[call-arg]


def scale_in_place(grad: Tensor, scale: Tensor) -> Tensor:
    """Returns ``grad`` multiplied by the 0-d ``scale``, for free where it is 1 and looking costs nothing."""
    if scale.device.type == "cpu" and float(scale) == 1.0:
        return grad
    return grad.mul_(scale)


def split_labels(labels: Tensor, num_columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the rows and columns of positives, (P,) each, and the ignored rows; rows ascend. Waits for the device.

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


def check_labels(labels: Tensor, num_columns: int) -> None:
    """Refuses labels outside -1..num_columns: at once on a CPU, elsewhere by :func:`assert_labels_on_device`.

    Raises:
        ValueError: on a CPU.
    """
    if labels.device.type == "cpu":
        split_labels(labels, num_columns)
    else:
        assert_labels_on_device(labels, num_columns)


def check_interval(noun: str, values: Tensor, *, high: float = 1.0) -> None:
    """Refuses ``values`` outside [0, high], NaN and infinity among them: at once on a CPU, elsewhere by a device-side
    assertion.

    Raises:
        ValueError: on a CPU.
    """
    fits = ((values >= 0) & (values <= high) & values.isfinite()).all()
    bounds = f"lie in [0, {high:g}]" if math.isfinite(high) else "be finite and at least 0"
    if values.device.type != "cpu":
        torch._assert_async(fits, f"focalbench: {noun} must {bounds}")
    elif not bool(fits):
        raise ValueError(f"{noun} must {bounds}")


def check_parameter(name: str, value: Tensor, *, high: float = math.inf) -> None:
    """Refuses values of gamma or alpha as ``check_interval`` does, except in compiled code, which a look at a value
    would cut in two.

    Raises:
        ValueError: out of range, or it requires a gradient: no loss has one for its parameters.
    """
    if value.requires_grad:
        raise ValueError(f"{name} gets no gradient: pass {name}.detach()")
    if not torch.compiler.is_compiling():
        check_interval(name, value, high=high)


def as_parameters(
    gamma: float | Tensor, alpha: float | Sequence[float] | Tensor | None, logits: Tensor, *, high: float
) -> tuple[Tensor, Tensor | None]:
    """Returns gamma, in the dtype of the computation, and alpha, as float64, on the device of ``logits``.

    float64, because 1 - alpha of an alpha near 1 is not exact in float32.

    Args:
        alpha: one number in [0, 1], None, or, for logits (N, C), C weights in [0, ``high``].

    Raises:
        ValueError: as ``check_parameter``, for numbers too, or another number of weights than C.
    """
    if isinstance(gamma, Tensor):
        check_parameter("gamma", gamma)
    else:
        check_number("gamma", gamma)
    gamma = torch.as_tensor(gamma, dtype=compute_dtype(logits.dtype), device=logits.device)
    if alpha is None:
        return gamma, None
    if logits.ndim != 2 and (isinstance(alpha, Sequence) or (isinstance(alpha, Tensor) and alpha.ndim)):
        raise ValueError(
            f"one alpha per class needs (N, K) logits, got {tuple(logits.shape)}: pass one number, "
            f"or logits and targets with {_FLAT_CLASSES}"
        )
    if isinstance(alpha, Sequence):
        check_class_weights("alpha", alpha, logits.shape[1], high=high)
    elif not isinstance(alpha, Tensor):
        check_number("alpha", alpha, high=1.0)
    elif alpha.ndim and alpha.shape != logits.shape[1:]:
        raise ValueError(f"alpha has {alpha.numel()} entries, but {logits.shape[1]} are needed: one per class")
    else:
        check_parameter("alpha", alpha, high=high if alpha.ndim else 1.0)
    return gamma, torch.as_tensor(alpha, dtype=torch.float64, device=logits.device)


def row_slices(logits: Tensor) -> Iterator[slice]:
    """Yields the rows of (A, C) ``logits`` in parts: on a CPU so small that they stay in its cache, elsewhere at once,
    because there it is launches that cost, not temporaries.
    """
    step = max(1, _CHUNK_OF_ROWS // logits.shape[1] if logits.device.type == "cpu" else len(logits))
    return (slice(start, start + step) for start in range(0, len(logits), step))


def is_soft(logits: Tensor, labels: Tensor) -> bool:
    """Returns whether ``labels`` are targets for every element, after a check of shapes and dtypes.

    What has the logits' shape, whichever that is, are targets; class ids are (N,), for logits (N, K).

    Raises:
        ValueError: shapes or dtypes that do not fit, a target outside [0, 1].
    """
    if not logits.is_floating_point():
        raise ValueError(f"logits must be of a floating dtype, got {logits.dtype}")
    if labels.is_complex():
        raise ValueError(f"labels must be class ids or real targets, got {labels.dtype}")
    if labels.shape == logits.shape:
        check_interval("targets of the logits' shape", labels)
        return True
    if logits.ndim != 2:
        raise ValueError(
            f"for logits {tuple(logits.shape)} labels must be targets of that shape, got {tuple(labels.shape)}; "
            f"class ids (N,) need (N, K) logits, {_FLAT_CLASSES}"
        )
    if labels.shape != logits.shape[:1]:
        raise ValueError(
            f"labels must be (N,) class ids or (N, K) targets for logits {tuple(logits.shape)}, "
            f"got {tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"class ids must be integers, got {labels.dtype}: pass labels.long()")
    return False


def _label_fault(label: int, num_columns: int) -> str:
    return f"label {label} is out of range: classes are 0..{num_columns - 1}, {num_columns} is background, -1 ignored"


def assert_labels_on_device(labels: Tensor, num_columns: int) -> None:
    """Queue a check of the labels on their device; a fault surfaces at the next synchronisation, without one here."""
    fits = ((labels >= -1) & (labels <= num_columns)).all()
    torch._assert_async(fits, f"focalbench: a label is outside -1..{num_columns} (K = {num_columns} is background)")


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
    terms: Terms, num_anchors: float, num_positives: float, prior_prob: float | None, *, num_classes: int
) -> float | None:
    """Returns the loss per positive anchor, if any, when every probability is ``prior_prob`` (None: 1/2)."""
    if num_positives <= 0:
        return None
    prior = torch.tensor(0.5 if prior_prob is None else prior_prob, dtype=torch.float64)
    x = torch.logit(prior).expand(1, num_classes).contiguous()
    loss, grad, scratch = torch.empty_like(x), torch.empty_like(x), torch.empty_like(x)
    loss *= terms.negative(x, loss, grad, scratch)
    columns = torch.arange(num_classes)
    hit = terms.positive(x[0], torch.zeros_like(columns), columns)[0].mean()
    return float(hit + loss.mean() * (num_anchors * num_classes - num_positives) / num_positives)
