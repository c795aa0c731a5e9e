"""`bench loss` at a small size: every contestant computes the same gradient, and the figures are there."""

import json

import pytest
import torch
from typer.testing import CliRunner

from focalbench.benchmarks import loss as bench
from focalbench.cli import app


@pytest.mark.parametrize("spread", bench.SPREADS.values())
def test_all_contestants_compute_the_same_gradient(spread):
    logits, labels = bench.random_case(500, 4, torch.float32, "cpu", spread=spread)
    gradients = {name: run() for name, run in bench._contestants(logits, labels).items() if name != bench.FLOOR}
    assert len(gradients) == 3
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, gradients[bench.OURS], rtol=1e-4, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_memory_is_counted_in_tensors_alive_at_one_time():
    x = torch.zeros(1000, 100)

    def run() -> torch.Tensor:
        doubled = x * 2
        return (doubled + 1).exp_()

    assert bench.peak_bytes(run, "cpu") == pytest.approx(2 * 400_000, rel=0.01)


def test_ours_makes_nothing_of_the_logits_size_but_the_gradient():
    result = bench.bench_loss(sizes={"small": 96_000}, repeats=1)
    case, spread = result["cases"]
    assert spread["extra_memory"][bench.OURS] == pytest.approx(case["extra_memory"][bench.OURS], abs=0.01)
    assert case["extra_memory"][bench.OURS] <= bench.WANTED_MEMORY
    assert case["extra_memory"]["mmdetection style"] > 5
    assert case["max_difference"] < 1e-6
    assert set(case["ratios"]) == {"mmdetection style", "torchvision"}
    json.dumps(result, allow_nan=False)


def test_the_command_prints_its_table_and_refuses_what_is_not_there(monkeypatch):
    monkeypatch.setattr(bench, "SIZES", {"small": 2000, "large": 3000})
    printed = CliRunner().invoke(app, ["bench", "loss", "--repeats", "1", "--device", "cpu", "--json"])
    assert printed.exit_code == 0, printed.output
    (run,) = json.loads(printed.stdout)["runs"]
    assert [case["name"] for case in run["cases"]] == ["small", "small, any logit", "large", "large, any logit"]
    table = CliRunner().invoke(app, ["bench", "loss", "--repeats", "1", "--device", "cpu", "--size", "small"])
    assert "mmdetection style" in table.stdout
    assert "not measured" in table.stdout
    assert CliRunner().invoke(app, ["bench", "loss", "--size", "huge"]).exit_code != 0
    assert CliRunner().invoke(app, ["bench", "loss", "--device", "tpu"]).exit_code != 0
