"""Values to plain dicts and back, with the unit in each key.

A written value is ``{"schema": 1, "type": "sample", "time": "2026-11-21T04:05:06.000007+01:00", …}``.
Field names gain their unit on the way out (``rss`` becomes ``rss_bytes``, ``late`` becomes
``late_seconds``) and lose it on the way in; the wall clock becomes ISO 8601 with its offset. Absent
facts (None) are left out. Unknown keys are ignored, so that an older reader understands a newer writer,
but not a newer *schema*.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable
from enum import Enum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from memwarden.errors import SettingsError
from memwarden.model import decisions, events, exits, facts, limits, sample, verdicts

SCHEMA = 1

_BYTES = frozenset((
    "total", "available", "free", "cached", "swap_total", "swap_free", "rss", "vms", "vms_limit", "anon", "shared",
    "swap", "peak", "usage", "limit", "reclaimable", "swap_limit", "used", "pss", "uss", "base", "floor", "retained",
    "unreclaimable",
))  # fmt: skip
_SECONDS = frozenset(("monotonic", "late", "since", "oldest", "age", "ages", "waited", "lasted", "low", "mid", "high"))

#: The types that can be written, by the name they are written under.
TYPES: dict[str, type] = {
    "reading": verdicts.Reading,
    "sample": sample.Sample,
    "assessment": verdicts.Assessment,
    "trend": verdicts.Trend,
    "forecast": verdicts.Forecast,
    "leak": verdicts.LeakVerdict,
    "event": events.Event,
    "gap": facts.Gap,
    "process": facts.ProcessMemory,
    "tree": facts.TreeMemory,
    "cgroup": facts.CgroupMemory,
    "system": facts.SystemMemory,
    "gpu": facts.GpuMemory,
    "psi": facts.PsiStats,
    "shares": facts.ShareMemory,
    "top": facts.TopProcesses,
    "directory": facts.DirectoryUsage,
    "program": facts.ProgramMemory,
    "limit": limits.Limit,
    "decision": decisions.Decision,
    "outcome": decisions.Outcome,
    "clearing": decisions.Clearing,
    "exit": exits.ExitReport,
}
_NAMES: dict[type, str] = {cls: name for name, cls in TYPES.items()}


def iso(wall: float) -> str:
    """Seconds since the epoch as ISO 8601 local time with microseconds and the offset of that moment."""
    from datetime import datetime  # a millisecond, which a watch without a record does not pay

    return datetime.fromtimestamp(wall).astimezone().isoformat(timespec="microseconds")


def to_dict(value: Any) -> dict[str, Any]:
    """Return one of :data:`TYPES` as a dict that JSON can hold."""
    return _add_fields({"schema": SCHEMA, "type": _NAMES.get(type(value))}, value)


def from_dict(plain: Any) -> Any:
    """The value that :func:`to_dict` wrote. Raises :class:`SettingsError` where it is none."""
    if not isinstance(plain, dict):
        raise SettingsError(f"record: not an object but {type(plain).__name__}")
    schema, name = plain.get("schema"), plain.get("type")
    if not isinstance(schema, int):
        raise SettingsError("record: it names no schema")
    if schema > SCHEMA:
        raise SettingsError(f"record: schema {schema!r} is newer than this memwarden reads ({SCHEMA}); upgrade it")
    if not isinstance(name, str) or name not in TYPES:
        raise SettingsError(f"record: type {name!r} is not known")
    try:
        return _read(TYPES[name], plain)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise SettingsError(f"record: a {name} that cannot be read: {error!r}") from error


@cache
def _keys(cls: Any) -> tuple[tuple[str, str], ...]:
    """The key of each field of a type, with its unit: for a plain value, and for one of our types (a Limit)."""
    found = []
    for field in cls._fields:
        key = "time" if field == "wall" else field + "_seconds" if field in _SECONDS else field
        found.append((field + "_bytes" if field in _BYTES else key, key))
    return tuple(found)


def _add_fields(plain: dict[str, Any], value: Any) -> dict[str, Any]:
    cls: Any = type(value)
    for item, (key, structured) in zip(value, _keys(cls), strict=True):
        kind = type(item)
        if kind is int or kind is str:
            plain[key] = item
        elif item is None:
            continue
        elif key == "time":
            plain[key] = iso(item)
        else:
            plain[structured if hasattr(kind, "_fields") else key] = _write(item)
    return plain


def _write(item: Any) -> Any:
    """Return any item as something that JSON can hold."""
    if isinstance(item, float):
        return item if math.isfinite(item) else None  # JSON has neither NaN nor infinity
    if isinstance(item, Enum):
        return item.value
    if item is None or isinstance(item, str | int):
        return item
    if hasattr(item, "_fields"):
        # The name lets a field of any type (an event's value) be read back.
        name = _NAMES.get(type(item))
        return _add_fields({"type": name} if name else {}, item)
    if isinstance(item, tuple | list):
        return [_write(each) for each in item]
    if isinstance(item, dict):
        return {str(key): _write(each) for key, each in item.items()}
    return str(item)


@cache
def _encode() -> Callable[[Any], str]:
    import json  # 2 ms, which a watch without a record does not pay

    return json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def to_json(value: Any) -> str:
    """Return one of :data:`TYPES` as one line of JSON."""
    return _encode()(to_dict(value))


_fields_of = cache(get_type_hints)


def _read(hint: Any, plain: Any) -> Any:
    origin = get_origin(hint)
    if hint is Any:
        named = isinstance(plain, dict) and plain.get("type") in TYPES
        return _read(TYPES[plain["type"]], plain) if named else plain
    if origin in (types.UnionType, Union):
        if plain is None:
            return None
        return _read(next(each for each in get_args(hint) if each is not types.NoneType), plain)
    if origin is tuple:
        return tuple(_read(get_args(hint)[0], each) for each in plain)
    if origin is dict:
        return dict(plain)
    if hint in (int, float, str, bool):
        return typing.cast(Any, hint)(plain)
    if issubclass(hint, Enum):
        return hint(plain)
    made = {}
    for field, each in _fields_of(hint).items():
        for key in (field, field + "_bytes", field + "_seconds"):
            if key in plain:
                made[field] = _read(each, plain[key])
                break
        else:
            if field == "wall":
                from datetime import datetime

                made[field] = datetime.fromisoformat(plain["time"]).timestamp()
            elif _optional(each):
                made[field] = None
    return hint(**made)


def _optional(hint: Any) -> bool:
    return get_origin(hint) in (types.UnionType, Union) and types.NoneType in get_args(hint)
