"""The CUDA kernel where there is no GPU: interpreted, and as the machine code that a GPU would run."""

from contextlib import contextmanager
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from interpreted import check
from sm90 import Kernel, machine_code

from focalbench.losses.focal_terms import FocalTerms

pytest.importorskip("triton")

from focalbench.losses import focal_triton

POINTERS = {"labels": "*i64", "partials": "*fp32", "fits": "*i8"}
NUMBERS = {"gamma": "*fp32", "alpha_pos": "*fp32", "alpha_neg": "*fp32"}
STRIDES = {"num_groups": "i32", "weight_row_stride": "i32", "weight_column_stride": "i32"}


def test_the_interpreted_kernel_equals_the_cpu_path_and_keeps_its_bound():
    check(Path(__file__).with_name("interpreted_focal.py"))


def test_an_element_takes_few_instructions(tmp_path):
    """gamma 0, gamma 2 and any other are the ways through the kernel. A row of 20 classes is five times 4 elements: 16
    bytes of float32, 8 of bfloat16.
    """
    kernels = [
        Kernel(
            "focalbench.losses.focal_triton",
            "_focal_kernel",
            {**dict.fromkeys(("logits", "weight", "grad"), f"*{dtype}"), **POINTERS, **NUMBERS, **STRIDES},
            {
                "num_columns": 20,
                "width": 4,
                "alpha_per_class": False,
                "weights": 0,
                "want_grad": True,
                "groups": focal_triton._BLOCK // 4,
            },
            aligned=("num_groups",),
            options={"num_warps": focal_triton._WARPS},
        )
        for dtype in ("fp32", "bf16")
    ]
    elements = focal_triton._BLOCK // (32 * focal_triton._WARPS)
    for kernel, code, bits in zip(kernels, machine_code(kernels, tmp_path), (128, 64), strict=True):
        per_element = [length / elements for length in code.path_lengths()]
        assert len(per_element) == 3
        assert np.less_equal(per_element, (48, 54, 60)).all(), (kernel, per_element)
        names = code.names()
        assert f"LDG.E.{bits}" in names
        assert f"STG.E.{bits}" in names
        assert not {name for name in names if name.startswith(("LDL", "STL"))}, "spilled"


def test_log1p_is_a_minimax_polynomial_and_its_error_is_bounded():
    """The bound adds the polynomial's error to what each rounding in Horner's scheme makes of it."""
    coefficients, error = remez(degree=8)
    kept = focal_triton._LOG1P.value
    np.testing.assert_allclose(kept, coefficients, rtol=1e-9)
    assert error < 2.0**-24.9
    e = np.maximum(np.linspace(0, 1, 100_001), 1e-30)
    exact = np.log1p(e) / e
    unit = 2.0**-24
    *others, value = np.float32(kept).astype(np.float64)
    rounding = np.zeros_like(e)
    for coefficient in reversed(others):
        product = e * value
        value = product + coefficient
        rounding = e * rounding + unit * (np.abs(product) + np.abs(value))
    assert ((rounding + np.abs(value - exact)) / exact).max() < 5 * unit


def remez(degree):
    """Coefficients of the polynomial nearest to log(1 + e) / e on [0, 1] and its largest relative error there."""
    with mpmath.workdps(30):
        grid = np.linspace(0, 1, 20_001)
        exact = np.array([1.0, *(np.log1p(grid[1:]) / grid[1:])])
        nodes = [(1 - mpmath.cos(mpmath.pi * k / (degree + 1))) / 2 for k in range(degree + 2)]
        for _ in range(6):
            target = [mpmath.log1p(x) / x if x else mpmath.mpf(1) for x in nodes]
            rows = [
                [*(x**power for power in range(degree + 1)), (-1) ** k * y]
                for k, (x, y) in enumerate(zip(nodes, target, strict=True))
            ]
            solution = mpmath.lu_solve(mpmath.matrix(rows), mpmath.matrix(target))
            coefficients = [float(value) for value in solution[: degree + 1]]
            error = np.polyval(coefficients[::-1], grid) / exact - 1
            parts = np.split(np.arange(len(grid)), np.flatnonzero(np.diff(np.sign(error))) + 1)
            nodes = [mpmath.mpf(grid[part[np.abs(error[part]).argmax()]]) for part in parts]
            assert len(nodes) == degree + 2
        return coefficients, np.abs(error).max()


def test_kernels_are_launched_on_the_device_of_the_logits(monkeypatch):
    """Triton launches on the current device, whatever that of the arguments is."""
    events = []

    class Recorder:
        def __init__(self, name):
            self.name = name

        def __getitem__(self, grid):
            return lambda *args, **options: events.append(self.name)

    @contextmanager
    def device_of(tensor):
        events.append(("enter", tensor.shape))
        yield
        events.append("leave")

    for name in ("_focal_kernel", "_total_kernel", "_scale_kernel"):
        monkeypatch.setattr(focal_triton, name, Recorder(name))
    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    logits = torch.zeros(3, 4)
    terms = FocalTerms(*torch.tensor([2.0, 0.25, 0.75]))
    focal_triton.focal_sum(logits, torch.zeros(3, dtype=torch.int64), terms, None, want_grad=True)
    assert events == [("enter", logits.shape), "_focal_kernel", "_total_kernel", "leave"]
    events.clear()
    focal_triton.scale_in_place(logits, torch.tensor(2.0))
    assert events == [("enter", logits.shape), "_scale_kernel", "leave"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_cuda_equals_the_cpu(dtype):
    from focalbench.losses import sigmoid_focal_loss

    logits = (torch.randn(5000, 20) * 4).to(dtype)
    labels = torch.randint(-1, 21, (5000,))
    results = []
    for device in ("cpu", "cuda"):
        leaf = logits.to(device).requires_grad_()
        loss = sigmoid_focal_loss(leaf, labels.to(device), reduction="mean", avg_factor=50.0)
        results.append((loss.detach().cpu(), torch.autograd.grad(loss, leaf)[0].cpu().float()))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=2e-6, atol=0)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=3e-6 if dtype == torch.float32 else 1e-2, atol=1e-7)
