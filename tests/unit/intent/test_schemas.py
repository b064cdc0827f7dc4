"""The published JSON Schemas: current, and never stricter than the reader."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from vestibule.intent import language
from vestibule.intent.shapes import Record, Schema

ROOT = Path(__file__).parents[3]
PUBLISHED = ROOT / "src" / "vestibule" / "intent" / "schemas"
SHOP = ROOT / "examples" / "shop"
WRITE = "rewrite it: make docs"


def agrees(schema: Schema, value: Any) -> bool:
    """A validator for the few keywords that the schemas use; others are an error."""
    known = {"$schema", "title", "description", "default", "type", "enum", "pattern", "minLength", "required"}
    known |= {"properties", "additionalProperties", "propertyNames", "items", "minItems", "uniqueItems"}
    assert set(schema) <= known | {"minimum", "maximum", "maxItems", "anyOf"}, schema
    if "anyOf" in schema:
        return any(agrees(each, value) for each in schema["anyOf"])
    kinds: dict[str, Any] = {"object": dict, "array": list, "string": str, "integer": int}
    kinds |= {"boolean": bool, "number": (int, float)}
    if "type" in schema and not isinstance(value, kinds[schema["type"]]):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if isinstance(value, str):
        fits = re.search(schema.get("pattern", ""), value) is not None
        return fits and len(value) >= schema.get("minLength", 0)
    if isinstance(value, bool) or "enum" in schema:
        return True
    if isinstance(value, (int, float)):
        return bool(schema["minimum"] <= value <= schema["maximum"])
    if isinstance(value, list):
        return schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 10**9) and all(
            agrees(schema["items"], item) for item in value
        )
    return agrees_with_object(schema, value)


def agrees_with_object(schema: Schema, value: dict[str, Any]) -> bool:
    properties, others = schema.get("properties", {}), schema["additionalProperties"]
    names = schema.get("propertyNames", {})
    return set(schema.get("required", ())) <= set(value) and all(
        agrees(names, key)
        and (agrees(properties[key], child) if key in properties else bool(others) and agrees(others, child))
        for key, child in value.items()
    )


@pytest.mark.parametrize("kind", sorted(language.FILES))
def test_the_published_schema_is_current(kind: str) -> None:
    published = (PUBLISHED / f"{kind}.schema.json").read_text(encoding="utf-8")
    assert json.loads(published) == language.schema(kind), WRITE


@pytest.mark.parametrize(
    ("kind", "file"),
    [("mesh", "mesh.yaml"), ("up", "up.yaml")]
    + [("service", f"services/{name}.yaml") for name in ("web", "orders", "payments", "reports")],
)
def test_the_shop_agrees_with_the_schemas(kind: str, file: str) -> None:
    document = YAML(typ="safe", pure=True).load(SHOP / file)
    assert agrees(language.schema(kind), document)
    assert not agrees(language.schema(kind), {**document, "unknown": 1})


def records(schema: Schema) -> list[Schema]:
    inner = [schema.get("items"), schema.get("additionalProperties"), *schema.get("properties", {}).values()]
    inner += schema.get("anyOf", [])
    found = [schema] if "properties" in schema else []
    return found + [record for each in inner if isinstance(each, dict) for record in records(each)]


@pytest.mark.parametrize("kind", sorted(language.FILES))
def test_every_key_is_described_to_editors_and_later_keys_are_not_offered(kind: str) -> None:
    for record in records(language.schema(kind)):
        assert record["additionalProperties"] is False
        assert all(each["description"] for each in record["properties"].values())


def test_no_key_is_both_known_and_for_later() -> None:
    listed = [each for each in vars(language).values() if isinstance(each, Record)]
    assert len(listed) >= 6
    for record in listed:
        assert not {key.name for key in record.keys} & record.later
