"""The kernel wakes a warden whose time has not come: a real group with a real limit, filled by a real process."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memwarden.engine.warden import Warden
from memwarden.testing import FakeClock, ScriptedReader
from support.groups import remove_group
from support.trees import descriptors

MIB = 1 << 20
LIMIT = 100 * MIB
V1 = Path("/sys/fs/cgroup/memory")
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not os.access(V1 / "cgroup.event_control", os.W_OK),
    reason="needs groups of version 1 that may be written to",
)
_number = itertools.count()

#: Runs commands, one a line, and answers in JSON. `fill` allocates memory until so many MiB are charged to its
#: group, and waits for a level after that. The watch behaves as one that is older than a minute: before, samples
#: are frequent, because the fill rate is not known yet.
WATCHER = """
import contextlib, json, os, sys, threading, time
import memwarden.engine.sampler as engine
from memwarden import EventKind, Warden
from memwarden.engine.sampling_interval import FillRate
engine.FillRate = lambda: FillRate(assumed=0.0)
group, wakeups = sys.argv[1], json.loads(sys.argv[2])

def descriptors():
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that the list was read by
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(found)

def usage():
    with open(f"{group}/memory.usage_in_bytes") as file:
        return int(file.read()) >> 20

def answer(*what):
    print(json.dumps(what), flush=True)

levels, changed = [], threading.Condition()

def receive(event):
    if event.kind is EventKind.LEVEL:
        with changed:
            levels.append((event.value.level.name, time.monotonic()))
            changed.notify_all()

warden, kept = Warden(interval=600, wakeups=wakeups), []
warden.subscribe(receive)
Warden().start().stop()  # what is imported once is imported
before = descriptors()
for line in sys.stdin:
    word, *arguments = line.split()
    if word == "start":
        warden.start()
        warden.flush()
        deadline = time.monotonic() + 5  # the wake-ups are asked for after the first sample
        while wakeups is not False and not warden.status()["woken_for"] and time.monotonic() < deadline:
            time.sleep(0.01)
        answer(warden.status()["woken_for"], len(descriptors()) - len(before))
    elif word == "fill":
        size, level, patience = int(arguments[0]), arguments[1], float(arguments[2])
        while usage() < size:
            kept.append(b"x" * (1 << 19))
        started = time.monotonic()
        with changed:
            changed.wait_for(lambda: any(name == level for name, _ in levels), patience)
        answer([name for name, _ in levels], next((when - started for name, when in levels if name == level), None))
    elif word == "free":
        kept.clear()
        answer(usage())
    elif word == "fork":
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            left = [each for each in descriptors() if "eventfd" in each or "memory" in each]
            warden.stop()
            os.write(write, json.dumps([warden.running, left]).encode())
            os._exit(0)
        os.close(write)
        reply = os.read(read, 4096)
        os.close(read)
        answer(os.waitpid(pid, 0)[1], json.loads(reply))
    elif word == "stop":
        started = time.monotonic()
        warden.stop()
        took = time.monotonic() - started
        left = [each for each in descriptors() if each not in before]
        answer(took, left, [each.name for each in threading.enumerate()])
"""


class Watcher:
    """The program, in a group of its own with a limit of 100 MiB."""

    def __init__(self, group: Path, wakeups: bool | None) -> None:
        join = f"with open({str(group / 'cgroup.procs')!r}, 'w') as file: file.write('0')\n"
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", join + WATCHER, str(group), json.dumps(wakeups)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, *words: object) -> Any:
        """Its answer to a line."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, f"the program ended with {self.process.wait(10)}"
        return json.loads(answer)

    def end(self) -> None:
        """Leave nothing of it."""
        self.process.kill()
        self.process.wait(10)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()


@pytest.fixture
def group() -> Iterator[Path]:
    """A group with a limit, without members."""
    path = V1 / f"mw-test-warden-{os.getpid()}-{next(_number)}"
    path.mkdir()
    (path / "memory.limit_in_bytes").write_text(str(LIMIT))
    yield path
    remove_group(path)


@contextlib.contextmanager
def watching(group: Path, wakeups: bool | None = None) -> Iterator[Watcher]:
    """The program, ended with the block."""
    watcher = Watcher(group, wakeups)
    try:
        yield watcher
    finally:
        watcher.end()


@pytest.mark.contract("V-4")
def test_a_group_that_fills_wakes_a_warden_that_sleeps_for_ten_minutes(group: Path) -> None:
    """CRITICAL within two seconds at 97 %, and HIGH within five at 85 (it takes three to be confirmed)."""
    with watching(group) as watcher:
        woken_for, _ = watcher.ask("start")
        assert any(each.startswith("usage of") for each in woken_for), woken_for
        levels, after = watcher.ask("fill", 86, "HIGH", 20)
        assert after is not None, levels
        print(f"HIGH reported {after:.2f} s after the fill")
        assert after < 5
        assert levels[0] == "LOW"
        levels, after = watcher.ask("fill", 98, "CRITICAL", 20)
        assert after is not None, levels
        print(f"CRITICAL reported {after:.2f} s after the fill")
        assert after < 2


def test_without_wake_ups_it_sleeps_on(group: Path) -> None:
    """The same fill without wake-ups: it is the kernel that woke the other, not the clock."""
    with watching(group, wakeups=False) as watcher:
        assert watcher.ask("start")[0] == []
        assert watcher.ask("fill", 98, "CRITICAL", 3) == [["LOW"], None]


def test_after_a_stop_no_descriptor_and_no_registration_is_left(group: Path) -> None:
    """Prompt while it polls, though its interval is ten minutes; and the same again after a new start."""
    with watching(group) as watcher:
        for _ in range(3):
            woken_for, more = watcher.ask("start")
            assert more >= len(woken_for) >= 3
            time.sleep(0.1)  # by now it polls
            took, left, threads = watcher.ask("stop")
            assert took < 0.5
            assert left == []
            assert threads == ["MainThread"]
        # The kernel keeps a registration as long as its descriptor: none is open, and no wake-up comes any more.
        assert watcher.ask("fill", 98, "CRITICAL", 1)[1] is None
        watcher.ask("free")


def test_a_forked_child_takes_no_wake_up_from_its_parent(group: Path) -> None:
    """The child keeps no descriptor of them and has a stopped warden; its end changes nothing for the parent."""
    with watching(group) as watcher:
        watcher.ask("start")
        assert watcher.ask("fork") == [0, [False, []]]
        levels, after = watcher.ask("fill", 98, "CRITICAL", 20)
        assert after is not None, levels
        assert after < 2
        assert watcher.ask("stop")[1] == []


def test_a_warden_of_other_time_or_memory_does_not_listen() -> None:
    """A clock that a test moves would be woken beside its time; so would readers of another process."""
    for warden in (
        Warden([ScriptedReader([1])], interval=600, clock=FakeClock()),
        Warden(interval=600, clock=FakeClock()),
        Warden([ScriptedReader([1])], interval=600),
    ):
        before = descriptors()
        with warden:
            time.sleep(0.05)
            assert warden.status()["woken_for"] == []
        assert descriptors() <= before
