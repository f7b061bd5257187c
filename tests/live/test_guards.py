"""Guards over real memory: in a container of 64 MiB, with children, forks, threads, and at the end of a program."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import memwarden
from memwarden.model.units import MIB
from support.docker import Docker

LIMIT = 64 * MIB
SOURCE = Path(memwarden.__file__).parents[1]
STATE = {"XDG_STATE_HOME": "/tmp/state", "XDG_RUNTIME_DIR": "/tmp"}

#: Takes a quarter of a MiB at a time, with a checkpoint each time.
GROW = """
import sys
from memwarden import LimitExceeded, memory_guard
kept = []
def grow(check):
    while True:
        kept.append(b"x" * 262144)
        check()
"""


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


def run(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(SOURCE), "PATH": "/usr/bin:/bin"},
        check=False,
        **options,  # type: ignore[call-overload]
    )


@pytest.mark.contract("S1-62", "W1-4", "S1-15")
@pytest.mark.parametrize("budget", ['"32MiB"', '"1GiB"', "None"])
def test_in_a_full_container_a_guarded_block_raises_where_the_bare_one_is_killed(docker: Docker, budget: str) -> None:
    """Also with a budget that the container does not have, or with none: its end is seen before the kernel acts."""
    code = f"""{GROW}
guard = memory_guard({budget})
try:
    with guard as monitor:
        grow(monitor.check)
except MemoryError as error:
    took = len(kept)
    kept.clear()
    print(type(error).__name__, took // 4, monitor.peak, error)
"""
    guarded = docker.run(python(code), memory=LIMIT, env=STATE)
    assert guarded.returncode == 0, guarded.stderr
    name, took, peak, _, *_ = guarded.stdout.split()
    print(guarded.stdout)
    assert name == "LimitExceeded"
    assert not guarded.oom_killed
    assert 20 <= int(took) <= 60
    assert abs(int(peak) - int(took) * MIB) < 3 * MIB
    bare = docker.run(python(f"{GROW}\ngrow(lambda: None)"), memory=LIMIT, env=STATE)
    assert bare.returncode == 137
    assert bare.oom_killed


@pytest.mark.contract("V-13", "S1-62")
def test_in_a_container_less_is_tried_until_it_fits(docker: Docker) -> None:
    """Work that needs 100, 60, 30 and 10 MiB at once gets through with 30 in a container of 64."""
    code = """
import json
from memwarden import memory_guard
from memwarden.guards.budget.profiles import PROFILES, Profile
from memwarden.guards.budget.retry import retry_with_smaller
NEED = dict(zip(PROFILES, (100, 60, 30, 10)))
def work(mode):
    with memory_guard() as monitor:
        kept = []
        for _ in range(NEED[mode] * 4):
            kept.append(b"x" * 262144)
            monitor.check()
        return mode.value
result = retry_with_smaller(work, Profile.FULL_QUALITY)
print(json.dumps([result.value, [attempt.error.partition(":")[0] for attempt in result.attempts]]))
"""
    done = docker.run(python(code), memory=LIMIT, env=STATE)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["memory_optimized", ["LimitExceeded", "LimitExceeded", ""]]


@pytest.mark.contract("S1-67", "X-29")
def test_in_a_container_an_operation_is_refused_before_it_begins(docker: Docker) -> None:
    """More than the container's limit is a MemoryError at once; what fits runs, and its usage is kept for the next."""
    code = """
from memwarden import memory_constrained_operation
try:
    with memory_constrained_operation("100MiB", "load"):
        print("entered")
except MemoryError as error:
    print(type(error).__name__, error.asked >> 20, error.source.split()[0])
for _ in range(2):
    with memory_constrained_operation("10MiB", "load") as operation:
        kept = b"x" * (20 << 20)
        operation.check()
        del kept
    print(operation.usage.peak >> 20, operation.prediction.n)
"""
    done = docker.run(python(code), memory=LIMIT, env=STATE)
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    assert first == "DoesNotFit 100 cgroup"
    assert [line.split()[1] for line in others] == ["0", "1"]
    assert all(20 <= int(line.split()[0]) <= 22 for line in others)


def test_a_real_child_counts_and_a_forked_one_that_only_shares_does_not() -> None:
    """Four forked workers over 60 MiB of their parent take nothing; one that writes 90 MiB does."""
    done = run("""
import os, signal, time
from memwarden import LimitExceeded, memory_guard
before = b"x" * (60 << 20)
def child(size):
    ready, ready_write = os.pipe()
    pid = os.fork()
    if not pid:
        kept = b"y" * (size << 20)
        os.write(ready_write, b".")
        signal.pause()
    os.read(ready, 1)
    return pid
pids = []
try:
    with memory_guard("80MiB") as monitor:
        pids += [child(1) for _ in range(4)]
        for _ in range(3):
            time.sleep(0.05)
            monitor.check()
        print("shared", monitor.used > 200 << 20)
        pids.append(child(90))
        for _ in range(3):
            time.sleep(0.05)
            monitor.check()
except LimitExceeded as error:
    print("over", 88 <= error.used >> 20 <= 110)
finally:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
""")
    assert (done.stdout, done.stderr, done.returncode) == ("shared True\nover True\n", "", 0)


def test_commands_that_are_started_are_no_alarm() -> None:
    """Fifty commands from three threads of a process of 120 MiB, under a budget of 40: none looks like a doubling."""
    done = run("""
import subprocess, sys, threading
from memwarden import memory_guard
kept = b"x" * (120 << 20)
with memory_guard("40MiB") as monitor:
    def commands():
        for _ in range(17):
            subprocess.run(["/bin/true"], check=True)
    threads = [threading.Thread(target=commands) for _ in range(3)]
    for each in threads: each.start()
    while any(each.is_alive() for each in threads):
        monitor.check()
print("quiet", monitor.peak < 40 << 20)
""")
    assert (done.stdout, done.stderr, done.returncode) == ("quiet True\n", "", 0)


def test_a_fork_inside_a_guard_leaves_the_child_alone() -> None:
    """The child's copy checks nothing, ends without a word, and a guard of its own works; the parent's goes on."""
    done = run("""
import os, threading
from memwarden import LimitExceeded, memory_guard
try:
    with memory_guard("20MiB") as monitor:
        pid = os.fork()
        if not pid:
            kept = b"x" * (60 << 20)
            monitor.check()
            own = 0
            try:
                with memory_guard("20MiB") as other:
                    more = b"x" * (30 << 20)
                    other.check()
            except LimitExceeded:
                own = 7
            monitor.check()
            threads = [each.name for each in threading.enumerate() if each.name.startswith("memwarden")]
        else:
            _, status = os.waitpid(pid, 0)
            print(os.waitstatus_to_exitcode(status), monitor.active, flush=True)
            kept = b"x" * (30 << 20)
            monitor.check()
    if not pid:
        os._exit(own if not threads else 8)
except LimitExceeded:
    print("parent")
""")
    assert (done.stdout, done.stderr, done.returncode) == ("7 True\nparent\n", "", 0)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("sys.exit(3)", 3),
        ("raise ValueError('own')", 1),
        ("os._exit(4)", 4),
        ("generator = block(); next(generator); globals().update(kept=generator); sys.exit(5)", 5),
        ("threading.Thread(target=lambda: next(block()), daemon=True).start(); sys.exit(6)", 6),
        ("import atexit; atexit.register(lambda: next(block()))", 0),
    ],
)
def test_a_program_may_end_inside_a_guard(end: str, code: int) -> None:
    """By an exit, an error, in a suspended generator, in a daemon thread, at exit: it ends at once, with its code."""
    done = run(f"""
import os, sys, threading
from memwarden import memory_guard
def block():
    with memory_guard("500MiB") as monitor:
        yield monitor
        monitor.check()
with memory_guard("500MiB"):
    {end}
""")
    assert done.returncode == code, done.stderr
    assert "memwarden" not in done.stderr.replace("from memwarden", "").replace("with memory_guard", "")
    assert "Exception ignored" not in done.stderr


def test_many_guards_cost_two_threads_and_leave_none() -> None:
    """Two hundred nested and fifty in threads at the same time are looked after by one warden."""
    done = run("""
import contextlib, os, threading
from memwarden import memory_guard
def ours(): return sum(each.name.startswith("memwarden") for each in threading.enumerate())
def descriptors(): return len(os.listdir("/proc/self/fd"))
with memory_guard(): pass
before = descriptors()
with contextlib.ExitStack() as stack:
    for _ in range(200):
        stack.enter_context(memory_guard("1GiB"))
    most = ours()
barrier, seen = threading.Barrier(50), []
def work():
    with memory_guard("1GiB") as monitor:
        barrier.wait()
        seen.append(ours())
        monitor.check()
        barrier.wait()
threads = [threading.Thread(target=work) for _ in range(50)]
for each in threads: each.start()
for each in threads: each.join()
print(most, max(seen), ours(), descriptors() - before)
""")
    assert (done.stdout, done.stderr, done.returncode) == ("2 2 0 0\n", "", 0)


def test_the_peak_between_two_checkpoints_is_seen() -> None:
    """A transient of 100 MiB that is gone before the end of the block stands in ``peak``."""
    done = run("""
import time
from memwarden import memory_guard
with memory_guard("500MiB") as monitor:
    time.sleep(0.05)
    kept = b"x" * (150 << 20)
    time.sleep(1.2)
    del kept
print(monitor.peak >> 20 in range(148, 156), monitor.used >> 20 < 5)
""")
    assert (done.stdout, done.stderr, done.returncode) == ("True True\n", "", 0)


def test_guards_in_generators_that_are_collected_anywhere() -> None:
    """Suspended generators with a guard each, dropped in cycles while others begin and end in four threads: nothing
    hangs, and no thread is left."""
    done = run("""
import gc, sys, threading, time
from memwarden import memory_guard
gc.set_threshold(5)
def block():
    with memory_guard("1GiB") as monitor:
        yield monitor
def work():
    for _ in range(60):
        generator = block()
        next(generator)
        cycle = [generator]
        cycle.append(cycle)
        del generator, cycle
        with memory_guard("1GiB") as monitor:
            monitor.check()
threads = [threading.Thread(target=work) for _ in range(4)]
for each in threads: each.start()
for each in threads: each.join()
gc.set_threshold(700)
gc.collect()
until = time.monotonic() + 5
while [each for each in threading.enumerate() if each.name.startswith("memwarden")] and time.monotonic() < until:
    time.sleep(0.01)
print([each.name for each in threading.enumerate()])
""")
    assert (done.stdout, done.stderr, done.returncode) == ("['MainThread']\n", "", 0)
