"""`bench loss` at a small size: every contestant computes the same gradient, and the figures are there."""

import json
from collections.abc import Callable

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from typer.testing import CliRunner

from focalbench import kernels
from focalbench.benchmarks import loss as bench
from focalbench.cli import app
from focalbench.training.graph import Values


@pytest.mark.parametrize("spread", bench.SPREADS.values())
def test_all_contestants_compute_the_same_gradient(spread):
    logits, labels = bench.random_case(500, 4, torch.float32, "cpu", spread=spread)
    gradients = {name: run() for name, run in bench._contestants(logits, labels).items() if name != bench.FLOOR}
    assert len(gradients) == 3
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, gradients[bench.OURS], rtol=1e-4, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}"
        )


class FakeRecorder:
    """Stands in for CUDA graphs: a replay does the work again, and one recording is ``refused``, by its number."""

    def __init__(self, refused: int | None = None) -> None:
        self.refused, self.values = refused, []

    def run(self, work: Callable[[], Values]) -> Values:
        return work()

    def record(self, work: Callable[[], Values]) -> tuple[Callable[[], None], Values]:
        values = work()
        self.values.append(values)
        if len(self.values) == self.refused:
            raise RuntimeError("operation not permitted when stream is capturing")
        return lambda: self.values.append(work()), values


def problems():
    return [bench.random_case(500, 4, torch.float32, "cpu", seed=seed) for seed in range(3)]


def test_recorded_contestants_compute_the_gradients_of_the_eager_ones():
    for problem in problems():
        recordable, eager = bench._recordable(*problem), bench._contestants(*problem)
        assert set(recordable) == {*eager, bench.IN_TRAINING}
        for name, run in recordable.items():
            if name != bench.FLOOR:
                torch.testing.assert_close(run(), eager[bench.OURS](), rtol=1e-4, atol=1e-7)


def test_a_gpus_figures_are_of_replays_on_several_inputs(monkeypatch):
    """By a clock that says how often each contestant ran: a replay runs it on all inputs."""
    recorder = FakeRecorder()
    monkeypatch.setattr(bench, "_seconds", lambda run, device: (run(), 12.0 if len(recorder.values) else 1.0)[1])
    case = bench._case("small", problems(), 1, lambda: recorder)
    assert all(len(values) == bench.GPU_INPUTS for values in recorder.values)
    first, second, third = recorder.values[0].values()
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    assert len(recorder.values) == 5 * (1 + bench.GPU_REPLAYS)  # five contestants, each recorded and replayed
    assert case["eager_ms"] == dict.fromkeys(bench._contestants(*problems()[0]), 1e3)
    assert case["ms"] == pytest.approx(dict.fromkeys(case["ms"], 12e3 / bench.GPU_REPLAYS / bench.GPU_INPUTS))
    assert case["not_recorded"] == {}
    assert set(case["ratios"]) == {bench.IN_TRAINING, bench.MMDETECTION, bench.TORCHVISION}
    assert set(case["extra_memory"]) == set(case["ms"])
    json.dumps(case, allow_nan=False)


def test_what_cannot_be_recorded_is_timed_as_it_is_called():
    recorder = FakeRecorder(refused=3)
    case = bench._case("small", problems(), 1, lambda: recorder)
    assert case["not_recorded"] == {bench.MMDETECTION: "operation not permitted when stream is capturing"}
    assert case["ms"][bench.MMDETECTION] == case["eager_ms"][bench.MMDETECTION]
    assert case["ms"][bench.OURS] != case["eager_ms"][bench.OURS]


def test_what_is_recorded_reads_no_value(monkeypatch):
    """The losses, on tensors with a device and without content: what asks for a value fails."""
    monkeypatch.setattr(kernels, "triton_kernels", lambda module: None)
    monkeypatch.setattr(bench, "_num_positives", lambda logits, labels: 5.0)
    monkeypatch.setattr(bench, "dense_targets", lambda labels, logits: torch.zeros_like(logits))
    monkeypatch.setattr(bench, "_gradient", lambda loss, logits: lambda: loss(logits))
    with FakeTensorMode(), torch.device("cuda"):
        runs = bench._recordable(torch.empty(500, 4), torch.empty(500, dtype=torch.int64))
        for name in (bench.OURS, bench.IN_TRAINING, bench.TORCHVISION):
            assert runs[name]().shape == ()


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
