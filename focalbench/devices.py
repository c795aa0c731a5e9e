"""Devices: which there are and why not, the one that a process uses, its precision, determinism and memory.

torch is imported inside functions so that :func:`focalbench.runtime.prepare_process` can run before it loads.
"""

from __future__ import annotations

import os
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from focalbench.errors import ConfigError

if TYPE_CHECKING:
    import torch

_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,3})?")
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""torch's names for those of the configuration."""


def has_gpu_driver() -> bool:
    """Tells from the driver's device files, without loading torch, whether a GPU could be there at all."""
    return any(os.path.exists(path) for path in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))


def gpu_driver() -> str:
    """Returns the version of NVIDIA's driver, empty where the system does not tell."""
    with suppress(OSError):
        first = Path("/proc/driver/nvidia/version").read_text(errors="replace").partition("\n")[0]
        found = re.search(r"\b\d{3,}(\.\d+)+\b", first)
        return found.group() if found else ""
    return ""


def resolve_device(name: str, key: str = "device") -> torch.device:
    """Returns the device for ``auto | cpu | cuda | cuda:N``.

    Args:
        key: where the user has named it.

    Raises:
        ConfigError: for any other text, or when the GPU asked for is not there.
    """
    import torch

    if _DEVICE.fullmatch(name) is None:
        raise ConfigError(f"{key}: {name}: should be auto, cpu, cuda or cuda:N")
    count = 0 if name == "cpu" else num_gpus()
    if name == "cpu" or (name == "auto" and not count):
        return torch.device("cpu")
    index = int(name.partition(":")[2] or 0)  # torch's own wraps around above 127
    if index < count:
        return torch.device("cuda", index)
    if count:
        found = f"this machine has {count} (cuda:0 to cuda:{count - 1}{visible_gpus()})"
    else:
        found = f"torch sees no GPU on this machine: {why_no_gpu()}"
    raise ConfigError(f"{key}: {name}: {found}; use --device cpu or auto, and `focalbench doctor` to see what is there")


def num_gpus() -> int:
    """Returns how many GPUs torch can use; :func:`why_no_gpu` has the words for what it warns about otherwise."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.cuda.device_count() if torch.cuda.is_available() else 0


def why_no_gpu() -> str:
    """Returns the reason why torch can use no GPU, and the way out: no driver, one that is too old for this torch, a
    torch for processors only, or GPUs that are hidden.
    """
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built without CUDA; install one that has it (pytorch.org, Get Started)"
    try:
        torch.cuda.init()
        reason = "it cannot be used"
    except (RuntimeError, AssertionError) as fault:
        reason = _first_sentence(fault)
    if "too old" in reason:
        reason += f"; update the driver, or install a torch built for it: {torch.__version__} is for CUDA"
        reason += f" {torch.version.cuda}"
    return reason + visible_gpus()


def visible_gpus() -> str:
    """Returns, to end a sentence about GPUs, what CUDA_VISIBLE_DEVICES leaves of them; empty where it is not set."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f", with CUDA_VISIBLE_DEVICES='{visible}'"


def _first_sentence(fault: BaseException) -> str:
    """Of torch's words, which go on with addresses."""
    return re.split(r"\.\s", str(fault).strip())[0].rstrip(".")


def use_device(device: torch.device) -> None:
    """Makes a GPU the one that libraries and kernels take by default in this thread; without it they take the first of
    the machine, and memory there.

    Call it before anything else asks for the GPU.
    """
    import torch

    if device.type == "cuda":
        torch.cuda.set_device(device)


def has_fast_bf16(device: torch.device) -> bool:
    """Tells whether bfloat16 is faster than float32 there: AVX-512 BF16 or AMX on a CPU, Ampere or newer on a GPU."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """Returns the dtype of the network's arithmetic for ``auto | fp32 | bf16 | fp16``.

    Raises:
        ConfigError: when the device cannot do what was asked.
    """
    import torch

    if name == "auto":
        return torch.bfloat16 if has_fast_bf16(device) else torch.float32
    if name == "fp16" and device.type != "cuda":
        raise ConfigError("optim.precision: fp16 needs a GPU; use auto, bf16 or fp32")
    if name == "bf16" and device.type == "cuda" and not has_fast_bf16(device):
        raise ConfigError(f"optim.precision: bf16 is not available on {device}; use auto, fp16 or fp32")
    return getattr(torch, PRECISIONS[name])


def available_precision(name: str, device: torch.device) -> torch.dtype:
    """As :func:`resolve_precision`, but float32 where the device lacks what was asked for: to look at what was trained
    elsewhere.
    """
    import torch

    try:
        return resolve_precision(name, device)
    except ConfigError:
        return torch.float32


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Returns a context in which the network computes in ``precision`` on ``device``; float32: as it is."""
    import torch

    return torch.autocast(device.type, precision, enabled=precision != torch.float32)


def set_determinism(deterministic: bool) -> None:
    """Bit-identical GPU kernels where torch has them (slower), or the fastest."""
    import torch

    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cuda.matmul.allow_tf32 = not deterministic


def reset_gpu_peaks(device: torch.device) -> None:
    """Lets :func:`gpu_peaks_mb` begin anew: a process trains several trials."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def gpu_peaks_mb(device: torch.device) -> tuple[float | None, float | None]:
    """Returns the most memory of the GPU that tensors took, and that torch held for them, MiB; None for a CPU.

    What the process takes besides, its context and libraries, is in neither.
    """
    import torch

    if device.type != "cuda":
        return None, None
    return torch.cuda.max_memory_allocated(device) / 2**20, torch.cuda.max_memory_reserved(device) / 2**20
