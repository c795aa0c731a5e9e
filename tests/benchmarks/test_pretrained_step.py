"""The contest of what makes a step from ImageNet weights quick: the means are what they are called."""

import json

import pytest
from typer.testing import CliRunner

from focalbench.benchmarks import pretrained_step
from focalbench.benchmarks.pretrained_step import BACKBONE, MEANS, bench_pretrained_step
from focalbench.cli import app
from focalbench.errors import ConfigError
from focalbench.models import depthwise


def test_the_figures_belong_together() -> None:
    result = bench_pretrained_step(canvas=64, batch=2, repeats=1)
    assert list(result["ms"]) == list(result["images_per_s"]) == list(MEANS)
    for name, ms in result["ms"].items():
        assert result["images_per_s"][name] == pytest.approx(2e3 / ms)
    assert result["backbone"] == BACKBONE
    json.dumps(result)


def test_only_the_contestants_that_say_so_have_focalbenchs_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    real = depthwise._weight_gradient

    def counting(*values):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        return real(*values)

    monkeypatch.setattr(depthwise, "_weight_gradient", counting)
    counted = []
    for means in MEANS.values():
        calls = 0
        pretrained_step._step(64, 2, *means)()
        counted.append(calls)
    assert counted[:2] == [0, 0]
    # The last four stages, the last three, the last two: fewer layers need a gradient.
    assert counted[2] >= counted[3] > counted[4] > 0


def test_a_gpu_is_refused() -> None:
    result = CliRunner().invoke(app, ["bench", "step", "--backbone", "efficientnet_lite0", "--device", "cuda"])
    assert isinstance(result.exception, ConfigError)
    assert "--device: cuda: with --backbone efficientnet_lite0, only a CPU is measured" in str(result.exception)
