"""Leak verdicts in two stages, each with a reason that can be checked on a plot.

The detector judges the rolling minimum (:mod:`memwarden.assess.rolling_min`) over windows longer than any excursion
that came down again. A rising segment of it is *suspected* where

* it used a quarter of the headroom below the limit, counted up to where peaks would reach the limit;
* it has many steps, none of them half of it: not a model that was loaded;
* if it keeps slowing down as it does, it still uses half of the headroom: not a warm-up or a cache that is nearly full;
* the minimum was flat before, for as long as it has now been rising. Growth since the start of a process is presumed to
  be its warm-up, and has to use up to twice as much.

It is *confirmed* at half of the headroom: caches, which fill in a straight line and stop, have stopped by then or are
too large. Evidence from the process itself (:meth:`LeakDetector.evidence`) confirms earlier, or explains the growth:
a bounded cache that is still filling, a job in flight, garbage not yet collected.

A verdict is withdrawn when half of the growth was freed, or when it has stopped for twice as long as it lasted. All
quantities are shares of the headroom and of the series' own time, so there is nothing to configure.
"""

from __future__ import annotations

from math import inf

from memwarden.assess.forecast import COVERAGE, Forecaster
from memwarden.assess.program_evidence import ProgramEvidence
from memwarden.assess.reasons import NO_RISE, duration_text, size_text
from memwarden.assess.rolling_min import RollingMin
from memwarden.assess.segments import PARTS, Segment, flat_before, rising_segments
from memwarden.model.facts import ProgramMemory
from memwarden.model.units import MIB
from memwarden.model.verdicts import Forecast, LeakStage, LeakVerdict

#: Shares of the headroom that a segment must have used: to be suspected, confirmed, and confirmed with evidence.
SUSPECTED, CONFIRMED, WITH_EVIDENCE = 0.204, 0.475, 0.18
#: Additional share for a segment without a flat time before it, flat time (in lengths of the segment) that is enough,
#: the largest share required, and the part of the addition with evidence.
NOT_FLAT, FLAT_ENOUGH, NOT_FLAT_MAX, NOT_FLAT_EVIDENCE = 1.3, 1.0, 0.5, 0.7
#: Least number of steps, and largest share of a single one.
STEPS, LARGEST = 5.0, 0.5
#: Share of the headroom that a slowing segment must still be able to use.
REACH, REACH_CONFIRMED = 0.5, 0.75
#: Least share of the headroom, steps, and share of the last third, of a segment in the forecast.
FORECAST_SHARE, FORECAST_STEPS, FORECAST_LAST_THIRD = 0.08, 4.0, 0.15
#: A verdict ends when this share of the growth was freed, or after so many times its length without growth.
FREED, STOPPED = 0.5, 2.0
#: Up to this number of levels (some hundreds of readings) every reading is judged.
FEW_LEVELS = 5
#: Assumed headroom without a limit, as a share of the present value.
UNLIMITED = 0.7
#: Steps of the clock longer than so many usual ones, or back, count as one usual step; larger values are skipped.
CLOCK_STEP, LARGEST_VALUE = 20.0, 1e15

Left = tuple[float, float, float]
_STAGES = (LeakStage.NONE, LeakStage.SUSPECTED, LeakStage.CONFIRMED)


class LeakDetector:
    """Judges one series of memory in use, reading by reading. Values are MiB, times seconds."""

    def __init__(self) -> None:
        self._minima, self._forecaster = RollingMin(), Forecaster()
        self._evidence: ProgramEvidence | None = None
        self._limit: float | None = None
        #: Own time that only goes forward, for clocks that are set.
        self._now = self._step = 0.0
        self._seen: float | None = None
        self._stage = 0
        #: True if an earlier process of this series was growing at its end: then no warm-up is presumed.
        self._before = False
        self._segment: Segment | None = None
        self._headroom = self._flat = self._top = self._marked = self._moved = 0.0
        self._known = ""
        self._none_reason = NO_RISE

    def update(self, t: float, value_mib: float | None, limit_mib: float | None = None) -> tuple[int, Left | None]:
        """Add a reading; returns the stage (0, 1 suspected, 2 confirmed) and the seconds left (low, mid, high).

        ``t`` may be irregular, jump and step back; non-numbers are skipped. Without a limit there is no forecast, and
        the headroom is assumed to be a share of the present value, which is mostly far off: pass the effective limit,
        or the machine's memory.
        """
        if value_mib is None or not -LARGEST_VALUE < value_mib < LARGEST_VALUE:
            return self._stage, self._forecaster.left(self._now)
        seen, step = self._seen, self._step
        self._seen = t
        if seen is not None:
            gone = t - seen
            if 0.0 < gone <= CLOCK_STEP * step:
                self._step = step + 0.05 * (gone - step)
            elif step == 0.0 and 0.0 < gone < 1e9:
                self._step = gone
            else:
                gone = step
            self._now += gone
        if self._minima.add(value_mib):
            if limit_mib is None or not 0 < limit_mib < LARGEST_VALUE:
                self._limit = None
                self._check(value_mib, value_mib + UNLIMITED * abs(value_mib))
            else:
                self._limit = limit_mib
                self._check(value_mib, limit_mib)
        forecaster = self._forecaster
        return self._stage, forecaster.left(self._now) if forecaster.weight else None

    def restarted(self, t: float) -> None:
        """Start afresh for a process that replaced the last one at ``t``."""
        self._before = self._stage > 0 or self._was_growing()
        self._minima, self._forecaster, self._evidence = RollingMin(), Forecaster(), None
        self._stage, self._segment = 0, None
        self._none_reason = "the process was replaced"

    def evidence(self, program: ProgramMemory) -> None:
        """Add evidence from the process itself, before the reading of the same moment."""
        if self._evidence is None:
            self._evidence = ProgramEvidence()
        self._evidence.add(self._now, program)

    @property
    def reason(self) -> str:
        """The reason of the verdict."""
        if self._segment is None:
            return self._none_reason
        segment, headroom = self._segment, max(0.0, self._headroom)
        share = segment.size / (segment.size + headroom)
        words = (
            f"the rolling minimum rose {size_text(segment.size)} in {duration_text(segment.end - segment.begin)} "
            f"(from {size_text(segment.base)} to {size_text(segment.top)}) in about {segment.steps:.0f} steps, "
            f"the largest {segment.largest:.0%} of it; that is {share:.0%} of the headroom below the limit"
        )
        if segment.swing > 0.02 * segment.size:
            words += f", less peaks of {size_text(segment.swing)} above the minimum"
        if self._flat < 0.1 * (segment.end - segment.begin):
            words += "; not flat before"
        elif self._flat < inf:
            words += f"; flat for {duration_text(self._flat)} before"
        if self._known:
            words += f"; {self._known}"
        if self._top - segment.top > 0.05 * segment.size:
            words += f"; since then it rose to {size_text(self._top)}"
        return words

    @property
    def verdict(self) -> LeakVerdict:
        """The verdict as a value, in bytes and seconds."""
        segment = self._segment
        stage, reason = _STAGES[self._stage], self.reason
        if segment is None:
            return LeakVerdict(stage, reason, None, None, None, self.forecast)
        lasted = self._now - segment.begin
        return LeakVerdict(stage, reason, int(segment.base * MIB), int(self._top * MIB), lasted, self.forecast)

    @property
    def forecast(self) -> Forecast | None:
        """Seconds to the limit at this rate; None where nothing rises."""
        left = self._forecaster.left(self._now)
        return None if left is None else Forecast(*left, COVERAGE)

    def _check(self, value: float, limit: float) -> None:
        minima, now, stage = self._minima, self._now, self._stage
        least = FORECAST_SHARE * (limit - value)
        closed = minima.close(now)
        best, best_stage = None, stage
        # Each level is judged with every second window that it closes, which is when the next level closes one, and
        # with each window while there are few.
        few = len(minima.levels) <= FEW_LEVELS
        for at in range(closed if few else 0 if stage == 2 and closed < 3 else closed - 1):
            lows = minima.levels[at].lows
            count = len(lows)
            if count < PARTS:
                break
            low = lows[-1]
            if low - lows[0] <= least and low - lows[count // 3] <= least:
                continue
            forecast_by, most = None, 0.0
            for segment in rising_segments(minima, at, least, LARGEST):
                size, steps = segment.size, segment.steps
                headroom = limit - segment.swing - segment.top
                share = size / (size + headroom) if headroom > 0 else 1.0
                if share < FORECAST_SHARE:
                    continue
                weight = steps * steps * size
                if weight > most and steps >= FORECAST_STEPS and segment.thirds[2] > FORECAST_LAST_THIRD:
                    forecast_by, most = segment, weight
                if steps >= STEPS and best_stage < 2 and share >= WITH_EVIDENCE:
                    found, flat, known = self._judge(segment, share, headroom)
                    if found > best_stage:
                        best, best_stage, self._flat, self._known = segment, found, flat, known
            if forecast_by is not None and self._limit is not None:
                self._forecaster.add(forecast_by, limit - forecast_by.swing - forecast_by.top, now)
        if best is not None:
            self._stage, self._segment = best_stage, best
            self._headroom = limit - best.swing - best.top
            self._top = self._marked = best.top
            self._moved = now
        elif stage and (few or closed > 1):
            self._withdraw(now)

    def _judge(self, segment: Segment, share: float, headroom: float) -> tuple[int, float, str]:
        """Return the stage of a segment, the flat seconds before it, and the evidence of a leak."""
        evidence = self._evidence
        if evidence is None and share < (CONFIRMED if self._stage else SUSPECTED):
            return 0, inf, ""
        reach = _reach(segment)
        if reach < REACH * headroom:
            return 0, inf, ""
        now = self._now
        prior = inf
        if not self._before and share < 1.2 * CONFIRMED:
            prior = flat_before(self._minima, segment, now)
        addition = NOT_FLAT * max(0.0, 1 - prior / FLAT_ENOUGH)
        known, explained = "", False
        if evidence is not None:
            known, explained = evidence.explains(segment, headroom, now)
        early = min(NOT_FLAT_MAX, WITH_EVIDENCE * (1 + NOT_FLAT_EVIDENCE * addition))
        stage = 0
        if share >= CONFIRMED * (1 + 0.1 * addition) and reach >= REACH_CONFIRMED * headroom:
            stage = 2
        elif share >= min(NOT_FLAT_MAX, SUSPECTED * (1 + addition)):
            stage = 1
        if explained:
            stage = 0
        elif known and reach >= REACH_CONFIRMED * headroom and share >= early:
            stage = 2
        return stage, prior * (now - segment.begin), known

    def _withdraw(self, now: float) -> None:
        """Withdraw the verdict where the growth was freed, or has stopped."""
        segment = self._segment
        assert segment is not None
        lasted = now - segment.begin
        floor = segment.top
        for level in self._minima.levels:
            floor, ends = level.lows[-1], level.ends
            if len(ends) > 1 and ends[-1] - ends[-2] >= 0.04 * lasted:
                break
        self._top = max(self._top, floor)
        if self._top - self._marked > 0.1 * (self._marked - segment.base):
            self._marked, self._moved = self._top, now
        growth = size_text(self._top - segment.base)
        if floor < self._top - FREED * (self._top - segment.base):
            self._none_reason = f"{size_text(self._top - floor)} of {growth} growth were freed"
        elif now - self._moved > STOPPED * (self._moved - segment.begin):
            self._none_reason = f"growth of {growth} stopped {duration_text(now - self._moved)} ago"
        else:
            return
        self._stage, self._segment, self._known = 0, None, ""

    def _was_growing(self) -> bool:
        """Return whether the readings of this process end in growth that had not slowed down."""
        levels = self._minima.levels
        for at in range(len(levels) - 1, -1, -1):
            if len(levels[at].lows) > PARTS:
                found = rising_segments(self._minima, at, 0.05 * abs(levels[at].lows[-1]))
                return bool(found) and found[0].thirds[2] > 0.28
        return False


def _reach(segment: Segment) -> float:
    """Return the growth still to come if it keeps slowing down; infinite where it does not."""
    first, middle, last = segment.thirds
    early = first + middle / 2
    if early <= 0.5:
        return inf
    ratio = (1 - early) / early
    reach = (1 - early) * ratio / (1 - ratio)
    # The last two thirds count, too, where they slow down less: a power of time does, a filling cache does not.
    late = 0.0 if middle <= 0 else inf if last >= middle else last * last / (middle - last)
    return segment.size * max(reach, min(late, 2 * reach))


def detector() -> LeakDetector:
    """Return a new detector, the same that the engine uses."""
    return LeakDetector()
