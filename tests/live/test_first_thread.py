"""A process whose first thread has ended while others run: it is alive, and its memory counts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from memwarden import BudgetedExecutor, WorkerLost, popen
from memwarden.contain.kernel import alive, key_of
from memwarden.errors import ReadError
from memwarden.model.exits import ExitReason
from memwarden.model.units import MIB
from memwarden.readers.by_name import ProcessesByName
from memwarden.readers.linux.machine import MachineReader
from memwarden.readers.linux.process import ProcessReader, read_pss
from memwarden.readers.linux.pss import PssReader
from memwarden.readers.linux.tree import TreeReader

#: Two threads outlive the first; "next" on standard input ends the one that took the memory.
PROGRAM = """
import ctypes, sys, threading
libc = ctypes.CDLL(None)
kept = []

def first():
    main.join(1)  # the first thread ends as soon as both run
    if sys.argv[1] == "grow":
        while True:
            kept.append(b"x" * (1 << 20))
    kept.append(b"x" * (150 << 20))
    print("grown", flush=True)
    sys.stdin.readline()
    print("ended", flush=True)
    libc.syscall(60, 0)

def second():
    started.set()
    threading.Event().wait()

main, started = threading.Thread(target=lambda: None), threading.Event()
main.start()
threading.Thread(target=second, daemon=True).start()
started.wait()
threading.Thread(target=first, daemon=True).start()
libc.syscall(60, 0)
"""


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    """Such a process with 150 MiB."""
    words = [sys.executable, "-c", PROGRAM, "hold"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "grown\n"
        yield started
        started.kill()


def next_thread(process: subprocess.Popen[str]) -> None:
    """End the thread that took the memory; one is left."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("next\n")
    process.stdin.flush()
    assert process.stdout.readline() == "ended\n"


def test_every_reader_counts_its_memory(process: subprocess.Popen[str]) -> None:
    """From the first sample on and from kept files, whichever of its threads is left."""
    key = key_of(process.pid)
    one, kept, top = ProcessReader(key.pid), ProcessReader(key.pid, max_age=60), MachineReader(3)
    tree, tree_without_descriptors = TreeReader(key.pid), TreeReader(key.pid, keep=0)
    for turn in range(4):
        assert alive(key)
        assert one.memory().rss > 150 * MIB
        assert kept.memory().rss > 150 * MIB
        for each in (tree, tree_without_descriptors):
            assert each.sample()[0].total > 150 * MIB
            assert each.sample()[0].zombies == 0
        assert key in top.sample()[0].keys
        assert read_pss(key.pid) > 140 * MIB
        assert PssReader(key).read()["shares"].pss[0] > 140 * MIB
        assert key.pid in ProcessesByName("ctypes, sys, threading").find()
        if turn == 1:
            next_thread(process)
    process.kill()
    process.wait()
    assert not alive(key)
    for reader in (one, kept, tree):
        with pytest.raises(ReadError, match="gone"):
            reader.read()


@pytest.mark.parametrize("ceiling", ["polling", "auto"])
def test_its_limit_is_enforced(ceiling: str) -> None:
    """300 MiB passed a limit of 100 unhindered under polling."""
    with popen([sys.executable, "-c", PROGRAM, "grow"], limit="100MiB", ceiling=ceiling, grace=0.2) as command:
        command.wait(30)
    assert command.report is not None
    assert command.report.reason is ExitReason.LIMIT
    assert command.report.peak is not None
    assert command.report.peak < 140 * MIB


def end_the_first_thread() -> None:
    """Leave another thread behind, and end the one that runs the task."""
    import ctypes
    import threading

    threading.Thread(target=threading.Event().wait, daemon=True).start()
    ctypes.CDLL(None).syscall(60, 0)


def test_a_task_that_ends_its_thread_fails_soon() -> None:
    """The executor does not wait for a process that can answer no more."""
    with BudgetedExecutor(1, budget="500MiB") as executor:
        future = executor.submit(end_the_first_thread)
        with pytest.raises(WorkerLost, match="its main thread ended"):
            future.result(timeout=10)
        assert executor.submit(os.getpid).result(timeout=10)
