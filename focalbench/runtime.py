"""The process: what libraries read when they load, threads, seeds, stop signals, memory, and what a result depends on.

Nothing here happens on import; torch is imported inside functions so that :func:`prepare_process` can run before it
loads.
"""

from __future__ import annotations

import gc
import os
import platform
import random
import resource
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from focalbench.devices import gpu_driver, num_gpus
from focalbench.errors import InterruptedTrial, StorageError
from focalbench.version import __version__

if TYPE_CHECKING:
    import torch

# Many models or image sizes in one process thrash oneDNN's default cache of 1024 primitives: measured three times
# slower.
_PRIMITIVE_CACHE = "16384"
# glibc's malloc gives every block above 128 KiB back to the system when it is freed, and each step then faults all its
# activations in again: 32,000 pages a step at 192 x 256, an eighth of its time. Blocks up to this size are kept.
_KEPT_BLOCK = 2**30
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # SLURM sends SIGUSR1 ahead of the time limit


def prepare_process() -> None:
    """Sets what libraries read once, when they load; values that the user has set stay. Call before torch is
    imported.

    Raises:
        StorageError: as :func:`choose_cache_dir`.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _PRIMITIVE_CACHE)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # what Ray holds back comes when it shuts down, after the results
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning at each start
    # By themselves these two write to folders of their own, wherever nobody looks for them.
    folder = _cache_of_libraries()
    os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "torchinductor"))
    _keep_freed_memory()


def _cache_of_libraries() -> Path:
    """The folder of caches, or the temporary one where that cannot be written: without one torch is not imported."""
    folder = choose_cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return _own_temporary_folder()
    return folder if os.access(folder, os.W_OK | os.X_OK) else _own_temporary_folder()


def _keep_freed_memory() -> None:
    """Lets malloc hand freed memory to the next step instead of the system; elsewhere than in glibc, nothing."""
    if sys.platform != "linux" or any(name in os.environ for name in ("MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")):
        return
    import ctypes

    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BLOCK)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def quick_imports() -> Iterator[None]:
    """Turns the garbage collector off within the block; what is there at its end is never searched again.

    torch's import makes hundreds of thousands of objects that stay; looking through them again and again is a seventh
    of it.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def choose_cache_dir(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Returns the folder of caches: ``cache_dir``, else $FOCALBENCH_CACHE, else one in the user's cache folder.

    The system's temporary folder, as a last resort, serves accounts without a home (containers, batch jobs).

    Raises:
        StorageError: when there is only the temporary folder, and somebody else may write to what would be ours.
    """
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    if os.environ.get("FOCALBENCH_CACHE"):
        return Path(os.environ["FOCALBENCH_CACHE"]).expanduser()
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "focalbench"
    with suppress(RuntimeError):
        home = Path.home()
        if os.access(home, os.W_OK):
            return home / ".cache" / "focalbench"
    return _own_temporary_folder()


def _own_temporary_folder() -> Path:
    """Everybody may write to the system's temporary folder, and may have prepared one of this name for us."""
    folder = Path(tempfile.gettempdir()) / f"focalbench-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise StorageError(f"{folder}: others can write there; set FOCALBENCH_CACHE to a folder of your own")
    return folder


def set_threads(num_threads: int) -> None:
    """Intra-op threads of torch in this process; results on a CPU are bit-identical for the same number only."""
    import torch

    torch.set_num_threads(num_threads)


def num_cores() -> int:
    """Returns how many cores this process may use: containers and SLURM grant fewer than the machine has."""
    # macOS cannot tell them apart.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def seed_everything(seed: int) -> None:
    """Seeds Python, numpy and torch. Batches and augmentation do not depend on it: they are functions of (seed,
    step).
    """
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def rng_state(device: torch.device) -> dict[str, Any]:
    """State of the generators of Python, numpy, torch and ``device``, in types that ``torch.load(weights_only=True)``
    accepts.
    """
    import numpy as np
    import torch

    version, keys, gauss = random.getstate()
    numpy: Any = np.random.get_state(legacy=False)
    return {
        "python": [version, list(keys), gauss],
        "numpy": {**numpy, "state": {**numpy["state"], "key": numpy["state"]["key"].tolist()}},
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device)] if device.type == "cuda" else [],
    }


def restore_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Restores what :func:`rng_state` returned, on this GPU or another."""
    import numpy as np
    import torch

    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    inner = state["numpy"]["state"]
    np.random.set_state({**state["numpy"], "state": {**inner, "key": np.array(inner["key"], dtype=np.uint32)}})
    torch.set_rng_state(state["torch"])
    if state["cuda"] and device.index is not None:
        # A list of several holds the states of all GPUs of the machine that wrote it.
        place = device.index if device.index < len(state["cuda"]) else 0
        torch.cuda.set_rng_state(state["cuda"][place], device)


class StopFlag:
    """Whether a stop was asked for, and by which signal. Handlers only set it; who is at work looks at it between two
    images or steps.

    Args:
        of: another flag that counts for this one too, but not the other way round.
    """

    def __init__(self, of: StopFlag | None = None) -> None:
        self._of = of
        self._signum: int | None = None

    @property
    def signum(self) -> int | None:
        """The signal; None while no stop was asked for."""
        return self._signum if self._of is None or self._of.signum is None else self._of.signum

    def request(self, signum: int) -> None:
        """Asks for a stop as if ``signum`` had arrived; the first one counts, and SIGUSR1 counts as SIGTERM."""
        if self._signum is None:
            self._signum = int(signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM)

    def interruption(self, where: str) -> InterruptedTrial:
        """Returns what to raise for a stop, of this process or of another rank of the trial."""
        signum = self.signum or signal.SIGTERM
        return InterruptedTrial(f"stopped by {signal.Signals(signum).name} {where}", int(signum))

    def raise_if_set(self, where: str) -> None:
        """Raises InterruptedTrial when a stop was asked for."""
        if self.signum is not None:
            raise self.interruption(where)


@contextmanager
def stop_on_signals(flag: StopFlag) -> Iterator[StopFlag]:
    """Within the block SIGINT, SIGTERM and SIGUSR1 set ``flag``; the handlers found before come back after it.

    Outside the main thread, where Python allows no handlers, the block runs without.
    """
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def handler(signum: int, frame: FrameType | None) -> None:
        flag.request(signum)

    before = {signum: signal.signal(signum, handler) for signum in _STOP_SIGNALS}
    try:
        yield flag
    finally:
        for signum, old in before.items():
            signal.signal(signum, old)


def free_memory() -> int | None:
    """Returns the bytes that may still be taken without swapping, by the system's estimate and the container's limit;
    None where neither tells.
    """
    found = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError, ValueError, IndexError):  # "max" where there is no limit
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        details = Path("/sys/fs/cgroup/memory.stat").read_text().splitlines()
        files = sum(int(line.split()[1]) for line in details if line.startswith("inactive_file "))
        found.append(max(0, limit - used + files))  # pages of files give way
    return min(found, default=None)


def peak_memory_mb() -> float:
    """Returns the largest resident memory of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if os.uname().sysname != "Darwin" else peak / 2**20


def release_memory() -> None:
    """Gives back what a trial has left: objects that hold each other, and the blocks that torch keeps on the GPU."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def environment(device: torch.device | None = None) -> dict[str, str | int]:
    """Versions and hardware that a result depends on; saved with it.

    Args:
        device: what was computed on; None names the GPU that is current, where there is one.
    """
    import torch
    import torchvision

    facts: dict[str, str | int] = {
        "focalbench": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": num_cores(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
    if num_gpus() if device is None else device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = str(torch.version.cuda)
        facts |= {"driver": driver} if (driver := gpu_driver()) else {}
    if "timm" in sys.modules:  # loaded by a backbone that is one of its networks
        facts["timm"] = sys.modules["timm"].__version__
    return facts


def _processor() -> str:
    """The processor's name, as the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
