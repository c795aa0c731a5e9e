"""What the machine lacks is said before anything is read."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from focalbench.config.schema import ExperimentConfig
from focalbench.config.sweep import Trial, expand
from focalbench.errors import ConfigError
from focalbench.launchers import hardware
from focalbench.launchers.hardware import require_hardware

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there")


def _trials(*precisions: str) -> tuple[Trial, ...]:
    return expand(ExperimentConfig.model_validate({"sweep": {"grid": {"optim.precision": list(precisions)}}}))


def test_what_every_machine_has_is_accepted() -> None:
    require_hardware(_trials("auto", "fp32", "bf16"), "cpu")
    require_hardware(_trials("auto"), "auto")


@without_gpu
def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"run\.device: cuda:3: torch sees no GPU .* use --device cpu or auto"):
        require_hardware(_trials("auto"), "cuda:3")


@without_gpu
def test_a_precision_that_the_device_lacks_is_named_with_the_trials_that_want_it() -> None:
    with pytest.raises(ConfigError, match=r"optim\.precision: fp16 needs a GPU; use auto, bf16 or fp32$"):
        require_hardware(_trials("fp16"), "auto")
    with pytest.raises(ConfigError, match=r"fp16 needs a GPU.* \(1 of 2 trials, precision=fp16-s0-\w+ first\)"):
        require_hardware(_trials("fp32", "fp16"), "cpu")


def test_the_usual_case_does_not_load_torch() -> None:
    code = (
        "import sys; from focalbench.config.schema import ExperimentConfig\n"
        "from focalbench.config.sweep import expand\n"
        "from focalbench.launchers.hardware import require_hardware\n"
        "require_hardware(expand(ExperimentConfig()), 'cpu'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def _compiled(*values: bool) -> tuple[Trial, ...]:
    return expand(ExperimentConfig.model_validate({"sweep": {"grid": {"optim.compile": list(values)}}}))


@pytest.fixture
def no_compilers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine on whose PATH there is nothing."""
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize("device", ["cpu", pytest.param("auto", marks=without_gpu)])
def test_compile_without_a_compiler_is_refused_in_one_line(no_compilers: None, device: str) -> None:
    reason = r"^optim\.compile needs a C\+\+ compiler \((g\+\+|clang\+\+)\): install one, or leave compile out$"
    with pytest.raises(ConfigError, match=reason):
        require_hardware(_compiled(False, True), device)
    require_hardware(_compiled(False), device)


@pytest.mark.parametrize("status", [0, 1])
def test_the_compiler_that_is_named_in_cxx_has_to_run(
    no_compilers: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int
) -> None:
    (compiler := tmp_path / "own-c++").write_text(f"#!/bin/sh\nexit {status}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", f"{compiler} -m64")
    if status == 0:
        require_hardware(_compiled(True), "cpu")
        return
    with pytest.raises(ConfigError, match=r"optim\.compile .*: \$CXX=.*own-c\+\+ -m64 does not run: install one"):
        require_hardware(_compiled(True), "cpu")


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_gpu_without_a_c_compiler_is_refused_where_triton_is_installed(
    no_compilers: None, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(hardware, "has_gpu_driver", lambda: True)
    monkeypatch.setattr(hardware, "resolve_device", lambda *_: torch.device("cuda", 0))
    monkeypatch.setattr(hardware, "find_spec", lambda name: None)
    require_hardware(_compiled(False, True), device)
    monkeypatch.setattr(hardware, "find_spec", lambda name: name)
    with pytest.raises(
        ConfigError, match=r"run\.device: cuda:0: Triton needs a C compiler \(gcc\): install one, or use"
    ):
        require_hardware(_compiled(False), device)


def test_a_driver_whose_gpu_cannot_be_used_needs_no_c_compiler(
    no_compilers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "has_gpu_driver", lambda: True)
    monkeypatch.setattr(hardware, "resolve_device", lambda *_: torch.device("cpu"))
    require_hardware(_compiled(False), "auto")
    with pytest.raises(ConfigError, match=r"optim\.compile needs a C\+\+ compiler"):
        require_hardware(_compiled(True), "auto")
