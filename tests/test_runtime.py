"""The process: where it may write, and how it is asked to stop."""

import gc
import os
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from pretended import PretendedGpus

from focalbench.errors import InterruptedTrial, StorageError
from focalbench.runtime import (
    StopFlag,
    choose_cache_dir,
    environment,
    free_memory,
    num_cores,
    prepare_process,
    release_memory,
    restore_rng_state,
    rng_state,
    stop_on_signals,
)


def test_the_cache_folder_follows_argument_then_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FOCALBENCH_CACHE", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert choose_cache_dir(tmp_path / "c") == tmp_path / "c"
    assert choose_cache_dir() == tmp_path / "a"
    monkeypatch.delenv("FOCALBENCH_CACHE")
    assert choose_cache_dir() == tmp_path / "b" / "focalbench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert choose_cache_dir() == tmp_path / ".cache" / "focalbench"


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An account without a home; returns its folder in the system's temporary one."""
    for name in ("FOCALBENCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "nowhere")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    return tmp_path / f"focalbench-{os.getuid()}"


def test_without_a_home_the_cache_is_a_temporary_folder_of_ones_own(homeless: Path) -> None:
    assert choose_cache_dir() == homeless
    assert homeless.stat().st_mode & 0o777 == 0o700
    assert choose_cache_dir() == homeless


@pytest.mark.parametrize("prepared", ["link", "open to all", "file"])
def test_a_temporary_folder_that_somebody_else_may_write_is_refused(
    homeless: Path, tmp_path: Path, prepared: str
) -> None:
    if prepared == "link":
        (tmp_path / "theirs").mkdir()
        homeless.symlink_to(tmp_path / "theirs")
    elif prepared == "file":
        homeless.touch()
    else:
        homeless.mkdir()
        homeless.chmod(0o777)
    with pytest.raises(StorageError, match="FOCALBENCH_CACHE"):
        choose_cache_dir()


def test_libraries_keep_their_files_in_the_cache_folder_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FOCALBENCH_CACHE", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("MPLCONFIGDIR", "/mine")
    prepare_process()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "torchinductor")
    assert os.environ["MPLCONFIGDIR"] == "/mine"


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="a matter of glibc")
@pytest.mark.parametrize("setting", [{}, {"MALLOC_MMAP_THRESHOLD_": "131072"}], ids=["ours", "the user's"])
def test_freed_memory_is_used_again_without_asking_the_system_unless_the_user_says_otherwise(
    setting: dict[str, str],
) -> None:
    code = (
        "import resource; from focalbench.runtime import prepare_process; prepare_process()\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "block = b'x' * 2**26; del block\n"
        "before = faults(); block = b'y' * 2**26; print(faults() - before)"
    )
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**plain, **setting}
    )
    assert (int(done.stdout) > 10_000) == bool(setting)  # of 16384 pages


def test_while_modules_are_imported_nobody_looks_for_garbage() -> None:
    code = (
        "import gc; from focalbench.runtime import quick_imports\n"
        "with quick_imports(): print(gc.isenabled())\n"
        "print(gc.isenabled(), gc.get_freeze_count() > 1000)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True"]


@pytest.mark.parametrize(
    ("sent", "meant"),
    [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM), (signal.SIGUSR1, signal.SIGTERM)],
)
def test_signals_ask_for_a_stop_and_the_first_one_counts(sent: signal.Signals, meant: signal.Signals) -> None:
    stop = StopFlag()
    stop.raise_if_set("now")
    with stop_on_signals(stop):
        os.kill(os.getpid(), sent)
        os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(InterruptedTrial, match=f"stopped by {meant.name} now") as stopped:
        stop.raise_if_set("now")
    assert stopped.value.exit_code == 128 + meant


@pytest.mark.parametrize(
    ("container", "free"),
    [
        ({}, 4 * 2**20),
        ({"max": "max", "current": "1000", "stat": "inactive_file 0"}, 4 * 2**20),
        ({"max": "3000000", "current": "1000000", "stat": "anon 5\ninactive_file 200000"}, 2_200_000),
        ({"max": "1000", "current": "3000", "stat": "inactive_file 0"}, 0),
    ],
    ids=["no container", "no limit", "limit", "over the limit"],
)
def test_free_memory_is_the_systems_or_what_the_container_leaves(
    monkeypatch: pytest.MonkeyPatch, container: dict[str, str], free: int
) -> None:
    files = {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    4096 kB\n"}
    files |= {f"/sys/fs/cgroup/memory.{name}": text for name, text in container.items()}

    def read(path: Path) -> str:
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", read)
    assert free_memory() == free
    files.clear()
    assert free_memory() is None


def test_cores_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5, 7}, raising=False)
    assert num_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 9)
    assert num_cores() == 9


def test_the_environment_of_a_result_names_the_processor_and_the_versions() -> None:
    facts = environment()
    assert facts["processor"]
    assert facts["cores"] == num_cores()
    assert {"torch", "torchvision", "python", "focalbench", "threads"} <= facts.keys()
    assert "gpu" not in environment(torch.device("cpu"))


def test_generators_are_saved_and_restored_for_the_device_of_the_trial_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = PretendedGpus(monkeypatch, 2)
    saved = rng_state(torch.device("cuda:1"))
    assert [state[0].item() for state in saved["cuda"]] == [1]
    gpus.states = {3: torch.zeros(16, dtype=torch.uint8)}  # on a machine with more
    restore_rng_state(saved, torch.device("cuda:3"))
    assert gpus.states[3][0].item() == 1
    restore_rng_state({**saved, "cuda": [torch.full((16,), 7 + place) for place in range(2)]}, torch.device("cuda:1"))
    assert gpus.states[1][0].item() == 8
    assert rng_state(torch.device("cpu"))["cuda"] == []
    restore_rng_state(saved, torch.device("cpu"))
    assert set(gpus.states) == {1, 3}


def test_the_environment_names_the_gpu_of_the_trial_and_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    PretendedGpus(monkeypatch, 2)
    text = (
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\nGCC version: gcc 12.3.0\n"
    )
    read = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda p, **k: text if "nvidia" in str(p) else read(p, **k))
    facts = environment(torch.device("cuda:1"))
    assert (facts["gpu"], facts["driver"]) == ("GPU 1", "570.86.15")


@pytest.mark.parametrize("initialised", [False, True])
def test_what_a_trial_left_is_let_go_of(monkeypatch: pytest.MonkeyPatch, initialised: bool) -> None:
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: initialised)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))

    def fail() -> weakref.ref[torch.Tensor]:
        activations = torch.zeros(3)
        try:
            raise RuntimeError("out of memory")
        except RuntimeError as fault:
            kept = fault  # the frame holds the fault, and its traceback the frame
        assert kept.__traceback__ is not None
        return weakref.ref(activations)

    gc.disable()
    try:
        left = fail()
        assert left() is not None
        release_memory()
        assert left() is None
    finally:
        gc.enable()
    assert emptied == [True] * initialised
