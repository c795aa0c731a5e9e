"""Which five columns the HPARAMS page ticks as it opens: what the sweep varies, the seed, and no column with gaps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from focalbench.config.loss import FOCAL_FAMILY
from focalbench.tracking.hparams import FOCAL_FORM, Column, Scalar, fit, flatten, with_focal_form

NUM_TICKED = 5
"""TensorBoard ticks so many, whatever it is told."""
_FIRST = ("loss.name", *FOCAL_FORM)
_USUAL = ("loss.name", *FOCAL_FORM, "optim.lr", "model.name", "optim.batch_size")


def ticked_columns(configs: Sequence[Mapping[str, Any]], columns: Mapping[str, Column]) -> list[str]:
    """Returns the columns to tick for trials of these resolved configurations.

    The parallel coordinates leave out a trial with an empty cell in a ticked column, so a column with gaps is not
    ticked. Where fewer than five vary, usual ones fill the places that TensorBoard would give to the first by the
    alphabet.
    """
    rows = [_display_values(config, columns) for config in configs]
    complete = [name for name in columns if rows and all(name in row for row in rows)]
    varied = [name for name in complete if len({json.dumps(row[name]) for row in rows}) > 1 and name != "seed"]
    swept = sorted(varied, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
    chosen = [*swept[: NUM_TICKED - 1], "seed"]
    usual = [name for name in _USUAL if name not in chosen and name in complete]
    return [*chosen, *usual][:NUM_TICKED]


def _display_values(config: Mapping[str, Any], columns: Mapping[str, Column]) -> dict[str, Scalar]:
    """What the trial's row will show, as far as it can be known before it has counted its anchors."""
    values = flatten(config)
    gamma, alpha = values.get("loss.gamma", 0.0), values.get("loss.alpha", 0.5)
    if values.get("loss.name") not in FOCAL_FAMILY or str(alpha).startswith("["):  # a weight a class is no number
        return fit(values, columns)
    form = (float(gamma) if _is_number(gamma) else 0.0, float(alpha) if _is_number(alpha) else 0.5)
    return fit(with_focal_form(values, form), columns)


def _is_number(value: Scalar) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
