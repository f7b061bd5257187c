"""Admission of requests to a ledger: each process judges its own, under the file's lock.

:mod:`memwarden.admission.ledger.fairness` decides the order, :mod:`memwarden.admission.ledger.accounting` the free
memory.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from memwarden.admission.ledger.accounting import Account
from memwarden.admission.ledger.accounts import Accounts
from memwarden.admission.ledger.fairness import Request, admitted
from memwarden.admission.ledger.record import HELD, WAITING, Entry, OwnRecord, Record
from memwarden.admission.ledger.reservation_file import ReservationFile
from memwarden.errors import DoesNotFit, NotAdmitted
from memwarden.model.limits import Constraint
from memwarden.model.units import size_text
from memwarden.protocols import Clock, IdentityProbe

#: A waiting process does not insist on the lock, seconds.
_CHECK_LOCK_SECONDS = 0.05


class Admission:
    """Requests and changes of a ledger object and its reservations; closes the file after the last of them."""

    def __init__(
        self, file: ReservationFile, accounts: Accounts, clock: Clock, probe: IdentityProbe, patience: float
    ) -> None:
        self.file, self.accounts, self.clock = file, accounts, clock
        self._probe, self._patience = probe, patience

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # perhaps it was never whole, or the interpreter is ending
            self.file.close()

    def request(self, wanted: Record, *, wait: bool) -> tuple[OwnRecord | None, Account]:
        """Return a record that is admitted or waits (None: it may not wait), and the account that decided.

        Raises :class:`DoesNotFit` for a request that can never be admitted.
        """
        made: list[OwnRecord] = []
        try:
            return self._judge(wanted, wait, made)
        except BaseException:  # an interrupt after it was added: no other code would remove it
            for own in made:
                self.file.remove(own)
            raise

    def _judge(self, wanted: Record, wait: bool, made: list[OwnRecord]) -> tuple[OwnRecord | None, Account]:
        file = self.file
        with file.locked() as entries:
            ticket = max([time.monotonic_ns(), *(entry.record.ticket + 1 for entry in entries)])
            since = self.clock.monotonic()
            wanted = wanted._replace(ticket=ticket, since=since, owner=file.key, worker=file.key)
            request = as_request(wanted)
            # A quick account may take a waiting request for one that does not fit at all, and so let others pass it.
            quick_suffices = all(entry.record.state == HELD for entry in entries)
            for quick in (True, False) if quick_suffices else (False,):
                if not quick:
                    entries = file.sweep(entries)
                account, smallest = self.accounts.account(entries, quick=quick)
                if not quick:
                    self._refuse_hopeless(wanted, smallest)
                wanted = wanted._replace(budget=self.accounts.budget(smallest) or 0)
                if request in self._admitted(entries, account, request):
                    made.append(file.add(wanted._replace(**self._admission_fields(wanted)), entries))
                    return made[0], account
            if wait:
                made.append(file.add(wanted, entries))
            return (made[0] if made else None), account

    def check(self, own: OwnRecord) -> tuple[int, Account]:
        """Judge a waiting record again: return its position in the queue (-1: admitted), and the account.

        Raises :class:`DoesNotFit`, and :class:`LockBusy` where the lock is taken.
        """
        file = self.file
        with file.locked(_CHECK_LOCK_SECONDS) as entries:
            entries = file.sweep(entries)
            record, request = own.record, as_request(own.record)
            queue = sorted(requests(entries), key=lambda each: each.rank)
            position = queue.index(request) if request in queue else 0
            waited = self.clock.monotonic() - record.since
            account, smallest = self.accounts.account(entries, budget_only=True)
            if account.free < record.bytes and waited < self._patience:
                return position, account  # the budget alone refuses: reading the headroom costs twice as much
            account, smallest = self.accounts.account(entries)
            if request in self._admitted(entries, account):
                file.update_locked(own, **self._admission_fields(record))
                return -1, account
            self._refuse_hopeless(record, smallest)
            if record.bytes > account.capacity and waited >= self._patience:
                raise DoesNotFit(
                    f"{_name(record)}: would not fit even without other reservations, and waited {waited:.0f} s;"
                    f" {_usage(account)}. Ask for less, or stop what else uses memory",
                    asked=record.bytes,
                    budget=account.capacity,
                    source=account.source,
                )
            return position, account

    def grow(self, own: OwnRecord, count: int, in_turn: bool) -> bool:
        """Add bytes to a reservation if they are free now; return whether they were."""
        file, now = self.file, self.clock.monotonic()
        with file.locked() as entries:
            larger = own.record._replace(bytes=own.record.bytes + count)
            for quick in (True, False):
                if not quick:
                    entries = file.sweep(entries)
                if in_turn and any(each.record.state == WAITING for each in entries):
                    account, _ = self.accounts.account(entries, quick=quick)
                    more = Request(max(each.record.ticket for each in entries) + 1, count, now)
                    fits = more in self._admitted(entries, account, more)
                else:
                    changed = [Entry(each.slot, larger) if each.slot == own.slot else each for each in entries]
                    fits = self.accounts.account(changed, quick=quick)[0].free >= 0
                if fits:
                    file.update_locked(own, bytes=larger.bytes)
                    return True
        return False

    def assign(self, own: OwnRecord, pid: int) -> None:
        """Make a record one for another process. Raises :class:`ReadError` where there is no such process."""
        worker = self._probe.key_of(pid)
        self.file.update(own, worker=worker, baseline=self.accounts.baseline(worker))

    def too_late(self, record: Record, account: Account) -> NotAdmitted:
        """Return the error of a request that has timed out."""
        waited = max(0.0, self.clock.monotonic() - record.since) if record.ticket else 0.0
        return NotAdmitted(
            f"{_name(record)}: not admitted within {waited:.1f} s; {_usage(account)}. Wait longer, or ask for less"
        )

    def _admitted(self, entries: list[Entry], account: Account, *more: Request) -> list[Request]:
        now = self.clock.monotonic()
        return admitted([*requests(entries), *more], account.free, account.capacity, now, self._patience)

    def _admission_fields(self, record: Record) -> dict[str, Any]:
        baseline = self.accounts.baseline(record.worker)
        return {"state": HELD, "baseline": baseline, "since": self.clock.monotonic(), "wall": self.clock.wall()}

    def _refuse_hopeless(self, record: Record, smallest: Constraint | None) -> None:
        lowest = self.accounts.lowest_limit(smallest)
        if lowest is not None and record.bytes > lowest.bytes:
            raise DoesNotFit(
                f"{_name(record)}: can never fit, {lowest.source} has {size_text(lowest.bytes)}; ask for less, split"
                " the work, or raise that limit",
                asked=record.bytes,
                budget=lowest.bytes,
                source=lowest.source,
            )


def as_request(record: Record) -> Request:
    """Return a record as a request."""
    return Request(record.ticket, record.bytes, record.since, record.priority)


def requests(entries: list[Entry]) -> list[Request]:
    """Return the waiting records as requests."""
    return [as_request(entry.record) for entry in entries if entry.record.state == WAITING]


def _name(record: Record) -> str:
    return f"{record.label or 'a reservation'} of {size_text(record.bytes)}"


def _usage(account: Account) -> str:
    text = f"{size_text(max(0, account.free))} left by {account.source}, {size_text(account.committed)} committed"
    if account.nearest is not None:
        text += f", {account.nearest.limit.source} has {size_text(account.nearest.headroom)} of headroom"
    return text
