"""``doctor``: every finding shown, every missing thing with its remedy."""

import json
import re
from importlib.metadata import metadata

import pytest
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
    assert set(advised) <= set(metadata("focalbench").get_all("Provides-Extra"))


def test_data_folder_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("FOCALBENCH_DATA", str(tmp_path))
    assert str(tmp_path) in call()
    monkeypatch.setenv("FOCALBENCH_DATA", str(tmp_path / "gone"))
    assert "is no folder" in call()


@pytest.mark.parametrize("folder", ["sub", "sub/deeper"])
def test_cache_folder_need_not_exist_yet(monkeypatch, tmp_path, folder):
    monkeypatch.setenv("FOCALBENCH_CACHE", str(tmp_path / folder))
    (finding,) = [finding for finding in json.loads(call("--json"))["findings"] if finding["name"] == "cache"]
    assert finding["value"].startswith(str(tmp_path / folder))
    assert not (tmp_path / "sub").exists()
