"""The learning rate is a pure function of the step; decay spares biases and norms."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from focalbench.training.optim import build_optimizer, learning_rate_factor, set_learning_rate


def test_one_cycle_follows_torch() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    # torch counts the first and the last step as points of the curve: 101 points are 100 steps.
    oracle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=101, pct_start=21 / 101, final_div_factor=400, cycle_momentum=False
    )
    for step in range(101):
        mine = learning_rate_factor(step, 100, schedule="one_cycle", warmup_steps=20)
        assert mine == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        if step < 100:
            oracle.step()


def test_warmup_rises_to_the_peak_and_cosine_falls_to_zero() -> None:
    factors = [learning_rate_factor(s, 100, schedule="cosine", warmup_steps=10) for s in range(101)]
    assert factors[:11] == sorted(factors[:11])
    assert factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == pytest.approx(0.0)


def test_warmup_below_one_is_a_share() -> None:
    assert learning_rate_factor(15, 100, schedule="constant", warmup_steps=0.15) == 1.0
    assert learning_rate_factor(14, 100, schedule="constant", warmup_steps=0.15) < 1.0


def test_a_warmup_with_a_power_counts_its_steps_from_one() -> None:
    def factors(power: float | None, warmup: float) -> list[float]:
        options = {"schedule": "constant", "warmup_steps": warmup, "warmup_power": power}
        return [learning_rate_factor(step, 10, **options) for step in range(5)]

    assert factors(4, 4) == [(1 / 4) ** 4, (2 / 4) ** 4, (3 / 4) ** 4, 1.0, 1.0]
    assert factors(2, 0.25) == pytest.approx([(1 / 2.5) ** 2, (2 / 2.5) ** 2, 1.0, 1.0, 1.0])  # never above the peak
    assert factors(4, 0) == [1.0] * 5
    assert factors(None, 4) == pytest.approx([0.001, 0.25075, 0.5005, 0.75025, 1.0])


def test_step_schedule_drops_at_its_milestones() -> None:
    def factor(step: int) -> float:
        return learning_rate_factor(step, 90, schedule="step", milestones=(2 / 3, 8 / 9), factor=0.1)

    assert [factor(59), factor(60), factor(79), factor(80)] == pytest.approx([1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_only_weights_decay(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    options = {"lr": 0.1, "momentum": 0.9} if name == "sgd" else {"lr": 0.1}
    optimizer = build_optimizer(model, name, weight_decay=0.5, **options)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert {n: decay[id(p)] for n, p in model.named_parameters()} == {
        "0.weight": 0.5,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
    }


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Linear(2, 2)
    model.weight.requires_grad = False
    optimizer = build_optimizer(model, "sgd", weight_decay=0.0, lr=0.1)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 1


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_part_may_learn_at_a_rate_of_its_own(name: str) -> None:
    model = nn.ModuleDict({"backbone": nn.Conv2d(3, 4, 3), "head": nn.Conv2d(4, 2, 1)})
    optimizer = build_optimizer(model, name, weight_decay=0.5, slowed=model["backbone"].parameters(), lr_factor=0.1)
    set_learning_rate(optimizer, 0.02)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert {n: found[id(p)] for n, p in model.named_parameters()} == {
        "backbone.weight": (pytest.approx(0.002), 0.5),
        "backbone.bias": (pytest.approx(0.002), 0.0),
        "head.weight": (0.02, 0.5),
        "head.bias": (0.02, 0.0),
    }


def test_on_a_gpu_the_rate_is_the_one_that_a_cuda_graph_keeps() -> None:
    with FakeTensorMode(), torch.device("cuda"):
        optimizer = build_optimizer(nn.Linear(2, 2), "sgd", weight_decay=0.0, lr=0.1)
        set_learning_rate(optimizer, 0.1)
        rates = {group["lr"] for group in optimizer.param_groups}
    assert rates == {torch.tensor(0.1, dtype=torch.float32).item()}
    assert rates != {0.1}


def test_an_optimizer_that_was_saved_before_there_were_factors_goes_on() -> None:
    model = nn.Linear(2, 2)
    old, new = (build_optimizer(model, "adamw", weight_decay=0.1, lr=1.0) for _ in range(2))
    saved = old.state_dict()
    for group in saved["param_groups"]:
        del group["lr_factor"]
    new.load_state_dict(saved)
    set_learning_rate(new, 0.02)
    assert [group["lr"] for group in new.param_groups] == [0.02, 0.02]
