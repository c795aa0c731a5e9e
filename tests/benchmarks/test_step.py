"""The contest of training steps is fair: the same network on both sides."""

import json

import pytest
import torch
from typer.testing import CliRunner

from focalbench.benchmarks.step import as_in_a_training, bench_config, bench_step, count_operations, torchvision_step
from focalbench.cli import app
from focalbench.errors import ConfigError
from focalbench.experiment.build import build_model
from focalbench.structures import Targets


def test_both_sides_have_the_same_number_of_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    real = torch.optim.SGD

    def counting(parameters, **options):  # type: ignore[no-untyped-def]
        parameters = list(parameters)
        counted.append(sum(p.numel() for p in parameters))
        return real(parameters, **options)

    monkeypatch.setattr(torch.optim, "SGD", counting)
    targets = Targets(torch.tensor([[[10.0, 10, 40, 40]]]), torch.tensor([[1]]))
    for tuned in (False, True):
        step = torchvision_step(torch.rand(1, 3, 64, 64), targets, 4, 64, torch.device("cpu"), tuned=tuned)
        assert step() > 0
    ours = build_model(bench_config(64, 1, "resnet18"), 4)
    # torchvision's subnets and pyramid are ours; only the classifier of its ResNet is gone on both sides.
    assert counted == [sum(p.numel() for p in ours.parameters())] * 2


def test_the_figures_belong_together() -> None:
    result = bench_step(device="cpu", backbone="tiny", repeats=1, cases={"small": (64, 2)})
    (case,) = result["cases"]
    assert case["speedup"] == {}  # torchvision has no such backbone
    ms = case["ms"]
    assert case["end_to_end"] == pytest.approx(ms["focalbench, one static batch"] / ms["focalbench"])
    assert case["images_per_s"]["focalbench"] == pytest.approx(2e3 / ms["focalbench"])
    assert case["gflop"] > 0.01
    assert 0 < case["of_product_rate"] < 2
    json.dumps(result)


def test_operations_are_counted_forward_and_backward() -> None:
    convolution = torch.nn.Conv2d(3, 5, 3, bias=False)
    images = torch.randn(2, 3, 10, 10)
    forward = 2 * 2 * 5 * 8 * 8 * 3 * 9
    assert count_operations(lambda: convolution(images)) == forward
    # the first layer needs no gradient of its input
    assert count_operations(lambda: convolution(images).sum().backward()) == 2 * forward


def test_growth_is_told_for_each_axis_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from focalbench.benchmarks import step

    monkeypatch.setattr(step, "GROWTH", {"canvas": (32, 64), "batch": (1, 2), "classes": (4, 6)})
    monkeypatch.setattr(step, "GROWTH_BASE", {"canvas": 64, "batch": 2, "classes": 5})
    seen: list[tuple[object, ...]] = []

    def medians(contestants, device, repeats):  # type: ignore[no-untyped-def]
        seen.append(tuple(contestants))
        for run in contestants.values():
            assert run()["loss"] > 0
        return {key: 0.001 * 4**index for index, key in enumerate(contestants)}

    monkeypatch.setattr(step, "median_seconds", medians)
    result = step.bench_growth(device="cpu")
    assert seen == [(32, 64), (1, 2), (4, 6)]
    growth = result["growth"]
    assert growth["canvas"]["ms"] == {32: 1.0, 64: 4.0}
    assert growth["canvas"]["exponent"] == pytest.approx(1)  # four times the pixels
    assert growth["batch"]["exponent"] == pytest.approx(2)
    json.dumps(result)


def test_steps_are_timed_with_what_a_training_sets_and_nothing_of_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from focalbench.benchmarks import step

    def settings() -> tuple[bool, ...]:
        return (
            torch.backends.cudnn.benchmark,
            torch.backends.cuda.matmul.allow_tf32,
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )

    seen: list[tuple[bool, ...]] = []
    monkeypatch.setattr(step, "_case", lambda *arguments: seen.append(settings()))
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        before = settings()
        bench_step(device="cpu", cases={"small": (64, 2)})
        assert settings() == before
        with pytest.raises(KeyError), as_in_a_training():
            raise KeyError
        assert settings() == before
    finally:
        torch.use_deterministic_algorithms(False)
    assert [found[:3] for found in seen] == [(True, True, False)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there")
def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="cuda"):
        bench_step(device="cuda")


def test_an_unknown_backbone_is_the_users_fault() -> None:
    ended = CliRunner().invoke(app, ["bench", "step", "--backbone", "vgg"])
    assert isinstance(ended.exception, ConfigError)
    assert "vgg" in str(ended.exception)
