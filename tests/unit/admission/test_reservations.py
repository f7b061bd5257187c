"""An executor's reservations, with a fake ledger."""

from __future__ import annotations

from typing import Any

import pytest

from memwarden.admission.executor.reservations import CHECK_SECONDS, MARGIN_SHARE, ReservationClient
from memwarden.admission.pool.task import RunningTask, WorkItem
from memwarden.errors import NotAdmitted, RecordError
from memwarden.model.footprints import TaskKey

from .fakes import MIB, FakeLedger, FakePending, FakeReservation, FakeWorker


def client(ledger: Any, *, enforced: bool = True) -> ReservationClient:
    return ReservationClient(ledger, "test", enforced=enforced)


def worker(used: float = 0) -> FakeWorker:
    made = FakeWorker()
    made.pid, made.used = 1, int(used * MIB)
    return made


def pending(mib: float = 10) -> WorkItem:
    item = WorkItem(1, TaskKey("kind"), None, print)
    item.reserve = int(mib * MIB)
    return item


def test_the_budget_is_what_is_free_and_what_our_workers_hold() -> None:
    """Others' reservations are not part of it; without a kernel's limit a margin is kept."""
    ledger = FakeLedger(100, others=30)
    own = client(ledger)
    handle = worker()
    assert own.lease(handle, 20 * MIB)
    own.refresh(handle.held)
    assert (own.budget, own.alone) == (70 * MIB, 100 * MIB)
    polled = client(ledger, enforced=False)
    polled.refresh(handle.held)
    margin = int(100 * MIB * MARGIN_SHARE)
    assert (polled.budget, polled.alone) == (70 * MIB - margin, 100 * MIB - margin)


def test_a_lease_grows_and_shrinks() -> None:
    """Within what is free; a refused one leaves the old."""
    ledger, handle = FakeLedger(100), worker()
    own = client(ledger)
    assert own.lease(handle, 60 * MIB)
    assert own.lease(handle, 20 * MIB)
    assert handle.reserved == 20 * MIB
    other = worker()
    assert own.lease(other, 70 * MIB)
    assert not own.lease(handle, 40 * MIB)
    assert (handle.reserved, ledger.free) == (20 * MIB, 10 * MIB)
    assert not own.lease(worker(), 20 * MIB)


@pytest.mark.parametrize("error", [NotAdmitted("no"), RecordError("the file is locked", path="ledger")])
def test_an_error_of_the_ledger_is_a_refusal(error: Exception) -> None:
    """The task waits, and the executor goes on."""

    class Broken(FakeLedger):
        def try_reserve(self, size: int, *, label: str) -> FakeReservation | None:
            raise error

        def account(self) -> Any:
            raise RecordError("the file is locked", path="ledger")

        def enqueue(self, size: int, *, label: str) -> FakePending:
            raise RecordError("the file is locked", path="ledger")

    ledger = Broken(100, others=50)
    own, handle = client(ledger), worker()
    assert not own.lease(handle, MIB)
    own.refresh(0)
    ledger.contended = True
    own.enqueue(pending(), 1.0)
    assert not own.granted


def test_an_idle_worker_keeps_reserved_what_it_uses() -> None:
    """A busy one keeps all."""
    ledger = FakeLedger(100)
    own, idle, busy = client(ledger), worker(5), worker(5)
    for handle in (idle, busy):
        assert own.lease(handle, 30 * MIB)
    busy.run = RunningTask(pending(), 30 * MIB, 1.0)
    own.shrink_idle([idle, busy])
    assert (idle.reserved, busy.reserved) == (5 * MIB, 30 * MIB)


def test_a_request_is_granted_and_transferred() -> None:
    """It is checked every so often; the worker's old reservation is released."""
    ledger, handle = FakeLedger(100, others=95), worker()
    own = client(ledger)
    own.refresh(0)
    own.enqueue(pending(40), 1.0)
    own.enqueue(pending(40), 1.0)
    assert len(ledger.pending) == 1
    ledger.grant = True
    own.check(1.0 + CHECK_SECONDS / 2)
    assert not own.granted
    own.check(1.0 + CHECK_SECONDS)
    assert own.granted
    ledger.others = 0
    assert own.lease(handle, 10 * MIB)
    own.transfer(handle)
    assert handle.reserved == 40 * MIB
    assert len(ledger.reservations) == 1
    assert not own.granted


def test_nothing_is_requested_where_no_other_program_has_memory() -> None:
    """Its own workers will return what the task needs; an exclusive task waits for them, too."""
    ledger = FakeLedger(100)
    own = client(ledger)
    own.refresh(0)
    own.enqueue(pending(), 1.0)
    assert ledger.pending == []
    ledger.contended = True
    exclusive = pending()
    exclusive.exclusive = True
    own.enqueue(exclusive, 1.0)
    assert ledger.pending == []
    own.enqueue(pending(), 1.0)
    assert len(ledger.pending) == 1


@pytest.mark.parametrize("granted", [False, True])
def test_a_request_is_withdrawn(granted: bool) -> None:
    """Granted or not, nothing stays reserved."""
    ledger = FakeLedger(100, others=95)
    own = client(ledger)
    own.refresh(0)
    own.enqueue(pending(40), 1.0)
    ledger.grant = granted
    own.check(10.0)
    own.withdraw()
    own.withdraw()
    assert ledger.reservations == []
    assert ledger.pending[0].left is not granted
    assert not own.granted


def test_contention_is_read_every_so_often() -> None:
    """Not for each of many short tasks."""
    ledger = FakeLedger(100)
    own = client(ledger)
    assert not own.contended(1.0)
    ledger.contended = True
    assert not own.contended(1.01)
    assert own.contended(1.03)
