"""Pressure levels with hysteresis: when a threshold counts as crossed, and when it is left again.

*Noise.* The mean of the last seconds and the mean step between readings give the noise. A reading over a threshold
that noise explains does not enter the level while the mean is below the threshold; a level is left after six minutes
of a mean below it, though no reading was three points below.

*Pauses.* A level is left when the figure stays three points below its threshold: for 30 s at first. Then each pause
between two loads is remembered, eight of them, for an hour; the wait is the one that would have cost least over these,
where a level that is entered again within five minutes costs as much as :data:`PRICE` seconds at a level too high. So a
load that returns every two minutes keeps its level, and one that returns every hour leaves it soon.

*Bursts.* A level is kept for at least five minutes.

None of this delays CRITICAL: it is entered on the second reading in a row above its threshold, and at once far above.
The constants are measured in ``benchmarks/levels.py``.
"""

from __future__ import annotations

from collections import deque
from math import inf, isfinite
from typing import NamedTuple

#: Seconds from the first reading over a threshold until MODERATE and HIGH are entered.
RISE_SECONDS = 3.0
#: Seconds that a level is kept: a change that is undone within them is a flap.
STAY_SECONDS = 300.0
#: Seconds three points below a threshold after which its level is left: without known pauses, at least, and at most.
FALL_SECONDS, LEAST_FALL_SECONDS, MOST_FALL_SECONDS = 30.0, 5.0, 600.0
#: Seconds that the mean must lie below a threshold for its level to be left inside the band.
SETTLED_SECONDS = 360.0
#: Seconds at a level too high that cost as much as one flap.
PRICE = 190.0
#: Number of remembered pauses, seconds that they are remembered, and factor from a pause to the wait that outlasts it.
PAUSES, FORGET_SECONDS, MARGIN = 8, 3600.0, 1.4
#: Seconds of the mean, and multiples of the noise that a single reading may differ from it.
MEAN_SECONDS, ODD = 20.0, 3.5
#: Margin by which the mean must be below a threshold, in multiples of the noise.
SURE, SURE_OF_CRITICAL = 0.2, 0.8
#: Larger shares are clamped.
_WILD = 1e3
#: From the mean size of a step between two readings to the standard deviation of noise that makes such steps.
_STEP_TO_NOISE = 0.886


class Scale(NamedTuple):
    """Thresholds of the levels. The first two levels are entered at their threshold, CRITICAL above it."""

    moderate: float
    high: float
    critical: float
    #: Above this CRITICAL is entered on one reading.
    at_once: float
    #: Hysteresis: each level is left this far below its threshold.
    bands: tuple[float, float, float]

    def level_of(self, share: float) -> int:
        """Return the level of a share without hysteresis, 0 to 3."""
        if share > self.critical:
            return 3
        return 2 if share >= self.high else 1 if share >= self.moderate else 0


#: Of the used share of a limit.
USED = Scale(0.70, 0.80, 0.90, 0.95, (0.03, 0.03, 0.03))
#: Of the time in which all tasks wait for memory. systemd-oomd kills a group at 60 % (``DefaultMemoryPressureLimit``,
#: oomd.conf(5)); a tenth is what the presets alert at.
STALLED = Scale(0.05, 0.10, 0.40, 0.60, (0.02, 0.04, 0.16))


class _Threshold:
    """One threshold, crossed or not."""

    def __init__(self, threshold: float, band: float, at_once: float | None) -> None:
        #: ``at_once`` is None for thresholds that are entered slowly.
        self._threshold, self._under, self._at_once = threshold, threshold - band, at_once
        self._sure = SURE if at_once is None else SURE_OF_CRITICAL
        self._tiny = band / 30  # a mean comes no nearer to what it is the mean of
        self.on = False
        self._entered = -inf
        self._over_since: float | None = None
        self._under_since: float | None = None
        self._settled_since: float | None = None
        self._over_count = self._odd_count = 0
        self._fall = FALL_SECONDS
        self._pause = 0.0  # the longest stretch under the band since the figure was last over the threshold
        self._pauses: deque[tuple[float, float]] = deque(maxlen=PAUSES)

    def add(self, share: float, now: float, mean: float, noise: float, first: bool) -> None:
        over = share >= self._threshold if self._at_once is None else share > self._threshold
        odd = share - mean > ODD * noise + self._tiny
        real = odd or mean - SURE * noise >= self._threshold - self._tiny / 2  # not by noise alone
        if share >= self._under:
            if self._under_since is not None:
                self._pause = max(self._pause, now - self._under_since)
                self._under_since = None
            if over and real and self._pause:
                self._learn(now)
        elif self._under_since is None:
            self._under_since = now
        self._odd_count = self._odd_count + 1 if over and odd else 0
        if mean + self._sure * noise + self._tiny >= self._threshold or self._odd_count >= 2:
            self._settled_since = None
        elif self._settled_since is None:
            self._settled_since = now
        if self.on:
            if self._leaves(now, over):
                self.on, self._over_since, self._over_count = False, None, 0
        elif self._enters(share, now, over, real, first):
            self.enter(now, first)

    def enter(self, now: float, first: bool) -> None:
        """Count as crossed from now on; after the first reading, which may be an outlier, without a minimum time."""
        self.on, self._entered = True, -inf if first else now

    def _enters(self, share: float, now: float, over: bool, real: bool, first: bool) -> bool:
        if self._at_once is not None:
            self._over_count = self._over_count + 1 if over else 0
            return over and (first or share > self._at_once or self._over_count >= 2)
        if share < self._under:
            self._over_since = None
        elif self._over_since is None and over and real:
            self._over_since = now
        since = self._over_since
        return (over and first) or (since is not None and now - since >= RISE_SECONDS and real)

    def _leaves(self, now: float, over: bool) -> bool:
        if over or now - self._entered < STAY_SECONDS:
            return False
        if self._pauses and now - self._pauses[-1][0] > FORGET_SECONDS:
            self._pauses.clear()
            self._fall = FALL_SECONDS
        under, settled = self._under_since, self._settled_since
        if under is not None and now - under >= self._fall:
            return True
        return settled is not None and now - settled >= max(SETTLED_SECONDS, self._fall)

    def _learn(self, now: float) -> None:
        """After a pause choose the wait that would have cost least over the remembered pauses."""
        pause, self._pause = self._pause, 0.0
        if pause < FALL_SECONDS:  # shorter than the first wait
            return
        pauses = self._pauses
        pauses.append((now, pause))
        while now - pauses[0][0] > FORGET_SECONDS:
            pauses.popleft()
        waits = [LEAST_FALL_SECONDS, *(MARGIN * each for _, each in pauses if MARGIN * each <= MOST_FALL_SECONDS)]
        self._fall = min(waits, key=lambda wait: sum(_cost(wait, each) for _, each in pauses))


def _cost(wait: float, pause: float) -> float:
    """Return the cost of a wait for a pause: seconds at a level too high, plus a flap."""
    if pause <= wait:
        return pause
    return wait + (PRICE if pause - wait < STAY_SECONDS else 0.0)


class Hysteresis:
    """Levels 0 to 3 (LOW, MODERATE, HIGH, CRITICAL) of one figure, read at any interval.

    The first reading gives the level without hysteresis. A time that steps back counts as unchanged, and a figure that
    is not a number changes nothing.
    """

    __slots__ = ("_critical", "_high", "_last", "_mean", "_moderate", "_now", "_quiet_below", "_step", "_then", "level")

    def __init__(self, scale: Scale = USED) -> None:
        moderate, high, critical = scale.bands
        self._moderate = _Threshold(scale.moderate, moderate, None)
        self._high = _Threshold(scale.high, high, None)
        self._critical = _Threshold(scale.critical, critical, scale.at_once)
        self._quiet_below = scale.moderate - moderate
        #: The level, 0 to 3.
        self.level = 0
        self._then: float | None = None  # when the last reading was, on the clock that was given
        self._now = 0.0  # the same on a clock that never steps back
        self._mean = self._step = self._last = 0.0

    def update(self, t: float, percent: float) -> int:
        """Add a reading in percent at ``t`` seconds; returns the level, 0 to 3."""
        return self.add(t, percent / 100)

    def add(self, t: float, share: float) -> int:
        """Add a reading as a share (0 to 1); returns the level, 0 to 3."""
        if not -_WILD < share < _WILD:  # not a number, or far out of range
            if share != share:
                return self.level
            share = _WILD if share > 0 else -_WILD
        then = self._then
        first = then is None
        if then is None:
            self._mean = self._last = share
            passed = 0.0
        elif share < self._quiet_below and not self.level and self._last < self._quiet_below:
            return 0
        else:
            passed = t - then if t > then and isfinite(t) else 0.0
        if isfinite(t):
            self._then = t
        elif first:
            self._then = 0.0
        self._now = now = self._now + passed
        mean, noise = self._mean, self._step * _STEP_TO_NOISE
        self._moderate.add(share, now, mean, noise, first)
        self._high.add(share, now, mean, noise, first)
        self._critical.add(share, now, mean, noise, first)
        # CRITICAL includes HIGH, so that levels that were entered together are left together.
        if self._critical.on and not self._high.on:
            self._high.enter(now, first)
        if self._high.on and not self._moderate.on:
            self._moderate.enter(now, first)
        self.level = 3 if self._critical.on else 2 if self._high.on else 1 if self._moderate.on else 0
        if first or self._last < self._quiet_below:  # readings in between may be missing
            passed = min(passed, 1.0)
        weight = passed / (MEAN_SECONDS + passed)
        # An outlier is no noise: one step counts at most as three usual ones and half a point.
        step = min(abs(share - self._last), 3 * self._step + 0.005)
        self._step += (step - self._step) * weight
        self._mean += (share - self._mean) * weight
        self._last = share
        return self.level
