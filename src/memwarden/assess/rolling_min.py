"""Rolling minimum of a series over windows of doubling width.

Collections, batches and bursts leave no trace in the minimum of a window that is wide enough; memory that is kept
does. Each level holds the last ``WIDTH`` windows of twice the width of the level below, so that months need no more
memory than minutes, and each level costs half as much as the one below.

The minimum of a window is the least value of two readings in a row, so that one stray low reading has no effect.
"""

from __future__ import annotations

from array import array
from math import inf

#: Windows of a level, readings in the narrowest window, and levels (at a reading a second: 13 days).
WIDTH, BASE, LEVELS = 24, 3, 15
#: Decay of an excursion with each window without one: half after 70.
FORGET = 0.99
#: Number of windows that an excursion must span on the level that measures it.
SHORTEST, LONGEST = 6, 16


class Level:
    """The last windows of one width, oldest first."""

    __slots__ = ("ends", "height", "highs", "length", "lows", "waiting")

    def __init__(self) -> None:
        self.lows, self.highs, self.ends = array("d"), array("d"), array("d")
        #: The highest recent excursion that came down, and the length in windows of the longest one as high.
        self.height = self.length = 0.0
        self.waiting = False


class RollingMin:
    """Rolling minima of one series on all levels."""

    __slots__ = ("_count", "_high", "_low", "_previous", "levels")

    def __init__(self) -> None:
        self.levels: list[Level] = []
        self._count = 0
        self._low = self._high = self._previous = inf

    def add(self, value: float) -> bool:
        """Add a reading; returns True if a window is full, for the caller to :meth:`close`."""
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
        """Close the window; returns the number of levels, from the narrowest on, that have a new one."""
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
                    _end_excursion(level, low, at == 0)
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


def _end_excursion(level: Level, low: float, narrowest: bool) -> None:
    """Record the length and height of the excursion that ends with ``low``."""
    lows = level.lows
    tops = level.highs if narrowest else lows
    at = len(lows) - 1
    peak = low
    while at >= 0 and lows[at] > low:
        if tops[at] > peak:
            peak = tops[at]
        at -= 1
    if at < 0 and len(lows) == WIDTH:
        return  # longer than this level: a wider one records it
    length, height = len(lows) - 1 - at, peak - low
    if length <= LONGEST and (narrowest or length >= SHORTEST) and height >= 0.6 * level.height:
        level.length = max(level.length, length)
        level.height = max(level.height, height)
