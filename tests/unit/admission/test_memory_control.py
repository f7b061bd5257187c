"""Leases, pauses and kills that follow from samples, with a fake pool and a fake clock."""

from __future__ import annotations

import signal

import pytest

from memwarden.admission.executor import memory_control
from memwarden.admission.executor.memory_control import KERNEL_HEADROOM

from .fakes import MIB, FakeWorker, Machine


def running(machine: Machine, *sizes: float) -> list[FakeWorker]:
    """Tasks of these sizes, running, oldest first."""
    for size in sizes:
        machine.submit(size)
        machine.tick()
    workers = machine.ready()
    assert len(machine.running()) == len(sizes)
    return workers


def use(worker: FakeWorker, mib: float) -> None:
    worker.memory = int(mib * MIB)


def test_a_task_that_outgrows_its_lease_gets_more() -> None:
    """While there is free memory."""
    machine = Machine(100)
    (worker,) = running(machine, 20)
    use(worker, 30)
    machine.tick()
    assert worker.reserved > 30 * MIB
    assert worker.signals == []


def test_a_task_that_finds_no_free_memory_is_paused_and_resumes() -> None:
    """The younger one; it resumes when the other has ended."""
    machine = Machine(100)
    first, second = running(machine, 50, 45)
    use(first, 40)
    use(second, 48)
    machine.tick()
    use(second, 54)
    machine.tick()
    assert second.signals == [signal.SIGSTOP]
    assert machine.stats.pauses == 1
    use(first, 0)
    machine.finish(first)
    machine.tick()
    assert second.signals == [signal.SIGSTOP, signal.SIGCONT]


def test_a_task_that_stops_growing_returns_its_lease() -> None:
    """After a plateau; another can start."""
    machine = Machine(100)
    (worker,) = running(machine, 80)
    use(worker, 20)
    machine.submit(50)
    machine.tick()
    assert machine.running() == [1]
    for _ in range(12):
        machine.tick()
    assert machine.running() == [1, 2]
    assert worker.reserved < 23 * MIB


@pytest.mark.parametrize("enforced", [True, False])
def test_the_budget_is_lowered_below_the_use(enforced: bool) -> None:
    """Without the kernel's limit a task is killed at once; with it only when that lasts."""
    machine = Machine(100, enforced=enforced)
    first, second = running(machine, 40, 40)
    use(first, 38)
    use(second, 38)
    machine.tick()
    machine.ledger.budget = 50 * MIB
    machine.tick(0.2)
    assert (first.dying or second.dying) is not enforced
    machine.tick(memory_control.OVER_BUDGET_SECONDS)
    assert first.dying is not second.dying
    assert machine.stats.kills == 1


def test_no_second_task_is_killed_before_the_first_is_gone() -> None:
    """Its memory may be enough."""
    machine = Machine(100, workers=3, enforced=False)
    workers = running(machine, 30, 30, 30)
    for worker in workers:
        use(worker, 60)
    for _ in range(3):
        machine.tick()
    assert sum(worker.dying for worker in workers) == 1
    gone = next(worker for worker in workers if worker.dying)
    use(gone, 0)
    machine.pool.end(gone, -9)
    machine.tick()
    assert sum(worker.dying for worker in workers) == 2


def test_memory_of_a_killed_worker_does_not_count_twice() -> None:
    """It is freed before the worker is reaped, and others may have it by then."""
    machine = Machine(150)
    first, second = running(machine, 60, 60)
    use(first, 75)
    use(second, 75)
    machine.tick()
    second.kill("no task could continue", for_memory=True)
    use(second, 0)
    use(first, 140)
    machine.tick()
    assert machine.stats.peak_used == 150 * MIB


def test_an_idle_worker_is_sampled() -> None:
    """It returns memory to the system after its task."""
    machine = Machine(100)
    first, second = running(machine, 30, 30)
    use(first, 25)
    machine.finish(first)
    assert first.used == 25 * MIB
    use(first, 1)
    use(second, 25)
    machine.tick()
    assert first.used == 1 * MIB


def test_the_kernel_blocks_all_tasks() -> None:
    """After a moment one is killed; not the oldest."""
    machine = Machine(100)
    first, second = running(machine, 50, 50)
    use(first, 50)
    use(second, 50)
    machine.tick()
    machine.cgroup.blocked = True
    machine.memory.on_limit_reached(machine.clock.monotonic())
    machine.tick(0.01)
    assert not second.dying
    machine.tick(memory_control.ALL_BLOCKED_SECONDS)
    assert second.dying
    assert second.killed_for_memory
    assert not first.dying


def test_blocked_tasks_that_continue_are_not_killed() -> None:
    """The kernel's event may be over before it is handled."""
    machine = Machine(100)
    workers = running(machine, 50, 50)
    machine.cgroup.blocked = True
    machine.memory.on_limit_reached(machine.clock.monotonic())
    machine.cgroup.blocked = False
    for _ in range(10):
        machine.tick()
    assert not any(worker.dying for worker in workers)


def test_the_limit_follows_the_budget() -> None:
    """In steps, and larger by the kernel's headroom."""
    machine = Machine(100)
    running(machine, 10)
    assert machine.cgroup.limits == [100 * MIB + KERNEL_HEADROOM]
    machine.ledger.budget = 99 * MIB
    machine.tick(0.2)
    assert len(machine.cgroup.limits) == 1
    machine.ledger.budget = 60 * MIB
    machine.tick(0.2)
    assert machine.cgroup.limits[1:] == [60 * MIB + KERNEL_HEADROOM]


def test_samples_come_faster_while_a_task_grows_without_a_limit() -> None:
    """Every 2 ms instead of every 10."""
    machine = Machine(100, enforced=False)
    (worker,) = running(machine, 50)
    machine.tick()
    now = machine.clock.monotonic()
    assert machine.memory.next_sample - now == pytest.approx(memory_control.POLLED_SECONDS)
    use(worker, 20)
    machine.tick()
    now = machine.clock.monotonic()
    assert machine.memory.next_sample - now == pytest.approx(memory_control.GROWING_SECONDS)
