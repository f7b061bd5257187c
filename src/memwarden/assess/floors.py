"""The floor line of a series: the least that it came down to, over ever wider stretches.

Collections, batches and bursts leave no trace in the floor of a stretch that is wide enough; what is kept does. Each
level of the ladder holds the last ``WIDTH`` stretches of twice the width of the level below it, so that months need no
more memory than minutes do, and every level is as cheap: its stretches are closed half as often.

A stretch's floor is the least level at which two readings in a row stood, so that one stray low reading is none.
"""

from __future__ import annotations

from array import array
#: Stretches that a level remembers, readings in the narrowest one, and levels (at one reading a second: 24 days).
WIDTH, BASE, LEVELS = 24, 2, 16
#: What was once given back counts less with each stretch that passes without it: halved after 70.
FORGET = 0.99


class Level:
    """The last stretches of one width, oldest first."""

    __slots__ = ("ends", "given", "highs", "long", "lows", "waiting")

    def __init__(self) -> None:
        self.lows, self.highs, self.ends = array("d"), array("d"), array("d")
        #: The most that the floor has fallen, lately.
        self.given = self.long = 0.0
        self.waiting = False


class Floors:
    """A ladder of floors. ``add`` returns the levels that got a new stretch, narrowest first."""

    __slots__ = ("_count", "_high", "_low", "_previous", "levels")

    def __init__(self) -> None:
        self.levels: list[Level] = []
        self._count = 0
        self._low = self._high = self._previous = float("inf")

    def add(self, now: float, value: float) -> bool:
        """Takes a reading; returns whether it closed a stretch."""
        stood = value if value > self._previous else self._previous
        self._previous = value
        if self._count == 0:
            self._low, self._high, self._count = stood, value, 1
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
        at = 0
        levels = self.levels
        while True:
            if at == len(levels):
                levels.append(Level())
            level = levels[at]
            lows = level.lows
            if lows:
                level.given *= FORGET
                level.long *= FORGET
                if low < lows[-1]:
                    _gave_back(level, low, at)
                if len(lows) == WIDTH:
                    del lows[0], level.highs[0], level.ends[0]
            lows.append(low)
            level.highs.append(high)
            level.ends.append(now)
            level.waiting = not level.waiting
            at += 1
            if level.waiting or at == LEVELS:
                return at
            low = min(low, lows[-2])
            high = max(high, level.highs[-2])


def _gave_back(level: Level, low: float, at: int) -> None:
    lows, highs = level.lows, level.highs
    i = len(lows) - 1
    highs = lows if at else highs
    peak = highs[i]
    while i >= 0 and lows[i] > low:
        if highs[i] > peak:
            peak = highs[i]
        i -= 1
    c = len(lows) - 1 - i
    if c < (6 if at else 1) or c > 16 or (i < 0 and len(lows) == WIDTH):
        return
    g = peak - low
    if g >= 0.6 * level.given:
        if c > level.long:
            level.long = c
        if g > level.given:
            level.given = g
