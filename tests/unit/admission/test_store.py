"""Footprints that last: what several processes learn into one file."""

from __future__ import annotations

import math
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from memwarden.admission.footprints import store as module
from memwarden.admission.footprints.predictors import Footprints
from memwarden.admission.footprints.store import KEPT_TASKS, REST_SECONDS, FootprintStore, stored
from memwarden.errors import RecordError
from memwarden.model.footprints import PastTask, TaskKey
from memwarden.model.units import GIB, MIB
from memwarden.testing import FakeClock

KIND = TaskKey("job", "v1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "footprints.db"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def store(path: Path, clock: FakeClock, host: str = "here") -> FootprintStore:
    return FootprintStore(path, host=host, wall=clock.wall, monotonic=clock.monotonic)


def footprints(path: Path, clock: FakeClock, host: str = "here") -> Footprints:
    return Footprints(budget=GIB, slots=8, store=store(path, clock, host))


def test_what_was_learned_is_there_again(path: Path, clock: FakeClock) -> None:
    """By the next program, to the byte: points, kills, and what was predicted."""
    first = footprints(path, clock)
    for size in range(40):
        first.observe(KIND, size, (10 + size) * MIB, 1.5)
    first.observe(KIND, 7.5, 300 * MIB, 0.5, "killed_at")
    first.observe(KIND, None, 20 * MIB, 0.5)
    described, before = first.describe(KIND), first.predict(KIND, 20.0)
    first.close()
    second = footprints(path, clock)
    assert second.describe(KIND) == described
    assert second.predict(KIND, 20.0) == before
    assert second.predict(KIND, 7.5).reserve >= 450 * MIB
    second.close()


def test_another_code_or_host_learns_anew(path: Path, clock: FakeClock) -> None:
    """Peaks hold for one version of the code on one class of host."""
    first = footprints(path, clock)
    for _ in range(5):
        first.observe(KIND, None, 500 * MIB, 1.0)
    first.close()
    assert footprints(path, clock).predict(KIND).n == 5
    assert footprints(path, clock).predict(KIND._replace(version="v2")).n == 0
    assert footprints(path, clock).predict(TaskKey("other", "v1")).reserve == 128 * MIB
    assert footprints(path, clock, host="there").predict(KIND).n == 0


def test_new_code_begins_where_the_old_one_was(path: Path, clock: FakeClock) -> None:
    """Until five of the new one have finished, or one of them is unlike the old ones."""
    first = footprints(path, clock)
    for size in range(40):
        first.observe(KIND, size, (10 + size) * MIB, 1.0)
    first.close()
    for peak, still in ((30, True), (200, False), (3, False)):
        second = footprints(path, clock)
        new = KIND._replace(version=f"v{peak}")
        assert second.predict(new, 20.0).median == pytest.approx(30 * MIB, rel=0.01)
        assert "the earlier version" in second.predict(new, 20.0).why
        second.observe(new, 20, peak * MIB, 1.0)
        assert ("the earlier version" in second.predict(new, 20.0).why) is still
        assert second.predict(new, 20.0).n == 1
        for _ in range(4):
            second.observe(new, 20, peak * MIB, 1.0)
        assert second.predict(new, 20.0).median == pytest.approx(peak * MIB, rel=0.01)


def test_two_programs_write_one_file(path: Path, clock: FakeClock) -> None:
    """Each knows what the other had written when it first used the kind; a later program knows all."""
    one, two = footprints(path, clock), footprints(path, clock)
    one.observe(KIND, None, 100 * MIB, 1.0)
    assert two.predict(KIND).n == 1
    for _ in range(3):
        one.observe(KIND, None, 100 * MIB, 1.0)
        two.observe(KIND, None, 120 * MIB, 1.0)
        clock.advance(2.0)
    one.close()
    two.close()
    later = footprints(path, clock)
    assert sorted(point["peak_bytes"] // MIB for point in later.describe(KIND)["points"]) == [100] * 4 + [120] * 3
    later.close()


def test_a_killed_program_loses_a_second_at_most(path: Path, clock: FakeClock) -> None:
    """What is older has been written; nothing needs to be closed for that."""
    one = store(path, clock)
    one.add(KIND, PastTask(1.0, MIB, 1.0, False))
    one.add(KIND, PastTask(2.0, MIB, 1.0, False))
    assert len(stored(path)[0].tasks) == 1
    clock.advance(1.0)
    one.add(KIND, PastTask(3.0, MIB, 1.0, False))
    assert [task.size for task in stored(path)[0].tasks] == [1.0, 2.0, 3.0]
    one.close()


def test_the_file_is_bounded(path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest tasks of a kind stay, and the kinds that were seen last."""
    monkeypatch.setattr(module, "KEPT_KINDS", 3)
    one = store(path, clock)
    for at in range(KEPT_TASKS + 50):
        one.add(KIND, PastTask(float(at), MIB, 1.0, False))
    one.save()
    tasks = stored(path)[0].tasks
    assert [task.size for task in tasks] == [float(at) for at in range(50, KEPT_TASKS + 50)]
    for name in "abc":
        clock.advance(2.0)
        one.add(TaskKey(name), PastTask(1.0, MIB, 1.0, False))
    assert [each.kind.name for each in stored(path)] == ["c", "b", "a"]
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM tasks").fetchone() == (3,)
    db.close()
    one.close()


def test_what_was_forgotten_stays_forgotten(path: Path, clock: FakeClock) -> None:
    """A change that was noticed is one for the next program, too, and is counted."""
    first = footprints(path, clock)
    for at in range(80):
        first.observe(KIND, None, (100 if at < 50 else 300) * MIB + at, 1.0)
    assert first.describe(KIND)["drifts"] == 1
    kept = len(first.describe(KIND)["points"])
    first.close()
    (there,) = stored(path)
    assert (there.drifts, len(there.tasks)) == (1, kept)
    assert footprints(path, clock).predict(KIND).median > 290 * MIB


def test_trouble_does_not_stop_the_learning(path: Path, clock: FakeClock) -> None:
    """It is said, everything waits, and the file is tried again later."""
    path.mkdir(parents=True)
    first = footprints(path, clock)
    for _ in range(5):
        first.observe(KIND, None, 100 * MIB, 1.0)
    assert "no regular file" in first.trouble
    assert first.predict(KIND).n == 5
    with pytest.raises(RecordError, match="no regular file"):
        first.save()
    path.rmdir()
    clock.advance(REST_SECONDS)
    first.observe(KIND, None, 100 * MIB, 1.0)
    assert first.trouble == ""
    assert len(stored(path)[0].tasks) == 6
    first.close()


def test_another_programs_file_is_left_alone(path: Path, clock: FakeClock) -> None:
    """Nor is that of a newer memwarden touched."""
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    before = path.read_bytes()
    first = footprints(path, clock)
    first.observe(KIND, None, MIB, 1.0)
    assert "another program's database" in first.trouble
    with pytest.raises(RecordError, match="another program"):
        stored(path)
    assert path.read_bytes() == before
    path.unlink()
    first.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(RecordError, match="update memwarden"):
        stored(path)


def test_rows_that_cannot_be_are_passed_over(path: Path, clock: FakeClock) -> None:
    """In an edited file the valid rows are still learned from."""
    first = footprints(path, clock)
    for _ in range(3):
        first.observe(KIND, 1.0, 100 * MIB, 1.0)
    first.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE tasks SET peak_bytes = 'much' WHERE id = 1")
        db.execute("UPDATE tasks SET run_seconds = -1 WHERE id = 2")
        db.execute("UPDATE tasks SET size = 'large' WHERE id = 3")
    db.close()
    assert [point["size"] for point in footprints(path, clock).describe(KIND)["points"]] == [None]


def test_names_of_all_sorts(path: Path, clock: FakeClock) -> None:
    """A name may hold what is no Unicode, or nothing."""
    first = footprints(path, clock)
    for name in ("\udcff", "", "a'b\0c", "é" * 1000):
        for _ in range(2):
            first.observe(name, None, MIB, 1.0)
    first.close()
    again = footprints(path, clock)
    assert [again.predict(name).n for name in ("\udcff", "", "a'b\0c", "é" * 1000)] == [2, 2, 2, 2]
    again.close()


def test_the_file_is_private(path: Path, clock: FakeClock) -> None:
    """Kinds say what a user works on."""
    first = store(path, clock)
    first.add(KIND, PastTask(math.nan, MIB, 1.0, False))
    first.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_learns_beside_its_parent(path: Path, clock: FakeClock) -> None:
    """After a fork each writes what it learned itself, once."""
    first = footprints(path, clock)
    first.observe(KIND, None, 1 * MIB, 1.0)
    first.observe(KIND, None, 2 * MIB, 1.0)  # waits
    pid = os.fork()
    if pid == 0:
        try:
            first.observe(KIND, None, 3 * MIB, 1.0)
            first.close()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    first.observe(KIND, None, 4 * MIB, 1.0)
    first.close()
    assert sorted(task.peak // MIB for task in stored(path)[0].tasks) == [1, 2, 3, 4]
