"""A group in which the kernel holds workers until somebody decides: real processes, whatever the machine grants."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from memwarden.contain.worker_cgroup import NoWorkerCgroup, WorkerCgroup, worker_cgroup
from memwarden.model.units import MIB

#: Joins the groups, takes so many MiB, says so, and waits.
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
    if isinstance(made, NoWorkerCgroup):
        pytest.skip(f"no memory group may be made here: {made.reason}")
    yield made
    made.close()


@pytest.fixture
def take(held: WorkerCgroup) -> Iterator[Callable[[int], subprocess.Popen[str]]]:
    """Starts processes in the group; they are gone at the end."""
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


def said(process: subprocess.Popen[str], seconds: float) -> bool:
    """Whether it has its memory within that time."""
    assert process.stdout is not None
    return bool(select.select([process.stdout], [], [], seconds)[0]) and process.stdout.readline() == "taken\n"


def wait_until(what: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether it came to be in time."""
    until = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < until:
        time.sleep(0.02)
    return found


def test_who_fits_is_not_held(held: WorkerCgroup, take: Callable[[int], subprocess.Popen[str]]) -> None:
    """Nothing is told, and nobody waits."""
    assert said(take(30), 20)
    assert not held.stuck()
    assert held.kernel_kills() == 0


def test_who_wants_too_much_waits_is_told_of_and_goes_on_when_there_is_room(
    held: WorkerCgroup, take: Callable[[int], subprocess.Popen[str]]
) -> None:
    """The kernel ends nobody; a descriptor tells; more room, and the one who waits goes on."""
    process = take(90)
    assert select.select([held.event_fd], [], [], 20)[0]
    assert wait_until(held.stuck)
    assert not said(process, 0.3)
    assert process.poll() is None
    assert held.kernel_kills() == 0
    held.set_limit(200 * MIB)
    assert said(process, 20)
    assert wait_until(lambda: not held.stuck())


def test_when_another_ends_the_one_who_waits_goes_on(
    held: WorkerCgroup, take: Callable[[int], subprocess.Popen[str]]
) -> None:
    """What an executor waits for when it does nothing."""
    first = take(40)
    assert said(first, 20)
    second = take(40)
    assert wait_until(held.stuck)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert said(second, 20)


def test_the_limit_is_not_lowered_below_what_is_used(
    held: WorkerCgroup, take: Callable[[int], subprocess.Popen[str]]
) -> None:
    """Who has its memory keeps it: nobody is ended by a smaller budget alone."""
    process = take(40)
    assert said(process, 20)
    held.set_limit(16 * MIB)
    time.sleep(0.3)
    assert process.poll() is None
    assert held.kernel_kills() == 0
