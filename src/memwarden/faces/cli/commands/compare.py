"""``memwarden compare``: the figures of two records side by side, and the limit that each needs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from memwarden.assess.summary import HEADROOM, Summarizer, Summary
from memwarden.errors import RecordError, SettingsError
from memwarden.faces import render
from memwarden.faces.cli.live.tui import Output
from memwarden.model.serialize import SCHEMA, iso
from memwarden.model.verdicts import PressureLevel
from memwarden.records.history import History


class _Row(NamedTuple):
    """A row of the table: its name, its text, and the number of which the change is shown."""

    name: str
    text: Callable[[Summary], str]
    number: Callable[[Summary], float | None] | None = None


def compare(files: tuple[str, ...], tolerance: str | None, *, as_json: bool) -> int:
    """Print the figures; return 1 if the second record needs more than ``tolerance`` allows, else 0.

    Raises :class:`RecordError` and :class:`SettingsError`.
    """
    if len(files) > 2:
        raise SettingsError(f"compare: {len(files)} records; name one or two")
    allowed = None if tolerance is None else _share(tolerance)
    if allowed is not None and len(files) < 2:
        raise SettingsError("--tolerance: compares two records; name another one")
    summaries = [_summarize(file) for file in files]
    over = [] if allowed is None else _over(summaries[0], summaries[1], allowed)
    output = Output("compare")
    with output:
        if as_json:
            records = [
                {"file": os.path.abspath(file), "first": iso(each.first), "last": iso(each.last), **each.as_dict()}
                for file, each in zip(files, summaries, strict=True)
            ]
            plain: dict[str, Any] = {"schema": SCHEMA, "type": "comparison", "records": records}
            if allowed is not None:
                plain |= {"tolerance": allowed, "over": [_NAMES[name] for name in over]}
            output.print(json.dumps(plain, indent=2, ensure_ascii=False))
        else:
            output.print(_text(files, summaries))
            if allowed is not None:
                result = f"higher by more than {allowed:.1%}: {'; '.join(over)}" if over else f"within {allowed:.1%}"
                output.print(f"\n{result}")
    return output.code or int(bool(over))


def _summarize(file: str) -> Summary:
    history, made = History(file), Summarizer()
    for events in history:
        made.add(events)
    found = made.summary()
    if not found.samples:
        raise RecordError(
            f"record {history.path}: holds no full sample, so there is nothing to compare; name a newer one",
            path=history.path,
        )
    return found


def _share(text: str) -> float:
    try:
        found = float(text.removesuffix("%")) / 100
    except ValueError:
        found = -1.0
    if not text.endswith("%") or not 0 <= found < 1e6:
        raise SettingsError(f"--tolerance {text!r}: is no share; write for instance 10%")
    return found


def _over(before: Summary, after: Summary, allowed: float) -> list[str]:
    """Return the figures of use that rose by more than is allowed."""
    found = []
    for row in _ROWS:
        if row.name in _NAMES and row.number is not None:
            was, now = row.number(before), row.number(after)
            if was is not None and now is not None and now > was * (1 + allowed):
                found.append(row.name)
    return found


def _size(field: str) -> Callable[[Summary], str]:
    return lambda each: "-" if (count := getattr(each, field)) is None else render.size(count)


def _number(field: str) -> Callable[[Summary], float | None]:
    return lambda each: getattr(each, field)


def _growth(each: Summary) -> str:
    return "-" if each.growth is None else f"{render.growth(round(each.growth))}/h"


def _limit(each: Summary) -> str:
    return "-" if each.limit is None else f"{render.size(each.limit)} ({render.printable(each.limit_source or '')})"


def _high_seconds(each: Summary) -> float:
    return sum(each.level_seconds[PressureLevel.HIGH.rank :])


#: The figures that ``--tolerance`` limits.
_NAMES = {"used, median": "median", "used, 95th percentile": "high", "used, peak": "peak"}
_ROWS = (
    _Row("watched", lambda each: render.seconds(each.seconds)),
    _Row("samples", lambda each: str(each.samples)),
    *(_Row(name, _size(field), _number(field)) for name, field in _NAMES.items()),
    _Row("growth", _growth),
    _Row("smallest limit", _limit),
    _Row("peak share of limit", lambda each: "-" if each.ratio is None else f"{each.ratio:.1%}"),
    _Row("HIGH or CRITICAL", lambda each: render.seconds(_high_seconds(each)) if _high_seconds(each) else "never"),
    _Row("leak", lambda each: each.leak),
    _Row("alerts", lambda each: str(each.alerts)),
    _Row("a limit to set", _size("wanted"), _number("wanted")),
)


def _text(files: tuple[str, ...], summaries: list[Summary]) -> str:
    names = [render.printable(os.path.basename(file)) for file in files]
    table = [["", *names, "change" if len(summaries) == 2 else ""]]
    for row in _ROWS:
        table.append([row.name, *map(row.text, summaries), _change(row, summaries)])
    widths = [max(map(render.cells, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(cell + " " * (width - render.cells(cell)) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]
    for name, each in zip(names, summaries, strict=True):
        if each.leak_reason and each.leak != "none":
            lines += ["", f"{name}: {each.leak}: {each.leak_reason}"]
    lines += ["", f"The limit to set is the peak and {HEADROOM:.0%} more."]
    return "\n".join(lines)


def _change(row: _Row, summaries: list[Summary]) -> str:
    if len(summaries) < 2 or row.number is None:
        return ""
    was, now = (row.number(each) for each in summaries)
    if was is None or now is None or not was:
        return ""
    return f"{now / was - 1:+.1%}"
