"""A long watch takes nothing that stays: resident memory, threads, descriptors and disk over 100,000 samples.

Every sample is recorded, so that none is passed over; the warden runs as fast as its records are written, in a process
of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="figures are read from /proc/self")

#: What the allocator may take or give. An object of 16 bytes that each sample left would make 1.1 MiB of 70,000.
TOLERANCE = 768 * 1024

PROGRAM = """
import gc, json, os, sys, threading, time
from memwarden import JsonlRecorder, Rule, SqliteRecorder, Warden
from memwarden.model.decisions import Outcome
from memwarden.readers.factory import default_readers

folder, looks, kind, size = sys.argv[1], int(sys.argv[2]), sys.argv[3], 1 << 20
jsonl = JsonlRecorder(f"{folder}/record.jsonl", max_bytes=size, keep=2)

class Counting:
    '''A reader that holds the looks up where the records are behind, and says when so many were taken.'''
    name = "counting"
    looks, wanted, reached = 0, 1 << 60, threading.Event()
    def read(self):
        self.looks += 1
        while warden._dispatcher._samples > 100:
            time.sleep(0.0005)
        if self.looks >= self.wanted:
            self.wanted = 1 << 60
            self.reached.set()
        return {}
    def close(self):
        pass

class Undoing:
    '''An action that can be taken back: episodes begin and end all the time.'''
    name, harms = "undoing", False
    ran = undone = 0
    def run(self, decision):
        self.ran += 1
        return Outcome(decision=decision, done=True, message="done")
    def undo(self, decision):
        self.undone += 1
        return Outcome(decision=decision, done=True, message="undone")

class Swinging:
    '''The largest process swings about a threshold: 200 samples over it, 200 under it.'''
    name = "swinging"
    def read(self):
        from memwarden.model.facts import DirectoryUsage
        full = counting.looks % 400 >= 200
        return {"directories": (DirectoryUsage("/nowhere", 100 if full else 10, 1, 1.0, 1000, 2000, 0.0),)}
    def close(self):
        pass

counting, undoing = Counting(), Undoing()
readers, recorders, rules, actions = [*default_readers(), counting], [jsonl], [], []
if kind == "rules":
    readers.append(Swinging())
    recorders.append(
        SqliteRecorder(f"{folder}/history.db", detail="1m", minutes="1h", retention="6h", max_bytes=4 * size))
    actions = [undoing]
    rules = [
        Rule(name="swings", when="directory.used > 50B", then=("undoing", "notify"), rest=0.01),
        Rule(name="steps", when="directory.used > 50B", escalate=("collect", "trim", "caches", "undoing"), step=0.005),
        Rule(name="grows", when="growth over 1s > 1TiB", then="notify"),
        Rule(name="level", when="level >= CRITICAL", then="notify"),
    ]
warden = Warden(readers, interval=0.0002, shortest=0.0002, recorders=recorders, rules=rules, actions=actions)

def until(more):
    counting.reached.clear()
    counting.wanted = counting.looks + more
    assert counting.reached.wait(250), counting.looks
    assert warden.flush(30)

def figures():
    gc.collect()
    with open("/proc/self/statm") as statm:
        resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    disk = sum(each.stat().st_size for each in os.scandir(folder))
    return {"resident": resident, "threads": len(threading.enumerate()),
            "descriptors": len(os.listdir("/proc/self/fd")), "disk": disk}

started = time.monotonic()
before_all = len(os.listdir("/proc/self/fd"))
with warden:
    until(looks * 3 // 10)  # files rotate, caches fill
    while warden.last.assessment.trend.readings < 3:
        until(100)  # what judges leaks is imported with the second reading that is judged
    seen = [figures()]
    for _ in range(3):
        until(looks * 7 // 30)
        seen.append(figures())
    stuck = warden.status()["stuck_receivers"]
after = figures()
print(json.dumps({"seen": seen, "after": after, "before": before_all, "stuck": stuck, "looks": counting.looks,
                  "ran": undoing.ran, "undone": undoing.undone, "took": time.monotonic() - started}))
"""


def soak(folder: Path, looks: int, kind: str) -> Any:
    """What so many samples leave behind."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(folder), str(looks), kind],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout)


def check(reported: Any, kind: str) -> None:
    """Flat from the first third on."""
    print(reported)
    first, *others = reported["seen"]
    for each in others:
        assert each["resident"] - first["resident"] <= TOLERANCE, reported
        assert (each["threads"], each["descriptors"]) == (first["threads"], first["descriptors"]), reported
        assert each["disk"] <= (8 if kind == "rules" else 3) << 20, reported
    assert first["threads"] == 3  # the program's, the one that samples, and the one that delivers
    assert reported["after"]["threads"] == 1
    assert reported["after"]["descriptors"] == reported["before"]
    assert reported["stuck"] == []
    if kind == "rules":
        assert reported["ran"] > reported["undone"] > 10, reported


@pytest.mark.parametrize("kind", ["record", "rules"])
def test_ten_thousand_looks_take_nothing_that_stays(tmp_path: Path, kind: str) -> None:
    """A plain watch with lines that rotate; and one with rules, actions that are taken back, and a history."""
    check(soak(tmp_path, 10_000, kind), kind)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["record", "rules"])
def test_a_hundred_thousand_looks_take_nothing_that_stays(tmp_path: Path, kind: str) -> None:
    """As above, ten times as long."""
    check(soak(tmp_path, 100_000, kind), kind)
