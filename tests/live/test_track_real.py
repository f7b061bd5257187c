"""Measuring with the real kernel: in this process, in threads, tasks and children, and at the end of a program."""

import asyncio
import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from memwarden import MemoryTracker, track
from memwarden.actions.rss_delta import noise
from memwarden.guards.measure.peak_rss import peak_scopes
from memwarden.guards.measure.track import growths, process_peak
from memwarden.readers.linux.process import ProcessReader

MIB = 1 << 20
SHUTDOWN_SECONDS = 30


def take(size):
    """Memory that is really held, and goes back to the system when it is closed."""
    held = mmap.mmap(-1, size * MIB)
    for at in range(0, len(held), mmap.PAGESIZE):
        held[at] = 1
    return held


def spike(size):
    take(size).close()


def near(measured, size):
    """Within what the kernel's own counters leave open."""
    assert measured == pytest.approx(size * MIB, abs=noise())


@pytest.fixture(autouse=True)
def nothing_is_left_open():
    """Whatever a test does, afterwards no measurement is open, no thread samples, and no descriptor is kept."""
    peak_scopes.release()
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    yield
    peak_scopes.release()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert [mark for mark in peak_scopes.open_scopes if mark.owner() is not None] == []
    assert threading.active_count() == threads


@pytest.mark.parametrize("size", [16, 64, 256])
def test_a_peak_that_came_and_went_is_seen(size):
    """No sample at the start or the end could have seen it."""
    with track("spike") as call:
        spike(size)
    near(call.rise, size)
    near(call.growth, 0)
    assert call.memory.method == "kernel"


def test_nested_ones_each_have_their_own():
    """The inner one's reset hides nothing of what the outer one saw before it."""
    with track("outer") as outer:
        spike(96)
        with track("inner") as inner:
            spike(24)
        with track("second") as second:
            spike(48)
    for call, size in ((outer, 96), (inner, 24), (second, 48)):
        near(call.rise, size)


def test_the_processs_own_peak_outlives_every_reset():
    """Every reader of memwarden still has the most that this process ever used."""
    spike(200)
    before = process_peak()
    for _ in range(3):
        with track("small"):
            pass
    with open("/proc/self/status") as file:
        shown = next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))
    assert shown < before - 100 * MIB, "the kernel's mark was set back"
    assert process_peak() >= before
    assert ProcessReader().memory().peak >= before


def test_threads_are_reported_apart():
    """Each has the peak of its own time, and both say that they were not alone."""
    inside, spiked = threading.Event(), threading.Event()
    calls = {}

    def long():
        with track("long") as calls["long"]:
            inside.set()
            assert spiked.wait(30)

    thread = threading.Thread(target=long)
    thread.start()
    assert inside.wait(30)
    spike(64)
    with track("short") as calls["short"]:
        spike(24)
    spiked.set()
    thread.join()
    near(calls["long"].rise, 64)
    near(calls["short"].rise, 24)
    assert calls["long"].memory.shared == ("short",)
    assert calls["short"].memory.shared == ("long",)


@pytest.mark.contract("W3-11")
def test_tasks_and_async_generators():
    """Kept what they are, with the peaks of their own time."""
    reported = {}

    @track
    async def rows():
        spike(32)
        yield 1
        await asyncio.sleep(0)
        yield 2

    async def task(name, size):
        with track(name) as reported[name]:
            spike(size)
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(task("first", 64), task("second", 16))
        return [row async for row in rows()]

    assert asyncio.run(main()) == [1, 2]
    near(reported["first"].rise, 64)
    near(reported["second"].rise, 16)
    assert reported["first"].memory.shared == ("second",)


def test_a_leak_is_evidence():
    """What stays of each call has a slope after some calls, and a function that keeps nothing has none."""
    kept = []

    def leaky():
        kept.append(take(1))

    def clean():
        spike(1)

    for function in (leaky, clean):
        tracked = track(f"evidence of {function.__name__}")(function)
        for _ in range(40):
            tracked()
    found = {growth.name: growth for growth in growths()}
    assert found["evidence of leaky"].slope == pytest.approx(MIB, rel=0.1)
    assert abs(found["evidence of clean"].slope) < 0.1 * MIB
    for each in kept:
        each.close()


def test_a_fork_inside():
    """The child's own block goes on and ends there, with the child's memory; the parent's is untouched."""
    with track("outer") as outer:
        spike(64)
        other = threading.Thread(target=lambda: track("elsewhere").__enter__())
        other.start()
        other.join()
        read, write = os.pipe()
        child = os.fork()
        if not child:
            try:
                with track("inside") as inside:
                    spike(24)
                outer.__exit__(None, None, None)
                good = abs(inside.rise - 24 * MIB) < noise() and abs(outer.rise - 24 * MIB) < noise() + MIB
                os.write(write, f"{good} {inside.memory.shared} {len(peak_scopes.open_scopes)}".encode())
            finally:
                os._exit(0)
        os.close(write)
        _, status = os.waitpid(child, 0)
        output = os.read(read, 200)
        os.close(read)
    assert (status, output) == (0, b"True () 0")
    near(outer.rise, 64)


def test_a_program_that_closes_all_descriptors():
    """As daemons do: the next call measures again, and no other file is written to."""
    program = """
import os, sys
from memwarden import track
with track("one"):
    pass
os.closerange(3, 100)
held = [os.open(sys.argv[1], os.O_RDWR) for _ in range(3)]
with track("two") as two:
    kept = bytearray(32 << 20)
with track("three") as three:
    more = bytearray(16 << 20)
assert 31 << 20 < two.growth < 34 << 20, two.memory
assert 15 << 20 < three.growth < 18 << 20, three.memory
"""
    name = Path(f"/proc/{os.getpid()}/comm")
    before = name.read_text()
    done = subprocess.run([sys.executable, "-c", program, name], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert name.read_text() == before


ENDINGS = {
    "inside a block": "with track('a'): sys.exit(0)",
    "an open generator": """
@track
def rows():
    try:
        yield 1
    finally:
        pass
made = rows(); next(made)
""",
    "a generator in a cycle": """
@track
def rows():
    with track("inner"):
        yield 1
class Cycle: pass
cycle = Cycle(); cycle.me, cycle.rows = cycle, rows(); next(cycle.rows)
""",
    "a block that was never left": "held = track('a'); held.__enter__()",
    "a thread in a block": """
import threading
def work():
    with track('a'):
        threading.Event().wait()
threading.Thread(target=work, daemon=True).start()
""",
    "at exit": """
import atexit
@atexit.register
def last():
    with track('a') as a:
        bytearray(1 << 20)
    assert a.memory
""",
    "a finalizer": """
class Late:
    def __del__(self):
        with track('a'):
            pass
sys.late = late = Late(); late.me = late
""",
    "a tracker": """
from memwarden import MemoryTracker
tracker = MemoryTracker(); tracker.set_baseline()
""",
    "a loop with tasks": """
import asyncio
@track
async def rows():
    yield 1
async def main():
    made = rows()
    await anext(made)
    asyncio.create_task(asyncio.sleep(10))
asyncio.run(main())
""",
}


@pytest.mark.parametrize("refused", [False, True], ids=["kernel", "sampled"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_ends_quietly(ending, refused):
    """Wherever it stands when the interpreter ends: its own exit code, not a word, and nothing that hangs."""
    refuse = "from memwarden.guards.measure.peak_rss import peak_scopes; peak_scopes._reset = bool\n" if refused else ""
    program = f"import sys\nfrom memwarden import track\n{refuse}{ENDINGS[ending]}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=SHUTDOWN_SECONDS
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_where_the_kernel_refuses_peaks_are_sampled_and_labelled(monkeypatch):
    """A thread samples during measurements: memory that is used for a while is seen."""
    monkeypatch.setattr(peak_scopes, "_reset", bool)
    spike(200)
    with track("held") as call:
        held = take(48)
        threading.Event().wait(0.1)
        held.close()
    near(call.rise, 48)
    assert call.memory.method == "sampled"
    assert peak_scopes._sampling is None


@pytest.mark.contract("S3-2")
def test_a_tracker_knows_the_peak_between_its_points():
    """Resident and virtual size now, growth, and a peak between two readings."""
    with MemoryTracker() as tracker:
        tracker.set_baseline()
        spike(64)
        held = take(16)
        snapshot = tracker.take_snapshot("held")
        near(tracker.growth, 16)
        held.close()
    near(snapshot.peak - tracker.baseline.rss, 64)
    near(snapshot.rss - tracker.baseline.rss, 16)
    assert snapshot.vms > snapshot.rss > 0
    assert snapshot.objects > 1000
