"""What every classification loss of a detector shares: interface, schedules and checks of parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from focalbench.schedule import MOVES, Schedule, as_schedule


@dataclass(frozen=True)
class Counts:
    """Anchors of the training set after matching, over all its images; ignored ones are in neither count.

    Attributes:
        positives_per_class: positive anchors of each class.
        negatives: background anchors. What else is negative (the other classes of a positive anchor, where each class
            has its own sigmoid) follows from both counts and is added by the loss.
    """

    positives_per_class: tuple[int, ...]
    negatives: int

    @property
    def positives(self) -> int:
        """Positive anchors of all classes."""
        return sum(self.positives_per_class)

    def __add__(self, other: Counts) -> Counts:
        """The counts of two sets of images together."""
        pairs = zip(self.positives_per_class, other.positives_per_class, strict=True)
        return Counts(tuple(map(sum, pairs)), self.negatives + other.negatives)


class ClassificationLoss(nn.Module):
    """The classification term of a dense detector, summed; the caller divides by the number of positive anchors.

    Shapes: N images, R anchors per image, K classes, C outputs per anchor: K with ``activation`` sigmoid, K + 1 with
    softmax (background last).

    Args:
        num_classes: K, at least 1.
        counts: anchors counted after matching, for weights that come from them.
    """

    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    needs_quality: bool = False
    needs_boxes: bool = False
    waits_for_device: bool = False
    """Whether the host looks at a value or a shape on the way, so that no CUDA graph can record a step."""

    def __init__(self, num_classes: int, counts: Counts | None = None) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if counts is not None and len(counts.positives_per_class) != num_classes:
            raise ValueError(f"counts hold {len(counts.positives_per_class)} classes, the loss {num_classes}")
        self.num_classes = num_classes
        self.counts = counts
        self._schedules: dict[str, Schedule] = {}
        self._logged: list[str] = []

    def forward(
        self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None, boxes: Tensor | None = None
    ) -> Tensor:
        """Returns the sum of the loss over all anchors and classes.

        Args:
            logits: (N, R, C), any floating dtype.
            labels: (N, R) int64: class 0..K-1, K background, -1 ignored.
            quality: (N, R) float in [0, 1], IoU of the predicted box with its object; where ``needs_quality``.
            boxes: (N, R, 4) float, xyxy canvas pixels, the predicted boxes; where ``needs_boxes``.

        Returns:
            () float32 (float64 for float64 logits).

        Raises:
            ValueError: shapes that do not fit, or a label outside -1..K (on CUDA a device-side assertion).
        """
        return self.total(*self.flat(logits, labels))

    def normalised(
        self,
        logits: Tensor,
        labels: Tensor,
        *,
        weight: Tensor | float,
        avg_factor: Tensor,
        quality: Tensor | None = None,
        boxes: Tensor | None = None,
    ) -> Tensor:
        """Returns what ``forward`` returns, times ``weight`` over ``avg_factor``: () each, and without a gradient.

        A loss that can compute the factor into its gradient spares backward a pass over it, and overrides this.
        """
        return weight * (self(logits, labels, quality=quality, boxes=boxes) / avg_factor)

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the sum over all anchors of (A, C) ``logits`` with (A,) ``labels``, as ``forward`` takes them.

        What a loss overrides; one that needs the boxes or their quality overrides ``forward`` instead.
        """
        raise NotImplementedError

    def set_progress(self, fraction: float) -> None:
        """Moves scheduled parameters to where they are when ``fraction`` of the training, in [0, 1], is done."""
        for name, schedule in self._schedules.items():
            self.get_buffer(name).fill_(schedule(fraction))

    def scheduled(self) -> dict[str, float]:
        """Returns the gamma and alpha in force, those that exist as one number; waits for the device."""
        return {name: float(self.get_buffer(name)) for name in self._logged}

    @classmethod
    def needs_counts(cls, parameters: Mapping[str, Any]) -> bool:
        """Returns whether a loss with these keywords depends on the anchors counted on the training set."""
        return parameters.get("alpha") == "auto"

    def focusing_exponents(self) -> tuple[float, float]:
        """Returns g of the factor (1 - p_t)^g in force, on positives and on negatives; 0 where there is no such factor.

        Here: the loss's ``gamma``, where it has one, on both sides. A loss whose exponents have other names, or whose
        gamma is something else, says so.
        """
        gamma = float(getattr(self, "gamma", 0.0))
        return gamma, gamma

    def side_weights(self) -> tuple[float, float] | None:
        """Returns the weights of positives and of negatives in force where the loss is -w (1 - p_t)^g log p_t, summed.

        None, as here, for any other loss, and where a side has more than one weight: by class, box, rank or density.
        """
        return None

    def focal_form(self) -> tuple[float, float] | None:
        """Returns gamma and alpha of the focal loss that this one is in force, up to a factor; None where it is none.

        Cross entropy is gamma 0 and alpha 0.5: both sides weigh the same.
        """
        sides, (of_positives, of_negatives) = self.side_weights(), self.focusing_exponents()
        if sides is None or of_positives != of_negatives:
            return None
        return of_positives, sides[0] / sum(sides)

    def initial_loss(self, num_anchors: float, num_positives: float, prior_prob: float | None) -> float | None:
        """Returns the expected loss per positive anchor before the first step, or None where there is no closed form.

        It has one where it is a sum over elements: hit(pi) + miss(pi) (R K - P) / P with sigmoids, and R for R K with a
        softmax. From it follows what the loss must be at any outputs, which the first step is held to.

        Args:
            num_anchors: R, anchors that are not ignored, a mean over images.
            num_positives: positive anchors per image, a mean over images.
            prior_prob: pi of the head's bias, or None for a head that starts at zero.
        """
        return None

    def keep(
        self,
        name: str,
        value: Any,
        *,
        low: float = 0.0,
        high: float = math.inf,
        open_low: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Registers a parameter, a number that fits ``check_number`` or a schedule of such, as the buffer ``name``.

        What it is at each point of the training is logged. A change of a buffer costs no recompilation.
        """
        schedule = as_schedule(value)
        for number in schedule.values if schedule else (value,):
            check_number(name, number, low=low, high=high, open_low=open_low)
        if schedule:
            self._schedules[name] = schedule
        self._logged.append(name)
        start = schedule(0.0) if schedule else float(value)
        self.register_buffer(name, torch.tensor(start, dtype=dtype))

    def balanced_alpha(self) -> float:
        """Returns what ``alpha: auto`` is: the weight of positives that gives both sides the same total weight.

        With sigmoids every element counts, with a softmax every anchor.

        Raises:
            ValueError: without counts, or where one side is empty.
        """
        if self.counts is None:
            raise ValueError("alpha: auto needs the anchors counted after matching (counts)")
        positives, negatives = self.counts.positives, self.counts.negatives
        if self.activation == "sigmoid":
            negatives = (positives + negatives) * self.num_classes - positives
        return balance_from_counts(positives, negatives)

    def keep_alpha(self, alpha: Any, *, length: int, high: float) -> None:
        """Registers ``alpha``: None, ``length`` weights up to ``high``, a number or schedule in [0, 1], or ``auto``.

        float64: 1 - alpha of such an alpha, near 1, is not exact in
        float32.
        """
        if alpha == "auto":
            alpha = self.balanced_alpha()
        if alpha is None:
            self.register_buffer("alpha", None)
        elif isinstance(alpha, Sequence) and not isinstance(alpha, str):
            self.register_buffer("alpha", check_class_weights("alpha", alpha, length, high=high))
        else:
            self.keep("alpha", alpha, high=1.0, dtype=torch.float64)

    def flat(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the logits as (A, C) and the labels as (A,), A = N * R, after a check of their shapes."""
        outputs = self.num_classes + (self.activation == "softmax")
        if logits.shape[:-1] != labels.shape or logits.shape[-1] != outputs:
            raise ValueError(
                f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} do not fit: "
                f"expected (N, R, {outputs}) and (N, R)"
            )
        return logits.reshape(-1, outputs), labels.reshape(-1)


Schedulable = Annotated[float, MOVES]
"""Annotates a keyword of a plugin's loss class that takes a schedule too: hand it to ``keep``."""


def check_number(name: str, value: Any, *, low: float = 0.0, high: float = math.inf, open_low: bool = False) -> None:
    """Raises ValueError unless ``value`` is a finite number from ``low`` (left out if ``open_low``) to ``high``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value) or value < low or value > high or (open_low and value == low):
        bounds = f"in [{low:g}, {high:g}]" if math.isfinite(high) else f"{'>' if open_low else '>='} {low:g}"
        raise ValueError(f"{name} must be {bounds}, got {value}")


def check_class_weights(name: str, values: Sequence[float], length: int, *, high: float = math.inf) -> Tensor:
    """Returns ``values`` as a (length,) float64 tensor.

    Raises:
        ValueError: another length, or an element that is no finite number in [0, high].
    """
    if len(values) != length:
        raise ValueError(f"{name} has {len(values)} entries, but {length} are needed: one per class")
    for index, value in enumerate(values):
        check_number(f"{name}[{index}]", value, high=high)
    return torch.tensor([float(value) for value in values], dtype=torch.float64)


def balance_from_counts(positives: int, negatives: int) -> float:
    """Returns the alpha that gives both sides the same total weight: alpha / (1 - alpha) = negatives / positives.

    Raises:
        ValueError: one side is empty.
    """
    if positives <= 0:
        raise ValueError("alpha: auto needs positive anchors, but none were counted on the training set")
    if negatives <= 0:
        raise ValueError(
            "alpha: auto needs negatives, but none were counted: without a background use a number or null"
        )
    return negatives / (negatives + positives)
