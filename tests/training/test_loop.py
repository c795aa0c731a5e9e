"""A step learns, a stop loses nothing, a value that is not finite is never saved."""

import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor, nn

from focalbench.errors import DivergedError, InterruptedTrial
from focalbench.losses import LOSSES
from focalbench.losses.detection import DetectionLoss
from focalbench.models.retinanet import RetinaNet
from focalbench.runtime import StopFlag
from focalbench.structures import Targets
from focalbench.training.loop import Plan, StepSettings, TrainState, check_finite, clip_gradients, fit, train_step

CPU = StepSettings(torch.device("cpu"), torch.float32, clip_norm=1.0)


class _Network(nn.Linear):
    """A stand-in for a detector."""

    skips_boxes = False


class _Loss(nn.Module):
    """A stand-in for a criterion: the mean squared output; ``poison`` makes one step's loss NaN."""

    def __init__(self, poison: int | None = None) -> None:
        super().__init__()
        self.poison, self.calls, self.progress = poison, 0, []

    def set_progress(self, fraction: float) -> None:
        self.progress.append(fraction)

    def forward(self, outputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        self.calls += 1
        loss = outputs.square().mean()
        if self.calls == self.poison:
            loss = loss * math.nan
        return {"cls": loss, "box": 0.5 * loss, "num_pos": torch.tensor(3)}


@dataclass
class _Events:
    stop: StopFlag | None = None
    interrupt_evaluation: bool = False
    logs: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    evaluations: list[int] = field(default_factory=list)
    saved: list[tuple[int, dict]] = field(default_factory=list)

    def log(self, state: TrainState, values: dict[str, float]) -> None:
        self.logs.append((state.step, values))

    def evaluate(self, state: TrainState) -> None:
        state.model.eval()  # as an evaluation may leave it
        if self.interrupt_evaluation:
            raise InterruptedTrial("stopped", 15)
        self.evaluations.append(state.step)

    def checkpoint(self, state: TrainState) -> None:
        # Through bytes as a real checkpoint goes: a reference would follow the training.
        self.saved.append((state.step, {k: _copy(v) for k, v in state.state_dict().items()}))


def _copy(value: object) -> object:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value


def _batch(step: int) -> tuple[Tensor, Targets]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(4, 8, generator=generator), Targets(torch.zeros(4, 1, 4), torch.full((4, 1), -1))


def _state(poison: int | None = None) -> TrainState:
    torch.manual_seed(0)
    model = _Network(8, 2)
    return TrainState(model, _Loss(poison), torch.optim.AdamW(model.parameters(), lr=1.0))


def _plan(total: int, *evaluations: int, log_every: int = 3) -> Plan:
    return Plan(total, frozenset(evaluations), lambda step: 0.1 / (1 + step), log_every, checkpoint_every=3600)


def test_training_lowers_the_loss_and_logs_means_of_the_steps_between() -> None:
    events = _Events()
    fit(_state(), _batch, _plan(12, 12), CPU, events, StopFlag())
    assert [step for step, _ in events.logs] == [3, 6, 9, 12]
    assert events.logs[-1][1]["loss"] < events.logs[0][1]["loss"]
    assert events.logs[0][1]["num_pos"] == 3
    assert events.logs[0][1]["loss"] == pytest.approx(1.5 * events.logs[0][1]["cls"])
    assert events.evaluations == [12]


def test_resumed_equals_unbroken_even_between_two_log_lines() -> None:
    whole, broken, rest = _Events(), _Events(), _Events()
    unbroken = _state()
    fit(unbroken, _batch, _plan(10, 5, 10), CPU, whole, StopFlag())
    first, stop = _state(), StopFlag()

    def batches(step: int) -> tuple[Tensor, Targets]:
        if step == 6:
            stop.request(15)
        return _batch(step)

    with pytest.raises(InterruptedTrial):
        fit(first, batches, _plan(10, 5, 10), CPU, broken, stop)
    step, content = broken.saved[-1]
    assert step == 7
    second = _state()
    second.load_state_dict(content)
    fit(second, _batch, _plan(10, 5, 10), CPU, rest, StopFlag())
    assert torch.equal(second.model.weight, unbroken.model.weight)
    assert broken.logs + rest.logs == whole.logs
    assert broken.evaluations + rest.evaluations == whole.evaluations == [5, 10]


def test_every_step_trains_also_after_an_evaluation() -> None:
    state, modes = _state(), []
    state.model.register_forward_hook(lambda module, inputs, output: modes.append(module.training))
    fit(state, _batch, _plan(6, 2, 4, 6), CPU, _Events(), StopFlag())
    assert modes == [True] * 6


def test_a_stop_during_an_evaluation_leaves_it_to_be_done_again() -> None:
    events = _Events(interrupt_evaluation=True)
    state = _state()
    with pytest.raises(InterruptedTrial):
        fit(state, _batch, _plan(4, 2, 4), CPU, events, StopFlag())
    step, content = events.saved[-1]
    assert (step, content["evaluated"]) == (2, 0)
    resumed, after = _state(), _Events()
    resumed.load_state_dict(content)
    fit(resumed, _batch, _plan(4, 2, 4), CPU, after, StopFlag())
    assert after.evaluations == [2, 4]


@pytest.mark.parametrize("stopped", [True, False])
def test_before_the_first_step_there_is_nothing_to_save(stopped: bool) -> None:
    events, stop = _Events(), StopFlag()
    if stopped:
        stop.request(15)
        with pytest.raises(InterruptedTrial):
            fit(_state(), _batch, _plan(2, 2), CPU, events, stop)
        assert events.saved == []
    else:  # a checkpoint is due at every look at the clock
        fit(_state(), _batch, replace(_plan(2, 2), checkpoint_every=0.0), CPU, events, stop)
        assert [step for step, _ in events.saved] == [1, 2]


def test_divergence_names_step_loss_and_rate_and_saves_nothing_of_it() -> None:
    events = _Events()
    with pytest.raises(DivergedError, match=r"step 4: loss nan.*lr 0\.025"):
        fit(_state(poison=4), _batch, _plan(8, 3, 8), CPU, events, StopFlag())
    assert [step for step, _ in events.saved] == [3]


def test_the_loss_hears_of_the_progress_before_each_step() -> None:
    state = _state()
    fit(state, _batch, _plan(4, 4), CPU, _Events(), StopFlag())
    assert state.criterion.progress == [0, 0.25, 0.5, 0.75]


def test_a_halved_learning_rate_is_used_and_logged() -> None:
    state, events = _state(), _Events()
    state.lr_scale = 0.5
    fit(state, _batch, _plan(1, 1, log_every=1), CPU, events, StopFlag())
    assert events.logs[0][1]["lr"] == pytest.approx(0.05)


def test_the_averaged_weights_are_the_ones_evaluated() -> None:
    state = _state()
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
    state.ema = torch.optim.swa_utils.AveragedModel(state.model, multi_avg_fn=average, use_buffers=True)
    fit(state, _batch, _plan(3, 3), CPU, _Events(), StopFlag())
    assert state.evaluated_model() is state.ema.module
    assert not torch.equal(state.ema.module.weight, state.model.weight)


def test_a_bad_step_since_the_last_log_line_refuses_to_be_saved() -> None:
    state = _state()
    state.step = 2
    state.meter.add({"loss": torch.tensor(1.0)})
    state.require_finite()
    state.meter.add({"loss": torch.tensor(math.inf)})
    with pytest.raises(DivergedError, match="before step 2: loss not finite"):
        state.require_finite()


def test_gradients_that_a_loss_scaler_found_too_large_are_no_divergence() -> None:
    state = _state()
    state.scaler = torch.amp.GradScaler("cpu")
    state.meter.add({"loss": torch.tensor(1.0), "grad_norm": torch.tensor(math.inf)})
    state.require_finite()
    state.meter.add({"loss": torch.tensor(math.nan)})
    with pytest.raises(DivergedError, match="loss not finite"):
        state.require_finite()


def test_steps_that_a_loss_scaler_skips_without_end_are_a_divergence() -> None:
    state = _state()
    parameter = next(iter(state.model.parameters()))
    state.scaler = torch.amp.GradScaler("cpu")
    values = {"loss": torch.tensor(1.0), "grad_norm": torch.tensor(math.inf)}
    for _ in range(29):
        parameter.grad = torch.full_like(parameter, math.inf)
        state.scaler.scale(torch.zeros(()))  # makes the factor
        state.scaler.step(state.optimizer)
        state.scaler.update()
        check_finite(state, values, 0.1)
    state.scaler.update(torch.tensor(5e-5))
    with pytest.raises(
        DivergedError, match=r"overflow fp16 in every step, even at .*5e-05.*; use optim.precision: bf16"
    ):
        check_finite(state, values, 0.1)


def test_weights_that_overflow_after_a_finite_loss_are_neither_scored_nor_saved() -> None:
    state, events = _state(), _Events()

    def batches(step: int) -> tuple[Tensor, Targets]:
        if step == 2:
            for group in state.optimizer.param_groups:  # the loss of this step is still finite
                group["weight_decay"] = 1e41
        return _batch(step)

    with pytest.raises(DivergedError, match="before step 3: weights not finite"):
        fit(state, batches, _plan(8, 3, 8), CPU, events, StopFlag())
    assert events.saved == []
    assert events.evaluations == []


@pytest.mark.parametrize("objects", [[[8.0, 8, 30, 30]], [[8.0, 8, 30, 30], [0.0, 0, 64, 60]], []])
def test_boxes_that_no_anchor_answers_for_make_no_difference_but_rounding(objects, monkeypatch):
    boxes = torch.tensor(objects).reshape(1, -1, 4).repeat(2, 1, 1)
    labels = torch.arange(boxes.shape[1]).repeat(2, 1)
    labels[1] = -1  # an image without objects
    images, found = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), []
    for skips in (True, False):
        monkeypatch.setattr(RetinaNet, "skips_boxes", skips)
        torch.manual_seed(0)
        model = RetinaNet(num_classes=3, backbone="tiny", fpn_channels=8, head_convs=1)
        criterion = DetectionLoss(LOSSES["focal"](3), num_classes=3)
        state = TrainState(model, criterion, torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1))
        values = train_step(state, images, Targets(boxes * (labels >= 0)[..., None], labels), CPU)
        found.append((values, model.state_dict()))
    torch.testing.assert_close(found[0], found[1])
    assert (found[0][0]["num_pos"] > 0) == bool(objects)


def test_gradients_are_scaled_to_the_limit_and_left_alone_below_it():
    given = torch.tensor([3.0, 4.0])
    for limit, expected in ((None, given), (5.1, given), (10.0, given), (1.0, given / 5)):
        weight = torch.nn.Parameter(torch.zeros(2))
        weight.grad = given.clone()
        assert clip_gradients([weight], limit) == 5
        torch.testing.assert_close(weight.grad, expected, rtol=1e-6, atol=0)
