"""Optimizers, and the learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

# Start and end of `one_cycle` as shares of the peak (arXiv:1708.07120); torch's OneCycleLR starts alike, ends at 4e-6.
_CYCLE_START, _CYCLE_END = 1 / 25, 1e-4
_WARMUP_START = 1e-3
_FACTOR = "lr_factor"  # key of a parameter group

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}


def build_optimizer(
    model: nn.Module,
    name: str,
    *,
    weight_decay: float,
    slowed: Iterable[nn.Parameter] = (),
    lr_factor: float = 1.0,
    **options: Any,
) -> torch.optim.Optimizer:
    """Returns the optimizer over the trainable parameters, with weight decay on weights alone, not biases and norms.

    Args:
        name: key of ``OPTIMIZERS``.
        slowed: parameters whose learning rate is ``lr_factor`` times the others', by :func:`set_learning_rate`.
        options: further keyword arguments of torch's class (lr, momentum, betas ...).
    """
    apart = {id(parameter) for parameter in slowed}
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = _groups([p for p in trainable if id(p) not in apart], weight_decay, 1.0)
    if apart:
        groups += _groups([p for p in trainable if id(p) in apart], weight_decay, lr_factor)
    return OPTIMIZERS[name](groups, fused=True, **options)


def _groups(parameters: list[nn.Parameter], weight_decay: float, factor: float) -> list[dict[str, Any]]:
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay, _FACTOR: factor},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, _FACTOR: factor},
    ]


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate, times each group's own factor; on a GPU to a number that float32 can hold, since a CUDA
    graph keeps it as one.
    """
    for group in optimizer.param_groups:
        rate = lr * group.get(_FACTOR, 1.0)  # a checkpoint's groups may be older than the key
        on_gpu = any(parameter.is_cuda for parameter in group["params"])
        group["lr"] = float(np.float32(rate)) if on_gpu else rate


def start_at_rest(optimizer: torch.optim.Optimizer) -> None:
    """Sets the momentum before the first step to 0, which changes no step where there is no loss scaler.

    When one skips the first step, torch's fused SGD keeps as its momentum the memory that it took for it, unwritten.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group.get("momentum") else ():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)


def learning_rate_factor(
    step: int,
    total_steps: int,
    *,
    schedule: str,
    warmup_steps: float = 0,
    warmup_power: float | None = None,
    milestones: Sequence[float] = (),
    factor: float = 0.1,
) -> float:
    """Returns the share of the peak learning rate in force during a step.

    Args:
        step: finished steps, 0-based.
        schedule: constant | step | cosine | one_cycle.
        warmup_steps: steps of the rise; a number below 1 is a share of ``total_steps``.
        warmup_power: instead of a line from ``_WARMUP_START``, darknet's rise: ((step + 1) / warmup_steps)^power.
            darknet counts the batch of a step before it asks for the rate (``train_network_datum``,
            ``get_current_rate`` in its src/network.c), so that the first step is not lost. Not for ``one_cycle``.
        milestones: fractions of training at which ``step`` multiplies by ``factor``.
    """
    warmup = warmup_steps * total_steps if warmup_steps < 1 else warmup_steps
    if step < warmup:
        share = step / warmup
        if schedule == "one_cycle":
            return _cosine(_CYCLE_START, 1.0, share)
        if warmup_power is not None:
            return min((step + 1) / warmup, 1.0) ** warmup_power
        return _WARMUP_START + (1 - _WARMUP_START) * share
    if schedule == "constant":
        return 1.0
    if schedule == "step":
        return factor ** sum(step >= milestone * total_steps for milestone in milestones)
    rest = (step - warmup) / max(total_steps - warmup, 1)
    return _cosine(1.0, _CYCLE_END if schedule == "one_cycle" else 0.0, rest)


def _cosine(start: float, end: float, share: float) -> float:
    """Half a cosine wave from ``start`` to ``end``."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
