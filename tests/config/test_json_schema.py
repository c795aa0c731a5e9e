"""The JSON Schema: draft 7, complete, documented."""

import json

from focalbench.config.faults import all_keys
from focalbench.config.json_schema import json_schema


def walk(node):
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


def test_only_words_of_draft_7_are_used():
    text = json.dumps(json_schema())
    assert '"$schema": "http://json-schema.org/draft-07/schema#"' in text
    for word in ("$defs", "prefixItems", "discriminator", "unevaluatedProperties", "dependentRequired"):
        assert f'"{word}"' not in text, word


def test_every_reference_leads_somewhere_and_stands_alone():
    schema = json_schema()
    references = [node for node in walk(schema) if "$ref" in node]
    assert references
    for node in references:
        assert node["$ref"].removeprefix("#/definitions/") in schema["definitions"]
        assert list(node) == ["$ref"]


def test_every_key_has_its_documentation():
    schema = json_schema()
    found = set()
    for model in [schema, *schema["definitions"].values()]:
        for key, node in model.get("properties", {}).items():
            assert node.get("description"), key
            found.add(key)
    assert found == {key.rpartition(".")[2] for key in all_keys()}


def test_unknown_keys_are_errors_in_the_editor_too():
    schema = json_schema()
    models = [node for node in [schema, *schema["definitions"].values()] if "properties" in node]
    assert all(node["additionalProperties"] is False for node in models)


def test_canvas_is_a_number_or_exactly_two():
    node = json_schema()["definitions"]["VocData"]["properties"]["image_size"]
    number, pair = node["anyOf"]
    assert number == {"type": "integer", "minimum": 32, "maximum": 4096}
    assert (len(pair["items"]), pair["additionalItems"], pair["minItems"], pair["maxItems"]) == (2, False, 2, 2)
