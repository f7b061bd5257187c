"""Children, stopped and live processes: read from real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from memwarden.model.facts import ProcessKey
from memwarden.readers.linux.identity import ProcProbe
from memwarden.readers.linux.process import read_stat
from support.engine import soon
from support.trees import descriptors

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

PROBE = ProcProbe()
#: A child of the first thread, and one of another thread; shows "ready".
THREADED = """
import subprocess, sys, threading
def start():
    subprocess.Popen(["sleep", "300"])
    threading.Event().wait()
subprocess.Popen(["sleep", "300"])
threading.Thread(target=start, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""
#: Its first thread ends, another one runs on.
HEADLESS = """
import ctypes, threading, time
threading.Thread(target=lambda: time.sleep(300)).start()
print("ready", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


class Unlisted(ProcProbe):
    """On a kernel that was built without lists of children."""

    def _listed(self, folder: int, parent: int) -> list[int]:
        listdir, os.listdir = os.listdir, lambda path: [] if isinstance(path, int) else listdir(path)
        try:
            return super()._listed(folder, parent)
        finally:
            os.listdir = listdir


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts programs that show a line, in sessions of their own, and ends whatever is left of them."""
    started: list[subprocess.Popen[str]] = []

    def start(*command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(process)
        process.stdout.readline()
        return process

    yield start
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()


@pytest.mark.parametrize("probe", [PROBE, Unlisted()], ids=["listed", "unlisted"])
def test_children_of_every_thread(start, probe: ProcProbe) -> None:
    """As the kernel lists them, or by their parents; none of another process, and no descriptor is left."""
    process = start(sys.executable, "-c", THREADED)
    key = PROBE.key_of(process.pid)
    assert soon(lambda: len(probe.children(key)) == 2)
    before = descriptors()
    assert all(PROBE.alive(child) for child in probe.children(key))
    assert probe.children(ProcessKey(key.pid, key.start - 1)) == []
    assert probe.children(ProcessKey(2**22 + 1, 1)) == []
    assert descriptors() == before


def test_a_session_keeps_a_process_without_parent(start) -> None:
    """Its leader finds it there; no other process does, and a process that leads none finds none."""
    process = start("sh", "-c", "(sleep 300 & sleep 300 &) ; echo ready; sleep 300; :")
    key = PROBE.key_of(process.pid)
    assert soon(lambda: len(PROBE.session(key)) == 3)
    assert len(PROBE.children(key)) == 1
    child = PROBE.children(key)[0]
    assert PROBE.session(child) == []
    assert PROBE.session(ProcessKey(key.pid, key.start - 1)) == []


def test_standing_still_is_every_threads(start) -> None:
    """With several threads, too; and the identity counts."""
    process = start(sys.executable, "-c", THREADED)
    key = PROBE.key_of(process.pid)
    assert not PROBE.stopped(key)
    process.send_signal(signal.SIGSTOP)
    assert soon(lambda: PROBE.stopped(key))
    assert not PROBE.stopped(ProcessKey(key.pid, key.start - 1))
    process.send_signal(signal.SIGCONT)
    assert soon(lambda: not PROBE.stopped(key))


def test_a_process_whose_first_thread_has_ended_is_alive(start) -> None:
    """It samples like one that waits to be reaped, holds all its memory, and can be stopped."""
    process = start(sys.executable, "-c", HEADLESS)
    key = PROBE.key_of(process.pid)
    assert soon(lambda: read_stat(f"{key.pid}/task/{key.pid}").state == "Z")
    assert PROBE.alive(key)
    process.send_signal(signal.SIGSTOP)
    assert soon(lambda: PROBE.stopped(key))
    process.kill()
    assert soon(lambda: not PROBE.alive(key))
