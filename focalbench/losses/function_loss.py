"""A classification loss that is a function of logits and targets; autograd has its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from focalbench.errors import DivergedError, PluginError
from focalbench.losses.arguments import check_labels, compute_dtype, split_labels
from focalbench.losses.base import ClassificationLoss, Counts
from focalbench.plugins.loading import calls_of
from focalbench.plugins.registration import Registration, require_subclass
from focalbench.ranks import world_size
from focalbench.schedule import as_schedule

ElementwiseFunction = Callable[..., Tensor]


class FunctionLoss(ClassificationLoss):
    """Sums what a function returns for every element, or, with a softmax, for every anchor.

    The function gets float32 logits (float64 for float64 ones) and 0/1 targets of one shape and dtype: (A, K) with a
    sigmoid; (A, K + 1) with a softmax, background last. It returns (A, K), or (A,) with a softmax. What it says of
    ignored anchors does not count; they come with logits of 0.

    Args:
        num_classes, counts: see ``ClassificationLoss``.
        keywords: of the function. Of a schedule it gets the number in force, and for an alpha of ``auto``
            the one that gives positives and negatives the same total weight.

    Attributes:
        function: what is called.
        place: file and line of its definition, for messages.
    """

    function: ClassVar[ElementwiseFunction]
    place: ClassVar[str]

    def __init__(self, num_classes: int, *, counts: Counts | None = None, **keywords: Any) -> None:
        super().__init__(num_classes, counts)
        self._keywords: dict[str, Any] = {}
        for name, value in keywords.items():
            if name == "alpha" and value == "auto":
                value = self.balanced_alpha()
            if as_schedule(value) is not None or (name in ("gamma", "alpha") and _is_number(value)):
                self.keep(name, value, low=-math.inf, dtype=torch.float64)
                value = self._schedules[name](0.0) if name in self._schedules else float(value)
            self._keywords[name] = value
        # What a checkpoint brings; later ones need no look at the buffers, which on a GPU would wait.
        self.register_load_state_dict_post_hook(_take_over)

    @property
    def waits_for_device(self) -> bool:  # type: ignore[override]
        """Whether no CUDA graph can record a step: a recording would keep a scheduled number as it is."""
        return bool(self._schedules)

    def set_progress(self, fraction: float) -> None:
        """See ``ClassificationLoss``."""
        super().set_progress(fraction)
        self._keywords |= {name: schedule(fraction) for name, schedule in self._schedules.items()}

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See ``ClassificationLoss``.

        Raises:
            PluginError: the function returns something else than one value an element, or no gradient.
            DivergedError: on a CPU, a value that is not finite, at logits that are. Of several ranks one may be the
                only one to see it: there the loop finds it in their mean.
        """
        x, targets, ignored = self._question(logits.to(compute_dtype(logits.dtype)), labels)
        values = self.values(x, targets)
        of_anchors = values if values.ndim == 1 else values.sum(dim=1)  # masking anchors, not elements, spares a copy
        total = of_anchors.masked_fill(ignored, 0.0).sum()
        total = _with_gradient(total, logits, self.place, type(self).__name__)
        looks = total.device.type == "cpu" and world_size() == 1
        if looks and not math.isfinite(total.item()) and bool(x.isfinite().all()):
            raise DivergedError(self._words(values.detach(), x, targets))
        return total

    def _question(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the function is asked: logits, 0 at ignored anchors, and targets; and which anchors are ignored.

        By index on a CPU, where few anchors are more than background; elsewhere by mask, because counting would wait
        for the device.
        """
        ignored = labels < 0
        if x.device.type != "cpu":
            check_labels(labels, self.num_classes)
            return x.masked_fill(ignored[:, None], 0.0), self.targets(labels, x), ignored
        rows, columns, ignored_rows = split_labels(labels, self.num_classes)
        targets = torch.zeros_like(x)
        if self.activation == "softmax":
            targets[:, -1] = 1
            targets[rows, -1] = targets[ignored_rows, -1] = 0
        targets[rows, columns] = 1
        return (x.index_fill(0, ignored_rows, 0.0) if len(ignored_rows) else x), targets, ignored

    def initial_loss(self, num_anchors: float, num_positives: float, prior_prob: float | None) -> float | None:
        """See ``ClassificationLoss``; None where an element's value depends on the others."""
        if num_positives <= 0:
            return None
        labels = torch.arange(self.num_classes + 1)  # one positive of each class, one background
        x = self._prior_logits(prior_prob).expand(len(labels), -1).contiguous()
        targets = self.targets(labels, x)
        with torch.no_grad():
            values = self.values(x, targets)
            alone = torch.cat([self.values(x[i : i + 1], targets[i : i + 1]) for i in range(len(labels))])
        if not torch.allclose(values, alone, rtol=1e-9, atol=0):
            return None
        if self.activation == "softmax":
            hit, miss = values[:-1].mean(), values[-1]
            return float(hit + miss * (num_anchors - num_positives) / num_positives)
        own = torch.eye(self.num_classes, dtype=torch.bool)
        hit, miss = values[:-1][own].mean(), values[-1].mean()
        return float(hit + miss * (num_anchors * self.num_classes - num_positives) / num_positives)

    def _prior_logits(self, prior_prob: float | None) -> Tensor:
        """(C,) float64 logits of a head that starts at the prior; see ``oracle`` for what that is."""
        if self.activation == "sigmoid":
            prior = torch.tensor(0.5 if prior_prob is None else prior_prob, dtype=torch.float64)
            return torch.logit(prior).expand(self.num_classes)
        if prior_prob is None:
            return torch.zeros(self.num_classes + 1, dtype=torch.float64)
        share = [prior_prob / self.num_classes] * self.num_classes
        return torch.tensor([*share, 1 - prior_prob], dtype=torch.float64).log()

    def targets(self, labels: Tensor, x: Tensor) -> Tensor:
        """Returns (A, C) of the dtype of ``x``, (A, C): 1 at the column of the label, (A,) int64, else 0."""
        columns = torch.arange(x.shape[1], device=labels.device)
        return (labels[:, None] == columns).to(x.dtype)

    def values(self, x: Tensor, targets: Tensor) -> Tensor:
        """Returns what the function makes of logits and targets, (A, C) each: (A, C), or (A,) with a softmax.

        Raises:
            PluginError: when it is something else.
        """
        values: Any = type(self).function(x, targets, **self._keywords)
        wanted = x.shape[:1] if self.activation == "softmax" else x.shape
        if not isinstance(values, Tensor) or values.shape != wanted:
            found = f"a tensor {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            unit = "anchor" if self.activation == "softmax" else "element"
            hint = ": leave sum and mean to the caller" if isinstance(values, Tensor) and values.ndim == 0 else ""
            raise PluginError(
                f"{self.place}: {type(self).__name__} returns {found} for logits {tuple(x.shape)}; one value per "
                f"{unit} is needed, {tuple(wanted)}{hint}"
            )
        return values

    def _words(self, values: Tensor, x: Tensor, targets: Tensor) -> str:
        """Where a value is not finite, by the first element for which it is not."""
        name = f"{self.place}: {type(self).__name__}"
        broken = ~values.isfinite()
        if not bool(broken.any()):
            return f"{name}: the sum of its values overflows {x.dtype}"
        place = tuple(broken.nonzero()[0].tolist())
        row = x[place].tolist(), targets[place].tolist()
        logit, target = row if self.activation == "sigmoid" else ([round(v, 4) for v in row[0]], row[1])
        return f"{name} is {values[place].item()} for a logit of {logit} and a target of {target}"


class _OwnClass(ClassificationLoss):
    """Put before a plugin's class: a look at what it takes and returns."""

    entry: ClassVar[Registration]

    def __init__(self, num_classes: int, **keywords: Any) -> None:
        with calls_of(self.entry):
            super().__init__(num_classes, **keywords)
        if "_schedules" not in vars(self):
            raise PluginError(f"{self.entry.place}: {self.entry.name}: its __init__ does not call super().__init__")

    def forward(self, logits: Tensor, labels: Tensor, **others: Tensor | None) -> Tensor:
        """See ``ClassificationLoss``.

        Raises:
            PluginError: for something else than a sum with a gradient.
        """
        total: Any = super().forward(logits, labels, **others)
        place, name = self.entry.place, self.entry.name
        if not isinstance(total, Tensor) or total.ndim:
            found = f"a tensor {tuple(total.shape)}" if isinstance(total, Tensor) else type(total).__name__
            raise PluginError(f"{place}: {name} returns {found}; one tensor () is needed, the sum over all anchors")
        return _with_gradient(total, logits, place, name)


def registered_loss(entry: Registration) -> type[ClassificationLoss]:
    """Returns the class of a plugin's loss, built like any other: ``(num_classes, counts=None, **keywords)``.

    Raises:
        PluginError: for a class that is no ``ClassificationLoss``, or computes nothing.
    """
    if not isinstance(entry.target, type):
        members = {"function": staticmethod(entry.target), "place": entry.place, **entry.options}
        return type(entry.name, (FunctionLoss,), members)
    own = require_subclass(entry, entry.target, ClassificationLoss, "focalbench.losses.ClassificationLoss")
    if (own.total, own.forward) == (ClassificationLoss.total, ClassificationLoss.forward):
        raise PluginError(f"{entry.place}: {entry.name}: the class has neither a total nor a forward of its own")
    return type(entry.name, (_OwnClass, own), {"entry": entry})


def _with_gradient(total: Tensor, logits: Tensor, place: str, name: str) -> Tensor:
    """``total``, unless the training would pass over the loss in silence."""
    if torch.is_grad_enabled() and logits.requires_grad and not total.requires_grad and total.item():
        raise PluginError(
            f"{place}: {name} has no gradient: it does not depend on the logits, or detaches them (detach, item, "
            "numpy, torch.no_grad)"
        )
    return total


def _take_over(loss: FunctionLoss, incompatible_keys: object) -> None:
    """Sets the numbers that schedules had reached in a checkpoint."""
    loss._keywords |= {name: float(loss.get_buffer(name)) for name in loss._logged}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
