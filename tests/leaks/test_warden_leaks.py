"""What the warden itself takes: nothing that stays.

Each program runs in a process of its own, with the real readers and a real record, so that neither the test
runner nor another test moves the figures.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="figures are read from /proc/self")

#: Resident memory that may come and go with the allocator's moods, over 2000 samples. One leaked object a sample
#: (about 1.5 KiB) would make 3 MiB.
TOLERANCE = 512 * 1024

PRELUDE = """
import gc, json, os, sys, threading
from memwarden import JsonlRecorder, Warden
from memwarden.readers.factory import default_readers

record = sys.argv[1]

def descriptors():
    return sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(
        f"/proc/self/fd/{fd}"))

def resident():
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def threads():
    return [thread.name for thread in threading.enumerate()]

class Counting:
    '''A reader that says when so many reads were taken.'''
    name = "counting"
    reads, wanted, reached = 0, 0, threading.Event()

    def read(self):
        self.reads += 1
        if self.reads == self.wanted:
            self.reached.set()
        return {}

    def until(self, reads):
        self.reached.clear()
        self.wanted = self.reads + reads
        assert self.reached.wait(60), self.reads

    def close(self):
        pass
"""


def outcome(program: str, tmp_path: Path) -> Any:
    """What a program prints at its end."""
    code = PRELUDE + textwrap.dedent(program)
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path / "record.jsonl")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.contract("S2-23", "W2-2")
def test_fifty_runs_leave_no_thread_and_no_descriptor(tmp_path: Path) -> None:
    """One warden fifty times, and fifty wardens once each: after each stop everything is as before."""
    seen = outcome(
        """
        warden = Warden(interval=0.01, recorders=[JsonlRecorder(record)])
        warden.start().stop()  # what is imported once is imported
        before, faults = (descriptors(), threads()), []
        for number in range(100):
            each = warden if number < 50 else Warden(interval=0.01, recorders=[JsonlRecorder(record)])
            end = each.subscribe(lambda event: None)
            each.start()
            each.flush()
            running = len(threads())
            each.stop()
            end()
            if (descriptors(), threads()) != before or running != 3:
                faults.append([number, running, descriptors(), threads()])
        print(json.dumps({"faults": faults[:3], "threads": threads()}))
        """,
        tmp_path,
    )
    assert seen == {"faults": [], "threads": ["MainThread"]}


def test_a_warden_that_is_forgotten_frees_what_it_held(tmp_path: Path) -> None:
    """Nothing of ours keeps a stopped warden alive."""
    seen = outcome(
        """
        import weakref
        gone = []
        for _ in range(20):
            warden = Warden(interval=0.01)
            warden.start().stop()
            warden.sample()
            gone.append(weakref.ref(warden))
        del warden
        gc.collect()
        print(json.dumps([ref() is None for ref in gone]))
        """,
        tmp_path,
    )
    assert seen == [True] * 20


def test_two_thousand_looks_take_no_memory(tmp_path: Path) -> None:
    """With real readers, a record and a subscriber: threads, descriptors and resident memory stay as they were."""
    seen = outcome(
        """
        counting = Counting()
        warden = Warden([*default_readers(), counting], interval=0.001, recorders=[JsonlRecorder(record)])
        warden.subscribe(lambda event: None)
        with warden:
            counting.until(500)  # caches fill, the allocator settles
            while warden.last.assessment.trend.readings < 3:
                counting.until(100)  # what judges leaks is imported with the second reading that is judged
            assert warden.flush()
            before, open_before = resident(), descriptors()
            counting.until(2000)
            assert warden.flush()
            after, open_after = resident(), descriptors()
        print(json.dumps({"grown": after - before, "same": open_before == open_after, "threads": threads()}))
        """,
        tmp_path,
    )
    assert seen["grown"] <= TOLERANCE, seen
    assert seen["same"]
    assert seen["threads"] == ["MainThread"]


def test_a_loop_over_readings_leaves_nothing(tmp_path: Path) -> None:
    """`memwarden.watch()` left by break, a hundred times; and samples of a stopped warden, two thousand times."""
    seen = outcome(
        """
        import memwarden
        for _ in memwarden.watch(0.001):
            break
        warden = Warden()
        for _ in range(300):
            warden.sample()
        while warden.sample().assessment.trend.readings < 3:
            pass  # what judges leaks is imported with the second reading that is judged
        before, open_before = resident(), descriptors()
        for _ in range(100):
            for _ in memwarden.watch(0.001):
                break
        for _ in range(2000):
            warden.sample()
        after = resident()
        print(json.dumps({"grown": after - before, "same": descriptors() == open_before, "threads": threads()}))
        """,
        tmp_path,
    )
    assert seen["grown"] <= TOLERANCE, seen
    assert seen["same"]
    assert seen["threads"] == ["MainThread"]
