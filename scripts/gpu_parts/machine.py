"""The machine: versions, the rates that no program exceeds, the tests that need a GPU."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import torch
from gpu_figures import ROOT

from focalbench.runtime import environment
from gpu_parts.run import Run, said, timed


def doctor(run: Run) -> None:
    """Versions and drivers."""
    query = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,persistence_mode,compute_mode"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    if run.on_gpu:
        run.measure("nvidia-smi", lambda: {"said": said(command)})
    run.measure("doctor", lambda: {"said": said([sys.executable, "-m", "focalbench", "doctor"])})
    run.measure("versions", lambda: dict(environment()))


def rates(run: Run) -> None:
    """What no program exceeds: the rates of a copy and of products of matrices, and the host's pace."""
    num_bytes, side = (2**30, 8192) if run.on_gpu else (2**22, 256)
    source = torch.empty(num_bytes, dtype=torch.uint8, device=run.device).random_(0, 255)
    target, small = torch.empty_like(source), torch.zeros(1, device=run.device)

    def copy() -> dict[str, float]:
        ms, spread = timed(run, lambda: target.copy_(source), 10)
        return {"gb_per_s": 2 * num_bytes / ms / 1e6, "spread": spread}

    def product(dtype: torch.dtype) -> dict[str, float]:
        left, right = torch.randn(2, side, side, device=run.device, dtype=dtype)
        timed(run, lambda: left @ right, 2, 1)
        ms, spread = timed(run, lambda: left @ right, 5)
        return {"tflops": 2 * side**3 / ms / 1e9, "spread": spread}

    def python() -> dict[str, float]:
        began = time.perf_counter()
        sum(number * number for number in range(5_000_000))
        return {"seconds": time.perf_counter() - began}

    run.measure("copy", copy)
    run.measure("product bf16", lambda: product(torch.bfloat16))
    run.measure("product fp32", lambda: product(torch.float32))
    run.measure("launch", lambda: {"us_per_op": 1e3 * timed(run, lambda: small.add_(1), 2000)[0]})
    run.measure("python", python)


def tests(run: Run) -> None:
    """The tests that need a GPU."""

    def pytest() -> dict[str, Any]:
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "-o", "filterwarnings="]
        # To collect all the others takes longer than to run these.
        files = [str(file) for file in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in file.read_text()]
        done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True)
        lines = done.stdout.splitlines()
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR", "E   "))]
        return {"rc": done.returncode, "summary": lines[-1:], "failed_tests": failed[:40]}

    run.measure("pytest -m gpu", pytest)
