"""One call of run: what it refuses before it reads anything, and in which order it trains."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from focalbench.config.load import load_config
from focalbench.errors import ConfigError, DataError
from focalbench.launchers.session import SessionOptions, check_all_data, run_session, seed_by_seed


def test_every_arm_gets_a_seed_before_any_gets_the_next(write_config: Callable[..., Path]) -> None:
    path = write_config("sweep: {seeds: [3, 1, 2], grid: {loss.gamma: [0, 1]}}")
    order = [(trial.seed, trial.arm) for trial in seed_by_seed(load_config(path).trials)]
    assert order == [(seed, arm) for seed in (3, 1, 2) for arm in ("gamma=0", "gamma=1")]


def _refusal(path: Path, out: Path, *overrides: str, error: type[Exception] = ConfigError) -> str:
    """What a run says whose data set is not there either; nothing is written."""
    experiment = load_config(path, ["data={name: voc, root: /nowhere}", *overrides])
    options = SessionOptions(experiment.config.run.device)
    with pytest.raises(error) as refused:
        run_session(experiment, out, options, lambda *_: None, print)
    assert not out.exists()
    return str(refused.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there")
def test_hardware_that_is_not_there_is_said_before_the_data_are_read(
    write_config: Callable[..., Path], tmp_path: Path
) -> None:
    assert "optim.precision: fp16 needs a GPU" in _refusal(write_config(), tmp_path / "o", "optim.precision=fp16")
    assert "run.device: cuda:3" in _refusal(write_config(), tmp_path / "o", "run.device=cuda:3")


def test_a_search_without_optuna_is_refused_before_the_rest_of_the_sweep_is_trained(
    write_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    search = "search: {num: 4, params: {loss.gamma: {uniform: [0, 5]}}}"
    path = write_config(f"sweep: {{grid: {{loss.alpha: [0.25, 0.5]}}, {search}}}")
    assert "Optuna is not installed" in _refusal(path, tmp_path / "o")


def test_a_sweep_with_a_network_of_timms_is_refused_where_timm_is_not_installed(
    write_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    path = write_config("sweep: {grid: {model.backbone: [tiny, timm/resnet18]}}")
    assert "model.backbone: timm/resnet18: timm is not installed" in _refusal(path, tmp_path / "o")


def test_the_check_fills_the_image_caches_of_the_trials_to_train(
    write_config: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    path = write_config("sweep: {list: [{data.fit: warp}, {data.fit: letterbox}, {data.image_size: 96}]}")

    def read(cache: str, **options: Any) -> list[str]:
        """The caches that are there once the data of the sweep are checked."""
        trials = load_config(path, [f"data.cache_dir={folder}", f"data.cache={cache}"]).trials
        fingerprints = check_all_data(trials, print, **options)
        assert set(fingerprints) == {trial.hash for trial in trials}
        return sorted(path.name.split("-")[-2] for path in folder.glob("*-*x*-*/") if (path / "meta.json").exists())

    assert read("disk", to_train=lambda trial: False) == []
    assert read("none") == read("ram") == []
    assert read("auto") == ["64x64"] * 4 + ["96x96"] * 2


def test_weight_files_that_are_none_are_all_told_before_the_data_are_read(
    write_config: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>")
    files = f"[{tmp_path}/page.pth, {tmp_path}/gone.pth, none]"
    path = write_config(f"sweep: {{seeds: [0, 1], grid: {{model.weights: {files}}}}}")
    assert _refusal(path, tmp_path / "o", error=DataError).splitlines() == [
        f"{tmp_path}/page.pth: is a web page, not weights: download the file itself, and check its size",
        f"{tmp_path}/gone.pth: no such weight file: model.weights is none, imagenet or the path of a file",
    ]


def test_weights_of_another_network_are_told_before_the_data_are_read(
    write_config: Callable[..., Path], tmp_path: Path
) -> None:
    torch.save({"conv.weight": torch.zeros(2)}, tmp_path / "net.pth")
    for model in ("{name: retinanet, backbone: tiny", "{name: retinanet, backbone: mobilenet_v3_large, norm: frozen"):
        override = f"model={model}, weights: {tmp_path}/net.pth}}"
        assert "net.pth: does not fit: " in _refusal(write_config(), tmp_path / "o", override, error=DataError)


def test_finished_trials_need_their_weight_file_no_more(
    write_config: Callable[..., Path], write_trial: Callable[..., Path], tmp_path: Path
) -> None:
    experiment = load_config(write_config(), ["model.weights=gone.pth"])
    (trial,) = experiment.trials
    write_trial(f"o/{trial.name}")

    def run(**options: bool) -> int:
        return run_session(experiment, tmp_path / "o", SessionOptions("cpu", **options), MagicMock(), print).exit_code

    assert run() == 0
    with pytest.raises(DataError, match=r"gone\.pth: no such weight file"):
        run(fresh=True)
