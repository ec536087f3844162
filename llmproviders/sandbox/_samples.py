"""Values that satisfy a JSON Schema, always the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

_DEEPEST = 12

_TEXTS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "email": "sandbox@example.com",
    "uuid": "7c0f3a52-5a6d-4b8e-9c31-5a0db0c5a11e",
    "uri": "https://example.com/",
}


def sample(schema: Any, root: Any = None, *, depth: int = 0) -> Any:
    """Return a value that satisfies the usual keywords of a schema.

    >>> sample({"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}})
    {'n': 3}
    >>> sample({"enum": ["red", "blue"]})
    'red'
    """
    root = schema if root is None else root
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return "sandbox"
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return sample(_resolve(reference, root), root, depth=depth + 1)
    if "const" in schema:
        return schema["const"]
    for key in ("enum", "examples"):
        if schema.get(key):
            return schema[key][0]
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            return sample(schema[key][0], root, depth=depth + 1)
    if schema.get("allOf"):
        merged = {k: v for part in schema["allOf"] for k, v in _resolved(part, root).items()}
        return sample({**merged, **{k: v for k, v in schema.items() if k != "allOf"}}, root)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object" or (kind is None and "properties" in schema):
        return _object(schema, root, depth)
    if kind == "array":
        items = schema.get("items", {})
        return [sample(items, root, depth=depth + 1) for _ in range(schema.get("minItems", 1))]
    if kind in ("integer", "number"):
        return _number(schema, whole=kind == "integer")
    if kind in ("boolean", "null"):
        return True if kind == "boolean" else None
    text = _TEXTS.get(str(schema.get("format")), "sandbox")
    text = text.ljust(schema.get("minLength", 0), ".")
    return text[: schema.get("maxLength", len(text))]


def _object(schema: Mapping[str, Any], root: Any, depth: int) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    required = schema.get("required", ())
    # Optional properties are left out below a certain depth, since a schema may contain itself.
    names = [*properties] if depth < _DEEPEST // 2 else [n for n in properties if n in required]
    names += [name for name in required if name not in properties]
    return {name: sample(properties.get(name, {}), root, depth=depth + 1) for name in names}


def _number(schema: Mapping[str, Any], *, whole: bool) -> float:
    low = schema.get("minimum")
    if low is None and "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"] + (1 if whole else 0.5)
    high = schema.get("maximum")
    if high is None and "exclusiveMaximum" in schema:
        high = schema["exclusiveMaximum"] - (1 if whole else 0.5)
    value = 1 if whole else 1.5
    if low is not None and value < low:
        value = ceil(low) if whole else low
    if high is not None and value > high:
        value = high
    step = schema.get("multipleOf")
    return ceil(value / step) * step if step else value


def _resolved(schema: Any, root: Any) -> Mapping[str, Any]:
    if isinstance(schema, Mapping) and isinstance(schema.get("$ref"), str):
        schema = _resolve(schema["$ref"], root)
    return schema if isinstance(schema, Mapping) else {}


def _resolve(reference: str, root: Any) -> Any:
    found = root
    for name in reference.lstrip("#").split("/")[1:]:
        found = found.get(name.replace("~1", "/").replace("~0", "~"), {})
    return found
