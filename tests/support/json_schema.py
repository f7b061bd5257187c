"""Enough of JSON Schema (draft 2020-12) to check what we say with it; a word that it does not know is an error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

SAYINGS = {"$schema", "title", "description", "default"}  # they forbid nothing
_TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}


def _is(value: object, name: str) -> bool:
    return isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def allows(schema: Mapping[str, Any], value: Any) -> bool:
    """Whether the value is what the schema describes."""
    return all(_holds(schema, word, given, value) for word, given in schema.items() if word not in SAYINGS)


def _holds(schema: Mapping[str, Any], word: str, given: Any, value: Any) -> bool:
    match word:
        case "type":
            return any(_is(value, name) for name in ([given] if isinstance(given, str) else given))
        case "enum":
            return value in given
        case "anyOf":
            return any(allows(each, value) for each in given)
        case "pattern":
            return not isinstance(value, str) or re.search(given, value) is not None
        case "minimum":
            return not _is(value, "number") or value >= given
        case "maximum":
            return not _is(value, "number") or value <= given
        case "properties":
            return all(allows(each, value[name]) for name, each in given.items() if name in value)
        case "required":
            return all(name in value for name in given)
        case "additionalProperties":
            assert given is False
            return set(value) <= set(schema["properties"])
        case "items":
            return not isinstance(value, list) or all(allows(given, each) for each in value)
    raise AssertionError(f"the word {word!r} of JSON Schema is not known here")
