"""When the next look is due.

The next look comes before the fastest fill rate of the last minute could eat half of the headroom that is
left, never sooner than ``shortest`` (10 ms) and never later than the asked interval. Before a minute has
been seen a rate is assumed: 1 GB/s, about what one thread can fault in with 4 KiB pages (measured 0.9 to
1.3 GB/s). A crossing of a level that is not confirmed yet makes the next look due in one second.
"""

from __future__ import annotations

from collections import deque

from memwarden.model.findings import Assessment

ASSUMED_RATE = 1e9
MEMORY_SECONDS = 60.0
SHORTEST = 0.010
CONFIRM_SECONDS = 1.0


class FillRate:
    """The fastest fall of the headroom in bytes a second, over the last minute. O(1) amortised."""

    __slots__ = ("_begun", "_fastest", "_last", "assumed")

    def __init__(self, assumed: float = ASSUMED_RATE) -> None:
        self.assumed = assumed
        self._begun: float | None = None
        self._last: tuple[float, int] | None = None
        self._fastest: deque[tuple[float, float]] = deque()  # (when, rate), rates falling from left to right

    def see(self, now: float, available: int) -> None:
        """Take in what is available now."""
        if self._begun is None:
            self._begun = now
        if self._last is not None and now > self._last[0]:
            rate = (self._last[1] - available) / (now - self._last[0])
            if rate > 0:
                while self._fastest and self._fastest[-1][1] <= rate:
                    self._fastest.pop()
                self._fastest.append((now, rate))
        self._last = now, available
        while self._fastest and self._fastest[0][0] < now - MEMORY_SECONDS:
            self._fastest.popleft()

    def rate(self, now: float) -> float:
        """Bytes a second to reckon with."""
        seen = self._fastest[0][1] if self._fastest else 0.0
        young = self._begun is None or now - self._begun < MEMORY_SECONDS
        return max(seen, self.assumed) if young else seen


def delay(assessment: Assessment, rate: float, interval: float, shortest: float = SHORTEST) -> float:
    """Seconds from this look to the next."""
    wait = interval
    if assessment.available is not None and rate > 0:
        wait = min(wait, assessment.available / 2 / rate)
    if assessment.raw.rank > assessment.level.rank:
        wait = min(wait, CONFIRM_SECONDS)
    return max(wait, min(shortest, interval))
