"""The floor line of a series: the least that it came down to, over ever wider stretches.

Collections, batches and bursts leave no trace in the floor of a stretch that is wide enough; what is kept does. Each
level of the ladder holds the last ``WIDTH`` stretches of twice the width of the level below it, so that months need no
more memory than minutes do, and each level costs half as much as the one below.

A stretch's floor is the least at which two readings in a row stood, so that one stray low reading makes none.
"""

from __future__ import annotations

from array import array
from math import inf

#: Stretches that a level remembers, readings in the narrowest one, and levels (at a reading a second: 13 days).
WIDTH, BASE, LEVELS = 24, 3, 15
#: What once came down counts less with each stretch in which nothing did: half after 70.
FORGET = 0.99
#: An excursion is measured by the level on which it spans so many stretches: fewer are coarse, more another's.
SHORTEST, LONGEST = 6, 16


class Level:
    """The last stretches of one width, oldest first."""

    __slots__ = ("ends", "height", "highs", "length", "lows", "waiting")

    def __init__(self) -> None:
        self.lows, self.highs, self.ends = array("d"), array("d"), array("d")
        #: The highest excursion that came down again lately, and the length of the longest one about as high, in
        #: stretches. A level sees those of its own scale.
        self.height = self.length = 0.0
        self.waiting = False


class RollingMin:
    """A ladder of floors of one series."""

    __slots__ = ("_count", "_high", "_low", "_previous", "levels")

    def __init__(self) -> None:
        self.levels: list[Level] = []
        self._count = 0
        self._low = self._high = self._previous = inf

    def add(self, value: float) -> bool:
        """Takes a reading; returns whether a stretch is full, for the caller to :meth:`close`."""
        stood = value if value > self._previous else self._previous
        self._previous = value
        if self._count == 0:
            self._low, self._high, self._count = value if stood == inf else stood, value, 1
            return False
        if stood < self._low:
            self._low = stood
        if value > self._high:
            self._high = value
        self._count += 1
        return self._count >= BASE

    def close(self, now: float) -> int:
        """Closes the stretch; returns how many levels, from the narrowest on, have a new one."""
        low, high, self._count = self._low, self._high, 0
        levels = self.levels
        at = 0
        while True:
            if at == len(levels):
                levels.append(Level())
            level = levels[at]
            lows, highs = level.lows, level.highs
            if lows:
                level.height *= FORGET
                level.length *= FORGET
                if low < lows[-1]:
                    _came_down(level, low, at == 0)
                if len(lows) == WIDTH:
                    del lows[0], highs[0], level.ends[0]
            lows.append(low)
            highs.append(high)
            level.ends.append(now)
            level.waiting = not level.waiting
            at += 1
            if level.waiting or at == LEVELS:
                return at
            if lows[-2] < low:
                low = lows[-2]
            if highs[-2] > high:
                high = highs[-2]


def _came_down(level: Level, low: float, narrowest: bool) -> None:
    """Remembers how long and how high memory had been above what it now came down to."""
    lows = level.lows
    tops = level.highs if narrowest else lows
    at = len(lows) - 1
    peak = low
    while at >= 0 and lows[at] > low:
        if tops[at] > peak:
            peak = tops[at]
        at -= 1
    if at < 0 and len(lows) == WIDTH:
        return  # longer than this level remembers: a wider one sees it
    length, height = len(lows) - 1 - at, peak - low
    if length <= LONGEST and (narrowest or length >= SHORTEST) and height >= 0.6 * level.height:
        level.length = max(level.length, length)
        level.height = max(level.height, height)
