"""Footprints on disk: an SQLite file that several processes write.

Tables: ``kinds`` holds each kind with its code version and host class, ``tasks`` the newest tasks of each, ``size``
NULL where it was not known. A task is one row, written once and never changed, so that
the rows of two processes need no merging. ``user_version`` is the schema's.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from memwarden.admission.footprints.regression import LEAST_POINTS
from memwarden.admission.footprints.task_key import host_class
from memwarden.errors import RecordError
from memwarden.model.footprints import PastTask, TaskKey
from memwarden.records.paths import state_directory
from memwarden.records.sqlite_connection import SqliteConnection, retry_while_locked

if TYPE_CHECKING:
    import sqlite3

#: "mwfp": marks the file as memwarden's in its header.
APPLICATION_ID = 0x6D776670
#: Tasks kept of a kind, and kinds; with both full the file has some 10 MB.
KEPT_TASKS, KEPT_KINDS = 320, 512
#: New tasks are written at most so late, while tasks keep ending.
BEHIND_SECONDS = 1.0
#: After an error the file is not used for so long.
REST_SECONDS = 30.0
_MOST_PENDING = 4096

_INSERT = "INSERT INTO tasks (kind, time, size, peak_bytes, run_seconds, killed) VALUES (?, ?, ?, ?, ?, ?)"
_SELECT = "SELECT id, size, peak_bytes, run_seconds, killed FROM tasks"

STEPS: tuple[tuple[str, ...], ...] = (
    (
        f"PRAGMA application_id = {APPLICATION_ID}",
        """CREATE TABLE kinds (
            id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, version TEXT NOT NULL, host TEXT NOT NULL,
            seen REAL NOT NULL, drifts INTEGER NOT NULL DEFAULT 0, UNIQUE (name, version, host)
        )""",
        """CREATE TABLE tasks (
            id INTEGER PRIMARY KEY AUTOINCREMENT, kind INTEGER NOT NULL, time REAL NOT NULL,
            size REAL, peak_bytes INTEGER NOT NULL, run_seconds REAL NOT NULL, killed INTEGER NOT NULL
        )""",
        "CREATE INDEX tasks_by_kind ON tasks (kind, id)",
    ),
)


class StoredKind(NamedTuple):
    """A kind of task in the store."""

    kind: TaskKey
    host: str
    #: When a task of it last ended, seconds since the epoch.
    seen: float
    #: Number of noticed changes.
    drifts: int
    #: The newest, oldest first.
    tasks: list[PastTask]


class FootprintStore:
    """Tasks that have ended, in the SQLite file ``path`` (by default ``footprints.db`` beside the other state).

    Tasks are written in batches, at most a second late while tasks keep ending, and by ``save`` and ``close``; a killed
    process loses what it had not written, and never damages the file. ``add`` and ``load`` raise nothing: an error is
    in ``trouble``, and the next try is half a minute later. ``save``, ``close`` and ``stored`` raise
    :class:`RecordError`. Not thread-safe (:class:`Footprints` has a lock); a forked child opens its own connection.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        host: str | None = None,
        behind: float = BEHIND_SECONDS,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = os.path.abspath(os.fspath(path if path is not None else default_path()))
        self.host = host if host is not None else host_class()
        #: What is wrong; empty where nothing is.
        self.trouble = ""
        self._behind, self._wall, self._monotonic = behind, wall, monotonic
        self._database = SqliteConnection(self.path, _prepare, writes=True)
        self._generation = 0
        #: Rows, and how many finished tasks to keep of what is there by then.
        self._pending: list[tuple[TaskKey, tuple[Any, ...] | int]] = []
        self._tried = -math.inf

    def add(self, kind: TaskKey, task: PastTask) -> None:
        """Keep a task; written with those that follow."""
        self._drop_parents_tasks()
        size = task.size if task.size == task.size else None
        row = (self._wall(), size, int(task.peak), float(task.seconds), task.killed)
        self._pending.append((_encodable(kind), row))
        if len(self._pending) > _MOST_PENDING:
            del self._pending[0]
        now = self._monotonic()
        if now - self._tried >= (REST_SECONDS if self.trouble else self._behind):
            try:
                self._write()
                self.trouble = ""
            except RecordError as error:
                self.trouble = str(error)

    def load(self, kind: TaskKey) -> tuple[list[PastTask], list[PastTask]]:
        """Return the newest tasks of a kind on this class of host, oldest first; and, while those are few, those of
        the previous version of its code. Both are empty where the file cannot be read."""
        self._drop_parents_tasks()
        kind = _encodable(kind)
        if not os.path.exists(self.path):
            return [], []
        try:
            found = self._read(kind)
        except RecordError as error:
            self.trouble = str(error)
            return [], []
        self.trouble = ""
        return found

    def forget(self, kind: TaskKey, keep: int) -> None:
        """Delete all but the newest finished tasks of a kind, of those that were added: it has changed."""
        self._pending.append((_encodable(kind), keep))

    def save(self) -> None:
        """Write pending tasks. Raises :class:`RecordError`; nothing is lost then."""
        self._drop_parents_tasks()
        if self._pending:
            self._write()
        self.trouble = ""

    def close(self) -> None:
        """Write pending tasks, and close the file. Raises :class:`RecordError`."""
        try:
            self.save()
        finally:
            with self._database.locked():
                self._database.disconnect()

    def _drop_parents_tasks(self) -> None:
        """After a fork: the parent writes its pending tasks."""
        with self._database.locked():
            generation = self._database.generation
        if self._generation != generation:
            self._generation = generation
            self._pending = []

    def _read(self, kind: TaskKey) -> tuple[list[PastTask], list[PastTask]]:
        with self._database.locked():
            db = self._database.connection()
            select = f"{_SELECT} WHERE kind = ({{}}) ORDER BY id DESC LIMIT {KEPT_TASKS}"
            own = "SELECT id FROM kinds WHERE name = ? AND version = ? AND host = ?"
            rows = db.execute(select.format(own), (*kind, self.host)).fetchall()
            former = []
            if len(rows) < LEAST_POINTS:
                last = "SELECT id FROM kinds WHERE name = ? AND version <> ? AND host = ? ORDER BY seen DESC LIMIT 1"
                former = db.execute(select.format(last), (*kind, self.host)).fetchall()
        return _tasks(rows), _tasks(former)

    def _write(self) -> None:
        self._tried = self._monotonic()
        with self._database.locked():
            db = self._database.connection()
            retry_while_locked(lambda: db.execute("BEGIN IMMEDIATE"))
            ids = {kind: self._id(db, kind) for kind in {kind: None for kind, _ in self._pending}}
            for kind, row in self._pending:
                if isinstance(row, int):
                    _forget(db, ids[kind], row)
                else:
                    db.execute(_INSERT, (ids[kind], *row))
            _trim(db, list(ids.values()))
            db.execute("COMMIT")
        self._pending = []

    def _id(self, db: sqlite3.Connection, kind: TaskKey) -> int:
        (number,) = db.execute(
            "INSERT INTO kinds (name, version, host, seen) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (name, version, host) DO UPDATE SET seen = excluded.seen RETURNING id",
            (*kind, self.host, self._wall()),
        ).fetchone()
        return int(number)


def default_path() -> str:
    """Return the path of ``footprints.db`` beside this user's other records."""
    return os.path.join(state_directory(), "footprints.db")


def stored(path: str | os.PathLike[str] | None = None) -> list[StoredKind]:
    """Return the kinds in a store, the last used first. Raises :class:`RecordError` where it cannot be read."""
    path = os.path.abspath(os.fspath(path if path is not None else default_path()))
    database = SqliteConnection(path, lambda db: None, writes=False)
    with database.locked():
        db = database.connection()
        kinds: list[StoredKind] = []
        if _version(db, path):
            rows = db.execute(
                "SELECT id, name, version, host, seen, drifts FROM kinds ORDER BY seen DESC, id"
            ).fetchall()
            for number, name, version, host, seen, drifts in rows:
                found = db.execute(f"{_SELECT} WHERE kind = ? ORDER BY id", (number,))
                tasks = [task for row in found if (task := _task(*row[1:])) is not None]
                kinds.append(StoredKind(TaskKey(name, version), host, seen, drifts, tasks))
        database.disconnect()
    return kinds


def _version(db: sqlite3.Connection, path: str) -> int:
    """Return the schema's version; 0 for an empty file. Raises :class:`RecordError` for another program's file."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application or version or tables):
        raise RecordError(f"footprints {path}: another program's database; name another file", path=path)
    if version > len(STEPS):
        raise RecordError(
            f"footprints {path}: has schema {version}, and this memwarden reads up to {len(STEPS)}; update memwarden,"
            " or name another file",
            path=path,
        )
    return int(version)


def _prepare(db: sqlite3.Connection) -> None:
    path = db.execute("PRAGMA database_list").fetchone()[2]
    version = _version(db, path)
    if db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        retry_while_locked(lambda: db.execute("PRAGMA journal_mode = WAL"))
    db.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last second, and never the file
    db.execute("PRAGMA cache_size = -256")  # KiB
    if version < len(STEPS):
        retry_while_locked(lambda: db.execute("BEGIN IMMEDIATE"))
        for step in STEPS[_version(db, path) :]:  # read again: another process may have done it
            for statement in step:
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(STEPS)}")
        db.execute("COMMIT")


def _forget(db: sqlite3.Connection, kind: int, keep: int) -> None:
    newest = "SELECT id FROM tasks WHERE kind = ? AND killed = 0 ORDER BY id DESC LIMIT 1 OFFSET ?"
    db.execute(f"DELETE FROM tasks WHERE kind = ? AND id < ({newest})", (kind, kind, keep - 1))
    db.execute("UPDATE kinds SET drifts = drifts + 1 WHERE id = ?", (kind,))


def _trim(db: sqlite3.Connection, kinds: list[int]) -> None:
    """Delete the oldest tasks of these kinds, and the kinds that were used longest ago."""
    for kind in kinds:
        oldest = db.execute(
            "SELECT id FROM tasks WHERE kind = ? ORDER BY id DESC LIMIT 1 OFFSET ?", (kind, KEPT_TASKS)
        ).fetchone()
        if oldest is not None:
            db.execute("DELETE FROM tasks WHERE kind = ? AND id <= ?", (kind, oldest[0]))
    (many,) = db.execute("SELECT count(*) FROM kinds").fetchone()
    if many > KEPT_KINDS:
        old = "SELECT id FROM kinds ORDER BY seen LIMIT ?"
        db.execute(f"DELETE FROM tasks WHERE kind IN ({old})", (many - KEPT_KINDS,))
        db.execute(f"DELETE FROM kinds WHERE id IN ({old})", (many - KEPT_KINDS,))


def _task(size: object, peak: object, seconds: object, killed: object) -> PastTask | None:
    """Return a row as a task; None for an impossible one (the file was edited)."""
    if not isinstance(peak, int | float) or not isinstance(seconds, int | float) or peak < 0 or not 0 <= seconds < 1e12:
        return None
    known = isinstance(size, int | float) and size >= 0
    return PastTask(float(size) if known else math.nan, float(peak), float(seconds), bool(killed))  # type: ignore[arg-type]


def _tasks(rows: list[tuple[Any, ...]]) -> list[PastTask]:
    """Return rows, the newest first, as tasks, the oldest first."""
    return [task for row in reversed(rows) if (task := _task(*row[1:])) is not None]


def _encodable(kind: TaskKey) -> TaskKey:
    return TaskKey(_text(kind.name), _text(kind.version))


def _text(text: str) -> str:
    """Return text that SQLite takes: a name may hold lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()
