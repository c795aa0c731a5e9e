"""Keys of a configuration in words: what each takes, and values as YAML writes them."""

from __future__ import annotations

from typing import Any


def yaml_form(value: Any) -> str:
    """Returns a value as YAML writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "[" + ", ".join(yaml_form(item) for item in value) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def key_form(node: dict[str, Any], root: dict[str, Any]) -> str:
    """Returns what a key takes, in words, from its JSON Schema ``node``; ``root`` has the definitions."""
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        inner = root["$defs"][name]
        if "schedule" in name.lower():
            return "a schedule"
        return "a section" if inner.get("type") == "object" else key_form(inner, root)
    members = node.get("anyOf") or node.get("oneOf")
    if members:
        return " or ".join(dict.fromkeys(key_form(member, root) for member in members))
    if "const" in node:
        return f"`{node['const']}`"
    if "enum" in node:
        return ", ".join(f"`{yaml_form(value)}`" for value in node["enum"])
    return _plain_form(node, root)


def _plain_form(node: dict[str, Any], root: dict[str, Any]) -> str:
    kind = node.get("type")
    if kind in {"integer", "number"}:
        return ("whole number" if kind == "integer" else "number") + _range(node)
    if kind == "array":
        if "prefixItems" in node:
            return "[" + ", ".join(key_form(item, root) for item in node["prefixItems"]) + "]"
        inner = key_form(node["items"], root) if node.get("items") else "any value"
        return f"a list of: {inner}"
    if kind == "object":
        return "a mapping"
    return {"boolean": "`true`, `false`", "string": "text", "null": "`null`"}.get(str(kind), "any value")


def _range(node: dict[str, Any]) -> str:
    words = []
    for key, sign in (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<")):
        if key in node:
            words.append(f"{sign} {node[key]:.10g}")
    if "multipleOf" in node:
        words.append(f"multiple of {node['multipleOf']}")
    return " " + ", ".join(words) if words else ""
