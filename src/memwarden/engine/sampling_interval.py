"""Time of the next sample.

It is due before the fastest fill rate of the last minute could use half of the headroom, never sooner than ``shortest``
(10 ms) and never later than the asked interval. Before a minute has passed a rate is assumed: 1 GB/s, about what one
thread can fault in with 4 KiB pages (measured 0.9 to 1.3 GB/s). Where a threshold was crossed and the level is not
confirmed yet, the next sample is due in one second.
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

    __slots__ = ("_available", "_fastest", "_first", "_when", "assumed")

    def __init__(self, assumed: float = ASSUMED_RATE) -> None:
        self.assumed = assumed
        self._first: float | None = None
        self._when = 0.0
        self._available = 0
        self._fastest: deque[tuple[float, float]] = deque()  # (when, rate), rates falling from left to right

    def see(self, now: float, available: int) -> None:
        """Take in the bytes that are available now."""
        if self._first is None:
            self._first, self._when, self._available = now, now, available
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
        """Return the bytes a second to expect."""
        seen = self._fastest[0][1] if self._fastest else 0.0
        young = self._first is None or now - self._first < MEMORY_SECONDS
        return max(seen, self.assumed) if young else seen


def delay(found: Assessment, rate: float, interval: float, shortest: float = SHORTEST) -> float:
    """Return the seconds from a sample that was judged so to the next one."""
    wait, available = interval, found.available
    if available is not None and rate > 0 and available < 2 * rate * wait:
        wait = available / 2 / rate
    if wait > CONFIRM_SECONDS and found.raw.rank > found.level.rank:
        wait = CONFIRM_SECONDS
    return max(wait, min(shortest, interval))


class Grid:
    """Points in time, one each interval; a sample of each is recorded, and being late does not add up.

    A point that passes while a recorded sample is taken is skipped; one that passes while a sample in between is taken
    is recorded late. ``started``: the sample of the first point was taken.
    """

    __slots__ = ("_newest", "_next", "_recorded", "first", "interval")

    def __init__(self, first: float, interval: float, *, started: bool) -> None:
        self.first, self.interval = first, interval
        self._newest, self._recorded = (0, True) if started else (-1, False)
        self._next = 0

    def next(self, now: float) -> float:
        """Return the time of the next point."""
        following, passed = self._newest + 1, int((now - self.first) // self.interval)
        if self.first + following * self.interval <= now:
            following = max(following, passed + 1 if self._recorded else passed)
        self._next = following
        return self.first + following * self.interval

    def sampled(self, on_grid: bool) -> None:
        """Count a sample: that of the next point, or one in between."""
        if on_grid:
            self._newest = self._next
        self._recorded = on_grid
