"""The ``optim`` branch of the configuration: optimizer, learning-rate schedule, length and numerics of the training."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from focalbench.config.base import Count, OpenFraction, Positive, Section, key_error


class _OptimSection(Section):
    lr: Annotated[float, Field(gt=0, le=100)]
    weight_decay: Annotated[float, Field(ge=0, le=10)]
    schedule: Literal["constant", "step", "cosine", "one_cycle"]
    warmup_steps: Annotated[int, Field(ge=0, le=10_000_000)] | OpenFraction
    warmup_power: Annotated[float, Field(gt=0, le=10)] | None = None
    """Shape of the warm-up: its step k of n, counted from 1, uses (k / n)^`warmup_power` of `lr`, as in darknet,
    whose burn-in has power 4. null: a straight line from a thousandth of `lr`. `one_cycle` has its own rise and
    takes only null."""
    milestones: tuple[OpenFraction, ...] = (2 / 3, 11 / 12)
    """Fractions of the training at which schedule `step` multiplies the learning rate by `factor`."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """What schedule `step` multiplies the learning rate by at each milestone."""
    steps: Count | None = None
    """Optimizer steps, instead of `epochs`."""
    epochs: Count | None = Field(default_factory=lambda values: None if values.get("steps") else 12)
    """Passes over the training images: 12 unless `steps` is given."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 16
    """Images per optimizer step, over all devices."""
    backbone_lr: Annotated[float, Field(ge=1e-6, le=10)] | None = None
    """Learning rate of the backbone, as a factor on that of the rest. null: the same for all."""
    clip_norm: Positive | None = 10.0
    """Gradients longer than this are scaled down to it; null: no clipping."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the network (losses stay float32). `auto`: bf16 where the processor or GPU has it, else fp32."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per step of the moving average of the weights that is evaluated; null: the weights themselves."""
    channels_last: bool = True
    """Keep images with their channels innermost: faster in most cases, same result within rounding."""
    compile: bool = False
    """Compile the network with torch.compile, which takes seconds to a minute at the start."""

    @model_validator(mode="after")
    def _consistent(self) -> _OptimSection:
        if self.epochs is not None and self.steps is not None:
            raise key_error("steps", "cannot be combined with epochs: keep one of them (the other null or left out)")
        if self.epochs is None and self.steps is None:
            raise key_error("epochs", "this or steps is needed: the training has no length")
        if self.steps is not None and self.warmup_steps >= self.steps and self.warmup_steps > 0:
            raise key_error("warmup_steps", f"{self.warmup_steps:g} should be below steps ({self.steps})")
        if self.warmup_power is not None and self.schedule == "one_cycle":
            raise key_error("warmup_power", "should be null with schedule one_cycle, which rises in half a cosine wave")
        if any(later <= earlier for earlier, later in pairwise(self.milestones)):
            raise key_error("milestones", f"should be in rising order, not {list(self.milestones)}")
        return self


class SgdConfig(_OptimSection):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    """Which optimizer."""
    lr: Annotated[float, Field(gt=0, le=100)] = 0.01
    """Learning rate: the highest of the schedule."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Share of the last update that is kept."""
    nesterov: bool = False
    """Nesterov's form of momentum."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 1e-4
    """L2 penalty on the weights; biases and norms are left alone."""
    schedule: Literal["constant", "step", "cosine", "one_cycle"] = "cosine"
    """Course of the learning rate after the warm-up; `one_cycle` rises and falls in half cosine waves."""
    warmup_steps: Annotated[int, Field(ge=0, le=10_000_000)] | OpenFraction = 100
    """Steps over which the learning rate rises to `lr`; a number below 1 is a share of the training. With few `epochs`
    it takes at most half of the steps, with a warning."""


class AdamWConfig(_OptimSection):
    """Adam with decoupled weight decay (arXiv:1711.05101)."""

    name: Literal["adamw"] = "adamw"
    """Which optimizer."""
    lr: Annotated[float, Field(gt=0, le=100)] = 2e-3
    """Learning rate: the highest of the schedule."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay per step of the moving averages of the gradient and of its square."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.02
    """Decoupled decay of the weights; biases and norms are left alone."""
    schedule: Literal["constant", "step", "cosine", "one_cycle"] = "one_cycle"
    """Course of the learning rate after the warm-up; `one_cycle` rises and falls in half cosine waves."""
    warmup_steps: Annotated[int, Field(ge=0, le=10_000_000)] | OpenFraction = 0.15
    """Steps over which the learning rate rises to `lr`; a number below 1 is a share of the training. With few `epochs`
    it takes at most half of the steps, with a warning."""


OptimConfig = Annotated[SgdConfig | AdamWConfig, Field(discriminator="name")]
