"""A group in which the kernel blocks workers at the limit: real processes, whatever the machine grants."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from memwarden.contain.worker_cgroup import WorkerCgroup, worker_cgroup
from memwarden.model.units import MIB

#: Joins the groups, takes so many MiB, prints a line, and waits.
_TAKE = """
import sys, time
for procs in sys.argv[2:]:
    with open(procs, "w") as file:
        file.write("0")
taken = bytearray(int(sys.argv[1]) << 20)
print("taken", flush=True)
time.sleep(60)
"""


@pytest.fixture
def held() -> Iterator[WorkerCgroup]:
    """A group for 64 MiB."""
    made = worker_cgroup(64 * MIB)
    if made.kind == "polling":
        pytest.skip(f"no memory group may be made here: {made.reason}")
    yield made
    made.close()


@pytest.fixture
def take(held: WorkerCgroup) -> Iterator[Callable[[int], subprocess.Popen[str]]]:
    """Starts processes in the group, and kills them at the end."""
    started = []

    def take(mib: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _TAKE, str(mib), *held.joins]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield take
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def has_memory(process: subprocess.Popen[str], seconds: float) -> bool:
    """Return whether the process has its memory within that time."""
    assert process.stdout is not None
    return bool(select.select([process.stdout], [], [], seconds)[0]) and process.stdout.readline() == "taken\n"


def wait_until(what: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Return whether the condition came true in time."""
    until = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < until:
        time.sleep(0.02)
    return found


def test_a_process_that_fits_is_not_blocked(held: WorkerCgroup, take: Callable[[int], subprocess.Popen[str]]) -> None:
    """There is no event, and no process waits."""
    assert has_memory(take(30), 20)
    assert not held.stuck()
    assert held.kernel_kills() == 0


def test_a_process_that_needs_too_much_waits_until_the_limit_is_raised(
    held: WorkerCgroup, take: Callable[[int], subprocess.Popen[str]]
) -> None:
    """The kernel kills nothing; a descriptor reports it; with a higher limit the process continues."""
    process = take(90)
    assert select.select([held.event_fd], [], [], 20)[0]
    assert wait_until(held.stuck)
    assert not has_memory(process, 0.3)
    assert process.poll() is None
    assert held.kernel_kills() == 0
    held.set_limit(200 * MIB)
    assert has_memory(process, 20)
    assert wait_until(lambda: not held.stuck())


def test_a_process_that_waits_continues_when_another_ends(
    held: WorkerCgroup, take: Callable[[int], subprocess.Popen[str]]
) -> None:
    """As when an executor does nothing."""
    first = take(40)
    assert has_memory(first, 20)
    second = take(40)
    assert wait_until(held.stuck)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert has_memory(second, 20)


def test_the_limit_is_not_lowered_below_what_is_used(
    held: WorkerCgroup, take: Callable[[int], subprocess.Popen[str]]
) -> None:
    """A process keeps its memory: a smaller budget alone kills nothing."""
    process = take(40)
    assert has_memory(process, 20)
    held.set_limit(16 * MIB)
    time.sleep(0.3)
    assert process.poll() is None
    assert held.kernel_kills() == 0
