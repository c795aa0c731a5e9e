"""result.json: what a finished trial found, and the circumstances in which it did."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from focalbench.records.document import JsonDocument, as_number
from focalbench.tags import BEST_MEAN_AP, CLASS_AP, MEAN_AP

_PER_CLASS = "AP"
_SHORT_NAMES = {"mAP": MEAN_AP, "map": MEAN_AP, "time": "wall_s"}


class TrialResult(JsonDocument):
    """The result of a trial, of its last evaluation and never of the best one.

    Attributes:
        trial, arm, seed, config_hash, differs: as in ``config.sweep.Trial``.
        mean_ap: mAP of ``protocol`` in [0, 1]; None where no class has an object.
        best_mean_ap: the highest of all evaluations.
        class_ap: AP by class name; None where undefined.
        split: what was evaluated on.
        classes: in the order of their labels.
        step, steps: finished steps, and those of the whole training.
        data_fingerprint: of the training and of the evaluation images with their objects.
        wall_s, train_s: seconds in all, and of training steps alone.
        loss_weight: factor of the classification loss, a matched scale included.
        initial_loss: see ``experiment.selfcheck``.
        lr_scale: below 1 where the trial diverged and went on more slowly.
        peak_memory_mb: largest resident memory of the process that finished the trial, MiB, that of the trials which it
            trained before included.
        gpu_memory_mb, gpu_reserved_mb: most memory of the GPU that tensors took, and that torch held for them, MiB, in
            that process; of the first of several GPUs. None on a CPU.
    """

    trial: str = ""
    arm: str = ""
    seed: int | None = None
    differs: dict[str, Any] = Field(default_factory=dict)
    config_hash: str = ""
    mean_ap: float | None = Field(None, alias=MEAN_AP)
    best_mean_ap: float | None = Field(None, alias=BEST_MEAN_AP)
    class_ap: dict[str, float | None] = Field(default_factory=dict, alias=_PER_CLASS)
    protocol: str | None = None
    split: list[str] | None = None
    classes: list[str] | None = None
    step: int | None = None
    steps: int | None = None
    train_images: int | None = None
    val_images: int | None = None
    data_fingerprint: list[str] | None = None
    wall_s: float | None = None
    train_s: float | None = None
    images_per_s: float | None = None
    num_parameters: int | None = None
    loss_weight: float | None = None
    initial_loss: dict[str, Any] | None = None
    lr_scale: float | None = None
    peak_memory_mb: float | None = None
    gpu_memory_mb: float | None = None
    gpu_reserved_mb: float | None = None
    device: str | None = None
    devices: int | None = None
    precision: str | None = None
    environment: dict[str, Any] = Field(default_factory=dict)

    def has(self, metric: str) -> bool:
        """Tells whether the result says anything about ``metric``, be it that it is undefined."""
        return metric in self.entries()

    def value(self, metric: str) -> float | None:
        """Returns the finite number that the result holds for ``metric``; ``AP/<class>`` is the class's AP."""
        if metric.startswith(CLASS_AP):
            return as_number(self.class_ap.get(metric.removeprefix(CLASS_AP)))
        return as_number(self.entries().get(metric))

    def metric_names(self) -> set[str]:
        """Returns every name that ``value`` may have a number for."""
        numbers = {name for name, value in self.entries().items() if as_number(value) is not None}
        return numbers | {f"{CLASS_AP}{name}" for name in self.class_ap}

    @property
    def is_scored(self) -> bool:
        """Whether it holds a score at all, be it undefined."""
        return self.has(MEAN_AP) or self.has(_PER_CLASS)


def metric_name(name: str) -> str:
    """Returns ``name`` with its short forms spelled out: mAP is val/mAP, time is wall_s."""
    return _SHORT_NAMES.get(name, name)
