"""The training loop: one step, and all steps of a trial."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from focalbench.devices import autocast
from focalbench.errors import DivergedError, InterruptedTrial
from focalbench.losses.criterion import Criterion
from focalbench.models.detector import Detector
from focalbench.ranks import any_rank, mean_over_ranks
from focalbench.runtime import StopFlag
from focalbench.structures import Targets
from focalbench.training.average import MovingAverage
from focalbench.training.checkpoint import OPTIMIZER
from focalbench.training.optim import set_learning_rate

_CLIP_MARGIN = 1e-6  # torch divides the limit by the norm plus this
# A loss scaler halves its factor at each overflow, and starts with 65,536: by now thirty steps in a row were skipped.
_LEAST_LOSS_SCALE = 1e-4
_NUMBERS = ("step", "lr_scale", "evaluated", "best", "seconds")


class TrainingBatches(Protocol):
    """The batch of each step: a pure function of the step, whatever came before."""

    def __call__(self, step: int) -> tuple[Tensor, Targets]:
        """Returns normalised float images (B, 3, H, W) and their targets, on the training device."""


@dataclass
class Meter:
    """Sums over the steps since the last log line, kept on the device: reading them is the only synchronisation."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Adds one step's scalars."""
        for name, value in values.items():
            value = value.detach().double()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Returns sums and count: a log line may be due only after the checkpoint."""
        return {"sums": dict(self.sums), "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.sums, self.steps = dict(state["sums"]), state["steps"]

    def means(self) -> dict[str, float]:
        """Returns means since the last call, which also resets; a step that was not finite makes its mean so."""
        means = {name: total / self.steps for name, total in _numbers(self.sums).items()}
        self.sums, self.steps = {}, 0
        return means


def _numbers(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """Reads scalars of one device, which is waited for once."""
    if not scalars:
        return {}
    together = torch.stack([value.detach().double() for value in scalars.values()])
    return dict(zip(scalars, together.tolist(), strict=True))


@dataclass
class TrainState:
    """Everything that a checkpoint must hold for the next step to be the same as without a stop.

    Attributes:
        parallel: wrapper of the model that averages gradients over the ranks; None where there is one.
        step: finished steps.
        lr_scale: halved at each restart after a divergence.
        evaluated: step of the last finished evaluation, 0 before the first.
        best: best mAP of the evaluations so far, -inf before the first.
        seconds: training time so far, evaluation and checkpoints left out.
    """

    model: Detector
    criterion: Criterion
    optimizer: torch.optim.Optimizer
    parallel: nn.Module | None = None
    ema: MovingAverage | None = None
    scaler: torch.amp.GradScaler | None = None
    step: int = 0
    lr_scale: float = 1.0
    evaluated: int = 0
    best: float = -math.inf
    seconds: float = 0.0
    meter: Meter = field(default_factory=Meter)

    def trained_model(self) -> nn.Module:
        """Returns what a step calls."""
        return self.model if self.parallel is None else self.parallel

    def evaluated_model(self) -> Detector:
        """Returns the averaged network where there is one, else the trained one."""
        return self.model if self.ema is None else self.ema.module

    def require_finite(self) -> None:
        """Raises DivergedError when the weights, or a step since the last log line, are not finite: nothing of it may
        be scored or saved.
        """
        # A loss scaler skips a step whose gradients overflow; that is how it finds its factor.
        may_overflow = {"grad_norm"} if self.scaler is not None else set()
        totals = _numbers(self.meter.sums)
        bad = [name for name, total in totals.items() if name not in may_overflow and not math.isfinite(total)]
        weights = [value for value in self.model.state_dict().values() if value.is_floating_point()]
        # A step with finite gradients may overflow them.
        if not torch.stack([value.isfinite().all() for value in weights]).all().item():
            bad.append("weights")
        if bad:
            raise DivergedError(f"diverged before step {self.step}: {', '.join(bad)} not finite; lower optim.lr")

    def state_dict(self) -> dict[str, Any]:
        """Returns plain tensors and numbers only."""
        parts: dict[str, Any] = {name: part.state_dict() for name, part in self._parts().items()}
        return {**parts, **{name: getattr(self, name) for name in _NUMBERS}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned; a finished training has kept no state of the optimizer."""
        for name, part in self._parts().items():
            if name != OPTIMIZER or state[name] is not None:
                part.load_state_dict(state[name])
        for name in _NUMBERS:
            setattr(self, name, state[name])

    def _parts(self) -> dict[str, Any]:
        parts = {
            "model": self.model,
            "criterion": self.criterion,
            OPTIMIZER: self.optimizer,
            "ema": self.ema,
            "scaler": self.scaler,
            "meter": self.meter,
        }
        return {name: part for name, part in parts.items() if part is not None}


@dataclass(frozen=True)
class StepSettings:
    """How one step is computed: see ``optim`` in the configuration."""

    device: torch.device
    precision: torch.dtype
    clip_norm: float | None


def train_step(state: TrainState, images: Tensor, targets: Targets, settings: StepSettings) -> dict[str, Tensor]:
    """Carries out one update. Returns detached scalars: cls, box, num_pos, loss (their minimised sum) and grad_norm
    before clipping. With several ranks each has its share of the batch, and all get the scalars of the whole.
    """
    matched = _matched_ahead(state, images, targets)
    with autocast(settings.device, settings.precision):
        if matched is None:
            outputs = state.trained_model()(images)
        else:
            outputs = state.trained_model()(images, state.criterion.boxes_at(matched))
    terms = state.criterion(outputs, targets) if matched is None else state.criterion(outputs, targets, matched)
    loss = torch.stack([value for name, value in terms.items() if name != "num_pos"]).sum()
    state.optimizer.zero_grad(set_to_none=True)
    scaler = state.scaler
    (loss if scaler is None else scaler.scale(loss)).backward()
    if scaler is not None:
        scaler.unscale_(state.optimizer)
    grad_norm = clip_gradients(list(state.model.parameters()), settings.clip_norm)
    if scaler is None:
        state.optimizer.step()
    else:
        scaler.step(state.optimizer)
        scaler.update()
    if state.ema is not None:
        state.ema.update_parameters(state.model)
    values = {**terms, "loss": loss, "grad_norm": grad_norm}
    return mean_over_ranks({name: value.detach() for name, value in values.items()})


def _matched_ahead(state: TrainState, images: Tensor, targets: Targets) -> Tensor | None:
    """The assignment, where knowing it ahead spares the network boxes. A GPU would wait to hear which."""
    if images.is_cuda or not state.model.skips_boxes:
        return None
    return state.criterion.match(state.model.anchors_for((images.shape[2], images.shape[3])), targets)


def clip_gradients(parameters: list[nn.Parameter], limit: float | None) -> Tensor:
    """Scales the gradients down to the norm ``limit`` together, where they exceed it; None: no limit.

    Returns:
        () their norm before.
    """
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if limit is None or (not norm.is_cuda and norm.item() + _CLIP_MARGIN <= limit):
        return norm  # torch would multiply all of them by 1
    torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


# train_step, or what does the same in its place.
StepFunction = Callable[[TrainState, Tensor, Targets, StepSettings], dict[str, Tensor]]


@dataclass(frozen=True)
class Plan:
    """When what happens, in steps; ``eval_steps`` holds the finished steps after which an evaluation is due.

    Attributes:
        learning_rate: rate of a step, a pure function.
        log_every: steps between log lines; also how often a GPU is asked whether the loss is finite.
        checkpoint_every: seconds between checkpoints.
    """

    total_steps: int
    eval_steps: frozenset[int]
    learning_rate: Callable[[int], float]
    log_every: int
    checkpoint_every: float


class LoopEvents(Protocol):
    """What the loop calls; the trial decides what is written where."""

    def log(self, state: TrainState, values: dict[str, float]) -> None:
        """Writes a log line; ``values`` are means since the last one."""

    def evaluate(self, state: TrainState) -> None:
        """Scores the network."""

    def checkpoint(self, state: TrainState) -> None:
        """Saves the state of a training that is sound."""


def fit(
    state: TrainState,
    batches: TrainingBatches,
    plan: Plan,
    settings: StepSettings,
    events: LoopEvents,
    stop: StopFlag,
    train: StepFunction | None = None,
) -> None:
    """Trains from ``state.step`` to the end of ``plan``, its last evaluation included.

    Args:
        train: carries out a step; None for ``train_step``.

    Raises:
        DivergedError: at a loss or gradient that is not finite, before anything of it is saved.
        InterruptedTrial: when ``stop`` is set, after a checkpoint.
    """
    state.model.train()
    saved_at = time.monotonic()
    while True:
        evaluation_due = state.step in plan.eval_steps and state.evaluated < state.step
        timed_out = time.monotonic() - saved_at >= plan.checkpoint_every
        timed_out, stopped = any_rank(timed_out, stop.signum is not None)
        checkpoint_due = evaluation_due or ((timed_out or stopped) and state.step > 0)
        if checkpoint_due:
            state.require_finite()
        if evaluation_due:
            evaluate_or_stop(state, events)
        if checkpoint_due:
            events.checkpoint(state)
            saved_at = time.monotonic()
        if stopped:
            raise stop.interruption(f"after step {state.step}")
        if state.step >= plan.total_steps:
            return
        run_step(state, batches, plan, settings, events, train)


def evaluate_or_stop(state: TrainState, events: LoopEvents) -> None:
    """Evaluates; a stop in the middle leaves a checkpoint from which the evaluation is done again."""
    try:
        events.evaluate(state)
    except InterruptedTrial:
        events.checkpoint(state)
        raise
    finally:
        state.model.train()  # whatever the evaluation left: batch norm must go on learning
    state.evaluated = state.step


def run_step(
    state: TrainState,
    batches: TrainingBatches,
    plan: Plan,
    settings: StepSettings,
    events: LoopEvents,
    train: StepFunction | None = None,
) -> None:
    """Carries out one step at its learning rate, gamma and alpha.

    Its values are checked where looking costs nothing, and on a GPU before they are logged or the network evaluated.
    """
    began = time.perf_counter()
    lr = plan.learning_rate(state.step) * state.lr_scale
    set_learning_rate(state.optimizer, lr)
    state.criterion.set_progress(state.step / plan.total_steps)
    values = (train or train_step)(state, *batches(state.step), settings)
    state.meter.add(values)
    state.step += 1
    log_due = state.step % plan.log_every == 0 or state.step == plan.total_steps
    if settings.device.type == "cpu" or log_due or state.step in plan.eval_steps:
        check_finite(state, values, lr)
    state.seconds += time.perf_counter() - began
    if log_due:
        events.log(state, {**state.meter.means(), "lr": lr})


def check_finite(state: TrainState, values: Mapping[str, Tensor], lr: float) -> None:
    """Raises DivergedError when the step's loss or gradient norm is not finite; with a loss scaler, whose steps are
    skipped when a gradient overflows: when the loss is not, or steps are skipped without end.
    """
    if state.scaler is not None and (scale := state.scaler.get_scale()) < _LEAST_LOSS_SCALE:
        raise DivergedError(
            f"diverged at step {state.step}: gradients overflow fp16 in every step, even at a loss scale of "
            f"{scale:g}, lr {lr:g}; use optim.precision: bf16 or fp32, or lower optim.lr"
        )
    names = ["loss"] if state.scaler is not None else ["loss", "grad_norm"]
    found = _numbers({name: values[name] for name in names})
    if not all(math.isfinite(value) for value in found.values()):
        parts = ", ".join(f"{name} {value:g}" for name, value in found.items())
        raise DivergedError(
            f"diverged at step {state.step}: {parts}, lr {lr:g}; lower optim.lr, set optim.clip_norm or "
            "model.prior_prob, or use run.on_divergence: retry"
        )
