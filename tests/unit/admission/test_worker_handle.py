"""A worker as the executor sees it: what it works at when something is taken back."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from memwarden.admission.executor.scheduler import PendingTask, RunningTask
from memwarden.admission.pool.connection import Ends, WorkerConnection, next_task
from memwarden.admission.pool.worker_handle import Task, WorkerHandle
from memwarden.model.footprints import TaskKey
from memwarden.readers.linux.identity import ProcProbe

PROBE = ProcProbe()


@pytest.fixture
def pair() -> Iterator[tuple[WorkerHandle, Ends]]:
    """A seat with three tasks sent, which is thought to work at the first one, and its worker's ends."""
    line, ends = WorkerConnection.open()
    seat = WorkerHandle(line)
    for number in (1, 2, 3):
        future: Future[Any] = Future()
        seat.tasks.append(Task(PendingTask(number, TaskKey("kind"), None), future, print, (), {}))
        line.send(number, b"payload")
    seat.run = RunningTask(seat.tasks[0].job, 1000, 5.0)
    yield seat, ends
    seat.close()
    ends.close()


def numbers(tasks: Any) -> list[int]:
    return [task.job.number for task in tasks]


def test_what_has_begun_stays(pair: tuple[WorkerHandle, Ends]) -> None:
    """The run of it goes on."""
    seat, ends = pair
    assert next_task(ends)[0] == 1
    run = seat.run
    assert numbers(seat.take_back(9.0, PROBE)) == [2, 3]
    assert numbers(seat.tasks) == [1]
    assert seat.run is run


def test_a_worker_that_had_not_begun_has_nothing_to_do(pair: tuple[WorkerHandle, Ends]) -> None:
    """It was stopped, or the machine was busy, since it was thought to begin: no run is left that will never end."""
    seat, _ = pair
    assert numbers(seat.take_back(9.0, PROBE)) == [1, 2, 3]
    assert not seat.tasks
    assert seat.run is None


def test_a_worker_may_begin_the_next_one_meanwhile(
    pair: tuple[WorkerHandle, Ends], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one was taken back, and then it was quicker: it works at the second, with the same lease."""
    seat, _ = pair
    monkeypatch.setattr(seat.line, "take_back", lambda: [1, 3])
    assert numbers(seat.take_back(9.0, PROBE)) == [1, 3]
    assert numbers(seat.tasks) == [2]
    assert seat.run is not None
    assert (seat.run.job.number, seat.run.lease, seat.run.begun) == (2, 1000, 9.0)
