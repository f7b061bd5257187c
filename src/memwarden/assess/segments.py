"""A rise of the floor line: from where, how far, in how many steps, how straight, and what went before it."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from itertools import accumulate
from operator import mul, sub
from typing import NamedTuple

from memwarden.assess.rolling_min import RollingMin

#: A rise is looked at in at least so many stretches.
PARTS = 12
#: An excursion explains a rise that it was at least this share as high as, and the floor is then that of so many times
#: its length: what always came back by then must not be in it.
AS_HIGH, AS_LONG = 0.5, 1.4
#: A floor was calm where it rose by less than this share of the rise that followed.
CALM = 0.2
#: No rise is smaller: a byte, where the unit is MiB.
SMALLEST = 1e-6


class Rise(NamedTuple):
    """One rise, in the units of the series."""

    #: The floor it began at and the floor it reached, and when that was.
    base: float
    top: float
    begin: float
    end: float
    #: How far readings stand above the floor line at most.
    swing: float
    #: How many equal steps it could have come in: the square of the sum over the sum of the squares.
    steps: float
    #: The largest step as a share of the rise.
    largest: float
    #: What the first, middle and last third rose by, as shares of the rise.
    thirds: tuple[float, float, float]
    #: Its exponent as a power of time since ``begin``: 1 is straight, below slows down, above speeds up.
    power: float
    #: Which level and stretch it was seen on.
    level: int
    first: int

    @property
    def size(self) -> float:
        return self.top - self.base


def proven(floors: RollingMin, at: int, size: float) -> int:
    """How many of the last stretches of a level the floor has to be taken over, for a rise of this size.

    The longest excursion that came down again lately, and was about as high, decides: such a flank is no rise yet.
    """
    levels = floors.levels
    enough = AS_HIGH * size
    for up in range(len(levels) - 1, -1, -1):
        level = levels[up]
        if level.height > enough:
            stretches = AS_LONG * (level.length + 1) * 2.0 ** (up - at)
            return int(stretches) + 1
    return 1


def rises(floors: RollingMin, at: int, least: float, largest: float = 1.0) -> list[Rise]:
    """The rises of at least this size that end now, as this level sees them: from the longest to the shortest.

    Those of which a single step makes more than the share ``largest`` are left out.
    """
    level = floors.levels[at]
    lows, ends = level.lows, level.ends
    count, least = len(lows), max(least, SMALLEST)
    over = proven(floors, at, lows[-1] - lows[0])
    count -= over - 1
    if count < PARTS:
        return []
    line = list(accumulate(lows[::-1], min))
    line.reverse()
    top = line[count - 1]
    made: list[Rise] = []
    steps: list[float] = []
    above: list[float] = []
    for first in (0, count // 3):
        if count - first < PARTS or not top - line[first] > least:
            break
        if not steps:
            begun = line[1:count]
            steps = list(map(sub, begun, line))
            above = list(map(sub, level.highs, begun))
        found = _rise(line, steps[first:], above[first:], ends, first, count, at, largest)
        if found is not None:
            made.append(found)
    return made


def _rise(
    line: list[float],
    steps: list[float],
    above: list[float],
    ends: array[float],
    first: int,
    count: int,
    at: int,
    largest: float,
) -> Rise | None:
    """The rise from stretch ``first`` to ``count``, with its steps and how far readings stand above the floor line."""
    base, top = line[first], line[count - 1]
    size = top - base
    step = max(steps) / size
    if step > largest:
        return None
    above.sort()
    swing = above[-max(1, len(above) // 8)]
    third = (count - first) // 3
    low, high = line[first + third], line[count - 1 - third]
    # A stretch's floor on a rising line is where the stretch began, which is where the one before it ended.
    at_rise = min(bisect_right(line, base + 0.05 * size, first, count) - 1, count - 2)
    end, risen = ends[count - 2], top - line[at_rise + 1]
    begin = ends[at_rise]
    if risen > 0:
        begin -= (end - begin) / risen * (line[at_rise + 1] - base)
    before = ends[at_rise - 1 if at_rise else 0]
    if before > begin:
        begin = before
    # The mean of x to the power p over 0..1 is 1 / (1 + p).
    rising = line[at_rise:count]
    mean = (sum(rising) / len(rising) - base) / size
    power = 1 / max(mean, 0.1) - 1
    return Rise(
        base, top, begin, end, swing if swing > 0.0 else 0.0, size * size / sum(map(mul, steps, steps)), step,
        ((low - base) / size, (high - low) / size, (top - high) / size), power, at, first,
    )  # fmt: skip


def calm_before(floors: RollingMin, rise: Rise, now: float) -> float:
    """How long the floor had been calm before it rose, in lengths of the rise, wherever it is best said to begin."""
    times: list[float] = []
    line: list[float] = []
    low = rise.base + 0.1 * rise.size
    last = rise.top
    began = rise.begin
    for up in range(rise.level, len(floors.levels)):
        level = floors.levels[up]
        lows, ends = level.lows, level.ends
        for i in range(len(lows) - 1, -1, -1):
            if ends[i] <= began and (not times or ends[i] < times[-1]):
                if lows[i] < low:
                    low = lows[i]
                times.append(ends[i])
                line.append(low)
    best = 0.0
    far, count = 0, len(times)
    for i in range(count):
        edge = line[i] - CALM * (last - line[i])
        far = max(far, i)
        while far + 1 < count and line[far + 1] >= edge:
            far += 1
        best = max(best, (times[i] - times[far]) / max(now - times[i], 1e-9))
        if far == count - 1:
            break
    return best
