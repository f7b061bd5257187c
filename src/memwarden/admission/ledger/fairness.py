"""The order of waiting requests: a function of the requests, the free memory, and the time.

In order of arrival, with backfill: a request that fits may overtake others that do not. A request that has waited for
``patience`` and would fit without other reservations is not overtaken any more; released memory then gathers until it
fits. A step of priority counts as ``AGING_SECONDS`` of waiting, no more: only requests that came at most so much later
may come first, and so none waits for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

#: How much earlier a request with one more step of priority counts as having come.
AGING_SECONDS = 10.0
#: How long a request may be overtaken by smaller ones, unless a ledger is given another time.
PATIENCE_SECONDS = 30.0
MAX_PRIORITY = 100


class Request(NamedTuple):
    """Bytes that are waited for, since a moment of the monotonic clock. ``ticket`` counts arrivals."""

    ticket: int
    bytes: int
    since: float
    priority: int = 0

    @property
    def rank(self) -> tuple[float, int]:
        """Return its sort key; the smallest comes first."""
        return self.since - self.priority * AGING_SECONDS, self.ticket


def admitted(
    waiting: Iterable[Request], free: int, capacity: int, now: float, patience: float = PATIENCE_SECONDS
) -> list[Request]:
    """Return the requests that are admitted now, in order.

    ``free`` is what is left of the budget, ``capacity`` what would be left without reservations: a request that does
    not fit even then waits for memory outside of the ledger, and blocks no other.
    """
    chosen = []
    for request in sorted(waiting, key=lambda each: each.rank):
        if request.bytes <= free:
            free -= request.bytes
            chosen.append(request)
        elif request.bytes <= capacity and now - request.since >= patience:
            break
    return chosen
