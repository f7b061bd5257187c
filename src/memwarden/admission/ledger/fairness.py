"""Whose turn it is: a function of who waits, of the room there is, and of the time.

In order of arrival, with backfill: one who fits may pass others who do not. Whoever has waited for ``patience`` and
would fit alone is passed no more; what is returned then gathers until it fits. A step of priority counts as
``AGING_SECONDS`` of waiting, no more: those who may come before somebody are those who came at most so much later,
and that is why nobody waits for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

#: How much earlier a claim with one more step of priority counts as having come.
AGING_SECONDS = 10.0
#: How long a claim may be passed by smaller ones, unless a ledger is told otherwise.
PATIENCE_SECONDS = 30.0
MOST_PRIORITY = 100


class Request(NamedTuple):
    """Bytes that somebody waits for, since a moment of the monotonic clock. ``ticket`` counts arrivals."""

    ticket: int
    bytes: int
    since: float
    priority: int = 0

    @property
    def rank(self) -> tuple[float, int]:
        """Its place in the line; the smallest comes first."""
        return self.since - self.priority * AGING_SECONDS, self.ticket


def admitted(
    waiting: Iterable[Request], room: int, alone: int, now: float, patience: float = PATIENCE_SECONDS
) -> list[Request]:
    """Those who may begin now, in order.

    ``room`` is what is free of the budget, ``alone`` what would be if nobody held anything: who does not fit even
    then waits for others than us, and stands in nobody's way.
    """
    chosen = []
    for claim in sorted(waiting, key=lambda each: each.rank):
        if claim.bytes <= room:
            room -= claim.bytes
            chosen.append(claim)
        elif claim.bytes <= alone and now - claim.since >= patience:
            break
    return chosen
