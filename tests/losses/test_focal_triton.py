"""The CUDA kernel, run by Triton's interpreter on the CPU in a process of its own, against the CPU path."""

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

CHECKS = """
import torch
from focalbench.losses import focal_triton
from focalbench.losses.elementwise import sum_on_cpu
from focalbench.losses.focal_terms import FocalTerms

generator = torch.Generator().manual_seed(0)
per_class = torch.rand(20, generator=generator)
cases = [
    (torch.float32, torch.int64, 0.0, torch.tensor(0.25), None),
    (torch.float32, torch.int32, 0.5, per_class, None),
    (torch.float32, torch.int64, 1.0, torch.tensor(0.25), torch.rand(300, 1, generator=generator)),
    (torch.float32, torch.int8, 2.0, torch.tensor(0.25), torch.rand(300, 20, generator=generator)),
    (torch.float32, torch.int64, 5.0, per_class, None),
    (torch.bfloat16, torch.int64, 2.0, torch.tensor(0.25), None),
    (torch.float16, torch.int64, 3.3, torch.tensor(0.25), None),
]
for dtype, integer, gamma, alpha, weight in cases:
    logits = (torch.randn(300, 20, generator=generator) * 5).to(dtype)
    logits[0], logits[1] = 1e4, -1e4
    labels = torch.randint(-1, 21, (300,), generator=generator).to(integer)
    terms = FocalTerms(torch.tensor(gamma), alpha, 1 - alpha)
    total, grad = focal_triton.focal_sum(logits, labels, terms, weight, want_grad=True)
    wanted, slope = sum_on_cpu(logits, labels, terms, weight, want_grad=True)
    torch.testing.assert_close(total, wanted, rtol=1e-6, atol=0)
    tight = dtype == torch.float32
    torch.testing.assert_close(grad, slope, rtol=3e-6 if tight else 1e-2, atol=1e-9 if tight else 1e-6)
    assert grad.isfinite().all() and grad.dtype == dtype

kept = grad.clone()
focal_triton.scale_in_place(grad, torch.tensor(1.0))
assert torch.equal(grad, kept)
focal_triton.scale_in_place(grad, torch.tensor(0.5))
torch.testing.assert_close(grad, kept * 0.5)
empty, _ = focal_triton.focal_sum(logits[:0], labels[:0], terms, None, want_grad=True)
assert empty.item() == 0
try:
    focal_triton.focal_sum(logits, torch.full((300,), 21), terms, None, want_grad=False)
except RuntimeError as fault:
    assert "outside -1..20" in str(fault)
else:
    raise AssertionError("a label out of range went through")
print("equal")
"""


def test_interpreted_kernel_equals_the_cpu_path():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", CHECKS], env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "equal", done.stderr[-2000:]


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
