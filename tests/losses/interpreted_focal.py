"""Run with TRITON_INTERPRET=1: the CUDA kernel in Triton's interpreter, against the CPU path and against float64."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from focalbench.losses import focal_triton
from focalbench.losses.elementwise import sum_on_cpu
from focalbench.losses.focal_terms import FocalTerms

UNIT = 2.0**-24
GENERATOR = torch.Generator().manual_seed(0)


def sums_and_gradients_are_those_of_the_cpu():
    """Blocks begin within a row, and the last is not full; 700 rows are more than the 5 blocks that end with a row."""
    per_class = torch.rand(20, generator=GENERATOR)
    by_row, by_element = torch.rand(110, 1, generator=GENERATOR), torch.rand(110, 20, generator=GENERATOR)
    for dtype, integer, gamma, alpha, weight in (
        (torch.float32, torch.int64, 0.0, torch.tensor(0.25), None),
        (torch.float32, torch.int32, 0.5, per_class, None),
        (torch.float32, torch.int64, 1.0, torch.tensor(0.25), by_row),
        (torch.float32, torch.int8, 2.0, torch.tensor(0.25), by_element),
        (torch.float32, torch.int64, 2.0, torch.tensor(0.25), by_element.t().contiguous().t()),
        (torch.float32, torch.int64, 5.0, per_class, None),
        (torch.bfloat16, torch.int64, 2.0, torch.tensor(0.25), None),
        (torch.float16, torch.int64, 3.3, torch.tensor(0.25), None),
    ):
        rows = 700 if dtype == torch.float16 else 110
        logits = (torch.randn(rows, 20, generator=GENERATOR) * 5).to(dtype)
        logits[0], logits[1] = 1e4, -1e4
        labels = torch.randint(-1, 21, (rows,), generator=GENERATOR).to(integer)
        compare(logits, labels, FocalTerms(torch.tensor(gamma), alpha, 1 - alpha), weight)


def any_number_of_columns_will_do():
    for columns, rows in ((1, 2100), (2, 1100), (7, 300), (8, 40), (21, 100), (2100, 1)):
        logits = torch.randn(rows, columns, generator=GENERATOR) * 4
        labels = torch.randint(-1, columns + 1, (rows,), generator=GENERATOR)
        compare(logits, labels, FocalTerms(*torch.tensor([2.0, 0.25, 0.75])), None)


def compare(logits, labels, terms, weight):
    total, grad = focal_triton.focal_sum(logits, labels, terms, weight, want_grad=True)
    wanted, slope = sum_on_cpu(logits, labels, terms, weight, want_grad=True)
    torch.testing.assert_close(total, wanted, rtol=1e-6, atol=0)
    tight = logits.dtype == torch.float32
    torch.testing.assert_close(grad, slope, rtol=3e-6 if tight else 1e-2, atol=1e-9 if tight else 1e-6)
    assert grad.isfinite().all()
    assert grad.dtype == logits.dtype


def each_finite_bfloat_has_the_gradient_of_the_cpu():
    logits = every_finite(torch.bfloat16).repeat_interleave(2).view(-1, 2)
    terms = FocalTerms(*torch.tensor([2.0, 0.25, 0.75]))
    labels = torch.zeros(len(logits), dtype=torch.int64)  # the first column positive, the second negative
    focal_triton._BLOCK, block = 2**16, focal_triton._BLOCK  # the interpreter's time is by the block
    grad = focal_triton.focal_sum(logits, labels, terms, None, want_grad=True)[1]
    focal_triton._BLOCK = block
    torch.testing.assert_close(grad, sum_on_cpu(logits, labels, terms, None, want_grad=True)[1], rtol=1e-2, atol=1e-30)


def ignored_rows_count_for_nothing():
    logits = torch.zeros(5, 4)
    logits[1], logits[3] = float("inf"), float("nan")
    labels = torch.tensor([4, -1, 2, -1, 4])
    total, grad = focal_triton.focal_sum(
        logits, labels, FocalTerms(*torch.tensor([2.0, 0.25, 0.75])), None, want_grad=True
    )
    assert total.isfinite()
    assert (grad[[1, 3]] == 0).all()


def labels_out_of_range_are_found():
    """Also those that would be in range in 32 bits."""
    terms = FocalTerms(*torch.tensor([2.0, 0.25, 0.75]))
    for integer in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        labels = torch.full((3,), 20, dtype=integer)
        focal_triton.focal_sum(torch.zeros(3, 20), labels, terms, None, want_grad=False)
        wide = [2**32 + 3, -(2**32) - 1, 2**63 - 1] if integer == torch.int64 else []
        for fault in [21, 100, *([] if integer == torch.uint8 else [-2]), *wide]:
            labels[2] = fault
            with pytest.raises(RuntimeError, match=r"outside -1\.\.20"):
                focal_triton.focal_sum(torch.zeros(3, 20), labels, terms, None, want_grad=False)


def scales_and_empty_batches():
    grad = torch.randn(3000, generator=GENERATOR)
    kept = grad.clone()
    focal_triton.scale_in_place(grad, torch.tensor(1.0))
    assert torch.equal(grad, kept)
    focal_triton.scale_in_place(grad, torch.tensor(0.5))
    assert torch.equal(grad, kept * 0.5)
    terms = FocalTerms(*torch.tensor([2.0, 0.25, 0.75]))
    total, grad = focal_triton.focal_sum(
        torch.zeros(0, 20), torch.zeros(0, dtype=torch.int64), terms, None, want_grad=True
    )
    assert total.item() == 0
    assert grad.shape == (0, 20)


@triton.jit
def elements_kernel(
    x, gamma, values, slopes, positive: tl.constexpr, form: tl.constexpr, refine: tl.constexpr, n: tl.constexpr
):
    at = tl.arange(0, n)
    logit = tl.load(x + at)
    value, slope = focal_triton._focal(logit, at * 0 == (1 - positive), 1.0, tl.load(gamma), form, refine)
    tl.store(values + at, value)
    tl.store(slopes + at, slope)


def elements_keep_the_stated_bound():
    """Over the whole range of each dtype, as positives and as negatives."""
    magnitudes = torch.cat((torch.logspace(-45, 38.5, 20000, dtype=torch.float64), torch.linspace(0, 120, 12000)))
    floats = torch.cat((magnitudes, -magnitudes)).float()
    for x, refine in ((floats, True), (every_finite(torch.bfloat16), False), (every_finite(torch.float16), False)):
        given = torch.nn.functional.pad(x.float(), (0, 2**16 - len(x)))
        for gamma in (0.0, 0.5, 1.0, 2.0, 5.0):
            for positive in (0, 1):
                value, slope = torch.empty_like(given), torch.empty_like(given)
                form = {0.0: 0, 2.0: 2}.get(gamma, 1)
                elements_kernel[(1,)](given, torch.tensor(gamma), value, slope, positive, form, refine, len(given))
                check_bound(given.double().numpy(), gamma, positive, value.double().numpy(), slope.double().numpy())


def check_bound(x, gamma, positive, value, slope):
    z = -x if positive else x
    e = np.exp(-np.abs(x))
    s, q = np.where(z >= 0, 1, e) / (1 + e), np.where(z >= 0, e, 1) / (1 + e)
    softplus = np.maximum(z, 0) + np.log1p(e)
    wanted = s**gamma * softplus, s**gamma * (s + gamma * q * softplus) * (-1 if positive else 1)
    bound = 32 + 4 * np.abs(x)
    if gamma not in (0, 1, 2):
        bound += gamma * (8 + 4 * np.abs(x))
    for found, exact in zip((value, slope), wanted, strict=True):
        excess = np.abs(found - exact) - bound * UNIT * np.abs(exact)
        assert (excess <= 2.0**-125).all(), (gamma, positive, x[excess.argmax()], found[excess.argmax()])


def every_finite(dtype):
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    return every[every.isfinite()]


if __name__ == "__main__":
    np.seterr(over="ignore", under="ignore")
    sums_and_gradients_are_those_of_the_cpu()
    any_number_of_columns_will_do()
    each_finite_bfloat_has_the_gradient_of_the_cpu()
    ignored_rows_count_for_nothing()
    labels_out_of_range_are_found()
    scales_and_empty_batches()
    elements_keep_the_stated_bound()
    print("equal")
