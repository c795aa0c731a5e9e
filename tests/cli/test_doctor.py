"""``doctor``: every finding shown, every missing thing with its remedy."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from focalbench.cli import app, doctor


def call(*arguments):
    result = CliRunner().invoke(app, ["doctor", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_json_and_table_say_the_same():
    findings = json.loads(call("--json"))["findings"]
    names = [finding["name"] for finding in findings]
    assert {
        "focalbench",
        "torch",
        "processor",
        "bf16 on the processor",
        "torch.compile",
        "tensorboard",
        "cache",
    } <= set(names)
    table = call()
    for finding in findings:
        assert finding["name"] in table
        assert finding["good"] or finding["advice"], finding
        if finding["advice"]:
            assert f"{finding['name']}: {finding['advice']}" in table.splitlines()


def test_missing_packages_come_with_the_command_that_installs_them(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    lines = call().splitlines()
    assert "tensorboard: pip install tensorboard" in lines
    assert "onnx: for export to ONNX: pip install 'focalbench[onnx]'" in lines
    assert "onnxscript: for export to ONNX: pip install 'focalbench[onnx]'" in lines
    assert "optuna: for sweep.search: pip install 'focalbench[search]'" in lines


def test_memory_is_what_the_container_leaves(monkeypatch):
    monkeypatch.setattr("focalbench.runtime.free_memory", lambda: 2**30)
    (finding,) = [finding for finding in json.loads(call("--json"))["findings"] if finding["name"] == "memory"]
    assert (finding["value"], finding["good"]) == ("1.0 GB free", False)


def test_no_extra_is_advised_that_cannot_be_installed(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    advised = re.findall(r"pip install 'focalbench\[(\w+)\]'", call())
    assert advised
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert set(advised) <= set(project["optional-dependencies"])


def test_data_folder_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("FOCALBENCH_DATA", str(tmp_path))
    assert str(tmp_path) in call()
    monkeypatch.setenv("FOCALBENCH_DATA", str(tmp_path / "gone"))
    assert "is not a folder" in call()


@pytest.mark.parametrize("folder", ["sub", "sub/deeper"])
def test_cache_folder_need_not_exist_yet(monkeypatch, tmp_path, folder):
    monkeypatch.setenv("FOCALBENCH_CACHE", str(tmp_path / folder))
    (finding,) = [finding for finding in json.loads(call("--json"))["findings"] if finding["name"] == "cache"]
    assert finding["value"].startswith(str(tmp_path / folder))
    assert not (tmp_path / "sub").exists()


class _Properties:
    def __init__(self, name, gib, major, minor):
        self.name, self.total_memory, self.major, self.minor = name, gib * 2**30, major, minor


def _gpus(monkeypatch, *properties, built_for=("sm_75", "sm_90", "compute_120")):
    """A machine with these GPUs, as torch shows it; returns what doctor finds, by name."""
    cuda = torch.cuda
    monkeypatch.setattr(cuda, "is_available", lambda: bool(properties))
    monkeypatch.setattr(cuda, "device_count", lambda: len(properties))
    monkeypatch.setattr(cuda, "get_device_properties", lambda index: properties[index])
    monkeypatch.setattr(
        cuda, "get_device_capability", lambda device: (properties[device.index].major, properties[device.index].minor)
    )
    monkeypatch.setattr(cuda, "get_arch_list", lambda: list(built_for))
    monkeypatch.setattr("focalbench.devices.gpu_driver", lambda: "570.86.15")
    return {finding["name"]: finding for finding in json.loads(call("--json"))["findings"]}


def test_each_gpu_has_its_name_memory_capability_and_whether_bf16_is_fast(monkeypatch):
    found = _gpus(monkeypatch, _Properties("NVIDIA H100", 80, 9, 0), _Properties("Tesla T4", 15, 7, 5))
    assert found["GPU driver"]["value"] == "570.86.15"
    assert found["GPU cuda:0"]["value"] == "NVIDIA H100, 80 GiB, compute 9.0, bf16 fast"
    assert (found["GPU cuda:0"]["good"], found["GPU cuda:0"]["advice"]) == (True, "")
    assert found["GPU cuda:1"]["value"] == "Tesla T4, 15 GiB, compute 7.5, bf16 not fast"
    assert "optim.precision: fp16" in found["GPU cuda:1"]["advice"]


@pytest.mark.parametrize(
    ("capability", "runs"),
    [((7, 0), False), ((7, 5), True), ((8, 6), False), ((9, 0), True), ((9, 1), True), ((12, 1), True)],
)
def test_a_gpu_that_this_torch_has_no_code_for_is_told(monkeypatch, capability, runs):
    found = _gpus(monkeypatch, _Properties("GPU", 8, *capability))["GPU cuda:0"]
    assert ("this torch is built for sm_75, sm_90, compute_120" in found["advice"]) == (not runs)


def test_why_there_is_no_gpu_and_what_triton_is_for_are_told(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    monkeypatch.setattr("focalbench.devices.why_no_gpu", lambda: "the driver is too old")
    found = _gpus(monkeypatch)
    assert found["GPU"]["value"] == "none: the driver is too old"
    assert found["triton"]["advice"].endswith("pip install triton; without a GPU it is not needed")
    found = _gpus(monkeypatch, _Properties("NVIDIA H100", 80, 9, 0))
    assert found["triton"]["advice"] == (
        "on a GPU Triton computes the loss in one kernel, torch in many: pip install triton"
    )
