"""What is spoken for, what is used, and what is left: sums over the records of a ledger.

Two conditions decide whether so many bytes more may be promised, and both are judged anew each time:

* *The budget.* What is committed must stay inside it: of each process that reservations are for, the larger of what
  is reserved and what it really took since. So whoever takes more than it reserved does so at the expense of those
  who have not begun.
* *The headroom.* What was promised and not yet taken must still be there: the bytes that reservations do not use yet,
  and the new ones, must fit into what the machine and the memory groups have left. Memory that others take outside of
  the ledger, and a limit that is lowered, are felt here. (The same said differently: committed + asked must not be
  more than headroom + used.)

A process that cannot be measured (in another pid namespace, or on another system than Linux) counts as having taken
nothing: then more is held back than need be, never less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from memwarden.admission.ledger.reservation_file import Record
from memwarden.model.facts import ProcessKey
from memwarden.model.limits import Constraint, Limit

_ENDLESS = 1 << 62


class Account(NamedTuple):
    """The sums, in bytes. None: no budget was given; nothing is known of the headroom."""

    budget: Limit | None
    nearest: Constraint | None
    reserved: int
    used: int
    #: The larger of the two, process by process.
    committed: int
    #: Reserved and not taken yet.
    unused: int

    @property
    def room(self) -> int:
        """What may still be promised; negative where more is taken than there should be."""
        return min(self._budget - self.committed, self._headroom - self.unused)

    @property
    def alone(self) -> int:
        """What might be promised if everything in the ledger were given back.

        At most: a reservation that was not used, or cannot be measured, is taken to come back as headroom.
        """
        return min(self._budget, self._headroom + self.committed)

    @property
    def source(self) -> str:
        """Who leaves no more room than that."""
        if self.budget is not None and self._budget - self.committed <= self._headroom - self.unused:
            return self.budget.source
        return "nobody" if self.nearest is None else self.nearest.limit.source

    @property
    def _budget(self) -> int:
        return _ENDLESS if self.budget is None else self.budget.bytes

    @property
    def _headroom(self) -> int:
        return _ENDLESS if self.nearest is None else max(0, self.nearest.headroom)


def compute(
    held: Iterable[Record],
    budget: Limit | None,
    nearest: Constraint | None,
    measure: Callable[[Record], int | None],
) -> Account:
    """The account of these reservations; ``measure`` gives what a record's worker holds now.

    Reservations for the same process are one: what it took is what it holds more than before the first of them.
    """
    workers: dict[tuple[ProcessKey, int], tuple[int, int, int | None]] = {}
    for record in held:
        whose = record.worker, record.pidns
        if whose in workers:
            reserved, baseline, now = workers[whose]
            workers[whose] = reserved + record.bytes, min(baseline, record.baseline), now
        else:
            workers[whose] = record.bytes, record.baseline, measure(record)
    total = used = committed = unused = 0
    for reserved, baseline, now in workers.values():
        took = 0 if now is None else max(0, now - baseline)
        total += reserved
        used += took
        committed += max(reserved, took)
        unused += max(0, reserved - took)
    return Account(budget, nearest, total, used, committed, unused)
