"""What is raised where memory or a GPU gives out, told apart and put in words.

The classes of torch do not suffice for it: what fails within cuBLAS, cuDNN, a driver call, a kernel of Triton's or the
processor's allocator is a plain RuntimeError. So it is told by its text, and where that does not do, by asking the GPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from focalbench.errors import DeviceError, DeviceLostError, DeviceMemoryError, FocalbenchError

_NO_MEMORY = re.compile(r"out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED|can't allocate memory", re.IGNORECASE)
_HOST_MEMORY = re.compile(r"DefaultCPUAllocator|can't allocate memory")
_NO_KERNEL = re.compile(r"no kernel image is available|device kernel image is invalid|unsupported toolchain")
_OF_A_GPU = re.compile(r"CUDA( driver)? error|Triton Error \[CUDA\]|(CUBLAS|CUDNN|CUSOLVER)_STATUS_|CUDA_ERROR_")
# An operation's own fault, the same on every GPU ...
_OPERATION = re.compile(
    r"device-side assert|illegal (memory access|address|instruction)|misaligned|invalid program counter"
)
# ... or possibly that of the hardware. After any of these the process gets nothing but the same error from the GPU.
_HARDWARE = re.compile(
    r"launch (failure|failed|timed out)|launch timeout|uncorrectable|ECC error|GPU is lost|hardware stack"
    r"|busy or unavailable|unknown error|EXECUTION_FAILED"
)


@contextmanager
def device_faults(device: str, way_out: Callable[[], str]) -> Iterator[None]:
    """Turns what shows within the block that memory or a GPU has given out into a fault in words.

    Args:
        device: the one that is computed on, such as cuda:0.
        way_out: what to do when memory was short.

    Raises:
        DeviceMemoryError: on the GPU or of the machine.
        DeviceLostError: when this process can use the GPU no more.
        DeviceError: when this torch has no code for the GPU.
    """
    try:
        yield
    except Exception as fault:
        known = explained(fault, device, way_out)
        if known is None:
            raise
        raise known from fault


def explained(fault: Exception, device: str, way_out: Callable[[], str]) -> DeviceError | None:
    """Returns what to raise in the place of ``fault``; None when it is about something else, or in words already."""
    text = str(fault)
    if isinstance(fault, FocalbenchError):
        return None
    if isinstance(fault, MemoryError) or _HOST_MEMORY.search(text):
        return DeviceMemoryError(f"this machine is out of memory: {_first_line(fault)}; {way_out()}")
    if not isinstance(fault, RuntimeError):
        return None
    if _NO_MEMORY.search(text):
        return DeviceMemoryError(f"{device} is out of memory: {_what_was_free(fault)}; {way_out()}")
    if _NO_KERNEL.search(text):
        return DeviceError(
            f"this torch has no code for {device}: {_first_line(fault)}; use another GPU or "
            "--device cpu, or install a torch built for it (`focalbench doctor` shows both)"
        )
    if _OF_A_GPU.search(text) and (_OPERATION.search(text) or _HARDWARE.search(text) or not _answers()):
        hint = (
            "if it happens again, --device cpu shows which operation is wrong, and CUDA_LAUNCH_BLOCKING=1 where"
            if _OPERATION.search(text)
            else "nvidia-smi and the system log (Xid) show whether the GPU itself has failed"
        )
        return DeviceLostError(f"{device} is lost to this process: {_first_line(fault)}; {hint}")
    return None


def _answers() -> bool:
    """Whether the current GPU still does; waits for nothing, for another rank may never come."""
    import torch

    try:
        torch.cuda.current_stream().query()
    except (RuntimeError, AssertionError):
        return False
    return True


def _first_line(fault: BaseException) -> str:
    return (str(fault).strip() or type(fault).__name__).splitlines()[0].rstrip(".")


def _what_was_free(fault: RuntimeError) -> str:
    """The figures of torch's message, those of other processes among them; its first line where it has none."""
    text, amount = str(fault), r"([\d.]+) (bytes|[KMGT]iB)"
    asked = re.search(rf"Tried to allocate {amount}", text)
    room = re.search(rf"total capacity of {amount} of which {amount} is free", text)
    own = re.search(rf"this process has {amount} memory in use", text)
    if asked is None or room is None:
        return _first_line(fault)
    total, free = _gib(*room.groups()[:2]), _gib(*room.groups()[2:])
    words = f"{' '.join(asked.groups())} requested, and {free:.1f} of {total:.1f} GiB were free"
    if own is not None:
        held = _gib(*own.groups())
        words += f": this process had {held:.1f}, all others {max(0.0, total - free - held):.1f}"
    return words


def _gib(number: str, unit: str) -> float:
    return float(number) / 2 ** (10 * (3 - ("bytes", "KiB", "MiB", "GiB", "TiB").index(unit)))
