"""Memory and GPUs that give out are told apart by what torch says, and put in words with the way out."""

import pytest
import torch

from focalbench.device_faults import device_faults, explained
from focalbench.errors import ConfigError, DeviceError, DeviceLostError, DeviceMemoryError

_DETAILS = (
    "\nSearch for `cudaErrorAssert' in https://docs.nvidia.com/cuda for more information.\nCUDA kernel errors might be "
    "asynchronously reported at some other API call, so the stacktrace below might be incorrect.\n"
)
_OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 512.00 MiB. GPU 1 has a total capacity of 79.11 GiB of which 204.50 MiB is "
    "free. Process 41 has 40.02 GiB memory in use. Including non-PyTorch memory, this process has 38.00 GiB memory in "
    "use. Of the allocated memory 37.00 GiB is allocated by PyTorch, and 200.00 MiB is reserved by PyTorch but "
    "unallocated."
)


def _known(fault: Exception) -> DeviceError | None:
    return explained(fault, "cuda:1", lambda: "WAY OUT")


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that still answers: its errors left nothing behind."""

    class Stream:
        def query(self) -> bool:
            return True

    monkeypatch.setattr(torch.cuda, "current_stream", Stream)


def test_memory_of_a_gpu_that_is_used_up_comes_with_the_figures_and_who_holds_the_rest() -> None:
    fault = _known(torch.OutOfMemoryError(_OUT_OF_MEMORY))
    assert isinstance(fault, DeviceMemoryError)
    assert fault.exit_code == 2
    assert str(fault) == (
        "cuda:1 is out of memory: 512.00 MiB requested, and 0.2 of 79.1 GiB were free: this process had 38.0, all "
        "others 40.9; WAY OUT"
    )


@pytest.mark.parametrize(
    "fault",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        torch.AcceleratorError("CUDA error: out of memory" + _DETAILS),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
)
def test_libraries_that_find_no_memory_on_the_gpu_count_as_torch_does(fault: Exception) -> None:
    known = _known(fault)
    assert isinstance(known, DeviceMemoryError)
    assert str(known) == f"cuda:1 is out of memory: {str(fault).splitlines()[0]}; WAY OUT"


def test_memory_of_the_machine_that_is_used_up_is_named_as_such() -> None:
    with (
        pytest.raises(DeviceMemoryError, match=r"^this machine is out of memory: .*allocate.* bytes.*; WAY OUT$"),
        device_faults("cpu", lambda: "WAY OUT"),
    ):
        torch.empty(2**55)
    assert str(_known(MemoryError())) == "this machine is out of memory: MemoryError; WAY OUT"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("CUDA error: device-side assert triggered", "--device cpu shows which operation"),
        ("CUDA error: an illegal memory access was encountered", "--device cpu shows which operation"),
        ("CUDA error: misaligned address", "--device cpu shows which operation"),
        ("Triton Error [CUDA]: an illegal memory access was encountered", "--device cpu shows which operation"),
        ("CUDA error: unspecified launch failure", "nvidia-smi"),
        ("CUDA error: uncorrectable ECC error encountered", "nvidia-smi"),
        ("CUDA error: unknown error", "nvidia-smi"),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`", "nvidia-smi"),
    ],
)
@pytest.mark.usefixtures("answering")
def test_errors_after_which_a_gpu_answers_no_more_lose_it_to_the_process(text: str, hint: str) -> None:
    for kind in (torch.AcceleratorError, RuntimeError):
        fault = _known(kind(text + _DETAILS))
        assert isinstance(fault, DeviceLostError)
        assert fault.exit_code == 3
        assert str(fault).startswith(f"cuda:1 is lost to this process: {text}; ")
        assert hint in str(fault)


def test_of_other_errors_the_gpu_itself_tells_whether_it_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = torch.AcceleratorError("CUDA error: invalid argument" + _DETAILS)

    class Stream:
        def query(self) -> bool:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    assert isinstance(_known(fault), DeviceLostError)


@pytest.mark.usefixtures("answering")
def test_what_leaves_the_gpu_whole_is_no_fault_of_it() -> None:
    assert _known(torch.AcceleratorError("CUDA error: invalid argument" + _DETAILS)) is None


def test_a_gpu_that_torch_has_no_code_for_is_named_with_the_way_out() -> None:
    fault = _known(torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device"))
    assert type(fault) is DeviceError
    assert fault.exit_code == 2
    assert "this torch has no code for cuda:1" in str(fault)
    assert "install a torch built for it" in str(fault)


@pytest.mark.parametrize(
    "fault", [KeyError("out of memory"), RuntimeError("shape mismatch"), ConfigError("out of memory")]
)
def test_everything_else_stays_as_it_is(fault: Exception) -> None:
    assert _known(fault) is None
    with pytest.raises(type(fault)) as found, device_faults("cuda:1", lambda: "WAY OUT"):
        raise fault
    assert found.value is fault
