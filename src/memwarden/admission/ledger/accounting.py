"""Sums over the records of a ledger: what is committed, used and free.

Two conditions decide whether so many bytes more may be promised; both are judged anew each time:

* *The budget.* Committed memory must stay within it: for each process the larger of its reservations and of what it
  took since. So a process that takes more than it reserved delays those that have not started.
* *The headroom.* Reserved memory that is not yet taken, and the new bytes, must fit into what the machine and the
  memory groups have left. So memory taken outside of the ledger counts, and so does a limit that is lowered.

A process that cannot be measured (in another pid namespace, or on a system other than Linux) counts as having taken
nothing: then more is held back than necessary, never less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from memwarden.admission.ledger.record import Record
from memwarden.model.facts import ProcessKey
from memwarden.model.limits import Constraint, Limit

_UNLIMITED = 1 << 62


class Account(NamedTuple):
    """The sums, in bytes. None: no budget was given; no limit of the system is known."""

    budget: Limit | None
    nearest: Constraint | None
    reserved: int
    used: int
    #: The larger of the two, process by process.
    committed: int
    #: Reserved and not taken yet.
    unused: int

    @property
    def free(self) -> int:
        """Return what may still be promised; negative where more is taken than there should be."""
        return min(self._budget - self.committed, self._headroom - self.unused)

    @property
    def capacity(self) -> int:
        """Return what might be promised without any reservation.

        An upper bound: a reservation that was not used, or cannot be measured, is taken to come back as headroom.
        """
        return min(self._budget, self._headroom + self.committed)

    @property
    def source(self) -> str:
        """Return the name of the limit that bounds :attr:`free`."""
        if self.budget is not None and self._budget - self.committed <= self._headroom - self.unused:
            return self.budget.source
        return "no limit" if self.nearest is None else self.nearest.limit.source

    @property
    def _budget(self) -> int:
        return _UNLIMITED if self.budget is None else self.budget.bytes

    @property
    def _headroom(self) -> int:
        return _UNLIMITED if self.nearest is None else max(0, self.nearest.headroom)


def compute(
    held: Iterable[Record],
    budget: Limit | None,
    nearest: Constraint | None,
    measure: Callable[[Record], int | None],
) -> Account:
    """Return the account of these reservations; ``measure`` returns a record's worker's memory now.

    Reservations for the same process are one: it took what it uses beyond the baseline of the first of them.
    """
    workers: dict[tuple[ProcessKey, int], tuple[int, int, int | None]] = {}
    for record in held:
        worker = record.worker, record.pidns
        if worker in workers:
            reserved, baseline, now = workers[worker]
            workers[worker] = reserved + record.bytes, min(baseline, record.baseline), now
        else:
            workers[worker] = record.bytes, record.baseline, measure(record)
    total = used = committed = unused = 0
    for reserved, baseline, now in workers.values():
        took = 0 if now is None else max(0, now - baseline)
        total += reserved
        used += took
        committed += max(reserved, took)
        unused += max(0, reserved - took)
    return Account(budget, nearest, total, used, committed, unused)
