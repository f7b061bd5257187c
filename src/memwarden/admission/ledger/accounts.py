"""The account of a ledger, computed from its records and from what the system has left."""

from __future__ import annotations

import threading

from memwarden.admission.ledger.accounting import Account, compute
from memwarden.admission.ledger.headroom import Headroom
from memwarden.admission.ledger.record import HELD, Entry, Record
from memwarden.admission.ledger.reservation_file import ReservationFile
from memwarden.errors import NotAdmitted
from memwarden.model.facts import ProcessKey
from memwarden.model.limits import Constraint, Limit
from memwarden.model.units import parse_size
from memwarden.process.fork_hooks import reset_after_fork


class Accounts:
    """Measures workers and sums up records.

    ``budget`` is bytes, or a share of the effective limit as text (``"80%"``), or None.
    """

    def __init__(self, file: ReservationFile, headroom: Headroom, budget: int | str | None) -> None:
        self._file, self._headroom, self._budget = file, headroom, budget
        self._reset()
        reset_after_fork(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        #: Memory of processes as their callers reported it.
        self.reported: dict[ProcessKey, int] = {}

    def after_fork(self) -> None:
        """Renew it in a child."""
        self._reset()
        self._headroom.after_fork()

    def account(
        self, entries: list[Entry], *, quick: bool = False, budget_only: bool = False
    ) -> tuple[Account, Constraint | None]:
        """Return the account, and the lowest limit. Raises :class:`NotAdmitted` where no limit is known.

        A ``quick`` one may find less headroom than there is, never more: it can admit, and cannot refuse. With
        ``budget_only`` the headroom is not read: it can refuse, and cannot admit.
        """
        with self._lock:
            nearest, smallest = (None, None) if budget_only else self._headroom.read(quick)
            held = [entry.record for entry in entries if entry.record.state == HELD]
            budget = None
            if not (budget_only and isinstance(self._budget, str)) and (given := self.budget(smallest)) is not None:
                budget = Limit(given, "the given budget")
            for _, record in entries:
                if record.budget and (budget is None or record.budget < budget.bytes):
                    budget = Limit(record.budget, f"the budget given by process {record.owner.pid}")
            if budget is None and nearest is None and not budget_only:
                raise NotAdmitted("no memory limit of this machine is known; give the ledger a budget")
            account = compute(held, budget, nearest, self._measure)
            self._headroom.keep_only({self._file.key, *(record.worker for record in held)})
            return account, smallest

    def _measure(self, record: Record) -> int | None:
        if (reported := self.reported.get(record.worker)) is not None:
            return record.baseline + reported
        return self._headroom.memory_of(record.worker) if record.pidns == self._file.pidns else None

    def used(self, record: Record) -> int | None:
        """Return what a record's worker took since it was made; None where that cannot be measured."""
        with self._lock:
            now = self._measure(record)
        return None if now is None else max(0, now - record.baseline)

    def baseline(self, worker: ProcessKey) -> int:
        """Return a process's memory now; 0 where that cannot be measured."""
        with self._lock:
            return self._headroom.memory_of(worker) or 0

    def budget(self, smallest: Constraint | None) -> int | None:
        """Return the given budget in bytes; a share is one of the lowest limit."""
        if isinstance(self._budget, str):
            return parse_size(self._budget, of=None if smallest is None else smallest.limit.bytes)
        return self._budget

    def lowest_limit(self, smallest: Constraint | None) -> Limit | None:
        """Return the limit that no request can exceed, ever."""
        limits = [] if smallest is None else [smallest.limit]
        if (given := self.budget(smallest)) is not None:
            limits.append(Limit(given, "the given budget"))
        return min(limits, key=lambda each: each.bytes, default=None)
