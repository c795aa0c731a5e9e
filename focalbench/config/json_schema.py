"""The configuration as JSON Schema (draft 7), which editors use for completion, checks and help on each key."""

from __future__ import annotations

from typing import Any

from focalbench.config.schema import ExperimentConfig

_RENAMED = {"$defs": "definitions", "oneOf": "anyOf"}


def json_schema(schema: type[ExperimentConfig] = ExperimentConfig) -> dict[str, Any]:
    """Returns the schema of a configuration file: every key with type, range, default and documentation."""
    converted = _draft7(schema.model_json_schema())
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "focalbench experiment"} | converted


def _draft7(node: Any) -> Any:
    """Translate pydantic's schema, of 2020-12, into the words of draft 7.

    ``oneOf`` becomes ``anyOf``: a section without its ``name`` fits several variants, and means the default one.
    """
    if isinstance(node, list):
        return [_draft7(item) for item in node]
    if not isinstance(node, dict):
        return node
    converted: dict[str, Any] = {}
    for key, value in node.items():
        if key == "discriminator" and isinstance(value, dict) and "propertyName" in value:
            continue
        if key == "prefixItems":
            converted["items"] = _draft7(value)
        elif key == "$ref":
            converted["$ref"] = value.replace("#/$defs/", "#/definitions/")
        else:
            converted[_RENAMED.get(str(key), str(key))] = _draft7(value)
    if "prefixItems" in node and node.get("maxItems") == len(node["prefixItems"]):
        converted["additionalItems"] = False
    if "$ref" in converted and len(converted) > 1:  # draft 7 ignores what stands beside a reference
        converted["allOf"] = [{"$ref": converted.pop("$ref")}]
    return converted
