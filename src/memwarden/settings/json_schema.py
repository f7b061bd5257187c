"""The JSON Schema of a settings file, made from the table of options."""

from __future__ import annotations

from typing import Any

from memwarden.settings.options import OPTIONS, RULE_KEYS


def schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12) of ``memwarden.toml`` and of the table ``[tool.memwarden]``.

    It checks types and patterns. Conditions of rules, and percentages above 100, are checked when the file is read.
    """
    options = {
        option.name: {"description": option.sentence, **option.kind.schema(), **_default(option.default)}
        for option in OPTIONS
        if option.in_file
    }
    keys = {key.name: {"description": key.sentence, **key.kind.schema(), **_default(key.default)} for key in RULE_KEYS}
    rule = {
        "type": "object",
        "properties": keys,
        "required": [key.name for key in RULE_KEYS if key.required],
        "anyOf": [{"required": ["then"]}, {"required": ["escalate"]}],
        "additionalProperties": False,
    }
    rules = {"description": "Actions and their conditions.", "type": "array", "items": rule}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings of memwarden",
        "type": "object",
        "properties": {**options, "rules": rules},
        "additionalProperties": False,
    }


def _default(value: Any) -> dict[str, Any]:
    return {} if value is None else {"default": value}
