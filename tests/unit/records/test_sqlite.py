"""History in SQLite: what is kept, for how long, and what happens to files."""

from __future__ import annotations

import errno
import math
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memwarden.errors import RecordError, SettingsError
from memwarden.model.events import Event, EventKind
from memwarden.model.limits import Constraint, Limit
from memwarden.model.sample import Sample
from memwarden.model.verdicts import Assessment, PressureLevel, Reading
from memwarden.records import sqlite_schema
from memwarden.records.sqlite import SqliteRecorder
from memwarden.records.sqlite_connection import SqliteConnection
from memwarden.records.sqlite_reader import Spread, read_history, read_rollups
from memwarden.testing import FakeClock
from support.trees import descriptors
from support.values import EVENT, FULL, PROCESS, READING, WALL

#: On a full hour, so that rows start where it does.
HOUR = 1_700_000_000 // 3600 * 3600.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(wall=HOUR)


class Fed(SqliteRecorder):
    """A recorder on a clock of its own; closed at the end of the test."""

    def __init__(self, path: Path, clock: FakeClock, **rest: Any) -> None:
        super().__init__(path, wall=clock.wall, monotonic=clock.monotonic, **rest)
        self.clock = clock

    def at(self, used: int | None = 500, kind: EventKind = EventKind.SAMPLE, **rest: Any) -> None:
        """Record an event of now: a sample of so much of 1000 bytes."""
        wall, now = self.clock.wall(), self.clock.monotonic()
        value = reading(used, wall, now) if kind is EventKind.SAMPLE else None
        self.record(Event(**{"kind": kind, "wall": wall, "monotonic": now, "value": value, **rest}))


def reading(used: int | None, wall: float, now: float = 0.0) -> Reading:
    """So much of 1000 bytes is used; None: nothing could be read."""
    limit = Limit(1000, "machine")
    binding = None if used is None else Constraint(limit, used)
    level = PressureLevel.HIGH if used is not None and used >= 800 else PressureLevel.LOW
    available = None if used is None else 1000 - used
    return Reading(Sample(wall, now), Assessment(level, level, binding, limit, available, 0.0))


@pytest.fixture
def recorder(path: Path, clock: FakeClock) -> Iterator[Fed]:
    made = Fed(path, clock)
    yield made
    made.close()


def fill(recorder: Fed, size: int) -> None:
    """A hundred events of so many characters."""
    for _ in range(100):
        recorder.at(kind=EventKind.LEVEL, message="x" * size)


def query(path: Path, statement: str) -> list[Any]:
    """What another program sees: only what is committed."""
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return db.execute(statement).fetchall()
    finally:
        db.close()


def messages(path: Path, **which: Any) -> list[str]:
    """What a history holds, in order."""
    return [event.message for event in read_history(path, **which)]


# --- what is kept -------------------------------------------------------------------------------------


@pytest.mark.contract("S2-11")
def test_the_figures_of_a_sample_stand_in_plain_columns(path: Path, recorder: Fed) -> None:
    """For SQL; the whole event is beside them."""
    recorder.record(EVENT)
    recorder.close()
    columns = "level, ratio, used_bytes, available_bytes, limit_bytes, limit_source, process_rss_bytes"
    (row,) = query(path, f"SELECT time, monotonic_seconds, {columns} FROM samples")
    assert row == (WALL, 1.0, "high", 0.93, 930, 70, 1000, "cgroup /app", 300)
    columns = "tree_rss_bytes, tree_processes, cgroup_usage_bytes, system_total_bytes, system_available_bytes"
    (row,) = query(path, f"SELECT {columns}, swap_free_bytes, gaps, json_extract(plain, '$.value.type') FROM events")
    assert row == (500, 2, 400, 8000, 6000, 50, 1, "reading")
    assert list(read_history(path)) == [EVENT]
    ((utc,),) = query(path, "SELECT utc FROM samples")
    assert utc == "2023-11-14T22:13:20.123Z"


@pytest.mark.parametrize("value", FULL, ids=lambda value: type(value).__name__)
def test_every_value_comes_back_out_of_the_file(path: Path, recorder: Fed, value: Any) -> None:
    """An event may be about any of them, and a reading can be judged again."""
    event = EVENT._replace(kind=EventKind.LEVEL, value=value)
    recorder.record(event)
    assert list(read_history(path)) == [event]


@pytest.mark.parametrize(
    "value",
    [
        READING._replace(sample=READING.sample._replace(process=PROCESS._replace(rss=1 << 70, name="a\udcff\x00"))),
        READING._replace(assessment=READING.assessment._replace(binding=Constraint(Limit(0, "\udcff"), 1 << 64))),
        READING._replace(assessment=READING.assessment._replace(binding=None, effective=None, available=None)),
    ],
    ids=["more than a column holds", "a limit of nothing", "nothing could be read"],
)
def test_what_a_column_cannot_hold_stands_in_the_whole(path: Path, recorder: Fed, value: Reading) -> None:
    """The event comes back, and the column is empty."""
    event = EVENT._replace(value=value, message="a\udcff\x00")
    recorder.record(event)
    recorder.close()
    assert list(read_history(path)) == [event]


@pytest.mark.parametrize("monotonic", [math.nan, math.inf])
def test_a_strange_moment_does_not_hold_up_the_others(path: Path, recorder: Fed, monotonic: float) -> None:
    """It waits in one batch with good samples."""
    recorder.at(message="before")
    recorder.record(EVENT._replace(monotonic=monotonic))
    recorder.at(kind=EventKind.LEVEL, message="after")
    assert query(path, "SELECT count(*) FROM events") == [(3,)]


@pytest.mark.contract("S2-59", "W2-5")
@pytest.mark.parametrize(
    "event",
    [
        pytest.param(EVENT._replace(wall=1e30), id="a time that no calendar has"),
        pytest.param(EVENT._replace(message="x" * (5 << 20)), id="larger than may be"),
        pytest.param(EVENT._replace(message=7), id="a message that is none"),
    ],
)
def test_an_event_that_cannot_be_written_is_reported(path: Path, recorder: Fed, event: Event) -> None:
    """RecordError, counted, and what waited before and comes after is kept."""
    recorder.at(message="before")
    with pytest.raises(RecordError, match="sample"):
        recorder.record(event)
    recorder.at(kind=EventKind.LEVEL, message="after")
    assert recorder.lost == 1
    assert messages(path) == ["before", "after"]


def test_the_writer_is_reported(path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two recorders on one file stay apart; one that was closed and goes on is the same as before."""
    monkeypatch.setenv("COMPUTERNAME", "desk")  # Windows
    host = os.uname().nodename if hasattr(os, "uname") else "desk"
    first, second = Fed(path, clock), Fed(path, clock)
    first.at(kind=EventKind.START, message="first")
    second.at(kind=EventKind.START, message="second")
    rows = query(path, "SELECT id, host, pid, began, seen FROM writers")
    assert rows == [(number, host, os.getpid(), HOUR, HOUR) for number in (1, 2)]
    second.close()
    second.at(kind=EventKind.STOP, message="second again")
    assert messages(path, writer=2) == ["second", "second again"]
    path.unlink()
    second.at(kind=EventKind.START, message="in a new file")
    assert messages(path, writer=1) == ["in a new file"]
    first.close()
    second.close()


# --- when it is written -------------------------------------------------------------------------------


def test_samples_are_committed_together(path: Path, recorder: Fed) -> None:
    """Ten a second make one transaction a second; nothing waits longer while they keep coming."""
    recorder.at()
    counts = []
    for _ in range(20):
        recorder.clock.advance(0.1)
        recorder.at()
        counts.append(query(path, "SELECT count(*) FROM events")[0][0])
    assert sorted(set(counts)) == [1, 11, 21]


def test_many_samples_do_not_wait_for_the_second(path: Path, recorder: Fed) -> None:
    """What waits in memory is bounded, by number and by size."""
    for _ in range(65):
        recorder.at()
    assert query(path, "SELECT count(*) FROM events") == [(65,)]
    recorder.at(message="x" * 300_000)
    assert query(path, "SELECT count(*) FROM events") == [(66,)]


def test_any_other_event_is_there_at_once_and_on_the_disk(
    path: Path, recorder: Fed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the samples that waited before it, in order. Events are flushed, samples are not."""
    recorder.at(message="s0")
    statements: list[str] = []
    recorder._database.connection().set_trace_callback(statements.append)
    recorder.at(message="s1")
    recorder.at(kind=EventKind.LEVEL, message="level")
    assert [row[0] for row in query(path, "SELECT message FROM events ORDER BY id")] == ["s0", "s1", "level"]
    assert "PRAGMA synchronous = FULL" in statements
    statements.clear()
    recorder.clock.advance(1.0)
    recorder.at(message="s2")
    assert statements[:3] != []
    assert "PRAGMA synchronous = NORMAL" in statements


def test_close_keeps_what_waits(path: Path, recorder: Fed) -> None:
    """Nothing that was taken is lost at an orderly end, and no log stays beside the file."""
    recorder.at(message="s0")
    recorder.at(message="s1")
    recorder.close()
    assert messages(path) == ["s0", "s1"]
    assert os.listdir(path.parent) == ["history.db"]


def test_the_connection_stays_open(recorder: Fed) -> None:
    """One opening for all events, and nothing is left of it after close."""
    before = descriptors()
    for _ in range(20):
        recorder.at(kind=EventKind.LEVEL)
    db = recorder._database.connection()
    recorder.at(kind=EventKind.LEVEL)
    assert recorder._database.connection() is db
    recorder.close()
    recorder.close()
    assert descriptors() == before


# --- where it is written ------------------------------------------------------------------------------


@pytest.mark.contract("W2-5")
def test_file_and_folder_are_the_users_own(tmp_path: Path, clock: FakeClock) -> None:
    """With what stands beside the file while it is open."""
    path = tmp_path / "a" / "b" / "history.db"
    recorder = Fed(path, clock)
    recorder.at()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {
        "history.db": 0o600,
        "history.db-wal": 0o600,
        "history.db-shm": 0o600,
    }
    recorder.close()


@pytest.mark.contract("W2-5")
def test_no_link_is_followed(tmp_path: Path, path: Path, recorder: Fed) -> None:
    """In a shared directory another user may have created one under our name."""
    victim = tmp_path / "victim.db"
    path.symlink_to(victim)
    with pytest.raises(RecordError, match="link"):
        recorder.at()
    assert not victim.exists()
    victim.write_bytes(b"")
    with pytest.raises(RecordError, match="link"):
        recorder.at()
    assert victim.read_bytes() == b""


def test_what_is_no_file_is_refused(path: Path, recorder: Fed) -> None:
    """A pipe would be waited for, a folder cannot be written."""
    os.mkfifo(path)
    with pytest.raises(RecordError, match="regular file"):
        recorder.at()
    path.unlink()
    path.mkdir()
    with pytest.raises(RecordError, match="regular file"):
        recorder.at()


@pytest.mark.parametrize("name", ["50% of a #?.db", "\u00e4\u2028.db", "a\udcff.db"])
def test_any_file_name_will_do(tmp_path: Path, clock: FakeClock, name: str) -> None:
    """Whatever stands in it means nothing to SQLite."""
    recorder = Fed(tmp_path / name, clock)
    recorder.at(message="m")
    recorder.close()
    assert messages(tmp_path / name) == ["m"]
    assert os.listdir(tmp_path) == [name]


def test_a_relative_path_stays_where_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that changes its directory goes on in the same file."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    recorder = SqliteRecorder("history.db")
    monkeypatch.chdir(tmp_path / "elsewhere")
    recorder.record(EVENT._replace(kind=EventKind.LEVEL))
    recorder.close()
    assert os.listdir(tmp_path / "elsewhere") == []
    assert (tmp_path / "history.db").exists()


def test_a_file_that_was_moved_or_removed_is_started_anew(path: Path, recorder: Fed) -> None:
    """As log rotation does it: nothing is written where no reader would find it."""
    recorder.at(kind=EventKind.START, message="one")
    path.rename(path.with_name("old.db"))
    recorder.at(kind=EventKind.LEVEL, message="two")
    assert messages(path) == ["two"]
    path.unlink()
    recorder.at(kind=EventKind.LEVEL, message="three")
    recorder.close()
    assert messages(path) == ["three"]


# --- schema -------------------------------------------------------------------------------------------


def test_a_newer_schema_is_refused(path: Path, recorder: Fed) -> None:
    """By writer and reader, in words; the file stays as it was."""
    recorder.at(kind=EventKind.START)
    recorder.close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    before = path.read_bytes()
    with pytest.raises(RecordError, match=r"newer memwarden \(schema 99, this one knows 1\); upgrade") as caught:
        recorder.at()
    assert caught.value.path == str(path)
    with pytest.raises(RecordError, match="newer memwarden"):
        list(read_history(path))
    with pytest.raises(RecordError, match="newer memwarden"):
        list(read_rollups(path))
    assert path.read_bytes() == before


def test_an_older_schema_is_migrated(path: Path, recorder: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step, with all that is in it; one that fails half-way changes nothing."""
    recorder.at(kind=EventKind.START, message="old")
    recorder.close()
    steps = sqlite_schema.STEPS
    broken = ("ALTER TABLE events ADD COLUMN mood TEXT", "SELECT nonsense")
    monkeypatch.setattr(sqlite_schema, "STEPS", (*steps, broken))
    with pytest.raises(RecordError, match="nonsense"):
        recorder.at(kind=EventKind.LEVEL)
    assert query(path, "PRAGMA user_version") == [(1,)]
    assert messages(path) == ["old"]  # an older file can be read as it is
    more = (("ALTER TABLE events ADD COLUMN mood TEXT DEFAULT 'calm'",), ("CREATE TABLE notes (text TEXT)",))
    monkeypatch.setattr(sqlite_schema, "STEPS", (*steps, *more))
    recorder.at(kind=EventKind.LEVEL, message="new")
    assert query(path, "PRAGMA user_version") == [(3,)]
    assert query(path, "SELECT mood, message FROM events") == [("calm", "old"), ("calm", "new")]


@pytest.mark.parametrize("statement", ["CREATE TABLE theirs (a)", "PRAGMA user_version = 1"])
def test_a_database_of_another_program_is_left_alone(path: Path, recorder: Fed, statement: str) -> None:
    """Not a byte of it changes."""
    db = sqlite3.connect(path)
    db.execute(statement)
    db.close()
    before = path.read_bytes()
    with pytest.raises(RecordError, match="another program; name another file"):
        recorder.at()
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["history.db"]


def test_an_empty_file_is_started(path: Path, recorder: Fed) -> None:
    """As ``mktemp`` leaves it; its mode stays."""
    path.touch(mode=0o640)
    assert list(read_history(path)) == list(read_rollups(path)) == []
    recorder.at(kind=EventKind.START, message="m")
    assert messages(path) == ["m"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


# --- trouble ------------------------------------------------------------------------------------------


@pytest.mark.contract("W2-5")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no database, but long enough for a header " * 100, "file is not a database; move it away"),
        (None, "malformed; move it away and a new one is created"),
    ],
    ids=["not a database", "damaged"],
)
def test_a_file_that_cannot_be_used_is_reported(path: Path, recorder: Fed, content: bytes | None, said: str) -> None:
    """Each lost event; when the file was moved away recording goes on in a new one."""
    if content is None:
        for _ in range(50):
            recorder.at(kind=EventKind.LEVEL, message="x" * 500)
        recorder.close()
        data = path.read_bytes()
        content = data[:4096] + b"\xa5" * (len(data) - 4096)
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(RecordError, match=said) as caught:
            recorder.at(kind=EventKind.LEVEL)
        assert str(path) in str(caught.value)
    with pytest.raises(RecordError, match="read another file"):
        list(read_history(path))
    assert recorder.lost == 2
    assert path.read_bytes() == content
    path.rename(path.with_name("away.db"))
    recorder.at(kind=EventKind.LEVEL, message="again")
    assert messages(path) == ["again"]


def test_a_locked_database_is_waited_for_and_then_reported(
    path: Path, recorder: Fed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waited comes in when the lock is gone; what was reported to be lost does not."""
    monkeypatch.setattr("memwarden.records.sqlite_connection.BUSY_SECONDS", 0.05)
    recorder.at(kind=EventKind.START, message="start")
    recorder.close()
    recorder.at(message="waits")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(RecordError, match="locked; another program has locked it"):
        recorder.at(kind=EventKind.LEVEL, message="lost")
    with pytest.raises(RecordError, match="locked"):  # a sample is tried at once, too: trouble is reported as it is
        recorder.at(message="lost as well")
    other.execute("ROLLBACK")
    other.close()
    recorder.at(message="after")
    assert messages(path) == ["start", "waits", "after"]
    assert recorder.lost == 2


def test_a_full_database_is_reported(path: Path, recorder: Fed) -> None:
    """Nothing of an event stands there, and recording goes on when there is free space."""
    recorder.at(kind=EventKind.START, message="start")
    db = recorder._database.connection()
    db.execute("PRAGMA max_page_count = 1")  # the least is what there is
    with pytest.raises(RecordError, match="full; free some space, or record to another path"):
        fill(recorder, 5000)
    kept = len(messages(path))
    recorder.at(kind=EventKind.STOP, message="stop")  # by a new connection, which has no such bound
    assert messages(path)[kept:] == ["stop"]
    assert query(path, "PRAGMA integrity_check") == [("ok",)]


def test_close_shows_what_it_could_not_keep(path: Path, recorder: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once: the next close has nothing left to show."""
    recorder.at()
    recorder.at()
    path.unlink()
    path.mkdir()
    with pytest.raises(RecordError, match="regular file"):
        recorder.close()
    assert recorder.lost == 1
    recorder.close()
    path.rmdir()


def test_a_python_without_sqlite_is_reported(path: Path, recorder: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some builds lack it; the record itself is then no trouble."""
    monkeypatch.setitem(__import__("sys").modules, "sqlite3", None)
    with pytest.raises(RecordError, match=r"without sqlite3.*JSON lines"):
        recorder.at()
    monkeypatch.undo()
    recorder.at(kind=EventKind.LEVEL, message="m")
    assert messages(path) == ["m"]


@pytest.mark.parametrize(
    "asked",
    [
        {"detail": "2d", "minutes": "1d"},
        {"minutes": "31d"},
        {"max_bytes": "1MiB"},
        {"retention": "soon"},
        {"detail": 0},
    ],
    ids=str,
)
def test_a_setting_that_makes_no_sense_is_refused(path: Path, asked: dict[str, Any]) -> None:
    """Before anything is made."""
    with pytest.raises(SettingsError):
        SqliteRecorder(path, **asked)


# --- growing old --------------------------------------------------------------------------------------


def test_samples_become_a_row_a_minute_and_then_a_row_an_hour(path: Path, clock: FakeClock) -> None:
    """Least, mean and most are those of all samples; what is newer stays whole."""
    recorder = Fed(path, clock, detail="1h", minutes="2h", retention="30d")
    used = [(n * 7919) % 1000 for n in range(4 * 360)]  # every 10 s for four hours
    for each in used:
        recorder.at(each)
        clock.advance(10.0)
    recorder.close()
    whole = [event.value.assessment.binding.used for event in read_history(path)]
    assert 360 <= len(whole) <= 368
    assert whole == used[-len(whole) :]
    hours = list(read_rollups(path, span=3600))
    minutes = list(read_rollups(path, span=60))
    assert list(read_rollups(path)) == hours + minutes
    assert sum(each.samples for each in hours + minutes) + len(whole) == len(used)
    assert {each.samples for each in minutes} == {6}
    assert [each.time for each in hours] == [HOUR]
    (hour,), first = hours, used[:360]
    assert (hour.samples, hour.span, hour.writer) == (360, 3600, 1)
    assert hour.used == Spread(min(first), pytest.approx(sum(first) / 360), max(first))
    assert hour.available == Spread(1000 - max(first), pytest.approx(1000 - sum(first) / 360), 1000 - min(first))
    assert hour.ratio == Spread(min(first) / 1000, pytest.approx(sum(first) / 360_000), max(first) / 1000)
    assert (hour.level_least, hour.level_most) == (PressureLevel.LOW, PressureLevel.HIGH)
    assert hour.level_mean == pytest.approx(2 * sum(each >= 800 for each in first) / 360)
    assert minutes[0].time == HOUR + 3600
    assert minutes[0].used == Spread(min(used[360:366]), pytest.approx(sum(used[360:366]) / 6), max(used[360:366]))


def test_samples_that_come_late_are_added_to_their_row(path: Path, clock: FakeClock) -> None:
    """Of another process, or after the clock was set: weighed by their number, gaps left out."""
    recorder = Fed(path, clock)
    for used in (100, 200, None):
        recorder.at(used, wall=HOUR)
    clock.advance(7200.0)
    recorder.at(kind=EventKind.LEVEL)
    clock.advance(61.0)
    recorder.at(kind=EventKind.LEVEL)
    (row,) = read_rollups(path)
    assert (row.samples, row.used) == (3, Spread(100, 150.0, 200))
    recorder.at(900, wall=HOUR + 1)
    for _ in range(2):
        clock.advance(61.0)
        recorder.at(kind=EventKind.LEVEL)
    (row,) = read_rollups(path)
    assert (row.samples, row.used, row.level_most) == (4, Spread(100, 400.0, 900), PressureLevel.HIGH)
    recorder.close()


def test_a_minute_without_a_figure_has_none(path: Path, clock: FakeClock) -> None:
    """And one that has joins it in the hour."""
    recorder = Fed(path, clock, detail=60, minutes="1h")
    recorder.at(None)
    recorder.at(400, wall=HOUR + 60)
    for _ in range(2):
        clock.advance(300.0)
        recorder.at(kind=EventKind.LEVEL)
    empty, full = read_rollups(path)
    assert (empty.used, empty.available, empty.ratio) == (None, None, None)
    assert full.used == Spread(400, 400.0, 400)
    clock.advance(7200.0)
    recorder.at(kind=EventKind.LEVEL)
    (hour,) = read_rollups(path)
    assert (hour.samples, hour.used) == (2, Spread(400, 400.0, 400))
    recorder.close()


def test_two_processes_have_rows_of_their_own(path: Path, clock: FakeClock) -> None:
    """What two watch is not mixed in one mean."""
    first, second = Fed(path, clock), Fed(path, clock)
    first.at(100)
    second.at(900)
    clock.advance(7200.0)
    first.at(kind=EventKind.LEVEL)
    second.at(kind=EventKind.LEVEL)
    clock.advance(61.0)
    first.at(kind=EventKind.LEVEL)
    assert [(row.writer, row.used.mean) for row in read_rollups(path) if row.used] == [(1, 100.0), (2, 900.0)]
    assert [row.writer for row in read_rollups(path, writer=2)] == [2]
    first.close()
    second.close()


def test_events_stay_whole_until_their_time_is_over(path: Path, clock: FakeClock) -> None:
    """Then they go, and the rows and writers of that time with them."""
    recorder = Fed(path, clock, detail="1h", minutes="1d", retention="2d")
    recorder.at(kind=EventKind.START, message="first", details={"kept": "whole"})
    recorder.at(1)
    recorder.close()
    recorder = Fed(path, clock, detail="1h", minutes="1d", retention="2d")
    for hour in range(47):
        clock.advance(3600.0)
        recorder.at(kind=EventKind.LEVEL, message=f"hour {hour}")
    first = next(read_history(path))
    assert (first.message, first.details) == ("first", {"kept": "whole"})
    assert len(list(read_rollups(path))) == 1
    clock.advance(3 * 3600.0)
    recorder.at(kind=EventKind.STOP, message="last")
    assert messages(path)[0] == "hour 1"
    assert messages(path)[-1] == "last"
    assert list(read_rollups(path)) == []
    assert query(path, "SELECT id FROM writers") == [(2,)]
    recorder.close()


def test_a_long_backlog_is_worked_off_in_short_transactions(path: Path, clock: FakeClock) -> None:
    """A file that was left for long: each event waits for a few chunks at most, and none is lost."""
    recorder = Fed(path, clock)
    for number in range(2000):
        recorder.at(number % 1000, wall=HOUR + number)
    clock.advance(10 * 3600.0)
    left = []
    for _ in range(6):
        recorder.at(kind=EventKind.LEVEL)
        left.append(query(path, "SELECT count(*) FROM samples")[0][0])
    recorder.close()
    assert left == [1500, 1000, 500, 0, 0, 0]
    assert sum(row.samples for row in read_rollups(path)) == 2000


def bytes_of(path: Path) -> int:
    """What a history takes on disk, with its log and what processes share."""
    return sum(each.stat().st_size for each in path.parent.glob(path.name + "*"))


def test_the_size_is_bounded(path: Path, clock: FakeClock) -> None:
    """However much comes in. Samples are removed first, so that events stay; the sums stay right."""
    most = 4 << 20
    recorder = Fed(path, clock, max_bytes=most)
    recorder.at(kind=EventKind.START, message="first")
    largest = 0
    for number in range(3000):
        clock.advance(0.1)
        recorder.at(number % 1000, details={"ballast": "x" * 2000})
        largest = max(largest, bytes_of(path)) if number % 100 == 0 else largest
    assert largest <= most
    assert messages(path)[0] == "first"
    recorder.close()
    newest = [event.value.assessment.binding.used for event in read_history(path, kinds=[EventKind.SAMPLE])]
    assert newest == [number % 1000 for number in range(3000)][-len(newest) :]
    assert len(newest) > 500
    assert sum(row.samples for row in read_rollups(path)) + len(newest) == 3000
    assert query(path, "PRAGMA integrity_check") == [("ok",)]


def test_events_alone_are_bounded_too(path: Path, clock: FakeClock) -> None:
    """Where there is nothing else to give up the oldest go."""
    recorder = Fed(path, clock, max_bytes=4 << 20)
    for number in range(120):
        clock.advance(1.0)
        recorder.at(kind=EventKind.LEVEL, message=f"{number:05}" + "x" * 50_000)
        assert bytes_of(path) <= 4 << 20
    numbers = [int(message[:5]) for message in messages(path)]
    assert numbers == list(range(numbers[0], 120))
    assert len(numbers) >= 20
    recorder.close()


def test_a_file_that_is_too_large_shrinks(path: Path, clock: FakeClock) -> None:
    """A lower bound frees the space."""
    recorder = Fed(path, clock, max_bytes=64 << 20)
    for number in range(400):
        clock.advance(1.0)
        recorder.at(kind=EventKind.LEVEL, message=f"{number:05}" + "x" * 50_000)
    recorder.close()
    assert path.stat().st_size > 20 << 20
    recorder = Fed(path, clock, max_bytes=4 << 20)
    for _ in range(20):
        recorder.at(kind=EventKind.LEVEL, message="99999")
    recorder.close()
    assert bytes_of(path) <= 4 << 20
    assert messages(path)[-1] == "99999"
    assert query(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_long_reader_cannot_make_the_log_grow_for_ever(path: Path, clock: FakeClock) -> None:
    """It cannot be written back meanwhile: from a point on that is reported, and when it is over all goes on."""
    recorder = Fed(path, clock, max_bytes=4 << 20)
    recorder.at(kind=EventKind.START)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM events").fetchone()
    with pytest.raises(RecordError, match="keeps reading"):
        fill(recorder, 50_000)
    assert bytes_of(path) <= 4 << 20
    with pytest.raises(RecordError, match="keeps reading"):
        recorder.at(kind=EventKind.LEVEL)
    reader.close()
    recorder.at(kind=EventKind.LEVEL, message="again")
    assert messages(path)[-1] == "again"
    recorder.close()


# --- reading ------------------------------------------------------------------------------------------


def test_a_stretch_of_time_is_read(path: Path, recorder: Fed) -> None:
    """From the first moment, up to but without the second; some kinds of events, or all."""
    for number in range(1000):
        kind = EventKind.LEVEL if number % 10 == 0 else EventKind.SAMPLE
        recorder.at(kind=kind, message=str(number), wall=HOUR + number)
    recorder.close()
    assert messages(path) == [str(number) for number in range(1000)]
    assert messages(path, since=HOUR + 300, until=HOUR + 700) == [str(number) for number in range(300, 700)]
    assert messages(path, since=HOUR + 995, kinds={EventKind.SAMPLE}) == ["995", "996", "997", "998", "999"]
    assert messages(path, until=HOUR + 25, kinds=[EventKind.LEVEL]) == ["0", "10", "20"]
    assert messages(path, since=HOUR + 1000) == messages(path, kinds=[]) == messages(path, writer=9) == []


def test_reading_holds_nothing_and_ends(path: Path, recorder: Fed) -> None:
    """Between events there is no connection; what is recorded meanwhile is left for the next time."""
    for number in range(500):
        recorder.at(message=str(number))
    recorder.close()
    before = descriptors()
    seen = []
    for event in read_history(path):
        # The recorder's own three, and one that SQLite keeps for later: closing it would drop the recorder's locks.
        assert descriptors() <= before + 4
        seen.append(event.message)
        recorder.at(kind=EventKind.LEVEL, message="meanwhile")
        if len(seen) > 500:
            break
    assert seen == [str(number) for number in range(500)]


def test_what_is_unknown_or_damaged_is_passed_over(path: Path, recorder: Fed) -> None:
    """A newer writer, or a manual change."""
    for number in range(7):
        recorder.at(kind=EventKind.LEVEL, message=str(number))
    recorder.close()
    db = sqlite3.connect(path)
    for number, plain in enumerate(["", "[", "{}", '{"schema": 1, "type": "gap"}', b"\xff\xfe", "[" * 100_000], 1):
        db.execute("UPDATE events SET plain = ? WHERE id = ?", (plain, number))
    db.commit()
    db.close()
    assert messages(path) == ["6"]


def test_reading_a_file_that_is_not_there_is_reported(path: Path) -> None:
    """And makes none."""
    with pytest.raises(RecordError, match=os.strerror(errno.ENOENT)):
        list(read_history(path))
    assert os.listdir(path.parent) == []


def test_a_copy_that_may_only_be_read_is_read(path: Path, recorder: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite makes files beside a database even to read it; where it may not, it needs none."""
    recorder.at(message="m")
    recorder.close()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert messages(path) == ["m"]
    assert os.listdir(path.parent) == ["history.db"]


def test_the_reader_of_this_process_does_not_disturb_its_writer(path: Path, recorder: Fed) -> None:
    """Two connections to one file, one of which is closed all the time."""
    for number in range(50):
        recorder.at(kind=EventKind.LEVEL, message=str(number))
        assert len(messages(path)) == number + 1


def test_a_database_is_given_up_after_an_interruption(path: Path) -> None:
    """No transaction stays open behind it."""
    database = SqliteConnection(str(path), lambda db: None, writes=True)
    with pytest.raises(KeyboardInterrupt), database.locked():
        raise database.connection().execute("BEGIN IMMEDIATE") and KeyboardInterrupt
    with database.locked():
        database.connection().execute("BEGIN IMMEDIATE")
        database.disconnect()
