"""A worker as the executor sees it: ready, finished, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from memwarden.admission.pool.connection import READY, RESULT, ResultItem, WorkerConnection
from memwarden.admission.pool.task import RunningTask, WorkItem
from memwarden.admission.pool.worker_handle import WorkerHandle
from memwarden.errors import ReadError
from memwarden.model.footprints import TaskKey
from memwarden.readers.linux.identity import ProcProbe

MIB = 1 << 20


@pytest.fixture
def handle() -> Iterator[WorkerHandle]:
    connection, sock = WorkerConnection.open()
    made = WorkerHandle(connection, ProcProbe())
    yield made
    made.close()
    sock.close()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for the worker."""
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def ready(pid: int) -> ResultItem:
    return ResultItem(READY, pid, 0.0, 0, 0, 0, b"")


def result(peak: int = 0, other: int = 0) -> ResultItem:
    return ResultItem(RESULT, 1, 0.1, peak, 0, other, b"")


def give_task(handle: WorkerHandle) -> None:
    handle.run = RunningTask(WorkItem(1, TaskKey("kind"), None, print), 100, 5.0)


def test_a_worker_that_has_ended_since_was_ready_all_the_same(handle: WorkerHandle) -> None:
    """Its task may have killed it: that counts as an attempt, so the pid is known though the process is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(ReadError):
        handle.on_ready(ready(process.pid))
    assert handle.ready
    assert handle.pid == process.pid
    assert handle.key is None
    handle.kill("nothing is there to signal")
    assert handle.sample() == 0


def test_the_peak_is_the_largest_of_samples_and_high_water_mark(
    handle: WorkerHandle, sleeper: subprocess.Popen[bytes]
) -> None:
    """Without the worker's own mark the samples decide; files and shared memory are not part of it."""
    handle.on_ready(ResultItem(READY, sleeper.pid, 0.0, 0, 10 * MIB, 0, b""))
    for mark, other, sampled, expected in [(0, 0, 30, 30), (60, 5, 30, 45), (60, 5, 50, 50), (5, 0, 0, 0)]:
        give_task(handle)
        assert handle.run is not None
        handle.run.update(sampled * MIB, 6.0)
        assert handle.finish(result(mark * MIB, other * MIB)) == expected * MIB
        assert handle.run is None
    assert handle.tasks_done == 4
    assert handle.idle


def state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_a_paused_worker_runs_again_after_its_task(handle: WorkerHandle, sleeper: subprocess.Popen[bytes]) -> None:
    """It had finished before it was stopped."""
    handle.on_ready(ready(sleeper.pid))
    give_task(handle)
    assert handle.run is not None
    handle.run.paused = True
    handle.pause()
    os.waitpid(sleeper.pid, os.WUNTRACED)
    assert state(sleeper.pid) == "T"
    handle.finish(result())
    assert state(sleeper.pid) != "T"


def test_the_first_reason_of_a_kill_is_kept(handle: WorkerHandle, sleeper: subprocess.Popen[bytes]) -> None:
    """A worker that was killed to free memory is killed again when the executor ends."""
    handle.on_ready(ready(sleeper.pid))
    handle.kill("no task could continue", for_memory=True)
    handle.kill("the executor was shut down")
    assert (handle.killed_for, handle.killed_for_memory) == ("no task could continue", True)
    assert handle.dying
    assert not handle.idle
    assert sleeper.wait(10) == -signal.SIGKILL


def test_a_killed_worker_that_is_gone_uses_nothing(handle: WorkerHandle, sleeper: subprocess.Popen[bytes]) -> None:
    """Its memory is free before it is reaped, and would count twice."""
    handle.on_ready(ready(sleeper.pid))
    handle.used = 60 * MIB
    handle.kill("no task could continue", for_memory=True)
    sleeper.wait(10)
    assert handle.sample() == 0
