"""Rising segments of the rolling minimum: start, size, steps, shape, and the flat time before."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from operator import mul, sub
from typing import NamedTuple

from memwarden.assess.rolling_min import RollingMin

#: Least number of windows in a segment.
PARTS = 12
#: An excursion at least this share as high as a segment may explain it; the minimum is then taken over this many times
#: its length.
AS_HIGH, AS_LONG = 0.5, 1.4
#: The minimum was flat where it rose by less than this share of the segment that followed.
FLAT = 0.2
#: Least size of a segment: a byte, where the unit is MiB.
SMALLEST = 1e-6


class Segment(NamedTuple):
    """One rising segment, in the units of the series."""

    #: Minimum at its start and at its end, and their times.
    base: float
    top: float
    begin: float
    end: float
    #: Height of readings above the minimum, at most.
    swing: float
    #: Effective number of equal steps: the square of the sum over the sum of the squares.
    steps: float
    #: The largest step as a share of the segment.
    largest: float
    #: Growth in the first, middle and last third, as shares of the segment.
    thirds: tuple[float, float, float]
    #: Exponent of growth as a power of time since ``begin``: 1 is straight, below slows down, above speeds up.
    power: float
    #: Level and window of its start.
    level: int
    first: int

    @property
    def size(self) -> float:
        return self.top - self.base


def windows_needed(minima: RollingMin, at: int, size: float) -> int:
    """Return the number of windows over which the minimum is taken for a segment of this size.

    The longest recent excursion that was about as high decides: its flank is no lasting growth.
    """
    levels = minima.levels
    enough = AS_HIGH * size
    for up in range(len(levels) - 1, -1, -1):
        level = levels[up]
        if level.height > enough:
            stretches = AS_LONG * (level.length + 1) * 2.0 ** (up - at)
            return int(stretches) + 1
    return 1


def rising_segments(minima: RollingMin, at: int, least: float, largest: float = 1.0) -> list[Segment]:
    """Return the segments of at least this size that end now on this level, the longest first.

    Segments with a single step of more than the share ``largest`` are left out.
    """
    level = minima.levels[at]
    lows, ends = level.lows, level.ends
    count, least = len(lows), max(least, SMALLEST)
    over = windows_needed(minima, at, lows[-1] - lows[0])
    count -= over - 1
    if count < PARTS:
        return []
    line = list(accumulate(lows[::-1], min))
    line.reverse()
    top = line[count - 1]
    made: list[Segment] = []
    steps: list[float] = []
    above: list[float] = []
    for first in (0, count // 3):
        if count - first < PARTS or not top - line[first] > least:
            break
        if not steps:
            starts = line[1:count]
            steps = list(map(sub, starts, line))
            above = list(map(sub, level.highs, starts))
        base = line[first]
        size = top - base
        step = max(steps[first:]) / size
        if step > largest:
            continue
        heights = sorted(above[first:])
        swing = heights[-max(1, len(heights) // 8)]
        third = (count - first) // 3
        low, high = line[first + third], line[count - 1 - third]
        # On a rising line the minimum of a window is at its start, which is the end of the window before it.
        at_rise = min(bisect_right(line, base + 0.05 * size, first, count) - 1, count - 2)
        end, risen = ends[count - 2], top - line[at_rise + 1]
        begin = ends[at_rise]
        if risen > 0:
            begin -= (end - begin) / risen * (line[at_rise + 1] - base)
        begin = max(begin, ends[at_rise - 1 if at_rise else 0])
        # The mean of x to the power p over 0..1 is 1 / (1 + p).
        rising = line[at_rise:count]
        mean = (sum(rising) / len(rising) - base) / size
        power = 1 / max(mean, 0.1) - 1
        thirds = ((low - base) / size, (high - low) / size, (top - high) / size)
        even = size * size / sum(map(mul, steps[first:], steps[first:]))
        made.append(Segment(base, top, begin, end, max(swing, 0.0), even, step, thirds, power, at, first))
    return made


def flat_before(minima: RollingMin, segment: Segment, now: float) -> float:
    """Return the flat time before a segment in lengths of it, for the best choice of its start."""
    times: list[float] = []
    line: list[float] = []
    low = segment.base + 0.1 * segment.size
    last = segment.top
    start = segment.begin
    for up in range(segment.level, len(minima.levels)):
        level = minima.levels[up]
        lows, ends = level.lows, level.ends
        for i in range(len(lows) - 1, -1, -1):
            if ends[i] <= start and (not times or ends[i] < times[-1]):
                if lows[i] < low:
                    low = lows[i]
                times.append(ends[i])
                line.append(low)
    best = 0.0
    far, count = 0, len(times)
    for i in range(count):
        edge = line[i] - FLAT * (last - line[i])
        far = max(far, i)
        while far + 1 < count and line[far + 1] >= edge:
            far += 1
        best = max(best, (times[i] - times[far]) / max(now - times[i], 1e-9))
        if far == count - 1:
            break
    return best
