"""scripts/gpu_figures.py does what it says, as far as a CPU can show."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "gpu_figures.py"


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_figures", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_figures"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _measure(figures: ModuleType, *names: str, limit_s: float = 1e9, **plan: Any) -> dict[str, Any]:
    saved: list[str] = []
    small = {"device": "cpu", "loss_sizes": {"tiny": 400}, "step_cases": {"tiny": (64, 2)}, "repeats": 1}
    document = figures.measure(
        figures.Plan(**{**small, **plan}), list(names), limit_s, lambda done: saved.append(json.dumps(done))
    )
    if limit_s > 1e6:
        assert json.loads(saved[-1]) == json.loads(json.dumps(document))  # nothing is lost when it is cut off
        assert len(saved) == len(names)
    return document["parts"]


def test_loss_and_step_bring_their_ratios(figures: ModuleType) -> None:
    parts = _measure(figures, "loss", "step")
    assert all(case["of_copy"] > 0 and "of_copy at most" in case["wanted"] for case in parts["loss"]["cases"])
    (case,) = parts["step"]["cases"]
    assert (case["size"], case["batch"], case["graphed"]) == (64, 2, None)
    assert all(ratio > 0 for ratio in case["speedup"].values())


def test_what_needs_a_gpu_or_a_data_set_says_so(figures: ModuleType) -> None:
    parts = _measure(figures, "graph", "waiting", "training")
    assert parts["graph"]["not measured"] == parts["waiting"]["not measured"] == "there is no GPU"
    assert "--data" in parts["training"]["not measured"]


def test_a_whole_training_brings_its_speed_and_map(figures: ModuleType, trained: Any) -> None:
    changes = {
        "data": {"train": ["2007/train"], "val": ["2007/val"], "image_size": 64},
        "model": {"backbone": "tiny"},
        "optim": {"steps": 2, "batch_size": 4, "warmup_steps": 1},
    }
    found = _measure(figures, "training", data=trained.data_root, training=changes)["training"]
    assert found["steps"] == 2
    assert found["images_per_s"] > 0
    assert 0 <= found["val/mAP"] <= 1
    assert found["train_images"] == 12


def test_trials_on_one_device_are_timed_for_each_number(figures: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def bench(*, trials_per_device: int, counts: tuple[int, ...], **options: Any) -> list[dict[str, float]]:
        assert counts == (4,)
        return [{"trials": 4, "seconds": 12.0 / trials_per_device}]

    monkeypatch.setattr(figures, "bench_trials", bench)
    found = _measure(figures, "trials_per_device")["trials_per_device"]
    assert found["seconds"] == {1: 12.0, 2: 6.0, 4: 3.0}


def test_a_part_that_fails_leaves_its_reason_and_the_others_go_on(
    figures: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(plan: object) -> dict[str, Any]:
        raise RuntimeError("out of memory")

    monkeypatch.setitem(figures.PARTS, "loss", fail)
    parts = _measure(figures, "loss", "training")
    assert parts["loss"]["not measured"] == "RuntimeError: out of memory"
    assert "--data" in parts["training"]["not measured"]


def test_no_part_begins_that_could_not_end_in_time(figures: ModuleType) -> None:
    parts = _measure(figures, "training", "waiting", limit_s=100.0)
    assert parts["training"] == {"not measured": "no time left"}
    assert parts["waiting"]["not measured"] == "there is no GPU"


def test_the_losses_that_are_compared_come_from_equal_trainings(
    figures: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = figures.Plan("cpu", canvas=64)
    losses: Callable[..., list[float]] = figures._losses
    first, second = (losses(plan, figures.torch.device("cpu"), figures.train_step, 2) for _ in range(2))
    assert first == second
    assert first[0] != first[1]
    assert figures._largest_difference([1.0, 2.2], [1.0, 2.0]) == pytest.approx(0.1)
