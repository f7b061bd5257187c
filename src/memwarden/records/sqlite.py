"""History in SQLite: full samples for the newest stretch, then a row a minute, then a row an hour.

The schema is in :mod:`memwarden.records.sqlite_schema`. Several processes may write one file. Samples are committed
together, a second behind at most; every other event is committed at once and flushed to the disk.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from memwarden.errors import RecordError, SettingsError
from memwarden.model.events import Event, EventKind
from memwarden.model.serialize import to_json
from memwarden.model.units import MIB, parse_duration, parse_size
from memwarden.model.verdicts import Assessment, Reading
from memwarden.records import sqlite_rollups as rollups
from memwarden.records.sqlite_connection import SqliteConnection, retry_while_locked
from memwarden.records.sqlite_schema import (
    COLUMNS,
    HOUR,
    MINUTE,
    PAGE,
    begin,
    migrate,
    pages_in_use,
    pragma,
    schema_version,
)

if TYPE_CHECKING:
    import sqlite3

#: A batch of samples is committed after this time (seconds), number or size (bytes).
_BATCH_SECONDS, _BATCH_EVENTS, _BATCH_BYTES = 1.0, 64, 256 * 1024
#: Bounds of the work before one event where the history is too large: transactions, and pages returned to the system.
_MAX_STEPS, _MAX_PAGES_RETURNED = 64, 2000
_TIDY_SECONDS = 60.0


class SqliteRecorder:
    """Keeps events in the SQLite file ``path``; makes the file (0600) and its folder (0700) when they are missing.

    Full samples are kept for ``detail``, then a row a minute for ``minutes``, then a row an hour; all of it, and every
    other event, for ``retention`` (wall clock). The file and its log stay below ``max_bytes`` together: if that is too
    little, the oldest samples become rows first, and the oldest rows and events are deleted last. ``every_sample``
    also keeps samples between those of the interval.

    ``record`` raises :class:`RecordError` when an event could not be kept; the next call tries again, and ``lost``
    counts the events that were not kept. After fork the child opens a connection of its own.
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
                f"detail {detail!r}, minutes {minutes!r}, retention {retention!r}: must be in ascending order"
            )
        most = parse_size(max_bytes)
        if most < 4 * MIB:
            raise SettingsError(f"max_bytes {max_bytes!r}: a history needs 4MiB or more")
        # A quarter for the write-ahead log; one batch may exceed the bound of the file.
        self._most_log = most // 4
        self._most_pages = (most - self._most_log - 2 * _BATCH_BYTES) // PAGE
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
        with self._database.locked():
            self._check_fork()
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
                    self._pending.pop()  # an event that was reported as lost must not appear later
                    self._pending_bytes -= len(row[-1])
                    raise
                self._failing = False
            except Exception:  # counted here, reported by the caller
                self.lost += 1
                raise

    def close(self) -> None:
        """Commit pending events and close the connection. Raises :class:`RecordError` when they cannot be kept."""
        with self._database.locked():
            self._check_fork()
            try:
                if self._pending:
                    self._commit(flush=False)
            except Exception:  # counted here, reported by the caller
                self.lost += len(self._pending)
                raise
            finally:
                self._pending, self._pending_bytes = [], 0
                self._committed = -math.inf
                self._database.disconnect()

    def _check_fork(self) -> None:
        if self._generation != self._database.generation:
            self._generation = self._database.generation
            self._pending, self._pending_bytes = [], 0  # the parent commits them
            self._writer = None

    def _due(self) -> bool:
        return (
            self._failing
            or len(self._pending) >= _BATCH_EVENTS
            or self._pending_bytes >= _BATCH_BYTES
            or not 0 <= self._monotonic() - self._committed < _BATCH_SECONDS
        )

    def _row(self, event: Event) -> tuple[Any, ...]:
        try:
            plain = to_json(event)
            # Names may contain bytes that are no UTF-8; JSON can escape them, the text columns cannot.
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
        version = schema_version(db, self.path)
        self._flushing = None
        if self._writer is not None:  # the file may have been replaced: is the writer in it?
            known = "SELECT count(*) FROM writers WHERE id = ? AND pid = ? AND began = ?"
            if version == 0 or not db.execute(known, (self._writer, os.getpid(), self._began)).fetchone()[0]:
                self._writer = None
        if version == 0:
            # Lets free pages be returned to the system; must be set before anything is written.
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        if db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            retry_while_locked(lambda: db.execute("PRAGMA journal_mode = WAL"))
        db.execute(f"PRAGMA journal_size_limit = {self._most_log // 4}")
        db.execute(f"PRAGMA wal_autocheckpoint = {max(16, min(1000, self._most_log // 4 // PAGE))}")
        db.execute("PRAGMA temp_store = MEMORY")
        db.execute("PRAGMA cache_size = -512")  # KiB
        migrate(db, self.path, version)

    def _commit(self, flush: bool) -> None:
        db = self._database.connection()
        self._keep_small(db)
        if self._flushing is not flush:
            db.execute(f"PRAGMA synchronous = {'FULL' if flush else 'NORMAL'}")
            self._flushing = flush
        writer, began = self._writer, self._began
        begin(db)
        if writer is None:
            host = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
            began = self._wall()
            me = (host, os.getpid(), began, began)
            writer = db.execute("INSERT INTO writers (host, pid, began, seen) VALUES (?, ?, ?, ?)", me).lastrowid
        marks = ", ".join("?" * len(COLUMNS))
        insert = f"INSERT INTO events (writer, {', '.join(COLUMNS)}) VALUES ({writer}, {marks})"
        db.executemany(insert, self._pending)
        db.execute("COMMIT")
        self._writer, self._began = writer, began
        self._pending, self._pending_bytes = [], 0
        self._committed = self._monotonic()

    # --- growing old ----------------------------------------------------------------------------------

    def _keep_small(self, db: sqlite3.Connection) -> None:
        """Age and delete rows in short transactions, before new ones are written."""
        self._write_back(db)
        now, most = self._monotonic(), self._most_pages
        pages = pragma(db, "page_count")
        if pages <= most and 0 <= now - self._tidied < _TIDY_SECONDS:
            return
        more = self._transaction(db, self._age)
        if pages - pragma(db, "freelist_count") > most:
            for _ in range(_MAX_STEPS):
                if not self._transaction(db, rollups.shrink) or pages_in_use(db) <= most * 19 // 20:
                    break
        if pages > most:
            # execute() would stop after the first page.
            give_back = f"PRAGMA incremental_vacuum({min(pages - most, _MAX_PAGES_RETURNED)})"
            retry_while_locked(lambda: db.executescript(give_back))
        if not more:
            self._tidied = now

    def _write_back(self, db: sqlite3.Connection) -> None:
        """Bound the write-ahead log. SQLite checkpoints it by itself, but not while another program keeps reading."""
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
                "end its transaction",
                path=self.path,
            )

    def _transaction(self, db: sqlite3.Connection, work: Callable[[sqlite3.Connection], bool]) -> bool:
        begin(db)
        result = work(db)
        db.execute("COMMIT")
        return result

    def _age(self, db: sqlite3.Connection) -> bool:
        """Age a chunk of each kind of row; returns True if more is due."""
        now = self._wall()
        end = now - self._retention
        db.execute("UPDATE writers SET seen = ? WHERE id = ?", (now, self._writer))
        db.execute("DELETE FROM writers WHERE seen < ?", (end,))
        done = [
            rollups.samples_to_minutes(db, (now - self._detail) // MINUTE * MINUTE),
            rollups.minutes_to_hours(db, (now - self._minutes) // HOUR * HOUR),
            rollups.drop_events(db, end),
            rollups.drop_rollups(db, end),
        ]
        return max(done) >= rollups.CHUNK


def _text(value: str) -> str:
    """Return text that SQLite accepts: names may contain bytes that are no UTF-8."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def _int(value: int | None) -> int | None:
    return value if value is not None and -(1 << 63) <= value < 1 << 63 else None


def _figures(value: Any) -> tuple[Any, ...]:
    """Return the plain columns for the value of an event."""
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
