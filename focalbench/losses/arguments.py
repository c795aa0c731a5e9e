"""What the losses accept: checks of logits, labels, gamma and alpha, and the dtype in which a loss is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from focalbench.losses.base import check_class_weights, check_number

_FLAT_CLASSES = "the class axis last and the others flattened: x.movedim(1, -1).flatten(0, -2) for (N, K, H, W)"


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype in which a loss of logits of ``dtype`` is computed: float32, and float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def split_labels(labels: Tensor, num_columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the rows and columns of positives, (P,) each, and the ignored rows; rows ascend. Waits for the device.

    Raises:
        ValueError: a label outside -1..num_columns.
    """
    rows = (labels != num_columns).nonzero().squeeze(1)
    columns = labels[rows].long()
    ignored = columns < 0
    if bool(ignored.any()):
        if int(columns.min()) < -1:
            raise ValueError(_label_fault(int(columns.min()), num_columns))
        ignored_rows, rows, columns = rows[ignored], rows[~ignored], columns[~ignored]
    else:
        ignored_rows = rows[:0]
    if columns.numel() and int(columns.max()) > num_columns:
        raise ValueError(_label_fault(int(columns.max()), num_columns))
    return rows, columns, ignored_rows


def check_labels(labels: Tensor, num_columns: int) -> None:
    """Refuses labels outside -1..num_columns: at once on a CPU, elsewhere by :func:`assert_labels_on_device`.

    Raises:
        ValueError: on a CPU.
    """
    if labels.device.type == "cpu":
        split_labels(labels, num_columns)
    else:
        assert_labels_on_device(labels, num_columns)


def check_interval(noun: str, values: Tensor, *, high: float = 1.0) -> None:
    """Refuses ``values`` outside [0, high], NaN and infinity among them: at once on a CPU, elsewhere by a device-side
    assertion.

    Raises:
        ValueError: on a CPU.
    """
    fits = ((values >= 0) & (values <= high) & values.isfinite()).all()
    bounds = f"lie in [0, {high:g}]" if math.isfinite(high) else "be finite and at least 0"
    if values.device.type != "cpu":
        torch._assert_async(fits, f"focalbench: {noun} must {bounds}")
    elif not bool(fits):
        raise ValueError(f"{noun} must {bounds}")


def check_parameter(name: str, value: Tensor, *, high: float = math.inf) -> None:
    """Refuses values of gamma or alpha as ``check_interval`` does, except in compiled code, which a look at a value
    would cut in two.

    Raises:
        ValueError: out of range, or it requires a gradient: no loss has one for its parameters.
    """
    if value.requires_grad:
        raise ValueError(f"{name} gets no gradient: pass {name}.detach()")
    if not torch.compiler.is_compiling():
        check_interval(name, value, high=high)


def as_parameters(
    gamma: float | Tensor, alpha: float | Sequence[float] | Tensor | None, logits: Tensor, *, high: float
) -> tuple[Tensor, Tensor | None]:
    """Returns gamma, in the dtype of the computation, and alpha, as float64, on the device of ``logits``.

    float64, because 1 - alpha of an alpha near 1 is not exact in float32.

    Args:
        alpha: one number in [0, 1], None, or, for logits (N, C), C weights in [0, ``high``].

    Raises:
        ValueError: as ``check_parameter``, for numbers too, or another number of weights than C.
    """
    if isinstance(gamma, Tensor):
        check_parameter("gamma", gamma)
    else:
        check_number("gamma", gamma)
    gamma = torch.as_tensor(gamma, dtype=compute_dtype(logits.dtype), device=logits.device)
    if alpha is None:
        return gamma, None
    if logits.ndim != 2 and (isinstance(alpha, Sequence) or (isinstance(alpha, Tensor) and alpha.ndim)):
        raise ValueError(
            f"one alpha per class needs (N, K) logits, got {tuple(logits.shape)}: pass one number, "
            f"or logits and targets with {_FLAT_CLASSES}"
        )
    if isinstance(alpha, Sequence):
        check_class_weights("alpha", alpha, logits.shape[1], high=high)
    elif not isinstance(alpha, Tensor):
        check_number("alpha", alpha, high=1.0)
    elif alpha.ndim and alpha.shape != logits.shape[1:]:
        raise ValueError(f"alpha has {alpha.numel()} entries, but {logits.shape[1]} are needed: one per class")
    else:
        check_parameter("alpha", alpha, high=high if alpha.ndim else 1.0)
    return gamma, torch.as_tensor(alpha, dtype=torch.float64, device=logits.device)


def is_soft(logits: Tensor, labels: Tensor) -> bool:
    """Returns whether ``labels`` are targets for every element, after a check of shapes and dtypes.

    What has the logits' shape, whichever that is, are targets; class ids are (N,), for logits (N, K).

    Raises:
        ValueError: shapes or dtypes that do not fit, a target outside [0, 1].
    """
    if not logits.is_floating_point():
        raise ValueError(f"logits must be of a floating dtype, got {logits.dtype}")
    if labels.is_complex():
        raise ValueError(f"labels must be class ids or real targets, got {labels.dtype}")
    if labels.shape == logits.shape:
        check_interval("targets of the logits' shape", labels)
        return True
    if logits.ndim != 2:
        raise ValueError(
            f"for logits {tuple(logits.shape)} labels must be targets of that shape, got {tuple(labels.shape)}; "
            f"class ids (N,) need (N, K) logits, {_FLAT_CLASSES}"
        )
    if labels.shape != logits.shape[:1]:
        raise ValueError(
            f"labels must be (N,) class ids or (N, K) targets for logits {tuple(logits.shape)}, "
            f"got {tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"class ids must be integers, got {labels.dtype}: pass labels.long()")
    return False


def _label_fault(label: int, num_columns: int) -> str:
    return f"label {label} is out of range: classes are 0..{num_columns - 1}, {num_columns} is background, -1 ignored"


def assert_labels_on_device(labels: Tensor, num_columns: int) -> None:
    """Queue a check of the labels on their device; a fault surfaces at the next synchronisation, without one here."""
    fits = ((labels >= -1) & (labels <= num_columns)).all()
    torch._assert_async(fits, f"focalbench: a label is outside -1..{num_columns} (K = {num_columns} is background)")
