"""Which devices there are, what is said when one is not, and what a device is asked."""

import warnings

import pytest
import torch
from pretended import PretendedGpus

from focalbench.devices import (
    available_precision,
    gpu_peaks_mb,
    reset_gpu_peaks,
    resolve_device,
    resolve_precision,
    use_device,
)
from focalbench.errors import ConfigError


@pytest.mark.parametrize("name", ["gpu", "foo", "cuda:x", "cuda:-1", "cpu:0", "meta", "CUDA", ""])
def test_what_is_no_device_is_refused_in_words(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^device: {name}: should be auto, cpu, cuda or cuda:N$"):
        resolve_device(name)


def test_a_gpu_that_is_not_there_is_named_with_what_is_and_what_is_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    PretendedGpus(monkeypatch, 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda:0")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    for name in ("cuda:3", "cuda:900"):
        with pytest.raises(
            ConfigError, match=rf"^device: {name}: this machine has 2 \(cuda:0 to cuda:1\); use --device"
        ):
            resolve_device(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    with pytest.raises(ConfigError, match=r"^run\.device: cuda:3: .*cuda:1, with CUDA_VISIBLE_DEVICES='4,6'\)"):
        resolve_device("cuda:3", "run.device")


@pytest.mark.parametrize(
    ("said", "visible", "words"),
    [
        ("No CUDA GPUs are available", "", "No CUDA GPUs are available, with CUDA_VISIBLE_DEVICES=''"),
        ("No CUDA GPUs are available", "-1", "No CUDA GPUs are available, with CUDA_VISIBLE_DEVICES='-1'"),
        ("Found no NVIDIA driver on your system. Please check that", None, "Found no NVIDIA driver on your system"),
        (
            "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by",
            None,
            "The NVIDIA driver on your system is too old (found version 11040); update the driver, or install a torch "
            "built for it: 2.11.0+cu130 is for CUDA 13.0",
        ),
    ],
)
def test_why_torch_sees_no_gpu_is_said_with_the_way_out_and_once(
    monkeypatch: pytest.MonkeyPatch, said: str, visible: str | None, words: str
) -> None:
    def warn_as_torch_does() -> bool:
        warnings.warn(f"CUDA initialization: {said}", stacklevel=2)
        return False

    def refuse() -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(torch.cuda, "is_available", warn_as_torch_does)
    monkeypatch.setattr(torch.cuda, "init", refuse)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch, "__version__", "2.11.0+cu130")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_device("auto") == torch.device("cpu")
        with pytest.raises(ConfigError) as refused:
            resolve_device("cuda")
    assert str(refused.value).startswith(f"device: cuda: torch sees no GPU on this machine: {words}; use --device cpu")


def test_a_torch_for_processors_only_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"is built without CUDA; install one that has it"):
        resolve_device("cuda:0")


def test_a_device_is_made_the_current_one_where_it_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = PretendedGpus(monkeypatch, 2)
    use_device(torch.device("cpu"))
    use_device(torch.device("cuda:1"))
    assert gpus.calls == [("set_device", "cuda:1")]


def test_a_precision_that_the_device_lacks_is_refused_for_training_and_replaced_for_looking() -> None:
    cpu = torch.device("cpu")
    with pytest.raises(ConfigError, match=r"optim\.precision: fp16 needs a GPU"):
        resolve_precision("fp16", cpu)
    assert available_precision("fp16", cpu) == torch.float32
    assert available_precision("bf16", cpu) == torch.bfloat16


def test_peaks_of_a_gpu_are_in_mebibytes_and_a_processor_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = PretendedGpus(monkeypatch, 3)
    reset_gpu_peaks(torch.device("cuda:2"))
    reset_gpu_peaks(torch.device("cpu"))
    assert gpus.calls == [("reset_peak_memory_stats", "cuda:2")]
    assert gpu_peaks_mb(torch.device("cuda:2")) == (6.0, 10.0)
    assert gpu_peaks_mb(torch.device("cpu")) == (None, None)
