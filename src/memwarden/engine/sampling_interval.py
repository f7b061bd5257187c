"""When the next look is due.

The next look comes before the fastest fill rate of the last minute could eat half of the headroom that is
left, never sooner than ``shortest`` (10 ms) and never later than the asked interval. Before a minute has
been seen a rate is assumed: 1 GB/s, about what one thread can fault in with 4 KiB pages (measured 0.9 to
1.3 GB/s). A crossing of a level that is not confirmed yet makes the next look due in one second.
"""

from __future__ import annotations

from collections import deque

from memwarden.model.verdicts import Assessment

ASSUMED_RATE = 1e9
MEMORY_SECONDS = 60.0
SHORTEST = 0.010
CONFIRM_SECONDS = 1.0


class FillRate:
    """The fastest fall of the headroom in bytes a second, over the last minute. O(1) amortised."""

    __slots__ = ("_available", "_begun", "_fastest", "_when", "assumed")

    def __init__(self, assumed: float = ASSUMED_RATE) -> None:
        self.assumed = assumed
        self._begun: float | None = None
        self._when = 0.0
        self._available = 0
        self._fastest: deque[tuple[float, float]] = deque()  # (when, rate), rates falling from left to right

    def see(self, now: float, available: int) -> None:
        """Take in what is available now."""
        if self._begun is None:
            self._begun, self._when, self._available = now, now, available
        passed, fell = now - self._when, self._available - available
        self._when, self._available = now, available
        fastest = self._fastest
        if fell > 0 and passed > 0:
            rate = fell / passed
            while fastest and fastest[-1][1] <= rate:
                fastest.pop()
            fastest.append((now, rate))
        while fastest and fastest[0][0] < now - MEMORY_SECONDS:
            fastest.popleft()

    def rate(self, now: float) -> float:
        """Bytes a second to reckon with."""
        seen = self._fastest[0][1] if self._fastest else 0.0
        young = self._begun is None or now - self._begun < MEMORY_SECONDS
        return max(seen, self.assumed) if young else seen


def delay(found: Assessment, rate: float, interval: float, shortest: float = SHORTEST) -> float:
    """Return the seconds from a sample that was judged so to the next one."""
    wait, available = interval, found.available
    if available is not None and rate > 0 and available < 2 * rate * wait:
        wait = available / 2 / rate
    if wait > CONFIRM_SECONDS and found.raw.rank > found.level.rank:
        wait = CONFIRM_SECONDS  # a threshold was crossed, and its level has not been entered yet
    return max(wait, min(shortest, interval))
