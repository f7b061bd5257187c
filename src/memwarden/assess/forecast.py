"""When memory will reach its limit: a range that holds the truth in about four cases of five.

Each rise of the floor (:mod:`memwarden.assess.segments`) says when the limit would be reached if it went on as a power
of time: the exponent is that of the rise, drawn towards a straight line the fewer steps it came in. One such line is
a poor prophet (on development series half of them were off by more than 11 % of the time left); all that were seen
during the last part of the way, each with the weight of its steps and size, are off by 6 %. How far they disagree,
how few their steps and how bent they are makes the width of the range; its factors are quantile regressions over
those same series.
"""

from __future__ import annotations

from math import exp, log, sqrt

from memwarden.assess.segments import Rise

#: How often the truth is to lie between low and high.
COVERAGE = 0.8
#: A rise of this many steps is trusted half in how it bends.
TRUST = 10.0
#: An estimate loses most of its weight over this share of the whole way, and is not told after this share of its rise.
MEMORY, STALE = 0.05, 0.35
#: No time is told that is shorter than this share of the rise: the last look may be so old.
SHORTEST = 0.02
#: Slack over the quantiles of the development series, for series that are like none of them.
SLACK = 1.0


class Forecaster:
    """The weighted mean of what all rises of late foretell. Times are seconds of the caller's clock."""

    __slots__ = ("_at", "_bend", "_mid", "_span", "_spread", "_steps", "_wide_high", "_wide_low", "weight")

    def __init__(self) -> None:
        #: Of all that was taken in; 0 where nothing is foretold.
        self.weight = self._mid = self._spread = self._at = self._span = self._steps = self._bend = 0.0
        self._wide_low = self._wide_high = 1.0

    def add(self, rise: Rise, room: float, now: float) -> None:
        """Takes a rise with what is left between it and the limit."""
        span = max(rise.end - rise.begin, 1e-9)
        left = 0.0
        if room > 0:
            power = 1 + (rise.power - 1) * rise.steps / (rise.steps + TRUST)
            power = min(2.5, max(0.5, power))
            left = span * ((1 + room / rise.size) ** (1 / power) - 1) - (now - rise.end)
        shortest = SHORTEST * span
        left = log(max(left, shortest))
        weight = rise.steps * rise.steps * rise.size
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
            self._steps += share * (rise.steps - self._steps)
            self._bend += share * (rise.power - 1 - self._bend)
        else:
            self._mid, self.weight, self._span, self._spread = exp(left), weight, span, 0.0
            self._steps, self._bend = rise.steps, rise.power - 1
        self._at = now
        bend = abs(self._bend)
        near = max(0.0, 0.5 - self._mid / self._span)
        low = 0.02 + 0.9 / self._steps + 2.1 * bend
        high = 0.02 + 0.8 / self._steps + 0.85 * sqrt(self._spread) + 1.4 * bend + 3.0 * near
        self._wide_low = exp(-min(SLACK * low, 2.0))
        self._wide_high = exp(min(SLACK * high, 2.0))

    def left(self, now: float) -> tuple[float, float, float] | None:
        """Seconds left (low, mid, high); None where nothing rises, or has not for long enough."""
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
