"""Time until memory reaches its limit: a range that contains the true time in about four cases of five.

Each rising segment (:mod:`memwarden.assess.segments`) is extrapolated as a power of time: the exponent is that of the
segment, drawn towards 1 the fewer steps it has. One extrapolation is poor (on development series half of them were off
by more than 11 % of the time left); the mean of all recent ones, weighted by steps and size, is off by 6 %. Their
spread, steps and curvature give the width of the range; its factors are quantile regressions over the same series.
"""

from __future__ import annotations

from math import exp, log, sqrt

from memwarden.assess.segments import Segment

#: Share of cases in which the true time lies between low and high.
COVERAGE = 0.8
#: The exponent of a segment of this many steps has half of its weight.
TRUST = 10.0
#: An estimate loses most of its weight over this share of the whole time, and expires after this share of its segment.
MEMORY, STALE = 0.05, 0.35
#: No forecast is shorter than this share of the segment: the last reading may be that old.
SHORTEST = 0.02


class Forecaster:
    """Weighted mean of the extrapolations of recent segments. Times are seconds of the caller's clock."""

    __slots__ = ("_at", "_bend", "_mid", "_span", "_spread", "_steps", "_wide_high", "_wide_low", "weight")

    def __init__(self) -> None:
        #: Total weight; 0 without a forecast.
        self.weight = self._mid = self._spread = self._at = self._span = self._steps = self._bend = 0.0
        self._wide_low = self._wide_high = 1.0

    def add(self, segment: Segment, headroom: float, now: float) -> None:
        """Add a segment with the headroom between it and the limit."""
        span = max(segment.end - segment.begin, 1e-9)
        left = 0.0
        if headroom > 0:
            power = 1 + (segment.power - 1) * segment.steps / (segment.steps + TRUST)
            power = min(2.5, max(0.5, power))
            left = span * ((1 + headroom / segment.size) ** (1 / power) - 1) - (now - segment.end)
        shortest = SHORTEST * span
        left = log(max(left, shortest))
        weight = segment.steps * segment.steps * segment.size
        if self.weight:
            gone = now - self._at
            before = max(self._mid - gone, shortest)
            kept = self.weight * exp(-gone / (MEMORY * (self._span + before)))
            share = weight / (kept + weight)
            before = log(before)
            off = left - before
            self._mid = exp(before + share * off)
            self._spread = (1 - share) * (self._spread + share * off * off)
            self.weight = kept + weight
            self._span += share * (span - self._span)
            self._steps += share * (segment.steps - self._steps)
            self._bend += share * (segment.power - 1 - self._bend)
        else:
            self._mid, self.weight, self._span, self._spread = exp(left), weight, span, 0.0
            self._steps, self._bend = segment.steps, segment.power - 1
        self._at = now
        bend = abs(self._bend)
        near = max(0.0, 0.5 - self._mid / self._span)
        low = 0.02 + 0.9 / self._steps + 2.1 * bend
        high = 0.02 + 0.8 / self._steps + 0.85 * sqrt(self._spread) + 1.4 * bend + 3.0 * near
        self._wide_low = exp(-min(low, 2.0))
        self._wide_high = exp(min(high, 2.0))

    def left(self, now: float) -> tuple[float, float, float] | None:
        """Return the seconds left (low, mid, high); None where nothing rises, or not for long enough."""
        if not self.weight:
            return None
        gone = now - self._at
        if gone > STALE * self._span:
            self.weight = 0.0
            return None
        mid = self._mid - gone
        if mid < SHORTEST * self._span:
            mid = SHORTEST * self._span
        return mid * self._wide_low, mid, mid * self._wide_high
