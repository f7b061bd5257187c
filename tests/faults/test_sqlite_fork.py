"""A fork while history is written: neither side may use, close or believe in what is the other's."""

from __future__ import annotations

import gc
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memwarden.engine.warden import Warden
from memwarden.errors import RecordError
from memwarden.model.events import Event, EventKind
from memwarden.records import sqlite_connection
from memwarden.records.sqlite import SqliteRecorder
from memwarden.records.sqlite_reader import read_history
from memwarden.testing import ScriptedReader
from support.forked import ended_well, run_in_child
from support.trees import descriptors

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

#: Seconds after which a child that hangs is killed.


def event(message: str, kind: EventKind = EventKind.LEVEL) -> Event:
    """An event of now."""
    return Event(kind=kind, wall=time.time(), monotonic=time.monotonic(), message=message)


def in_child(check: Callable[[], None], end: Callable[[int], None] = os._exit) -> int:
    """Run a check in a child; return its pid."""
    return os.fork() or run_in_child(check, end)


def messages(path: Path) -> list[str]:
    """What the history holds."""
    return [each.message for each in read_history(path)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


@pytest.fixture
def recorder(path: Path) -> Iterator[SqliteRecorder]:
    made = SqliteRecorder(path)
    yield made
    made.close()


@pytest.mark.contract("WX-1")
def test_parent_and_children_go_on_in_one_file(path: Path, recorder: SqliteRecorder) -> None:
    """Each with a connection of its own; what waited in the parent is written once, by the parent."""
    recorder.record(event("start"))
    recorder.record(event("waits", EventKind.SAMPLE))

    def check() -> None:
        for number in range(20):
            recorder.record(event(f"child {number}"))
        recorder.close()

    children = [in_child(check) for _ in range(4)]
    for number in range(20):
        recorder.record(event(f"parent {number}"))
    assert [ended_well(pid) for pid in children] == [True] * 4
    kept = messages(path)
    assert kept.count("waits") == kept.count("start") == 1
    assert sorted(kept[1:]) == sorted(
        ["waits", *[f"child {n}" for n in range(20)] * 4, *[f"parent {n}" for n in range(20)]]
    )
    assert len({event.message for event in read_history(path, writer=1)}) == 22


def test_nothing_is_open_in_a_child(recorder: SqliteRecorder) -> None:
    """The connection was closed before the fork, and the parent opens it again when it needs it."""
    before = descriptors()
    recorder.record(event("one"))

    def check() -> None:
        assert descriptors() <= before  # readers close theirs in a child

    assert ended_well(in_child(check))
    recorder.record(event("two"))
    assert descriptors() == before + 3


def test_the_child_has_the_kernels_locks_and_not_the_memory_of_others(path: Path, recorder: SqliteRecorder) -> None:
    """While the child holds the file, the last one else to close it does not take the log away."""
    recorder.record(event("one"))
    reported, report = os.pipe()

    def check() -> None:
        recorder.record(event("child one"))
        os.write(report, b"x")
        time.sleep(0.3)
        recorder.record(event("child two"))
        recorder.close()

    pid = in_child(check)
    os.read(reported, 1)
    recorder.close()
    assert path.with_name(path.name + "-wal").exists()
    assert ended_well(pid)
    os.close(reported)
    os.close(report)
    assert messages(path) == ["one", "child one", "child two"]


def test_forks_while_another_thread_writes(path: Path, recorder: SqliteRecorder) -> None:
    """At any moment of a transaction: no child hangs, none loses an event, and the file stays whole."""
    stop, written = threading.Event(), []

    def write() -> None:
        while not stop.is_set():
            recorder.record(event(f"thread {len(written)}"))
            written.append(f"thread {len(written)}")

    def check() -> None:
        recorder.record(event(f"child {os.getpid()}"))
        recorder.close()

    recorder.record(event("start"))
    thread = threading.Thread(target=write)
    thread.start()
    children = []
    try:
        for _ in range(30):
            children.append(in_child(check))
            time.sleep(0.005)
        assert all(ended_well(pid) for pid in children)
    finally:
        stop.set()
        thread.join()
    recorder.close()
    kept = messages(path)
    assert [each for each in kept if each.startswith("thread")] == written
    assert sorted(each for each in kept if each.startswith("child")) == sorted(f"child {pid}" for pid in children)
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_fork_in_the_midst_of_a_turn(path: Path, recorder: SqliteRecorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the transaction cannot be waited for, the child leaves the file alone, to its very end, and shows so."""
    monkeypatch.setattr(sqlite_connection, "FORK_SECONDS", 0.01)
    recorder.record(event("one"))
    other = path.with_name("other.db")

    def check() -> None:
        for each in (recorder, SqliteRecorder(path)):
            with pytest.raises(RecordError, match="forked while its parent wrote there; record to another file"):
                each.record(event("child"))
            each.close()
        SqliteRecorder(other).record(event("elsewhere"))
        recorder._database.__dict__.clear()
        sqlite_connection._abandoned.clear()
        gc.collect()  # were nothing left that holds it, the connection would be closed here

    with recorder._database.locked():
        connection = recorder._database.connection()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE events SET message = 'changed'")
        pid = in_child(check)
        assert ended_well(pid)
        connection.execute("COMMIT")
        assert connection.execute("SELECT message FROM events").fetchall() == [("changed",)]
    recorder.record(event("two"))
    recorder.close()
    assert messages(path) == ["one", "two"]  # the column was changed, not the whole
    assert messages(other) == ["elsewhere"]
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_two_threads_fork_at_once(recorder: SqliteRecorder, path: Path) -> None:
    """Neither keeps the other's locks, and writing goes on."""
    recorder.record(event("start"))
    results: list[bool] = []

    def forks() -> None:
        for _ in range(10):
            results.append(ended_well(in_child(lambda: recorder.record(event("child")))))

    threads = [threading.Thread(target=forks) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 20
    recorder.record(event("end"))
    assert len(messages(path)) == 22


def test_a_warden_goes_on_in_parent_and_child(path: Path) -> None:
    """Forked while it samples and writes: the child has a stopped warden that it can run into the same history."""
    warden = Warden([ScriptedReader([0], 1 << 50)], interval=0.01, recorders=[SqliteRecorder(path)])

    def check() -> None:
        assert not warden.running
        with warden:
            assert warden.flush()

    with warden:
        for _ in range(5):
            assert ended_well(in_child(check))
        assert warden.flush()
    kept = list(read_history(path))
    starts = [event for event in kept if event.kind is EventKind.START]
    stops = [event for event in kept if event.kind is EventKind.STOP]
    assert (len(starts), len(stops)) == (6, 6)
    assert [event for event in kept if event.kind is EventKind.TROUBLE] == []
    assert kept[0].kind is EventKind.START
    assert kept[-1].kind is EventKind.STOP


def test_a_reader_may_fork_between_events(path: Path, recorder: SqliteRecorder) -> None:
    """Nothing is open there: the child goes on reading and writing."""
    for number in range(300):
        recorder.record(event(str(number), EventKind.SAMPLE))
    recorder.close()
    history = read_history(path)
    next(history)

    def check() -> None:
        recorder.record(event("child"))
        assert len(list(history)) == 299
        recorder.close()

    assert ended_well(in_child(check))
    assert len(list(history)) == 299
