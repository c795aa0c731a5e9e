"""pydantic's errors in the words of the person who wrote the file: which key, why, and what was probably meant."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from focalbench.config.base import PLUGIN_KEYS
from focalbench.config.document import ConfigFault, Document, KeyPath, Mark, dotted, parse_value
from focalbench.config.identity import can_be_swept
from focalbench.config.schema import ExperimentConfig

BRANCHES = ("data", "model", "loss", "optim")
"""The branches whose keys depend on their ``name``."""

_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
    "none_required": "null",
}
_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
    "multiple_of": ("a multiple of", "multiple_of"),
}
_LENGTHS = {"too_short": ("at least", "min_length"), "too_long": ("at most", "max_length")}
_LISTS = {"list_type", "tuple_type", *_LENGTHS}
_LONGEST_HINT = 150
_ELSEWHERE = {
    "amp": "optim.precision",
    "batch": "optim.batch_size",
    "conf": "eval.score_thresh",
    "img_size": "data.image_size",
    "imgsz": "data.image_size",
    "iou": "eval.nms_thresh",
    "learning_rate": "optim.lr",
    "lr0": "optim.lr",
    "optimizer": "optim.name",
    "seeds": "sweep.seeds",
}
"""What other tools call a key, or where they have it."""


Schema = type[ExperimentConfig]
"""focalbench's own configuration, or one to which plugins add."""


def schema_of(document: Document) -> Schema:
    """Returns what ``document`` is checked against."""
    return document.schema or ExperimentConfig


def variants(branch: str, schema: Schema = ExperimentConfig) -> dict[str, type[BaseModel]]:
    """Returns the models that ``branch`` can be, by their ``name``."""
    return {model.model_fields["name"].default: model for model in models_in(schema.model_fields[branch].annotation)}


def default_name(branch: str) -> str:
    """Returns the name of the variant that ``branch`` is when it is left out."""
    return str(ExperimentConfig.model_fields[branch].default.name)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Finds every configuration model in a type annotation, but what stands for plugins' sections in general."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        name = annotation.model_fields.get("name")
        return [] if name is not None and name.is_required() else [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def check(document: Document) -> ExperimentConfig | list[ConfigFault]:
    """Validates ``document``: returns the configuration that it holds, or everything that is wrong with it."""
    for branch in BRANCHES:
        section = document.data.get(branch)
        if isinstance(section, dict) and section.get("name") is None:
            section["name"] = default_name(branch)
    try:
        # Strict, so that `gamma: true` or `lr: "0.1"` is a fault; from JSON, so that a list may become a tuple.
        return schema_of(document).model_validate_json(json.dumps(document.data), strict=True)
    except ValidationError as error:
        return faults_of(error, document)


def faults_of(error: ValidationError, document: Document) -> list[ConfigFault]:
    """Turns what ``error`` says about ``document`` into faults, one a key, in the order of the keys."""
    found: dict[KeyPath, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        if detail["type"] == "default_factory_not_called":
            continue  # only says that another key of the section is wrong
        path = _real_path(detail["loc"], document.data, detail["type"] in {"missing", "extra_forbidden"})
        if detail["type"] == "union_tag_invalid":
            path = (*path, "name")
        for part in str(detail.get("ctx", {}).get("key", "")).split("."):
            path = (*path, part) if part else path
        found.setdefault(path, []).append(detail)
    faults = []
    for path, details in found.items():
        deeper = any(other[: len(path)] == path and len(other) > len(path) for other in found)
        if deeper and all(detail["type"] in _WANTED or detail["type"] == "literal_error" for detail in details):
            continue  # another form of the same key was meant, and its own fault is named
        on_key = details[0]["type"] == "extra_forbidden"
        mark = document.mark(path, on_key)
        reason = _reason(path, details, document) + _hint_at_sweep(path, details, document, mark)
        faults.append(ConfigFault(path, reason, mark, on_key))
    return faults


def _real_path(loc: tuple[str | int, ...], data: Any, new_leaf: bool) -> KeyPath:
    """Take from ``loc`` the names of union members that pydantic mixes into it: keep the parts that ``data`` has.

    ``new_leaf``: the last part is a key that is missing or unknown.
    """
    path: list[str | int] = []
    for index, part in enumerate(loc):
        if isinstance(data, dict) and part in data:
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int):
            data = data[part] if part < len(data) else None
        elif not (new_leaf and isinstance(data, dict) and index == len(loc) - 1):
            continue
        path.append(part)
    return tuple(path)


def _reason(path: KeyPath, details: list[ErrorDetails], document: Document) -> str:
    first = details[0]
    kind = first["type"]
    if kind == "extra_forbidden":
        return _unknown_key(path, document)
    if kind == "missing":
        return "is missing"
    if kind == "union_tag_invalid":
        expected = [tag.strip("'") for tag in str(first["ctx"]["expected_tags"]).split(", ")]
        return _one_of(expected, first["ctx"]["tag"])
    wanted: list[str] = []
    for detail in details:
        phrase = _wanted(detail)
        if phrase is None:
            return _sentence(detail)
        if phrase not in wanted:
            wanted.append(phrase)
    choices = [str(choice) for detail in details for choice in _choices(detail)]
    return f"should be {' or '.join(wanted)}, not {shown(first['input'])}{_meant(first['input'], choices)}"


def _value_at(path: KeyPath, data: Any) -> Any:
    """What ``data`` holds at ``path``; None where it ends before."""
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _hint_at_sweep(path: KeyPath, details: list[ErrorDetails], document: Document, mark: Mark | None) -> str:
    """How several values of a key that takes one are compared."""
    values = _value_at(path, document.data)
    if isinstance(values, str) and "," in values:  # as in -s loss.gamma=0.5,1,2
        values = [parse_value(part, "")[0] for part in values.split(",")]
    several = isinstance(values, list) and len(values) > 1 and not any(isinstance(one, list | dict) for one in values)
    if not path or not several or any(detail["type"] in (*_LISTS, "extra_forbidden") for detail in details):
        return ""
    written = json.dumps(values, ensure_ascii=False)
    if path == ("seed",):
        key, value = "sweep.seeds", written
    elif len(path) > 1 and can_be_swept(dotted(path)) and len(written) < _LONGEST_HINT:
        key, value = "sweep.grid", f"{{{dotted(path)}: {written}}}"
    else:
        return ""
    if mark is not None and mark.where.startswith("-s "):
        return f"; to compare several: -s '{key}={value}'"
    return f"; to compare several: sweep: {{{key.removeprefix('sweep.')}: {value}}}"


def _wanted(detail: ErrorDetails) -> str | None:
    """Say what the value should have been, to follow "should be"; None where that does not make a sentence."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _WANTED:
        return _WANTED[kind]
    if kind in _BOUNDS:
        words, limit = _BOUNDS[kind]
        return f"{words} {context[limit]:g}"
    if kind == "literal_error":
        return str(context["expected"])
    if kind == "choice":
        return str(detail["msg"]).removeprefix("should be ")
    if kind in _LENGTHS and isinstance(detail["input"], list | dict):
        words, limit = _LENGTHS[kind]
        return f"a list of {words} {context.get(limit)}"
    return None


def _choices(detail: ErrorDetails) -> list[str]:
    if detail["type"] == "choice":
        return str(detail["ctx"]["choices"]).split(", ")
    if detail["type"] != "literal_error":
        return []
    return [part.strip().strip("'") for part in str(detail["ctx"]["expected"]).replace(" or ", ", ").split(",")]


def _sentence(detail: ErrorDetails) -> str:
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    if detail["type"] == "string_pattern_mismatch":
        return f"should match {detail['ctx']['pattern']}, not {shown(detail['input'])}"
    if detail["type"] == "string_too_short":
        return "should not be empty"
    message = detail["msg"]
    return message[:1].lower() + message[1:] if message.startswith("Input") else message


def shown(value: Any) -> str:
    """Writes a value as YAML would, cut to a length that fits a message."""
    if value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, dict):
        text = "{" + ", ".join(f"{key}: {shown(inner)}" for key, inner in list(value.items())[:4]) + "}"
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(shown(inner) for inner in value[:6]) + "]"
    else:
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _one_of(choices: list[str], given: object) -> str:
    return f"should be one of {', '.join(choices)}, not {shown(given)}{_meant(given, choices)}"


def _meant(given: object, choices: list[str]) -> str:
    close = difflib.get_close_matches(str(given).lower(), choices, n=1) if isinstance(given, str) else []
    return f"; did you mean '{close[0]}'?" if close else ""


def _unknown_key(path: KeyPath, document: Document) -> str:
    """Say why the last part of ``path`` is no key, and which one was probably meant."""
    data, schema = document.data, schema_of(document)
    parents, key = path[:-1], str(path[-1])
    known = list(_keys_at(parents, data, schema))
    if not parents and key in _ELSEWHERE:
        return f"unknown key here; did you mean '{_ELSEWHERE[key]}'?"
    if parents == ("sweep",) and "." in key:
        return f"unknown key; values to compare go into sweep: {{grid: {{{key}: {shown(data['sweep'][key])}}}}}"
    close = difflib.get_close_matches(key, known, n=1)
    if close:
        return f"unknown key; did you mean '{close[0]}'?"
    if len(parents) == 1 and parents[0] in BRANCHES:
        branch = str(parents[0])
        others = [name for name, model in variants(branch, schema).items() if key in model.model_fields]
        if others:
            current = data[branch].get("name", default_name(branch))
            return f"{branch} {current} has no such key; it belongs to {', '.join(others)}"
    elsewhere = [full for full in all_keys(schema) if full.rpartition(".")[2] == key]
    if elsewhere:
        return f"unknown key here; did you mean '{elsewhere[0]}'?"
    return f"unknown key; known here: {', '.join(known)}" if known else "unknown key"


def _keys_at(parents: KeyPath, data: Any, schema: Schema) -> Iterator[str]:
    """Yield the keys that a user may write at ``parents``, given what ``data`` chooses on the way."""
    models: list[type[BaseModel]] = [schema]
    for part in parents:
        inner = data.get(part) if isinstance(data, dict) else data[part] if isinstance(part, int) else None
        if isinstance(part, int):
            data = inner
            continue
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        models = [model for field in fields for model in models_in(field.annotation)]
        chosen = inner.get("name") if isinstance(inner, dict) else None
        named = [model for model in models if "name" in model.model_fields]
        models = [model for model in named if model.model_fields["name"].default == chosen] or models
        data = inner
    for model in models[:1]:
        yield from (key for key in model.model_fields if key not in PLUGIN_KEYS)


@lru_cache(maxsize=4)
def all_keys(schema: Schema = ExperimentConfig) -> tuple[str, ...]:
    """Returns every key of every variant, dotted."""

    def walk(model: type[BaseModel], section: str) -> Iterator[str]:
        for key, field in model.model_fields.items():
            yield section + key
            for part in models_in(field.annotation):
                yield from walk(part, f"{section}{key}.")

    return tuple(dict.fromkeys(walk(schema, "")))
