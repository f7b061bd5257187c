"""Reading a history in SQLite: its events, its writers and its rollups."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from memwarden.model.events import Event, EventKind
from memwarden.model.serialize import from_dict
from memwarden.model.verdicts import PressureLevel
from memwarden.records.sqlite_connection import SqliteConnection
from memwarden.records.sqlite_schema import HOUR, LEVELS, MINUTE, ROLLUP_COLUMNS, schema_version

#: Rows that are read at once; nothing is kept open in between.
_BATCH_ROWS = 200


class Spread(NamedTuple):
    """Minimum, mean and maximum of a figure."""

    least: float
    mean: float
    most: float


class Rollup(NamedTuple):
    """Summary of the samples of a minute or an hour that one process recorded."""

    #: Start in seconds since the epoch, and length: 60 or 3600 seconds.
    time: int
    span: int
    #: The recording process: ``id`` in the table ``writers``.
    writer: int
    #: Number of samples.
    samples: int
    level_least: PressureLevel
    level_most: PressureLevel
    #: The mean of the ranks, 0 for LOW up to 3 for CRITICAL.
    level_mean: float
    #: Bytes that counted against the nearest limit, and bytes available; None where nothing was read.
    used: Spread | None
    available: Spread | None
    #: Used as a share of the nearest limit.
    ratio: Spread | None


def read_history(
    path: str | os.PathLike[str],
    since: float | None = None,
    until: float | None = None,
    kinds: Collection[EventKind] | None = None,
    *,
    writer: int | None = None,
) -> Iterator[Event]:
    """Yield the events of a history in the order of recording; unknown or damaged ones are skipped.

    ``since`` (inclusive) and ``until`` (exclusive) are seconds since the epoch; ``writer`` is an ``id`` of the table
    ``writers``. Between events no file is open. Raises :class:`RecordError` when the file cannot be read.
    """
    where, values = _conditions(since, until, writer)
    if kinds is not None:
        where += f" AND kind IN ({', '.join('?' * len(kinds))})"
        values += [kind.value for kind in kinds]
    last, end = _bounds(path, since)
    while True:
        query = f"SELECT id, plain FROM events WHERE id > ? AND id <= ?{where} ORDER BY id LIMIT {_BATCH_ROWS}"
        rows = _select(path, query, (last, end, *values))
        for _, plain in rows:
            try:
                event = from_dict(json.loads(plain))
            except (ValueError, TypeError, RecursionError):  # SettingsError is a ValueError
                continue
            if isinstance(event, Event):
                yield event
        if len(rows) < _BATCH_ROWS:
            return
        last = rows[-1][0]


def read_writers(path: str | os.PathLike[str]) -> list[int]:
    """Return the ``writers.id`` of full samples and events, in the order of their first one.

    Raises :class:`RecordError` when the file cannot be read.
    """
    rows = _select(path, "SELECT writer, min(id) AS first FROM events GROUP BY writer ORDER BY first")
    return [writer for writer, _ in rows]


def read_rollups(
    path: str | os.PathLike[str],
    since: float | None = None,
    until: float | None = None,
    *,
    span: int | None = None,
    writer: int | None = None,
) -> Iterator[Rollup]:
    """Yield the rollups of older samples, oldest first; ``span`` is 60 (minutes) or 3600 (hours), by default both.

    ``since``, ``until``, ``writer`` and errors as for :func:`read_history`.
    """
    where, values = _conditions(since, until, writer)
    for each in (HOUR, MINUTE) if span is None else (span,):
        at: tuple[float, int] = (-math.inf, 0)
        while True:
            query = (
                f"SELECT {ROLLUP_COLUMNS} FROM rollups WHERE span_seconds = ? AND (time, writer) > (?, ?){where} "
                f"ORDER BY time, writer LIMIT {_BATCH_ROWS}"
            )
            rows = _select(path, query, (each, *at, *values))
            for row in rows:
                yield _rollup(row)
            if len(rows) < _BATCH_ROWS:
                break
            at = rows[-1][1:3]


def _conditions(since: float | None, until: float | None, writer: int | None) -> tuple[str, list[Any]]:
    given = {"time >= ?": since, "time < ?": until, "writer = ?": writer}
    given = {condition: value for condition, value in given.items() if value is not None}
    return "".join(f" AND {condition}" for condition in given), list(given.values())


def _select(path: str | os.PathLike[str], query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Return the rows of a query on a connection of its own; none where the file is empty."""
    database = SqliteConnection(os.path.abspath(os.fspath(path)), lambda db: None, writes=False)
    with database.locked():
        db = database.connection()
        rows = db.execute(query, values).fetchall() if schema_version(db, database.path) else []
        database.disconnect()
    return rows


def _bounds(path: str | os.PathLike[str], since: float | None) -> tuple[int, int]:
    """Return the range of ids: after the first, up to the second. Events recorded meanwhile are left out."""
    end = sum(row[0] or 0 for row in _select(path, "SELECT max(id) FROM events"))
    if since is None:
        return 0, end
    # Two searches, each by an index of its own.
    first = "SELECT min(id) FROM events WHERE kind {} 'sample' AND time >= ?".format
    found = _select(path, f"{first('=')} UNION ALL {first('<>')}", (since, since))
    return min((row[0] for row in found if row[0] is not None), default=end + 1) - 1, end


def _rollup(row: tuple[Any, ...]) -> Rollup:
    span, start, writer, count, least, mean, most, *measures = row
    spreads = [None if measures[at] == 0 else Spread(*measures[at + 1 : at + 4]) for at in range(0, len(measures), 4)]
    return Rollup(start, span, writer, count, LEVELS[least], LEVELS[most], mean, *spreads)
