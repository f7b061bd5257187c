"""Trend of a figure: increasing, decreasing or stable, with the number of readings and the confidence.

Two rules, the first of which takes precedence:

* the mean of the last five readings differs from that of the twenty before by a tenth and more, and by more than those
  scattered: a recent change;
* of twelve windows in a row, of any doubling width, nearly every later one is higher (or lower) than nearly every
  earlier one (Mann-Kendall test), in more than one step: a slow slope. A leak of 1 % an hour is increasing after
  hours, where two averages of a window stay stable. A single jump is one step.

The last quarter of a slope must go on at a third of its mean rate; otherwise the figure is stable again.
"""

from __future__ import annotations

from array import array
from collections import deque
from math import erf, isfinite, sqrt

from memwarden.model.verdicts import Trend

INCREASING, DECREASING, STABLE = "increasing", "decreasing", "stable"
#: Readings that count as recent, those before that they are compared with, and the change that makes a trend.
RECENT, OLDER, CHANGE = 5, 20, 0.10
#: Windows that are compared with each other, and number of widths.
POINTS, LEVELS = 12, 16
#: Standard deviation of the Mann-Kendall sum for this many points, and multiples of it that make a slope: one in a
#: thousand series without a slope reaches them.
_DEVIATION = sqrt(POINTS * (POINTS - 1) * (2 * POINTS + 5) / 18)
SURE = 3.3
#: A slope has more equal steps than this, and its last quarter goes on at this share of the mean rate.
STEPS, GOES_ON = 3.0, 1 / 3
#: Larger readings are skipped.
LARGEST_VALUE = 1e30


class TrendDetector:
    """Trend of one series, reading by reading, in any unit."""

    __slots__ = ("_count", "_levels", "_slope", "_slopes", "_times", "_values")

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=RECENT + OLDER)
        self._times: deque[float] = deque(maxlen=RECENT + OLDER)
        #: For each width: times and means of its last windows.
        self._levels: list[tuple[array[float], array[float]]] = []
        #: The slope of each width after its last window: (deviations, trend).
        self._slopes: list[tuple[float, Trend] | None] = []
        self._slope: tuple[float, Trend] | None = None
        self._count = 0

    def update(self, t: float, value: float | None) -> Trend:
        """Add a reading and return the trend."""
        self.add(t, value)
        return self.trend

    def add(self, t: float, value: float | None) -> None:
        """Add a reading made at ``t`` seconds. A clock that is set back starts afresh; non-numbers are skipped."""
        if value is None or not -LARGEST_VALUE < value < LARGEST_VALUE or not isfinite(t):
            return
        times = self._times
        if times and t <= times[-1]:
            if t == times[-1]:
                return
            self.__init__()  # type: ignore[misc]
            times = self._times
        times.append(t)
        values = self._values
        values.append(value)
        self._count += 1
        self._add_window(t, value)

    @property
    def trend(self) -> Trend:
        """Return the trend of the readings so far."""
        found = self._recent_change()
        if found is not None:
            return found
        if self._slope is not None:
            return self._slope[1]
        # The more readings without a finding, the higher the confidence.
        return Trend(STABLE, self._count, 0.0 if self._count <= RECENT else 1 - RECENT / self._count, 0.0)

    def _add_window(self, t: float, value: float) -> None:
        for at in range(LEVELS):
            if at == len(self._levels):
                self._levels.append((array("d"), array("d")))
                self._slopes.append(None)
            times, means = self._levels[at]
            if len(means) == POINTS + 1:
                del times[0], means[0]
            times.append(t)
            means.append(value)
            if at and len(means) >= POINTS:
                found = _slope(times, means, min(self._count, POINTS << at))
                if found is not None or self._slopes[at] is not None:
                    self._slopes[at] = found
                    self._slope = max((each for each in self._slopes if each is not None), default=None)
            if (self._count >> at) % 2:
                return
            t, value = (times[-2] + t) / 2, (means[-2] + value) / 2

    def _recent_change(self) -> Trend | None:
        values = self._values
        count = len(values) - RECENT
        if count <= 0:
            return None
        *older, a, b, c, d, e = values
        was = sum(older) / count
        change = round((a + b + c + d + e) / RECENT - was, 9)
        if change == 0 or abs(change) < round(CHANGE * abs(was), 9):
            return None
        scatter = sqrt(sum((value - was) ** 2 for value in older) / count)
        if abs(change) <= 1.5 * scatter:
            return None
        sure = 1.0 if scatter == 0 else erf(abs(change) / scatter / sqrt(2))
        between = self._times[-RECENT // 2] - self._times[count // 2]
        return Trend(INCREASING if change > 0 else DECREASING, len(values), sure, change / max(between, 1e-9))


def _slope(times: array[float], means: array[float], readings: int) -> tuple[float, Trend] | None:
    """Return the deviations of the last windows from no slope, and their trend."""
    whole = means[-1] - means[-POINTS]
    # Most series end here.
    if not whole or (means[-1] - means[-4]) / whole < GOES_ON * 3 / (POINTS - 1):
        return None
    points = means[-POINTS:]
    squares, before = 0.0, points[0]
    for here in points:
        squares += (here - before) ** 2
        before = here
    if not squares or whole * whole / squares <= STEPS:
        return None
    total = 0
    for i in range(1, POINTS):
        here = points[i]
        for earlier in points[:i]:
            total += (here > earlier) - (here < earlier)
    far = abs(total) / _DEVIATION
    if far < SURE or (total > 0) != (whole > 0):
        return None
    word = INCREASING if total > 0 else DECREASING
    return far, Trend(word, readings, erf(far / sqrt(2)), whole / max(times[-1] - times[-POINTS], 1e-9))


def trend_of(readings: list[tuple[float, float | None]]) -> Trend:
    """Return the trend at the end of a list of (seconds, value)."""
    found = TrendDetector()
    for t, value in readings:
        found.add(t, value)
    return found.trend
