"""History in SQLite: full samples for the newest stretch, then a row a minute, then a row an hour.

Tables (``docs/records.md`` has every column): ``events`` holds each event whole as JSON, with the figures of a
sample in plain columns beside it; ``rollups`` holds what became of samples; ``writers`` who wrote. The view
``samples`` is ``events`` for people.

Several processes may write one file. Samples are committed together, a second behind at most while they keep coming;
every other event is committed at once and flushed to the disk.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from memwarden.errors import RecordError, SettingsError
from memwarden.model.events import Event, EventKind
from memwarden.model.serialize import from_dict, to_json
from memwarden.model.units import MIB, parse_duration, parse_size
from memwarden.model.verdicts import Assessment, PressureLevel, Reading
from memwarden.records.sqlite_connection import SqliteConnection, patiently

if TYPE_CHECKING:
    import sqlite3

#: "mwhd": says in the file's header that it is ours.
APPLICATION_ID = 0x6D776864
MINUTE, HOUR = 60, 3600
#: Samples wait for each other so long, or until they are so many or so large.
_BEHIND_SECONDS, _BATCH_EVENTS, _BATCH_BYTES = 1.0, 64, 256 * 1024
#: Rows that one transaction of tidying takes on: it shall end before anybody notices.
_CHUNK = 500
#: What one event waits for at most where the history is too large: so many transactions, and pages given back.
_MOST_STEPS, _MOST_PAGES_BACK = 64, 2000
_TIDY_SECONDS = 60.0
_PAGE = 4096
#: Rows that are read at once; nothing is held open between.
_READ_AT_ONCE = 200

#: What is measured, and the unit that its columns end with.
_MEASURES = {"used": "_bytes", "available": "_bytes", "ratio": ""}
_RANK = "CASE level " + " ".join(f"WHEN '{level.value}' THEN {level.rank}" for level in PressureLevel) + " END"
_LEVELS = {level.rank: level for level in PressureLevel}
_COLUMNS = (
    "kind", "time", "monotonic_seconds", "message",
    "level", "ratio", "used_bytes", "available_bytes", "limit_bytes", "limit_source",
    "process_rss_bytes", "tree_rss_bytes", "tree_processes", "cgroup_usage_bytes",
    "system_total_bytes", "system_available_bytes", "swap_free_bytes", "gaps", "plain",
)  # fmt: skip
_MEASURE_COLUMNS = ", ".join(f"{m}_count, {m}_least{u}, {m}_mean{u}, {m}_most{u}" for m, u in _MEASURES.items())
_ROLLUP_COLUMNS = (
    f"span_seconds, time, writer, count, level_least, level_mean, level_most, {_MEASURE_COLUMNS}"  # as Rollup has them
)
#: Late samples of a minute that is a row already are added to it.
_MERGE = """ON CONFLICT (span_seconds, time, writer) DO UPDATE SET
    level_least = min(level_least, excluded.level_least), level_most = max(level_most, excluded.level_most),
    level_mean = (level_mean * count + excluded.level_mean * excluded.count) / (count + excluded.count),
    count = count + excluded.count""" + "".join(
    f""",
    {m}_mean{u} = (coalesce({m}_mean{u} * {m}_count, 0) + coalesce(excluded.{m}_mean{u} * excluded.{m}_count, 0))
        / nullif({m}_count + excluded.{m}_count, 0),
    {m}_least{u} = min(coalesce({m}_least{u}, excluded.{m}_least{u}), coalesce(excluded.{m}_least{u}, {m}_least{u})),
    {m}_most{u} = max(coalesce({m}_most{u}, excluded.{m}_most{u}), coalesce(excluded.{m}_most{u}, {m}_most{u})),
    {m}_count = {m}_count + excluded.{m}_count"""
    for m, u in _MEASURES.items()
)

#: What leads from each version of the schema (``PRAGMA user_version``) to the next; the first makes it.
STEPS: tuple[tuple[str, ...], ...] = (
    (
        f"PRAGMA application_id = {APPLICATION_ID}",
        """CREATE TABLE writers (
            id INTEGER PRIMARY KEY AUTOINCREMENT, host TEXT NOT NULL, pid INTEGER NOT NULL,
            began REAL NOT NULL, seen REAL NOT NULL
        )""",
        """CREATE TABLE events (
            id INTEGER PRIMARY KEY, writer INTEGER NOT NULL,
            kind TEXT NOT NULL, time REAL NOT NULL, monotonic_seconds REAL, message TEXT NOT NULL,
            level TEXT, ratio REAL, used_bytes INTEGER, available_bytes INTEGER,
            limit_bytes INTEGER, limit_source TEXT,
            process_rss_bytes INTEGER, tree_rss_bytes INTEGER, tree_processes INTEGER, cgroup_usage_bytes INTEGER,
            system_total_bytes INTEGER, system_available_bytes INTEGER, swap_free_bytes INTEGER,
            gaps INTEGER, plain TEXT NOT NULL
        )""",
        # Two, each of which takes in a part: no event is in both, and neither search meets the other's rows.
        "CREATE INDEX samples_by_time ON events (time) WHERE kind = 'sample'",
        "CREATE INDEX others_by_time ON events (time) WHERE kind <> 'sample'",
        """CREATE VIEW samples AS SELECT
            strftime('%Y-%m-%dT%H:%M:%fZ', time, 'unixepoch') AS utc, * FROM events WHERE kind = 'sample'""",
        f"""CREATE TABLE rollups (
            span_seconds INTEGER NOT NULL, time INTEGER NOT NULL, writer INTEGER NOT NULL, count INTEGER NOT NULL,
            level_least INTEGER NOT NULL, level_mean REAL NOT NULL, level_most INTEGER NOT NULL,
            {_MEASURE_COLUMNS},
            PRIMARY KEY (span_seconds, time, writer)
        ) WITHOUT ROWID""",
    ),
)


class SqliteRecorder:
    """Keeps events in the SQLite file ``path``; makes the file (0600) and its folder (0700) when they are missing.

    Full samples stay for ``detail``, then a row a minute for ``minutes``, then a row an hour; all of it, and every
    event that is no sample, for ``retention``. The file and its log stay below ``max_bytes`` together: where that
    is too little for all, the oldest samples become rows first, and the oldest rows and events go last.
    Ages are told by the wall clock. ``every_sample`` keeps the looks between the samples, too.

    Raises :class:`RecordError` from ``record`` when an event could not be kept; the next call tries again, and
    ``lost`` counts the events that were not kept. After a fork the child has a connection of its own.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        retention: float | str = "30d",
        detail: float | str = "1h",
        minutes: float | str = "7d",
        max_bytes: int | str = 64 * MIB,
        every_sample: bool = False,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = os.path.abspath(os.fspath(path))
        self.lost = 0
        #: See :class:`memwarden.protocols.Recorder`.
        self.every_sample = every_sample
        self._retention, self._detail, self._minutes = map(parse_duration, (retention, detail, minutes))
        if not self._detail <= self._minutes <= self._retention:
            raise SettingsError(
                f"detail {detail!r}, minutes {minutes!r}, retention {retention!r}: none may be shorter than the one "
                "before it"
            )
        most = parse_size(max_bytes)
        if most < 4 * MIB:
            raise SettingsError(f"max_bytes {max_bytes!r}: a history needs 4MiB or more")
        # A quarter for the log that commits go to first; the batch that passes the bound comes on top of the file.
        self._most_log = most // 4
        self._most_pages = (most - self._most_log - 2 * _BATCH_BYTES) // _PAGE
        self._most_event = most // 16
        self._wall, self._monotonic = wall, monotonic
        self._database = SqliteConnection(self.path, self._prepare, writes=True)
        self._generation = 0
        self._pending: list[tuple[Any, ...]] = []
        self._pending_bytes = 0
        self._writer: int | None = None
        self._began = 0.0
        self._committed = self._tidied = -math.inf
        self._flushing: bool | None = None
        self._failing = False

    def record(self, event: Event) -> None:
        """Keep an event. Raises :class:`RecordError`."""
        with self._database.turn():
            self._forget_the_parents()
            try:
                row = self._row(event)
                self._pending.append(row)
                self._pending_bytes += len(row[-1])
                if event.kind is EventKind.SAMPLE and not self._due():
                    return
                self._failing = True
                try:
                    self._commit(flush=event.kind is not EventKind.SAMPLE)
                except BaseException:  # an interrupt, too: the row would be written twice
                    self._pending.pop()  # who was told that an event is lost must not find it later
                    self._pending_bytes -= len(row[-1])
                    raise
                self._failing = False
            except Exception:  # whatever it was: counted, and told by whoever catches it
                self.lost += 1
                raise

    def close(self) -> None:
        """Commit what waits, and give the descriptors back. Raises :class:`RecordError` when that cannot be kept."""
        with self._database.turn():
            self._forget_the_parents()
            try:
                if self._pending:
                    self._commit(flush=False)
            except Exception:  # whatever it was: counted, and told by whoever catches it
                self.lost += len(self._pending)
                raise
            finally:
                self._pending, self._pending_bytes = [], 0
                self._committed = -math.inf
                self._database.give_up()

    def _forget_the_parents(self) -> None:
        if self._generation != self._database.generation:
            self._generation = self._database.generation
            self._pending, self._pending_bytes = [], 0  # the parent commits them
            self._writer = None

    def _due(self) -> bool:
        return (
            self._failing
            or len(self._pending) >= _BATCH_EVENTS
            or self._pending_bytes >= _BATCH_BYTES
            or not 0 <= self._monotonic() - self._committed < _BEHIND_SECONDS
        )

    def _row(self, event: Event) -> tuple[Any, ...]:
        try:
            plain = to_json(event)
            # A name may hold bytes that are no UTF-8; JSON has a way to write them, the column beside it has not.
            plain = plain if plain.isascii() else plain.encode("utf-8", "backslashreplace").decode()
            message = _text(event.message)
            row = (event.kind.value, event.wall, float(event.monotonic), message, *_figures(event.value), plain)
        except Exception as error:  # the event's values are the caller's
            raise RecordError(
                f"record {self.path}: this {event.kind.value} cannot be written: {error!r}", path=self.path
            ) from error
        if len(plain.encode()) > self._most_event:
            raise RecordError(
                f"record {self.path}: this {event.kind.value} is larger than a sixteenth of max_bytes; raise that",
                path=self.path,
            )
        return row

    # --- writing --------------------------------------------------------------------------------------

    def _prepare(self, db: sqlite3.Connection) -> None:
        version = _version(db, self.path)
        self._flushing = None
        if self._writer is not None:  # in this very file? It may be another one by now
            known = "SELECT count(*) FROM writers WHERE id = ? AND pid = ? AND began = ?"
            if version == 0 or not db.execute(known, (self._writer, os.getpid(), self._began)).fetchone()[0]:
                self._writer = None
        if version == 0:
            # Pages that are free can be given back to the system; this must be said before anything is written.
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        if db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            patiently(lambda: db.execute("PRAGMA journal_mode = WAL"))
        db.execute(f"PRAGMA journal_size_limit = {self._most_log // 4}")
        db.execute(f"PRAGMA wal_autocheckpoint = {max(16, min(1000, self._most_log // 4 // _PAGE))}")
        db.execute("PRAGMA temp_store = MEMORY")
        db.execute("PRAGMA cache_size = -512")  # KiB
        if version < len(STEPS):
            _begin(db)
            for step in STEPS[_version(db, self.path) :]:  # asked again: another process may have been first
                for statement in step:
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {len(STEPS)}")
            db.execute("COMMIT")

    def _commit(self, flush: bool) -> None:
        db = self._database.connection()
        self._keep_small(db)
        if self._flushing is not flush:
            db.execute(f"PRAGMA synchronous = {'FULL' if flush else 'NORMAL'}")
            self._flushing = flush
        writer, began = self._writer, self._began
        _begin(db)
        if writer is None:
            host = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
            began = self._wall()
            me = (host, os.getpid(), began, began)
            writer = db.execute("INSERT INTO writers (host, pid, began, seen) VALUES (?, ?, ?, ?)", me).lastrowid
        marks = ", ".join("?" * len(_COLUMNS))
        insert = f"INSERT INTO events (writer, {', '.join(_COLUMNS)}) VALUES ({writer}, {marks})"
        db.executemany(insert, self._pending)
        db.execute("COMMIT")
        self._writer, self._began = writer, began
        self._pending, self._pending_bytes = [], 0
        self._committed = self._monotonic()

    # --- growing old ----------------------------------------------------------------------------------

    def _keep_small(self, db: sqlite3.Connection) -> None:
        """What is old or too much, in short transactions, before anything new is written."""
        self._write_back(db)
        now, most = self._monotonic(), self._most_pages
        pages = _pragma(db, "page_count")
        if pages <= most and 0 <= now - self._tidied < _TIDY_SECONDS:
            return
        more = self._transaction(db, self._age)
        if pages - _pragma(db, "freelist_count") > most:
            for _ in range(_MOST_STEPS):
                if not self._transaction(db, _shrink) or _pages_in_use(db) <= most * 19 // 20:
                    break
        if pages > most:
            # A step a page without a column in it: execute() ends after the first.
            give_back = f"PRAGMA incremental_vacuum({min(pages - most, _MOST_PAGES_BACK)})"
            patiently(lambda: db.executescript(give_back))
        if not more:
            self._tidied = now

    def _write_back(self, db: sqlite3.Connection) -> None:
        """Bound the log. SQLite writes it back by itself, but not while somebody keeps reading."""
        try:
            size = os.path.getsize(self.path + "-wal")
        except OSError:
            return
        if size <= self._most_log // 2:
            return
        (busy, _, _) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy and size > self._most_log:
            raise RecordError(
                f"record {self.path}: its log has grown to {size} bytes because another program keeps reading; "
                "end that one's transaction",
                path=self.path,
            )

    def _transaction(self, db: sqlite3.Connection, work: Callable[[sqlite3.Connection], bool]) -> bool:
        _begin(db)
        result = work(db)
        db.execute("COMMIT")
        return result

    def _age(self, db: sqlite3.Connection) -> bool:
        """Let time pass over a chunk of each kind of row; whether there is more to do."""
        now = self._wall()
        end = now - self._retention
        db.execute("UPDATE writers SET seen = ? WHERE id = ?", (now, self._writer))
        db.execute("DELETE FROM writers WHERE seen < ?", (end,))
        done = [
            _samples_to_minutes(db, (now - self._detail) // MINUTE * MINUTE),
            _minutes_to_hours(db, (now - self._minutes) // HOUR * HOUR),
            _drop_events(db, end),
            _drop_rollups(db, end),
        ]
        return max(done) >= _CHUNK


def _shrink(db: sqlite3.Connection) -> bool:
    """Let go of a twentieth of what there is, the oldest, samples first; whether there was anything."""
    return bool(
        _samples_to_minutes(db, math.inf, _twentieth(db, "events WHERE kind = 'sample'"))
        or _minutes_to_hours(db, math.inf, _twentieth(db, f"rollups WHERE span_seconds = {MINUTE}"))
        or _drop_events(db, math.inf, _twentieth(db, "events WHERE kind <> 'sample'"))
        + _drop_rollups(db, math.inf, _twentieth(db, f"rollups WHERE span_seconds = {HOUR}"))
    )


def _twentieth(db: sqlite3.Connection, rows: str) -> int:
    count: int = db.execute(f"SELECT count(*) FROM {rows}").fetchone()[0]
    return max(1, min(count // 20, _CHUNK))


def _begin(db: sqlite3.Connection) -> None:
    patiently(lambda: db.execute("BEGIN IMMEDIATE"))


def _samples_to_minutes(db: sqlite3.Connection, end: float, most: int = _CHUNK) -> int:
    end = _chunk_end(db, "events", "kind = 'sample'", end, most)
    measures = ", ".join(f"count({m}{u}), min({m}{u}), avg({m}{u}), max({m}{u})" for m, u in _MEASURES.items())
    db.execute(
        f"""INSERT INTO rollups ({_ROLLUP_COLUMNS})
        SELECT {MINUTE}, CAST(time / {MINUTE} AS INTEGER) * {MINUTE} AS start, writer, count(*),
            min({_RANK}), avg({_RANK}), max({_RANK}), {measures}
        FROM events WHERE kind = 'sample' AND time < ? AND level IS NOT NULL GROUP BY start, writer {_MERGE}""",
        (end,),
    )
    return db.execute("DELETE FROM events WHERE kind = 'sample' AND time < ?", (end,)).rowcount


def _minutes_to_hours(db: sqlite3.Connection, end: float, most: int = _CHUNK) -> int:
    end = _chunk_end(db, "rollups", f"span_seconds = {MINUTE}", end, most)
    measures = ", ".join(
        f"sum({m}_count), min({m}_least{u}), sum({m}_mean{u} * {m}_count) / nullif(sum({m}_count), 0), max({m}_most{u})"
        for m, u in _MEASURES.items()
    )
    db.execute(
        f"""INSERT INTO rollups ({_ROLLUP_COLUMNS})
        SELECT {HOUR}, time / {HOUR} * {HOUR} AS start, writer, sum(count),
            min(level_least), sum(level_mean * count) / sum(count), max(level_most), {measures}
        FROM rollups WHERE span_seconds = {MINUTE} AND time < ? GROUP BY start, writer {_MERGE}""",
        (end,),
    )
    return db.execute(f"DELETE FROM rollups WHERE span_seconds = {MINUTE} AND time < ?", (end,)).rowcount


def _drop_events(db: sqlite3.Connection, end: float, most: int = _CHUNK) -> int:
    end = _chunk_end(db, "events", "kind <> 'sample'", end, most)
    return db.execute("DELETE FROM events WHERE kind <> 'sample' AND time < ?", (end,)).rowcount


def _drop_rollups(db: sqlite3.Connection, end: float, most: int = _CHUNK) -> int:
    end = _chunk_end(db, "rollups", f"span_seconds = {HOUR}", end, most)
    return db.execute(f"DELETE FROM rollups WHERE span_seconds = {HOUR} AND time < ?", (end,)).rowcount


def _chunk_end(db: sqlite3.Connection, table: str, which: str, end: float, most: int) -> float:
    """The time before which the oldest ``most`` of these rows lie, ``end`` where they are fewer."""
    found = db.execute(
        f"SELECT time FROM {table} WHERE {which} AND time < ? ORDER BY time LIMIT 1 OFFSET {most - 1}", (end,)
    ).fetchone()
    return end if found is None else math.nextafter(found[0], math.inf)


def _pragma(db: sqlite3.Connection, name: str) -> int:
    value: int = db.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _pages_in_use(db: sqlite3.Connection) -> int:
    return _pragma(db, "page_count") - _pragma(db, "freelist_count")


def _version(db: sqlite3.Connection, path: str) -> int:
    """The version of the file's schema, 0 for a file without one. Raises :class:`RecordError` for what is not ours."""
    if _pragma(db, "application_id") != APPLICATION_ID:
        filled = _pragma(db, "user_version") or db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        # Asked again: another process may have made it ours meanwhile, and that comes all at once.
        if filled and _pragma(db, "application_id") != APPLICATION_ID:
            raise RecordError(f"record {path}: is a database of another program; name another file", path=path)
        if not filled:
            return 0
    version = _pragma(db, "user_version")
    if version > len(STEPS):
        raise RecordError(
            f"record {path}: was written by a newer memwarden (schema {version}, this one knows {len(STEPS)}); "
            "upgrade memwarden, or name another file",
            path=path,
        )
    return version


def _text(value: str) -> str:
    """Text that SQLite can hold: names may have bytes in them that are no UTF-8."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def _int(value: int | None) -> int | None:
    return value if value is not None and -(1 << 63) <= value < 1 << 63 else None


def _figures(value: Any) -> tuple[Any, ...]:
    """The plain columns of what an event is about."""
    sample = value.sample if isinstance(value, Reading) else None
    assessment = value.assessment if isinstance(value, Reading) else value
    judged: tuple[Any, ...] = (None,) * 6
    if isinstance(assessment, Assessment):
        binding = assessment.binding
        available = _int(assessment.available)
        if binding is None:
            judged = (assessment.level.value, None, None, available, None, None)
        else:
            limit = binding.limit
            ratio = binding.ratio if limit.bytes else None
            source = _text(limit.source)
            judged = (assessment.level.value, ratio, _int(binding.used), available, _int(limit.bytes), source)
    if sample is None:
        return (*judged, *(None,) * 8)
    process, tree, system = sample.process, sample.tree, sample.system
    return (
        *judged,
        None if process is None else _int(process.rss),
        None if tree is None else _int(tree.total),
        None if tree is None else len(tree.keys),
        _int(sample.cgroups[0].usage) if sample.cgroups else None,
        None if system is None else _int(system.total),
        None if system is None else _int(system.available),
        None if system is None else _int(system.swap_free),
        len(sample.gaps),
    )


# --- reading ------------------------------------------------------------------------------------------


class Spread(NamedTuple):
    """Least, mean and most of a figure."""

    least: float
    mean: float
    most: float


class Rollup(NamedTuple):
    """What became of the samples of a minute or an hour that one process recorded."""

    #: Seconds since the epoch at which it begins, and how long it is: 60 or 3600.
    time: int
    span: int
    #: Who recorded: ``id`` in the table ``writers``.
    writer: int
    #: How many there were.
    samples: int
    level_least: PressureLevel
    level_most: PressureLevel
    #: The mean of the ranks, 0 for LOW up to 3 for CRITICAL.
    level_mean: float
    #: Bytes that counted against the nearest limit, and what could still be taken; None where nothing was read.
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
    """The events of a history as they were recorded, in that order; what is unknown or damaged is passed over.

    ``since`` (inclusive) and ``until`` (exclusive) are seconds since the epoch; ``writer`` is an ``id`` of the table
    ``writers``. Between events nothing is held open. Raises :class:`RecordError` when the file cannot be read.
    """
    database = SqliteConnection(os.path.abspath(os.fspath(path)), lambda db: None, writes=False)
    where, values = _conditions(since, until, writer)
    if kinds is not None:
        where += f" AND kind IN ({', '.join('?' * len(kinds))})"
        values += [kind.value for kind in kinds]
    last, end = 0, 0
    while True:
        with database.turn():
            db = database.connection()
            if _version(db, database.path) == 0:
                return
            if not end:
                last, end = _bounds(db, since)
            rows = db.execute(
                f"SELECT id, plain FROM events WHERE id > ? AND id <= ?{where} ORDER BY id LIMIT {_READ_AT_ONCE}",
                (last, end, *values),
            ).fetchall()
            database.give_up()
        for _, plain in rows:
            try:
                event = from_dict(json.loads(plain))
            except (ValueError, TypeError, RecursionError):  # SettingsError is a ValueError
                continue
            if isinstance(event, Event):
                yield event
        if len(rows) < _READ_AT_ONCE:
            return
        last = rows[-1][0]


def read_writers(path: str | os.PathLike[str]) -> list[int]:
    """Who recorded full samples and events that are still there, in the order in which they began: ``writers.id``.

    Raises :class:`RecordError` when the file cannot be read.
    """
    database = SqliteConnection(os.path.abspath(os.fspath(path)), lambda db: None, writes=False)
    with database.turn():
        db = database.connection()
        rows = []
        if _version(db, database.path):
            rows = db.execute("SELECT writer, min(id) AS first FROM events GROUP BY writer ORDER BY first").fetchall()
        database.give_up()
    return [writer for writer, _ in rows]


def read_rollups(
    path: str | os.PathLike[str],
    since: float | None = None,
    until: float | None = None,
    *,
    span: int | None = None,
    writer: int | None = None,
) -> Iterator[Rollup]:
    """What older samples became, oldest first; ``span`` may be 60 (minutes) or 3600 (hours), else both.

    ``since``, ``until``, ``writer`` and errors as for :func:`read_history`.
    """
    database = SqliteConnection(os.path.abspath(os.fspath(path)), lambda db: None, writes=False)
    where, values = _conditions(since, until, writer)
    for each in (HOUR, MINUTE) if span is None else (span,):
        at: tuple[float, int] = (-math.inf, 0)
        while True:
            with database.turn():
                db = database.connection()
                if _version(db, database.path) == 0:
                    return
                rows = db.execute(
                    f"SELECT {_ROLLUP_COLUMNS} FROM rollups WHERE span_seconds = ? AND (time, writer) > (?, ?){where} "
                    f"ORDER BY time, writer LIMIT {_READ_AT_ONCE}",
                    (each, *at, *values),
                ).fetchall()
                database.give_up()
            for row in rows:
                yield _rollup(row)
            if len(rows) < _READ_AT_ONCE:
                break
            at = rows[-1][1:3]


def _conditions(since: float | None, until: float | None, writer: int | None) -> tuple[str, list[Any]]:
    given = {"time >= ?": since, "time < ?": until, "writer = ?": writer}
    given = {condition: value for condition, value in given.items() if value is not None}
    return "".join(f" AND {condition}" for condition in given), list(given.values())


def _bounds(db: sqlite3.Connection, since: float | None) -> tuple[int, int]:
    """Between which ids to look: after the first, up to the second. What is recorded meanwhile is left out."""
    (end,) = db.execute("SELECT max(id) FROM events").fetchone()
    if since is None:
        return 0, end or 0
    firsts = [
        db.execute(f"SELECT min(id) FROM events WHERE kind {sign} 'sample' AND time >= ?", (since,)).fetchone()[0]
        for sign in ("=", "<>")
    ]
    return min((first for first in firsts if first is not None), default=(end or 0) + 1) - 1, end or 0


def _rollup(row: tuple[Any, ...]) -> Rollup:
    span, start, writer, count, least, mean, most, *measures = row
    spreads = [None if measures[at] == 0 else Spread(*measures[at + 1 : at + 4]) for at in range(0, len(measures), 4)]
    return Rollup(start, span, writer, count, _LEVELS[least], _LEVELS[most], mean, *spreads)
