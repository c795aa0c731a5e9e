"""Whether this machine has what the trials ask for: said before the first image is read."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from focalbench.config.sweep import Trial
from focalbench.devices import has_gpu_driver, resolve_device, resolve_precision
from focalbench.errors import ConfigError

if TYPE_CHECKING:
    import torch


def require_hardware(trials: Sequence[Trial], device: str) -> None:
    """Resolves device and precision of all trials, and looks for the compilers that they need; what every machine has
    is not asked, for torch takes time to load.

    Args:
        device: auto | cpu | cuda | cuda:N.

    Raises:
        ConfigError: for a GPU or a compiler that is not there, or the trials whose precision the device lacks.
    """
    asking: dict[str, list[str]] = {}
    for trial in trials:
        asking.setdefault(trial.config.optim.precision, []).append(trial.name)
    special = [name for name in asking if name not in ("auto", "fp32")]
    may_be_gpu = device.startswith("cuda") or (device == "auto" and has_gpu_driver())
    lacks_compiler = may_be_gpu and c_compiler() is None
    if device in ("auto", "cpu") and not special and not lacks_compiler:
        _require_cpp_compiler(trials, is_gpu=may_be_gpu)
        return
    where = resolve_device(device, "run.device")
    if lacks_compiler:
        _require_c_compiler(where)
    _require_cpp_compiler(trials, is_gpu=where.type == "cuda")
    for name in special:
        try:
            resolve_precision(name, where)
        except ConfigError as fault:
            share = asking[name]
            if len(share) == len(trials):
                raise
            raise ConfigError(f"{fault} ({len(share)} of {len(trials)} trials, {share[0]} first)") from fault


def _require_cpp_compiler(trials: Sequence[Trial], *, is_gpu: bool) -> None:
    """Of what torch.compile makes for a GPU, Triton compiles nearly all; its few parts for the processor are left to
    the training.
    """
    if not is_gpu and any(trial.config.optim.compile for trial in trials) and cpp_compiler() is None:
        raise ConfigError(_missing("optim.compile needs", "C++ compiler", "CXX", cpp_name()) + ", or leave compile out")


def _require_c_compiler(device: torch.device) -> None:
    if device.type == "cuda" and find_spec("triton") is not None:
        raise ConfigError(_missing(f"run.device: {device}: Triton needs", "C compiler", "CC", "gcc") + ", or use cpu")


def _missing(who_needs: str, compiler: str, variable: str, usual: str) -> str:
    found = f" ({usual})" if variable not in os.environ else f": ${variable}={os.environ[variable]} does not run"
    return f"{who_needs} a {compiler}{found}: install one"


def cpp_name() -> str:
    """Returns the C++ compiler that torch.compile takes on this system unless $CXX names another."""
    return "clang++" if sys.platform == "darwin" else "g++"


def cpp_compiler() -> str | None:
    """Returns the command of the C++ compiler that torch.compile calls for a processor; None where it does not run."""
    return _running([os.environ.get("CXX", cpp_name())])


def c_compiler() -> str | None:
    """Returns the command of the C compiler that Triton calls for its launchers; None where it does not run."""
    return _running([os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"])


def _running(commands: Sequence[str]) -> str | None:
    """The first of the commands that tells its version."""
    for command in commands:
        try:
            subprocess.run([*shlex.split(command), "--version"], check=True, capture_output=True, timeout=60)
        except (OSError, ValueError, subprocess.SubprocessError):
            continue
        return command
    return None
