"""Ageing of a history: samples become a row a minute, then a row an hour, and are deleted at last."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from memwarden.records.sqlite_schema import HOUR, MEASURES, MERGE, MINUTE, RANK, ROLLUP_COLUMNS

if TYPE_CHECKING:
    import sqlite3

#: Rows of one transaction: it shall end before another writer has to wait noticeably.
CHUNK = 500


def shrink(db: sqlite3.Connection) -> bool:
    """Reduce the oldest twentieth, samples first; returns False if nothing was left to reduce."""
    return bool(
        samples_to_minutes(db, math.inf, _twentieth(db, "events WHERE kind = 'sample'"))
        or minutes_to_hours(db, math.inf, _twentieth(db, f"rollups WHERE span_seconds = {MINUTE}"))
        or drop_events(db, math.inf, _twentieth(db, "events WHERE kind <> 'sample'"))
        + drop_rollups(db, math.inf, _twentieth(db, f"rollups WHERE span_seconds = {HOUR}"))
    )


def _twentieth(db: sqlite3.Connection, rows: str) -> int:
    count: int = db.execute(f"SELECT count(*) FROM {rows}").fetchone()[0]
    return max(1, min(count // 20, CHUNK))


def samples_to_minutes(db: sqlite3.Connection, end: float, most: int = CHUNK) -> int:
    end = _chunk_end(db, "events", "kind = 'sample'", end, most)
    measures = ", ".join(f"count({m}{u}), min({m}{u}), avg({m}{u}), max({m}{u})" for m, u in MEASURES.items())
    db.execute(
        f"""INSERT INTO rollups ({ROLLUP_COLUMNS})
        SELECT {MINUTE}, CAST(time / {MINUTE} AS INTEGER) * {MINUTE} AS start, writer, count(*),
            min({RANK}), avg({RANK}), max({RANK}), {measures}
        FROM events WHERE kind = 'sample' AND time < ? AND level IS NOT NULL GROUP BY start, writer {MERGE}""",
        (end,),
    )
    return db.execute("DELETE FROM events WHERE kind = 'sample' AND time < ?", (end,)).rowcount


def minutes_to_hours(db: sqlite3.Connection, end: float, most: int = CHUNK) -> int:
    end = _chunk_end(db, "rollups", f"span_seconds = {MINUTE}", end, most)
    measures = ", ".join(
        f"sum({m}_count), min({m}_least{u}), sum({m}_mean{u} * {m}_count) / nullif(sum({m}_count), 0), max({m}_most{u})"
        for m, u in MEASURES.items()
    )
    db.execute(
        f"""INSERT INTO rollups ({ROLLUP_COLUMNS})
        SELECT {HOUR}, time / {HOUR} * {HOUR} AS start, writer, sum(count),
            min(level_least), sum(level_mean * count) / sum(count), max(level_most), {measures}
        FROM rollups WHERE span_seconds = {MINUTE} AND time < ? GROUP BY start, writer {MERGE}""",
        (end,),
    )
    return db.execute(f"DELETE FROM rollups WHERE span_seconds = {MINUTE} AND time < ?", (end,)).rowcount


def drop_events(db: sqlite3.Connection, end: float, most: int = CHUNK) -> int:
    end = _chunk_end(db, "events", "kind <> 'sample'", end, most)
    return db.execute("DELETE FROM events WHERE kind <> 'sample' AND time < ?", (end,)).rowcount


def drop_rollups(db: sqlite3.Connection, end: float, most: int = CHUNK) -> int:
    end = _chunk_end(db, "rollups", f"span_seconds = {HOUR}", end, most)
    return db.execute(f"DELETE FROM rollups WHERE span_seconds = {HOUR} AND time < ?", (end,)).rowcount


def _chunk_end(db: sqlite3.Connection, table: str, which: str, end: float, most: int) -> float:
    """Return the time before which the oldest ``most`` of these rows lie, ``end`` where they are fewer."""
    found = db.execute(
        f"SELECT time FROM {table} WHERE {which} AND time < ? ORDER BY time LIMIT 1 OFFSET {most - 1}", (end,)
    ).fetchone()
    return end if found is None else math.nextafter(found[0], math.inf)
