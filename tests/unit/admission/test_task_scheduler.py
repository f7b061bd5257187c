"""Start of tasks and the outcome of attempts, with a fake pool and a fake clock: no process, no file."""

from __future__ import annotations

import signal
from concurrent.futures import Future

import pytest

from memwarden.admission.executor.task_scheduler import KEPT
from memwarden.admission.pool.connection import NO_MEMORY, NOT_STARTED, PROGRAM_FAILED, RESULT, ResultItem
from memwarden.admission.pool.task import WorkItem
from memwarden.errors import TaskTooLarge, WorkerLost

from .fakes import MIB, FakeWorker, Machine

# --- start -------------------------------------------------------------------------------------------------


def test_as_many_start_as_fit() -> None:
    """Three of 40 MiB in 100: two run, the third starts when one has ended."""
    machine = Machine(100, workers=3)
    for _ in range(3):
        machine.submit(40)
    machine.tick()
    assert machine.running() == [1, 2]
    first, _ = machine.ready()
    machine.finish(first)
    machine.tick()
    assert machine.running() == [3, 2]
    assert len(machine.pool) == 2


def test_no_more_workers_than_allowed() -> None:
    """However much memory there is; a task goes to a worker that is not ready yet."""
    machine = Machine(1000, workers=2)
    for _ in range(5):
        machine.submit(10)
    machine.tick()
    assert machine.running() == [1, 2]
    assert [len(handle.connection.sent) for handle in machine.pool] == [1, 1]


def test_a_small_task_overtakes_one_that_does_not_fit_but_not_for_long() -> None:
    """After its patience, memory gathers for the large one."""
    machine = Machine(100, workers=4)
    machine.submit(60, requested=60)
    machine.tick()
    machine.ready()
    machine.submit(60)
    machine.submit(20, requested=20)
    machine.tick()
    assert machine.running() == [1, 3]
    machine.submit(5, requested=5)
    machine.tick()
    assert machine.running() == [1, 3, 4]
    machine.tick(100.0)
    machine.submit(5)
    machine.tick()
    assert machine.running() == [1, 3, 4]


def test_nothing_starts_while_the_gate_is_closed() -> None:
    """And everything when it opens."""
    machine = Machine()
    machine.gate.closed = True
    machine.submit(10)
    machine.tick()
    assert machine.running() == []
    machine.gate.closed = False
    machine.tick()
    assert machine.running() == [1]


def test_a_cancelled_task_never_starts() -> None:
    """It is removed and counted."""
    machine = Machine(workers=1)
    machine.submit(10)
    assert machine.submit(10).future.cancel()
    machine.submit(10)
    machine.tick()
    (worker,) = machine.ready()
    machine.finish(worker)
    machine.tick()
    assert machine.running() == [3]
    assert machine.stats.cancelled == 1


def test_what_cannot_be_pickled_fails_its_own_task() -> None:
    """The worker takes the next one."""
    machine = Machine(workers=1)
    item = machine.submit(10)
    item.args = (lambda: None,)
    machine.submit(10)
    machine.tick()
    assert "lambda" in str(item.future.exception(0))
    machine.ready()
    machine.tick()
    assert machine.running() == [2]


def test_an_exclusive_task_runs_without_others() -> None:
    """One that is predicted to need more than the budget starts when nothing runs, and nothing beside it."""
    machine = Machine(100, workers=3)
    machine.submit(10)
    machine.tick()
    (worker,) = machine.ready()
    machine.submit(500)
    machine.submit(10)
    machine.tick()
    assert machine.running() == [1]
    machine.finish(worker)
    machine.tick()
    assert machine.running() == [2]
    assert machine.ledger.free < MIB


def test_idle_workers_return_what_a_task_needs() -> None:
    """They return the unused part of their reservations; the largest is stopped to free what it uses."""
    machine = Machine(100, workers=2)
    machine.submit(45)
    machine.submit(45)
    machine.tick()
    one, two = machine.ready()
    for worker, kept in ((one, 5), (two, 40)):
        worker.memory = kept * MIB
        machine.finish(worker)
    machine.submit(90)
    machine.tick()
    assert (one.leaving, two.leaving) == (False, True)
    machine.pool.end(two, 0)
    machine.tick()
    assert machine.running() == [3]


def test_a_worker_that_cannot_be_spawned_breaks_the_executor_only_where_there_is_none() -> None:
    """With another worker the task waits for that one."""
    machine = Machine()
    machine.submit(10)
    machine.tick()
    machine.ready()
    machine.pool.spawn_error = OSError(11, "no more processes")
    machine.submit(10)
    machine.tick()
    assert machine.scheduler.broken is None
    alone = Machine()
    alone.pool.spawn_error = OSError(11, "no more processes")
    alone.submit(10)
    alone.tick()
    assert alone.scheduler.broken is not None
    assert "no more processes" in alone.scheduler.broken[0]


def test_memory_that_others_hold_is_requested_in_the_ledger() -> None:
    """The request is granted later, and the task runs on what was granted."""
    machine = Machine(100, others=80)
    machine.submit(50)
    machine.tick()
    assert machine.running() == []
    assert len(machine.ledger.pending) == 1
    machine.ledger.others, machine.ledger.grant = 0, True
    machine.tick(1.0)
    assert machine.running() == [1]
    assert [each.bytes for each in machine.ledger.reservations] == [50 * MIB]


# --- results -----------------------------------------------------------------------------------------------


def run_one(machine: Machine, mib: float = 10) -> FakeWorker:
    """Submit a task and have it run; its worker."""
    machine.submit(mib)
    machine.tick()
    return machine.ready()[-1]


def item_of(worker: FakeWorker) -> WorkItem:
    assert worker.run is not None
    return worker.run.item


def test_a_result_is_set_and_learned() -> None:
    """With the peak of the samples and the outcome."""
    machine = Machine()
    worker = run_one(machine)
    item = item_of(worker)
    worker.memory = 7 * MIB
    machine.tick()
    machine.finish(worker)
    assert item.future.result(0) == b"done"
    (learned,) = machine.outcomes.learned
    assert (learned.peak, learned.outcome) == (7 * MIB, "finished")
    assert machine.stats.finished == 1


@pytest.mark.parametrize(("kept", "leaves"), [(KEPT, False), (KEPT + MIB, True)])
def test_a_worker_that_keeps_memory_is_replaced(kept: int, leaves: bool) -> None:
    """Compared with what it kept after its first task."""
    machine = Machine(500, workers=1)
    worker = run_one(machine)
    worker.memory = 20 * MIB
    machine.finish(worker)
    assert not worker.leaving
    worker = run_one(machine)
    worker.memory = 20 * MIB + kept
    machine.finish(worker)
    assert worker.leaving is leaves
    assert machine.stats.retired == leaves


def test_a_worker_is_replaced_after_so_many_tasks() -> None:
    """``max_tasks_per_child``."""
    machine = Machine(workers=1, per_child=2)
    worker = run_one(machine)
    machine.finish(worker)
    assert not worker.leaving
    run_one(machine)
    machine.finish(worker)
    assert worker.leaving


def test_workers_that_are_leaving_do_not_count_as_workers() -> None:
    """With four busy and one wanted, three leave; the last stays, though the others have not exited yet."""
    machine = Machine(workers=4)
    for _ in range(4):
        machine.submit(10)
    machine.tick()
    workers = machine.ready()
    machine.scheduler.max_workers = 1
    for worker in workers:
        machine.finish(worker)
    assert [worker.leaving for worker in workers] == [True, True, True, False]
    for _ in range(3):
        machine.submit(10)
        machine.tick()
        assert machine.running() == [machine.stats.finished + 1]
        machine.finish(workers[3])
    assert not workers[3].leaving


def test_idle_workers_leave_when_there_are_too_many() -> None:
    """At the next round."""
    machine = Machine(workers=2)
    for _ in range(2):
        machine.submit(10)
    machine.tick()
    for worker in machine.ready():
        machine.finish(worker)
    machine.scheduler.max_workers = 1
    machine.tick()
    assert sum(worker.leaving for worker in machine.pool) == 1


def test_a_result_of_another_task_kills_the_worker() -> None:
    """Its own task is not retried: WorkerLost."""
    machine = Machine()
    worker = run_one(machine)
    item = item_of(worker)
    machine.scheduler.on_message(worker, ResultItem(RESULT, 77, 0.1, 0, 0, 0, b""))
    assert signal.SIGKILL in worker.signals
    machine.pool.end(worker, -9)
    assert isinstance(item.future.exception(0), WorkerLost)


def test_a_worker_that_cannot_start_breaks_the_executor() -> None:
    """Its error goes with the reason."""
    machine = Machine()
    machine.submit(10)
    machine.tick()
    (worker,) = machine.pool
    machine.scheduler.on_message(worker, ResultItem(NOT_STARTED, 0, 0.0, 0, 0, 0, b"error"))
    assert machine.scheduler.broken == ("a worker could not start; its initializer failed", b"error")


@pytest.mark.parametrize(
    ("kind", "refuses", "full", "retried"),
    [
        (NO_MEMORY, True, False, True),
        (NO_MEMORY, False, True, False),
        (PROGRAM_FAILED, False, True, True),
        (PROGRAM_FAILED, True, False, False),
    ],
)
def test_an_error_is_retried_only_where_memory_was_short(kind: int, refuses: bool, full: bool, retried: bool) -> None:
    """Since the task was sent: by the kernel's word for a system call, by the use for a program."""
    machine = Machine(100)
    worker = run_one(machine, 90)
    item = item_of(worker)
    worker.memory = (90 if full else 10) * MIB
    machine.tick()
    machine.cgroup.refuses = refuses
    machine.finish(worker, kind, payload=b"error")
    assert item.future.done() is not retried
    assert [each.retried for each in machine.stats.report(0, "", 1, 0).incidents] == [True] * retried
    assert item.exclusive is (retried and kind == PROGRAM_FAILED)


# --- ends --------------------------------------------------------------------------------------------------


def test_a_killed_worker_has_its_task_retried_first() -> None:
    """Before others that wait, and it counts as an attempt."""
    machine = Machine(workers=1)
    worker = run_one(machine)
    machine.submit(10)
    machine.pool.end(worker, -9)
    machine.tick()
    assert machine.running() == [1]
    (incident,) = machine.stats.report(0, "", 1, 0).incidents
    assert (incident.number, incident.retried, incident.reason) == (1, True, "its worker ended with signal 9")


def test_a_task_is_given_up_after_its_attempts() -> None:
    """With WorkerLost, which has their number."""
    machine = Machine(workers=1, attempts=2)
    item = machine.submit(10)
    for _ in range(2):
        machine.tick()
        (worker,) = machine.ready()
        machine.pool.end(worker, -9)
    error = item.future.exception(0)
    assert isinstance(error, WorkerLost)
    assert error.code == -9
    assert "after 2 attempts" in str(error)


def test_a_worker_that_ends_before_it_is_ready_costs_no_attempt() -> None:
    """But so many in a row break the executor."""
    machine = Machine(workers=1, attempts=3)
    item = machine.submit(10)
    for _ in range(2):
        machine.tick()
        (worker,) = machine.pool
        machine.pool.end(worker, None)
    assert item.attempts == 0
    assert machine.scheduler.broken is None
    machine.tick()
    machine.ready()
    machine.pool.end(next(iter(machine.pool)), -9)
    assert item.attempts == 1  # a ready one starts the count anew
    for _ in range(3):
        assert machine.scheduler.broken is None
        machine.tick()
        machine.pool.end(next(iter(machine.pool)), None)
    assert machine.scheduler.broken is not None
    assert not item.future.done()  # the manager fails it with all others


def test_a_task_that_exceeds_the_whole_budget_is_too_large() -> None:
    """A MemoryError with predicted and used bytes, limit and attempts."""
    machine = Machine(100, workers=1)
    worker = run_one(machine, 40)
    item = item_of(worker)
    worker.memory = 97 * MIB
    machine.tick()
    machine.cgroup.kills = 1
    machine.pool.end(worker, -9)
    error = item.future.exception(0)
    assert isinstance(error, TaskTooLarge)
    assert (error.used, error.limit, error.attempts) == (97 * MIB, 100 * MIB, 1)
    assert "raise budget= or split the input" in str(error)


def test_a_task_that_the_kernel_killed_reserves_more_next_time() -> None:
    """One and a half times what it used."""
    machine = Machine(100, workers=1)
    worker = run_one(machine, 10)
    worker.memory = 40 * MIB
    machine.tick()
    machine.cgroup.kills = 1
    machine.pool.end(worker, -9)
    machine.tick()
    assert machine.running() == [1]
    assert [each.bytes for each in machine.ledger.reservations] == [60 * MIB]
    assert machine.outcomes.learned[0].outcome == "killed_at"


def test_killing_all_fails_what_runs_and_what_was_to_be_retried() -> None:
    """Nothing is started again."""
    machine = Machine(workers=1)
    worker = run_one(machine)
    first = item_of(worker)
    machine.pool.end(worker, -9)
    machine.scheduler.kill_all()
    assert isinstance(first.future.exception(0), WorkerLost)
    worker = run_one(machine)
    second = item_of(worker)
    machine.scheduler.kill_all()
    assert worker.dying
    machine.pool.end(worker, -9)
    assert isinstance(second.future.exception(0), WorkerLost)
    assert machine.running() == []


def test_pending_tasks_are_cancelled() -> None:
    """Running ones are not."""
    machine = Machine(workers=1)
    worker = run_one(machine)
    waiting: list[Future[object]] = [machine.submit(10).future for _ in range(3)]
    machine.scheduler.cancel_pending()
    assert all(future.cancelled() for future in waiting)
    assert not item_of(worker).future.done()
    assert machine.stats.cancelled == 3
