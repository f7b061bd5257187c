"""Schema of a history in SQLite (``docs/records.md`` has every column)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memwarden.errors import RecordError
from memwarden.model.verdicts import PressureLevel
from memwarden.records.sqlite_connection import retry_while_locked

if TYPE_CHECKING:
    import sqlite3

#: "mwhd" in the file's header marks it as ours.
APPLICATION_ID = 0x6D776864
MINUTE, HOUR = 60, 3600
PAGE = 4096

#: Measures, and the unit suffix of their columns.
MEASURES = {"used": "_bytes", "available": "_bytes", "ratio": ""}
RANK = "CASE level " + " ".join(f"WHEN '{level.value}' THEN {level.rank}" for level in PressureLevel) + " END"
LEVELS = {level.rank: level for level in PressureLevel}
COLUMNS = (
    "kind", "time", "monotonic_seconds", "message",
    "level", "ratio", "used_bytes", "available_bytes", "limit_bytes", "limit_source",
    "process_rss_bytes", "tree_rss_bytes", "tree_processes", "cgroup_usage_bytes",
    "system_total_bytes", "system_available_bytes", "swap_free_bytes", "gaps", "plain",
)  # fmt: skip
MEASURE_COLUMNS = ", ".join(f"{m}_count, {m}_least{u}, {m}_mean{u}, {m}_most{u}" for m, u in MEASURES.items())
ROLLUP_COLUMNS = (
    f"span_seconds, time, writer, count, level_least, level_mean, level_most, {MEASURE_COLUMNS}"  # as Rollup has them
)
#: Late samples are merged into an existing row.
MERGE = """ON CONFLICT (span_seconds, time, writer) DO UPDATE SET
    level_least = min(level_least, excluded.level_least), level_most = max(level_most, excluded.level_most),
    level_mean = (level_mean * count + excluded.level_mean * excluded.count) / (count + excluded.count),
    count = count + excluded.count""" + "".join(
    f""",
    {m}_mean{u} = (coalesce({m}_mean{u} * {m}_count, 0) + coalesce(excluded.{m}_mean{u} * excluded.{m}_count, 0))
        / nullif({m}_count + excluded.{m}_count, 0),
    {m}_least{u} = min(coalesce({m}_least{u}, excluded.{m}_least{u}), coalesce(excluded.{m}_least{u}, {m}_least{u})),
    {m}_most{u} = max(coalesce({m}_most{u}, excluded.{m}_most{u}), coalesce(excluded.{m}_most{u}, {m}_most{u})),
    {m}_count = {m}_count + excluded.{m}_count"""
    for m, u in MEASURES.items()
)

#: Migrations from each version of the schema (``PRAGMA user_version``) to the next; the first creates it.
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
        # Two partial indexes: each search sees its own rows only.
        "CREATE INDEX samples_by_time ON events (time) WHERE kind = 'sample'",
        "CREATE INDEX others_by_time ON events (time) WHERE kind <> 'sample'",
        """CREATE VIEW samples AS SELECT
            strftime('%Y-%m-%dT%H:%M:%fZ', time, 'unixepoch') AS utc, * FROM events WHERE kind = 'sample'""",
        f"""CREATE TABLE rollups (
            span_seconds INTEGER NOT NULL, time INTEGER NOT NULL, writer INTEGER NOT NULL, count INTEGER NOT NULL,
            level_least INTEGER NOT NULL, level_mean REAL NOT NULL, level_most INTEGER NOT NULL,
            {MEASURE_COLUMNS},
            PRIMARY KEY (span_seconds, time, writer)
        ) WITHOUT ROWID""",
    ),
)


def begin(db: sqlite3.Connection) -> None:
    retry_while_locked(lambda: db.execute("BEGIN IMMEDIATE"))


def migrate(db: sqlite3.Connection, path: str, version: int) -> None:
    """Bring the schema from ``version`` to the newest one."""
    if version < len(STEPS):
        begin(db)
        for step in STEPS[schema_version(db, path) :]:  # read again: another process may have been first
            for statement in step:
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(STEPS)}")
        db.execute("COMMIT")


def pragma(db: sqlite3.Connection, name: str) -> int:
    value: int = db.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def pages_in_use(db: sqlite3.Connection) -> int:
    return pragma(db, "page_count") - pragma(db, "freelist_count")


def schema_version(db: sqlite3.Connection, path: str) -> int:
    """Return the schema version, 0 for an empty file. Raises :class:`RecordError` for another program's file."""
    if pragma(db, "application_id") != APPLICATION_ID:
        filled = pragma(db, "user_version") or db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        # Checked again: another process may have created the schema meanwhile, in one transaction.
        if filled and pragma(db, "application_id") != APPLICATION_ID:
            raise RecordError(f"record {path}: is a database of another program; name another file", path=path)
        if not filled:
            return 0
    version = pragma(db, "user_version")
    if version > len(STEPS):
        raise RecordError(
            f"record {path}: was written by a newer memwarden (schema {version}, this one knows {len(STEPS)}); "
            "upgrade memwarden, or name another file",
            path=path,
        )
    return version
