"""Columns of TensorBoard's HPARAMS page: one constant set for every sweep, and a trial's configuration flattened into
it.

TensorBoard takes the columns from the first trial it meets, so they come from the configuration's JSON Schema and not
from one sweep. Its page fails as a whole when one column holds numbers in one trial and text in another; a key that
may be either (``loss.alpha``: a number, ``auto``, null) therefore has the numeric column ``loss.alpha`` and the
column ``loss.alpha.text`` for everything else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from focalbench.records.reader import flatten_config

Kind = Literal["number", "bool", "string"]
Scalar = bool | int | float | str

TEXT = ".text"
"""Suffix of the column for the values of a mixed key that are not numbers."""

FOCAL_FORM = ("loss.gamma", "loss.alpha")
"""Columns that every loss of the focal family fills."""

TRIAL_COLUMNS = ("trial", "arm")
"""Text columns that every trial has beside its configuration."""


_OF_NO_TRIAL = ("base", "sweep")
"""Sections of a file that no trial's configuration has."""


@dataclass(frozen=True)
class Column:
    """One hyperparameter and its declared domain.

    Attributes:
        kind: type of all values in the column; a trial may leave the column empty.
        values: all values there can be, sorted; empty where the set is open.
        minimum: smallest value of a number, or None where unbounded.
        maximum: largest value of a number, or None where unbounded.
    """

    kind: Kind
    values: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None


def flatten(config: Mapping[str, Any]) -> dict[str, Scalar]:
    """Returns a resolved configuration as ``{"loss.gamma": 2.0}``: null becomes "none", lists become text, an empty
    branch vanishes.
    """
    return {name: _as_scalar(value) for name, value in flatten_config(config).items() if value != {}}


def _as_scalar(value: Any) -> Scalar:
    if value is None:
        return "none"
    return value if isinstance(value, bool | int | float | str) else json.dumps(value, default=str)


def with_focal_form(values: Mapping[str, Scalar], form: tuple[float, float] | None) -> dict[str, Scalar]:
    """Returns flattened ``values`` with gamma and alpha as the focal loss has them, for display beside other losses.

    The parallel coordinates of the HPARAMS page draw no trial with an empty cell, so cross entropy, which has neither
    key, would be missing. What the configuration says in words (``auto``) stays in the text column; what a schedule
    moves has no number.

    Args:
        values: see ``flatten``.
        form: gamma and alpha; None for a loss that is no form of the focal loss.
    """
    shown = dict(values)
    for name, number in zip(FOCAL_FORM, form, strict=True) if form is not None else ():
        if any(key.startswith(f"{name}.") for key in values):
            continue
        if isinstance(said := values.get(name), str):
            shown[f"{name}{TEXT}"] = said
        shown[name] = number
    return shown


def columns_of(*schemas: Mapping[str, Any]) -> dict[str, Column]:
    """Returns the columns for every key that a configuration of these JSON Schemas can have, whichever loss, model or
    optimizer it names.

    Args:
        schemas: JSON Schema of the whole configuration, and that of what plugins add, as pydantic writes them
            (``$defs``, ``anyOf``, ``oneOf``, ``allOf``); an empty one is passed over.
    """
    columns = dict.fromkeys(TRIAL_COLUMNS, Column("string"))
    for schema in schemas:
        for key, node in schema.get("properties", {}).items():
            if key not in _OF_NO_TRIAL:
                for name, column in _columns_below(key, node, schema.get("$defs", {})):
                    columns[name] = _merge(columns.get(name), column)
    return columns


def fit(values: Mapping[str, Scalar], columns: Mapping[str, Column]) -> dict[str, Scalar]:
    """Returns ``values`` sorted into ``columns``, so that each column holds one kind only; a key without any column is
    left out.
    """
    fitted: dict[str, Scalar] = {}
    for name, value in values.items():
        column = columns.get(name)
        if (
            column is not None and column.kind == _kind(value) and value == value
        ):  # NaN is no JSON: it would break the page
            fitted[name] = value
        elif column is not None and column.kind == "string":
            fitted[name] = str(value)
        elif f"{name}{TEXT}" in columns:
            fitted[f"{name}{TEXT}"] = str(value)
    return fitted


def _kind(value: Scalar) -> Kind:
    if isinstance(value, bool):
        return "bool"
    return "string" if isinstance(value, str) else "number"


def _columns_below(name: str, node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[tuple[str, Column]]:
    """The columns of one key: a leaf's own, or those of the branches below it."""
    leaves: list[Column] = []
    for branch in _alternatives(node, definitions):
        if branch.get("properties"):
            for key, child in branch["properties"].items():
                yield from _columns_below(f"{name}.{key}", child, definitions)
        else:
            leaves.append(_leaf(branch))
    numbers = [leaf for leaf in leaves if leaf.kind == "number"]
    others = [leaf for leaf in leaves if leaf.kind != "number"]
    if numbers:
        yield name, _union(numbers)
    if others:
        column = _union(others) if len({leaf.kind for leaf in others}) == 1 else Column("string")
        yield (f"{name}{TEXT}", replace(column, kind="string")) if numbers else (name, column)


def _alternatives(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """``node`` without references, one item an alternative that its value may take."""
    if "$ref" in node:
        yield from _alternatives(definitions[node["$ref"].rsplit("/", 1)[-1]], definitions)
        return
    choices = node.get("anyOf") or node.get("oneOf") or node.get("allOf")
    if not choices:
        yield node
        return
    for choice in choices:
        yield from _alternatives(choice, definitions)


def _leaf(node: Mapping[str, Any]) -> Column:
    """The column for one scalar alternative; lists and free-form objects are text."""
    if "const" in node or "enum" in node:
        values = node.get("enum", [node.get("const")])
        if all(isinstance(value, str) for value in values):
            return Column("string", values=tuple(sorted(values)))
        if all(isinstance(value, bool) for value in values):
            return Column("bool")
        if all(isinstance(value, int | float) for value in values):
            return Column("number", minimum=min(values), maximum=max(values))
        return Column("string")
    kind = node.get("type")
    if kind == "boolean":
        return Column("bool")
    if kind == "null":
        return Column("string", values=("none",))
    if kind in ("number", "integer"):
        return Column(
            "number",
            minimum=node.get("minimum", node.get("exclusiveMinimum")),
            maximum=node.get("maximum", node.get("exclusiveMaximum")),
        )
    return Column("string")


def _union(columns: list[Column]) -> Column:
    """One column that admits what any of ``columns`` (all of one kind) admits; an open domain wins."""
    closed = all(column.values for column in columns)
    minima = [-math.inf if column.minimum is None else column.minimum for column in columns]
    maxima = [math.inf if column.maximum is None else column.maximum for column in columns]
    return Column(
        columns[0].kind,
        values=tuple(sorted({value for column in columns for value in column.values})) if closed else (),
        minimum=None if math.isinf(min(minima)) else min(minima),
        maximum=None if math.isinf(max(maxima)) else max(maxima),
    )


def _merge(known: Column | None, column: Column) -> Column:
    """The same key in two branches of a union, such as ``loss.alpha`` of two losses."""
    if known is None:
        return column
    return _union([known, column]) if known.kind == column.kind else Column("string")
