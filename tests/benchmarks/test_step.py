"""The contest of training steps is fair: the same network on both sides."""

import json
import subprocess
import sys

import pytest
import torch

from focalbench.benchmarks.step import bench_config, bench_step, torchvision_step
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
    step = torchvision_step(torch.rand(1, 3, 64, 64), targets, 4, 64, torch.device("cpu"))
    assert step() > 0
    ours = build_model(bench_config(64, 1, "resnet18"), 4)
    # torchvision's subnets and pyramid are ours; only the classifier of its ResNet is gone on both sides.
    assert counted == [sum(p.numel() for p in ours.parameters())]


def test_the_figures_belong_together(monkeypatch: pytest.MonkeyPatch) -> None:
    from focalbench.benchmarks import step

    monkeypatch.setattr(step, "CASES", {"128": (64, 2)})
    result = bench_step(device="cpu", backbone="tiny", repeats=1)
    (case,) = result["cases"]
    assert case["speedup"] is None  # torchvision has no such backbone
    ms = case["ms"]
    assert case["end_to_end"] == pytest.approx(ms["focalbench, one static batch"] / ms["focalbench"])
    assert case["images_per_s"]["focalbench"] == pytest.approx(2e3 / ms["focalbench"])
    json.dumps(result)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there")
def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="cuda"):
        bench_step(device="cuda")


def test_an_unknown_backbone_is_the_users_fault() -> None:
    command = [sys.executable, "-m", "focalbench", "bench", "step", "--backbone", "vgg"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "vgg" in done.stderr
