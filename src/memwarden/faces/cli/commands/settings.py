"""``memwarden settings``: the values with their sources, the errors of a file, and the JSON Schema."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from memwarden.policy.rules import Rule
from memwarden.settings import OPTIONS, Fault, Option, Settings, environment_faults, find, read, resolve, schema


def show(flags: Mapping[str, Any], *, as_json: bool) -> int:
    """Print every option with its value and source; return 0. Raises :class:`SettingsError`."""
    settings = resolve(flags, os.environ)
    print(json.dumps(_as_dict(settings), indent=2, allow_nan=False) if as_json else _text(settings))
    return 0


def check(file: str | None, *, as_json: bool) -> int:
    """Print the errors of a file (by default the one that applies, and the environment); return 1 if there are any."""
    faults: list[Fault] = []
    skipped: tuple[str, ...] = ()
    if file is None:
        faults += environment_faults(os.environ)
        named = next(option for option in OPTIONS if option.name == "config")
        file = named.from_variable(os.environ.get(named.variable, "")) or None
        if file is None:
            file, skipped = find(os.environ)
    if file is not None:
        faults += read(file, judge=Rule.from_dict).faults
    if as_json:
        print(json.dumps({"schema": 1, "file": file, "skipped": skipped, "faults": [f._asdict() for f in faults]}))
    else:
        lines = [*map(str, faults), *(f"skipped {each}" for each in skipped)]
        if not faults:
            lines.append("no settings file; no errors in the environment" if file is None else f"{file}: no errors")
        print("\n".join(lines))
    return 1 if faults else 0


def print_schema() -> int:
    """Print the JSON Schema of a settings file."""
    print(json.dumps(schema(), indent=2))
    return 0


def _as_dict(settings: Settings) -> dict[str, Any]:
    options = {}
    for option in OPTIONS:
        value, source = getattr(settings, option.name), settings.sources[option.name]
        shown = {"set": bool(value)} if option.secret else {"value": value}
        options[option.name] = {**shown, "source": source.kind, "where": source.where}
    rules = [{key: "inf" if value == float("inf") else value for key, value in rule.items()} for rule in settings.rules]
    return {"schema": 1, "options": options, "rules": rules, "skipped": settings.skipped}


def _text(settings: Settings) -> str:
    rows = [
        (option.name, _shown(option, getattr(settings, option.name)), str(settings.sources[option.name]))
        for option in OPTIONS
    ]
    where = str(settings.sources["rules"])
    rows += [("rules", f"{rule['name']}: {rule['when']}", where) for rule in settings.rules]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{name:<{widths[0]}}  {value:<{widths[1]}}  {source}" for name, value, source in rows]
    return "\n".join([*lines, *(f"skipped {each}" for each in settings.skipped)])


def _shown(option: Option, value: Any) -> str:
    if value in (None, ()):
        return "not set"
    if option.secret:
        return "set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g} s" if isinstance(value, float) else str(value)
