"""History under a writer that is really killed, on a disk that is really full, by several processes at once."""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import memwarden
from memwarden.model.events import Event, EventKind
from memwarden.records.sqlite import SqliteRecorder
from memwarden.records.sqlite_reader import read_history

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(memwarden.__file__).parents[1])}

#: Prints the number of each event that `record` has taken for good, the samples before it included.
WRITER = """
import os, sys, time
from memwarden.model.events import Event, EventKind
from memwarden.records.sqlite import SqliteRecorder
begin, number = time.time() - 8 * 3600, 0
recorder = SqliteRecorder(sys.argv[1], detail="1m", minutes="1h")
while True:
    number += 1
    kind = EventKind.SAMPLE if number % 5 else EventKind.LEVEL
    recorder.record(Event(kind=kind, wall=begin + number, monotonic=float(number), message=sys.argv[2],
        details={"ballast": "x" * (number % 997)}))
    if kind is EventKind.LEVEL:
        os.write(1, b"%d\\n" % number)
"""


def integrity(path: Path) -> str:
    """What SQLite shows of the whole file."""
    db = sqlite3.connect(path)
    try:
        return str(db.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        db.close()


def killed(path: Path, runs: int, before: int) -> None:
    """So many writers killed in mid-writing, after ever more events; what each had reported to be kept is kept."""
    for run in range(runs):
        command = [sys.executable, "-c", WRITER, str(path), f"run {run}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT) as one:
            assert one.stdout is not None
            for _ in range(1 + run * before):
                last = one.stdout.readline()
            one.send_signal(signal.SIGKILL)
            for line in one.stdout:
                last = line if line.endswith(b"\n") else last
        reported = range(5, int(last) + 1, 5)
        kept = [e.monotonic for e in read_history(path, kinds=[EventKind.LEVEL]) if e.message == f"run {run}"]
        assert kept[: len(reported)] == list(reported)
        assert len(kept) <= len(reported) + 1
        assert integrity(path) == "ok"


@pytest.mark.contract("S2-59")
def test_a_killed_writer_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    """SIGKILL twenty times on the same file, at other moments each: whole, and every event is there."""
    killed(tmp_path / "history.db", 20, 3)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_many_killed_writers(tmp_path: Path) -> None:
    """A hundred times, with the tidying of the earlier ones' samples under way."""
    killed(tmp_path / "history.db", 100, 2)


SEVERAL = """
import sys, time
from memwarden.model.events import Event, EventKind
from memwarden.records.sqlite import SqliteRecorder
recorder = SqliteRecorder(sys.argv[1])
sys.stdin.read(1)
for number in range(60):
    kind = EventKind.LEVEL if number % 3 == 0 else EventKind.SAMPLE
    recorder.record(Event(kind=kind, wall=time.time(), monotonic=float(number), message=sys.argv[2]))
recorder.close()
"""


def test_several_processes_write_one_file(tmp_path: Path) -> None:
    """Which none of them finds there: each makes it, and each event of each stands in its order."""
    path = tmp_path / "a" / "history.db"
    writers = [
        subprocess.Popen([sys.executable, "-c", SEVERAL, str(path), str(n)], stdin=subprocess.PIPE, env=ENVIRONMENT)
        for n in range(6)
    ]
    for one in writers:
        assert one.stdin is not None
        one.stdin.write(b"x")
        one.stdin.flush()
    for one in writers:
        one.communicate()
    assert [one.returncode for one in writers] == [0] * 6
    kept = list(read_history(path))
    for number in range(6):
        assert [event.monotonic for event in kept if event.message == str(number)] == list(map(float, range(60)))
    assert os.listdir(path.parent) == ["history.db"]


FULL_DISK = """
import json, os, subprocess, sys, time
from memwarden.errors import RecordError
from memwarden.model.events import Event, EventKind
from memwarden.records.sqlite import SqliteRecorder
from memwarden.records.sqlite_reader import read_history
folder = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=True)
open(f"{folder}/ballast", "wb").write(b"x" * (300 << 10))
path, said, written = f"{folder}/history.db", [], []
recorder = SqliteRecorder(path)

def record(name):
    try:
        recorder.record(Event(kind=EventKind.LEVEL, wall=time.time(), monotonic=1.0, message=name + "x" * 7000))
    except RecordError as error:
        said.append(str(error))
    else:
        written.append(name)

for number in range(100):
    record(f"a{number}-")
full = len(said)
os.unlink(f"{folder}/ballast")
for number in range(10):
    record(f"b{number}-")
recorder.close()
read = [event.message.rstrip("x") for event in read_history(path)]
print(json.dumps([full, sorted(set(said)), recorder.lost == full == len(said), read == written, written[-10:]]))
"""


@pytest.mark.contract("S2-59", "W2-5")
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a disk in a namespace of its own")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """Each lost event is reported and counted; with free space recording goes on, and every kept one can be read."""
    command = ["unshare", "-m", "--propagation", "private", sys.executable, "-c", FULL_DISK, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert result.returncode == 0, result.stderr
    full, said, counted, read, after = json.loads(result.stdout)
    assert full > 20
    assert all("free some space" in each or "whether the disk is full" in each for each in said), said
    assert counted
    assert read
    assert after == [f"b{number}-" for number in range(10)]


STRANGER = """
import os, sqlite3, sys
from memwarden.errors import RecordError
from memwarden.model.events import Event, EventKind
from memwarden.records.sqlite import SqliteRecorder
from memwarden.records.sqlite_reader import read_history
folder = sys.argv[1]
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
for path in (folder + "/new.db", folder + "/history.db", folder + "/missing/history.db"):
    try:
        SqliteRecorder(path).record(Event(kind=EventKind.LEVEL, wall=1.7e9, monotonic=1.0))
    except RecordError as error:
        print(error)
print([event.message for event in read_history(folder + "/history.db")])
"""


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="becomes another user")
def test_a_folder_that_may_only_be_read(tmp_path: Path) -> None:
    """Writing is refused in words; reading works, and leaves nothing behind."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(folder.stat().st_mode | 0o005)
    recorder = SqliteRecorder(tmp_path / "history.db", wall=lambda: 1.7e9)
    recorder.record(Event(kind=EventKind.LEVEL, wall=1.7e9, monotonic=1.0, message="kept"))
    recorder.close()
    (tmp_path / "history.db").chmod(0o644)
    result = subprocess.run(
        [sys.executable, "-c", STRANGER, str(tmp_path)],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=60
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    new, old, missing, read = result.stdout.splitlines()
    assert os.strerror(errno.EACCES) in new
    assert "record to another path" in new
    assert "readonly database; make the file and its folder writable" in old
    assert os.strerror(errno.EACCES) in missing
    assert read == "['kept']"
    assert os.listdir(tmp_path) == ["history.db"]
