"""When a level is entered and left: edges that a figure may swing about without the level following it.

Three things make a level flap, and each has an answer of its own.

*Noise.* The mean of the last seconds and the usual step from one reading to the next say what noise can do. A reading
over an edge that noise explains enters nothing, as long as the mean is under the edge; and a level whose edge the
mean stays under, but for noise, is left after six minutes though no reading is three points under it.

*Pauses.* A level is left when the figure stays three points under its edge: for 30 s at first. After that each pause
between two needs is remembered, eight of them, for an hour; the wait is then the one that would have cost least over
these, where a level that is undone within five minutes costs as much as :data:`PRICE` seconds at a level too high.
So a load that comes back every two minutes keeps its level, and one that comes back every hour leaves it soon.

*Bursts.* A level that was entered is kept for five minutes.

None of this delays CRITICAL: it is entered on the second reading in a row over its edge, and at once far above.
Measured in ``benchmarks/levels.py``, where the numbers come from, too.
"""

from __future__ import annotations

from collections import deque
from math import inf, isfinite
from typing import NamedTuple

#: Seconds from the first reading over an edge until MODERATE and HIGH are entered.
RISE_SECONDS = 3.0
#: Seconds that a level is kept: for a change that is undone within them is a flap.
STAY_SECONDS = 300.0
#: Seconds three points under an edge after which its level is left: where nothing is known of pauses, at least where
#: they are long, and at most.
FALL_SECONDS, LEAST_FALL_SECONDS, MOST_FALL_SECONDS = 30.0, 5.0, 600.0
#: Seconds that the mean must lie under an edge for its level to be left inside the band.
SETTLED_SECONDS = 360.0
#: Seconds at a level too high that are as bad as one flap.
PRICE = 190.0
#: So many pauses are remembered, for so many seconds; the wait is so much longer than the pause that it is to outlast.
PAUSES, FORGET_SECONDS, MARGIN = 8, 3600.0, 1.4
#: Seconds of the mean, and how many times the usual noise a single reading may be away from it.
MEAN_SECONDS, ODD = 20.0, 3.5
#: How sure it must be that the mean is under an edge, in times the usual noise. CRITICAL comes back on two readings.
SURE, SURE_OF_CRITICAL = 0.2, 0.8
#: No share is larger.
_WILD = 1e3
#: From the mean size of a step between two readings to the standard deviation of noise that makes such steps.
_STEP_TO_NOISE = 0.886


class Scale(NamedTuple):
    """Where the levels of a share begin. The first two are entered at their edge, CRITICAL above it."""

    moderate: float
    high: float
    critical: float
    #: Above this CRITICAL is entered on one reading.
    at_once: float
    #: How far under an edge a figure must be to have left it, as a share of the whole or of the edge.
    band: float
    proportional: bool = False

    def bands(self) -> tuple[float, float, float]:
        """The band of each edge."""
        edges = self.moderate, self.high, self.critical
        return tuple(edge * self.band if self.proportional else self.band for edge in edges)  # type: ignore[return-value]

    def bare(self, share: float) -> int:
        """The level of a share without memory, 0 to 3."""
        if share > self.critical:
            return 3
        return 2 if share >= self.high else 1 if share >= self.moderate else 0


#: Of a limit.
USED = Scale(0.70, 0.80, 0.90, 0.95, 0.03)
#: Of time in which all tasks wait for memory. systemd-oomd ends a group at 60 % (``DefaultMemoryPressureLimit``,
#: oomd.conf(5)); a tenth is what the presets alert at.
STALLED = Scale(0.05, 0.10, 0.40, 0.60, 0.4, proportional=True)


class _Edge:
    """One edge that is over or not."""

    __slots__ = (
        "_at_once",
        "_edge",
        "_entered",
        "_fall",
        "_odd_count",
        "_over_count",
        "_over_since",
        "_pause",
        "_pauses",
        "_settled_since",
        "_sure",
        "_tiny",
        "_under",
        "_under_since",
        "on",
    )

    def __init__(self, edge: float, band: float, at_once: float | None) -> None:
        #: ``at_once`` is None for the edges that are entered slowly.
        self._edge, self._under, self._at_once = edge, edge - band, at_once
        self._sure = SURE if at_once is None else SURE_OF_CRITICAL
        self._tiny = band / 30  # a mean comes no nearer to what it is the mean of
        self.on = False
        self._entered = -inf
        self._over_since: float | None = None
        self._under_since: float | None = None
        self._settled_since: float | None = None
        self._over_count = self._odd_count = 0
        self._fall = FALL_SECONDS
        self._pause = 0.0  # the longest stretch under the band since the figure was last over the edge
        self._pauses: deque[tuple[float, float]] = deque(maxlen=PAUSES)

    def see(self, share: float, now: float, mean: float, noise: float, first: bool) -> None:
        over = share >= self._edge if self._at_once is None else share > self._edge
        odd = share - mean > ODD * noise + self._tiny
        real = odd or mean - SURE * noise >= self._edge - self._tiny / 2  # not by noise alone
        if share >= self._under:
            if self._under_since is not None:
                self._pause = max(self._pause, now - self._under_since)
                self._under_since = None
            if over and real and self._pause:
                self._learn(now)
        elif self._under_since is None:
            self._under_since = now
        self._odd_count = self._odd_count + 1 if over and odd else 0
        if mean + self._sure * noise + self._tiny >= self._edge or self._odd_count >= 2:
            self._settled_since = None
        elif self._settled_since is None:
            self._settled_since = now
        if self.on:
            if self._leaves(now, over):
                self.on, self._over_since, self._over_count = False, None, 0
        elif self._enters(share, now, over, real, first):
            self.enter(now, first)

    def enter(self, now: float, first: bool) -> None:
        """Be over from now on; the first reading may be an outlier, and holds nothing."""
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
        """A pause is over: choose the wait that would have cost least over those that are remembered."""
        pause, self._pause = self._pause, 0.0
        if pause < FALL_SECONDS:  # waited for anyway
            return
        pauses = self._pauses
        pauses.append((now, pause))
        while now - pauses[0][0] > FORGET_SECONDS:
            pauses.popleft()
        waits = [LEAST_FALL_SECONDS, *(MARGIN * each for _, each in pauses if MARGIN * each <= MOST_FALL_SECONDS)]
        self._fall = min(waits, key=lambda wait: sum(_cost(wait, each) for _, each in pauses))


def _cost(wait: float, pause: float) -> float:
    """Seconds at a level too high during a pause, a flap counted as some."""
    if pause <= wait:
        return pause
    return wait + (PRICE if pause - wait < STAY_SECONDS else 0.0)


class Hysteresis:
    """Levels 0 to 3 of one figure that is read now and then: LOW, MODERATE, HIGH, CRITICAL.

    The first reading gives the bare level: nothing is known yet that could contradict it. Readings may come at any
    pace. Time that steps back stands still, and a figure that is not a number changes nothing.
    """

    __slots__ = ("_critical", "_high", "_last", "_mean", "_moderate", "_now", "_quiet_below", "_step", "_then", "level")

    def __init__(self, scale: Scale = USED) -> None:
        moderate, high, critical = scale.bands()
        self._moderate = _Edge(scale.moderate, moderate, None)
        self._high = _Edge(scale.high, high, None)
        self._critical = _Edge(scale.critical, critical, scale.at_once)
        self._quiet_below = scale.moderate - moderate
        #: The level, 0 to 3.
        self.level = 0
        self._then: float | None = None  # when the last reading was, on the clock that was given
        self._now = 0.0  # the same on a clock that never steps back
        self._mean = self._step = self._last = 0.0

    def update(self, t: float, percent: float) -> int:
        """Take in a reading in percent at ``t`` seconds; returns the level, 0 to 3."""
        return self.see(t, percent / 100)

    def see(self, t: float, share: float) -> int:
        """The same, of a share from 0 to 1."""
        if not -_WILD < share < _WILD:  # not a number, or none of this world
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
        self._moderate.see(share, now, mean, noise, first)
        self._high.see(share, now, mean, noise, first)
        self._critical.see(share, now, mean, noise, first)
        # Who is CRITICAL is HIGH, too: so that the levels that were entered together are left together.
        if self._critical.on and not self._high.on:
            self._high.enter(now, first)
        if self._high.on and not self._moderate.on:
            self._moderate.enter(now, first)
        self.level = 3 if self._critical.on else 2 if self._high.on else 1 if self._moderate.on else 0
        if first or self._last < self._quiet_below:  # what came in between was perhaps not told
            passed = min(passed, 1.0)
        weight = passed / (MEAN_SECONDS + passed)
        # A wild reading is no noise: one step counts three usual ones at most, and half a point.
        step = min(abs(share - self._last), 3 * self._step + 0.005)
        self._step += (step - self._step) * weight
        self._mean += (share - self._mean) * weight
        self._last = share
        return self.level


def levels() -> Hysteresis:
    """Levels of what is used of a limit."""
    return Hysteresis(USED)


def stall_levels() -> Hysteresis:
    """Levels of the time in which all tasks wait for memory (PSI ``full``)."""
    return Hysteresis(STALLED)
