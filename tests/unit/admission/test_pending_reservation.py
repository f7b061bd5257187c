"""Pending reservations, and growing in turn."""

import os

import pytest

from memwarden.admission.ledger.headroom import HeadroomReading
from memwarden.admission.ledger.ledger import Ledger
from memwarden.errors import DoesNotFit
from memwarden.model.limits import Constraint, Limit
from memwarden.readers.linux.identity import ProcProbe
from memwarden.testing import FakeClock, ProcTree

pytest.importorskip("fcntl", reason="a ledger needs file locks")

MIB = 1 << 20


class Machine:
    """A machine of 1000 MiB."""

    def read(self, quick=False):
        machine = Constraint(Limit(1000 * MIB, "machine"), 0)
        return HeadroomReading(machine, machine)

    def memory_of(self, process):
        return None

    def keep_only(self, processes):
        pass

    def after_fork(self):
        pass


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def ledger(tmp_path, clock):
    """One of 500 MiB."""
    tree = ProcTree(tmp_path / "world")
    tree.process(os.getpid(), start=5)
    path = str(tmp_path / "ledger")
    return Ledger("500MiB", path=path, clock=clock, probe=ProcProbe(tree.proc), headroom=Machine(), patience=5)


def test_a_request_is_admitted_when_memory_is_free(ledger):
    """A release changes the file, so that the next poll judges again."""
    held = ledger.reserve("400MiB")
    pending = ledger.enqueue("300MiB", label="big")
    assert pending.poll() is None
    assert ledger.contended
    held.release()
    granted = pending.poll()
    assert granted is not None
    assert granted.bytes == 300 * MIB
    assert granted.label == "big"
    assert not ledger.contended


def test_a_request_that_fits_is_admitted_at_once(ledger):
    """The first poll returns the reservation."""
    pending = ledger.enqueue("300MiB")
    granted = pending.poll()
    assert granted is not None
    pending.cancel()  # it was taken, so this changes nothing
    assert granted.bytes == 300 * MIB


@pytest.mark.parametrize("busy", [True, False])
def test_a_cancelled_request_leaves_nothing(ledger, tmp_path, busy):
    """No record, whether it was admitted or not."""
    held = ledger.reserve("400MiB") if busy else None
    pending = ledger.enqueue("300MiB")
    pending.cancel()
    pending.cancel()
    assert not ledger.contended
    assert ledger.state()["reserved_bytes"] == (400 * MIB if busy else 0)
    assert [each.name for each in tmp_path.glob("ledger*")] == ["ledger"]
    assert held is None or held.bytes


def test_what_can_never_fit_gets_no_place(ledger):
    """It is refused as a reservation is."""
    with pytest.raises(DoesNotFit):
        ledger.enqueue("501MiB")
    assert not ledger.contended


def test_growing_comes_before_waiting_requests_and_growing_in_turn_does_not(ledger, clock):
    """A task that needs more continues; a new one in an old reservation does not overtake one that has waited long."""
    first = ledger.reserve("300MiB")
    pending = ledger.enqueue("400MiB")
    assert first.grow("50MiB", in_turn=True)  # it fits, and the other has not waited for long
    clock.advance(6)
    assert not first.grow("50MiB", in_turn=True)
    assert first.grow("50MiB")
    assert first.bytes == 400 * MIB
    pending.cancel()
    assert first.grow("50MiB", in_turn=True)


def test_the_account_shows_what_is_left(ledger):
    """Committed, free, and the most that might be free."""
    held = ledger.reserve("200MiB")
    account = ledger.account()
    assert (account.committed, account.free, account.capacity) == (200 * MIB, 300 * MIB, 500 * MIB)
    assert held.bytes


def test_a_request_is_judged_again_when_the_file_has_changed_or_a_check_is_due(ledger, clock, monkeypatch):
    """Not at each poll: that costs 50 times as much as to read the file."""
    held = ledger.reserve("400MiB")
    pending = ledger.enqueue("300MiB")
    checks = []
    check = pending._admission.check
    monkeypatch.setattr(pending._admission, "check", lambda own: checks.append(own) or check(own))
    for _ in range(5):
        assert pending.poll() is None
    assert len(checks) == 1
    held.shrink("10MiB")
    assert pending.poll() is None
    assert len(checks) == 2
    clock.advance(1)
    assert pending.poll() is None
    assert len(checks) == 3
    held.release()
    assert pending.poll() is not None
