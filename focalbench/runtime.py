"""The process and its hardware: environment, device, precision, seeds, threads, stop signals.

Nothing here happens on import; torch is imported inside functions so that :func:`prepare_process` can run before it
loads.
"""

from __future__ import annotations

import gc
import os
import platform
import random
import re
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

from focalbench.errors import ConfigError, InterruptedTrial, StorageError

if TYPE_CHECKING:
    import torch

# Many models or image sizes in one process thrash oneDNN's default cache of 1024 primitives: measured three times
# slower.
_PRIMITIVE_CACHE = "16384"
# glibc's malloc gives every block above 128 KiB back to the system when it is freed, and each step then faults all its
# activations in again: 32,000 pages a step at 192 x 256, an eighth of its time. Blocks up to this size are kept.
_KEPT_BLOCK = 2**30
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,3})?")
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""torch's names for those of the configuration."""
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
        raise StorageError(f"{folder}: somebody else may write there; set FOCALBENCH_CACHE to a folder for caches")
    return folder


def set_threads(num_threads: int) -> None:
    """Intra-op threads of torch in this process; results on a CPU are bit-identical for the same number only."""
    import torch

    torch.set_num_threads(num_threads)


def num_cores() -> int:
    """Returns how many cores this process may use: containers and SLURM grant fewer than the machine has."""
    # macOS cannot tell them apart.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_gpu_driver() -> bool:
    """Tells from the driver's device files, without loading torch, whether a GPU could be there at all."""
    return any(os.path.exists(path) for path in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))


def resolve_device(name: str) -> torch.device:
    """Returns the device for ``auto | cpu | cuda | cuda:N``.

    Raises:
        ConfigError: for any other text, or when the GPU asked for is not there.
    """
    import torch

    if _DEVICE.fullmatch(name) is None:
        raise ConfigError(f"device: {name}: should be auto, cpu, cuda or cuda:N")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = torch.device("cuda:0" if name in ("auto", "cuda") else name)
    if device.index is not None and device.index < count:
        return device
    found = f"this machine has {count} (cuda:0 to cuda:{count - 1})" if count else "torch sees no GPU on this machine"
    raise ConfigError(
        f"run.device: {name}: {found}; use --device cpu or auto, and `focalbench doctor` to see what is there"
    )


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


def seed_everything(seed: int) -> None:
    """Seeds Python, numpy and torch. Batches and augmentation do not depend on it: they are functions of (seed,
    step).
    """
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def set_determinism(deterministic: bool) -> None:
    """Bit-identical GPU kernels where torch has them (slower), or the fastest."""
    import torch

    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cuda.matmul.allow_tf32 = not deterministic


def rng_state() -> dict[str, Any]:
    """State of the generators of Python, numpy and torch, in types that ``torch.load(weights_only=True)`` accepts."""
    import numpy as np
    import torch

    version, keys, gauss = random.getstate()
    numpy: Any = np.random.get_state(legacy=False)
    return {
        "python": [version, list(keys), gauss],
        "numpy": {**numpy, "state": {**numpy["state"], "key": numpy["state"]["key"].tolist()}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_rng_state(state: dict[str, Any]) -> None:
    """Restores what :func:`rng_state` returned."""
    import numpy as np
    import torch

    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    inner = state["numpy"]["state"]
    np.random.set_state({**state["numpy"], "state": {**inner, "key": np.array(inner["key"], dtype=np.uint32)}})
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])


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


def environment() -> dict[str, str | int]:
    """Versions and hardware that a result depends on; saved with it."""
    import torch
    import torchvision

    import focalbench

    facts: dict[str, str | int] = {
        "focalbench": focalbench.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": num_cores(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
        facts["cuda"] = str(torch.version.cuda)
    return facts


def _processor() -> str:
    """The processor's name, as the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
