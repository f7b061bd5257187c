"""What recorders take while they keep: nothing that grows, in memory, descriptors or on disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="figures are read from /proc/self")

PROGRAM = """
import ctypes, gc, json, os, sys
from memwarden.model.events import Event, EventKind
from memwarden.readers.factory import default_readers
from memwarden.engine.warden import Warden
from memwarden.records.jsonl import JsonlRecorder
from memwarden.records.log import LogRecorder
from memwarden.records.sqlite import SqliteRecorder
from memwarden.records.sqlite_reader import read_history
from memwarden.records.statistics import Statistics

folder, count, size = sys.argv[1], int(sys.argv[2]), 4 << 20
clock = [1.8e9]
now = lambda: clock[0]
recorders = [
    SqliteRecorder(f"{folder}/history.db", detail="10m", minutes="1h", retention="6h", max_bytes=size, wall=now,
        monotonic=now),
    JsonlRecorder(f"{folder}/record.jsonl", max_bytes=size, max_age=float("inf"), keep=1, wall=now),
    LogRecorder(),
    Statistics(),
]
reading = Warden().sample()

def feed(events):
    for number in range(events):
        clock[0] += 1.0 if number % 4 == 0 else 0.1
        kind = EventKind.SAMPLE if number % 100 else EventKind.LEVEL
        value = reading._replace(sample=reading.sample._replace(wall=clock[0], monotonic=clock[0]))
        event = Event(kind=kind, wall=clock[0], monotonic=clock[0], value=value)
        for recorder in recorders:
            recorder.record(event)
        if number % 1000 == 999:
            assert sum(1 for _ in read_history(f"{folder}/history.db", since=clock[0] - 60)) > 1

def figures():
    gc.collect()
    # What stays is memory in use. Reading the history takes 2 MiB for SQLite's pages and frees them; whether the C
    # library returns those to the system depends on what lies above them on the heap at that moment.
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as statm:
        resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    history = sum(each.stat().st_size for each in os.scandir(folder) if "history" in each.name)
    return resident, len(os.listdir("/proc/self/fd")), history

feed(2 * count // 5)  # caches and files fill
before = figures()
seen = []
for _ in range(3):
    feed(count // 5)
    seen.append(figures())
for recorder in recorders:
    recorder.close()
print(json.dumps({"before": before, "seen": seen, "size": size, "closed": len(os.listdir("/proc/self/fd"))}))
"""


def figures(folder: Path, events: int) -> Any:
    """What so many events leave behind."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(folder), str(events)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def check(reported: Any) -> None:
    """Flat from the second fifth to the last."""
    resident, descriptors, _ = reported["before"]
    for each_resident, each_descriptors, each_history in reported["seen"]:
        assert each_resident - resident <= 768 * 1024, reported
        assert each_descriptors == descriptors, reported
        assert each_history <= reported["size"], reported
    assert reported["closed"] <= descriptors - 4, reported  # history, its log and what is shared, and the lines


def test_ten_thousand_events_take_nothing_that_stays(tmp_path: Path) -> None:
    """All recorders at once, with hours of samples growing old, and a reader now and then."""
    check(figures(tmp_path, 10_000))


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_hundred_thousand_events_take_nothing_that_stays(tmp_path: Path) -> None:
    """As above, ten times as long."""
    check(figures(tmp_path, 100_000))
