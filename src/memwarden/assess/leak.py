"""Is it a leak? Two stages, each with its reason in words that can be checked on a plot.

What is looked at is the floor line (:mod:`memwarden.assess.rolling_min`): what memory came down to, over stretches that are
longer than anything that came down again before. A rise of that line is *suspected* where

* it took a quarter of the room that there was to the limit. Room is counted up to where peaks would touch the limit;
* it came in many steps, none of them half of it: not a model that was loaded;
* if it keeps slowing down as it does, it still gets half of the way: not a warm-up, not a cache near its end;
* the floor had been calm before, for as long as it has now been rising. Growth from the start of a process on is
  presumed to be its warm-up, and has to take up to twice as much.

It is *confirmed* at half of the room: what fills up straight and then stops, as caches do, has stopped by then or
was too large. What is known inside the process (:meth:`LeakDetector.evidence`) confirms earlier, or acquits: a bounded
cache that is still filling, a job still in flight and garbage not yet collected explain a rise.

A verdict is taken back when half of the rise was given back, or when it has stopped for twice as long as it lasted.
Everything is a share of the room and of the series' own time: there is nothing to set.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from memwarden.assess.forecast import COVERAGE, Forecaster
from memwarden.assess.program_evidence import ProgramEvidence
from memwarden.assess.reasons import NO_RISE, duration, size_words
from memwarden.assess.rolling_min import RollingMin
from memwarden.assess.segments import PARTS, Rise, calm_before, rises
from memwarden.model.units import MIB
from memwarden.model.verdicts import Forecast, LeakStage, LeakVerdict

#: Shares of the room that a rise must have taken: to be suspected, confirmed, and confirmed by evidence from inside.
SUSPECTED, CONFIRMED, INSIDE = 0.204, 0.475, 0.18
#: How much more is asked of a rise that no calm went before, how long a calm (in lengths of the rise) is enough, the
#: most that is asked, and how much of it where there is evidence from inside.
UNCALM, CALM_ENOUGH, UNCALM_MOST, UNCALM_INSIDE = 1.3, 1.0, 0.5, 0.7
#: Steps that a rise must have come in, and what no single one may make of it.
STEPS, LARGEST = 5.0, 0.5
#: What a rise that slows down must still be able to reach, as a share of the room.
REACH, REACH_CONFIRMED = 0.5, 0.75
#: Rises below this share of the room, of fewer steps, or that have nearly stopped are not foretold either.
SEEN, SEEN_STEPS, SEEN_LAST_THIRD = 0.08, 4.0, 0.15
#: A verdict ends when this share of the rise was given back, or nothing was added for so many times its length.
GIVEN_BACK, STOPPED = 0.5, 2.0
#: While the ladder has no more levels than these, every look counts (some hundreds of readings).
YOUNG = 5
#: Where no limit is known: the room, as a share of the present value.
UNLIMITED = 0.7
#: Steps of the clock beyond so many usual ones, or back, count as one usual step; no series is larger than this.
CLOCK_STEP, LARGEST_VALUE = 20.0, 1e15

Left = tuple[float, float, float]
_STAGES = (LeakStage.NONE, LeakStage.SUSPECTED, LeakStage.CONFIRMED)


class LeakDetector:
    """Judges one series of memory in use, reading by reading. Values are MiB, times seconds."""

    __slots__ = (
        "_before", "_calm", "_floors", "_forecaster", "_inside", "_known", "_limit", "_marked", "_moved", "_now",
        "_rise", "_room", "_seen", "_stage", "_step", "_top", "_was",
    )  # fmt: skip

    def __init__(self) -> None:
        self._floors, self._forecaster = RollingMin(), Forecaster()
        self._inside: ProgramEvidence | None = None
        self._limit: float | None = None
        #: A time of its own that only goes forward, for clocks that are set.
        self._now = self._step = 0.0
        self._seen: float | None = None
        self._stage = 0
        #: Whether an earlier process of this series was still growing at its end: then no warm-up is presumed.
        self._before = False
        self._rise: Rise | None = None
        self._room = self._calm = self._top = self._marked = self._moved = 0.0
        self._known = ""
        self._was = NO_RISE

    def update(self, t: float, value_mib: float | None, limit_mib: float | None = None) -> tuple[int, Left | None]:
        """Takes a reading; returns the stage (0, 1 suspected, 2 confirmed) and seconds left (low, mid, high).

        ``t`` may be irregular, jump and step back; what is no number is passed over. Without a limit no time is told,
        and the room is taken to be a share of the present value, which is far from the truth in most cases: give one
        where there is one (the effective limit, the machine's memory).
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
        if self._floors.add(value_mib):
            if limit_mib is None or not 0 < limit_mib < LARGEST_VALUE:
                self._limit = None
                self._look(value_mib, value_mib + UNLIMITED * abs(value_mib))
            else:
                self._limit = limit_mib
                self._look(value_mib, limit_mib)
        forecaster = self._forecaster
        return self._stage, forecaster.left(self._now) if forecaster.weight else None

    def restarted(self, t: float) -> None:
        """Another process has taken its place; ``t`` is when."""
        self._before = self._stage > 0 or self._still_grew()
        self._floors, self._forecaster, self._inside = RollingMin(), Forecaster(), None
        self._stage, self._rise = 0, None
        self._was = "the process was replaced"

    def evidence(
        self,
        *,
        caches: Iterable[tuple[float, float | None]] | None = None,
        all_caches: bool = True,
        active: int | None = None,
        collections: int | None = None,
        calls: int | None = None,
        retained_mib: float | None = None,
    ) -> None:
        """Tells what is known inside the process now, before the reading of the same moment; each where it is known.

        ``caches``: of each cache its entries and the most it may hold (None: it has no bound, and is no excuse). Where
        they are ``all_caches`` that matter, a rise during which none of them filled is held to be no cache's.
        ``active``: tasks or requests in flight.
        ``collections``: full garbage collections so far.
        ``calls``: tasks or requests done so far; the reason then says how much each of them kept.
        ``retained_mib``: what Python objects hold, as tracemalloc or a census of containers counts it.
        """
        if self._inside is None:
            self._inside = ProgramEvidence()
        self._inside.tell(self._now, caches, all_caches, active, collections, calls, retained_mib)

    @property
    def reason(self) -> str:
        """Why it is judged as it is, in words."""
        if self._rise is None:
            return self._was
        rise, room = self._rise, max(0.0, self._room)
        share = rise.size / (rise.size + room)
        words = (
            f"the floor rose {size_words(rise.size)} in {duration(rise.end - rise.begin)} "
            f"(from {size_words(rise.base)} to {size_words(rise.top)}) in about {rise.steps:.0f} steps, "
            f"the largest {rise.largest:.0%} of it; that is {share:.0%} of the room there was below the limit"
        )
        if rise.swing > 0.02 * rise.size:
            words += f", counted to where peaks of {size_words(rise.swing)} above the floor touch it"
        if self._calm < 0.1 * (rise.end - rise.begin):
            words += "; no calm went before it"
        elif self._calm < inf:
            words += f"; before, it was calm for {duration(self._calm)}"
        if self._known:
            words += f"; {self._known}"
        if self._top - rise.top > 0.05 * rise.size:
            words += f"; since then it went on to {size_words(self._top)}"
        return words

    @property
    def verdict(self) -> LeakVerdict:
        """The verdict as a value, in bytes and seconds."""
        rise = self._rise
        stage, reason = _STAGES[self._stage], self.reason
        if rise is None:
            return LeakVerdict(stage, reason, None, None, None, self.forecast)
        lasted = self._now - rise.begin
        return LeakVerdict(stage, reason, int(rise.base * MIB), int(self._top * MIB), lasted, self.forecast)

    @property
    def forecast(self) -> Forecast | None:
        """Seconds to the limit if it goes on so; None where nothing rises."""
        left = self._forecaster.left(self._now)
        return None if left is None else Forecast(*left, COVERAGE)

    def _look(self, value: float, limit: float) -> None:
        floors, now, stage = self._floors, self._now, self._stage
        least = SEEN * (limit - value)
        closed = floors.close(now)
        best, best_stage = None, stage
        # Each level is looked at with every second stretch that it closes, which is when the next one closes one, and
        # with each while there are few.
        young = len(floors.levels) <= YOUNG
        for at in range(closed if young else 0 if stage == 2 and closed < 3 else closed - 1):
            lows = floors.levels[at].lows
            count = len(lows)
            if count < PARTS:
                break
            low = lows[-1]
            if low - lows[0] <= least and low - lows[count // 3] <= least:
                continue
            told, most = None, 0.0
            for rise in rises(floors, at, least, LARGEST):
                size, steps = rise.size, rise.steps
                room = limit - rise.swing - rise.top
                share = size / (size + room) if room > 0 else 1.0
                if share < SEEN:
                    continue
                weight = steps * steps * size
                if weight > most and steps >= SEEN_STEPS and rise.thirds[2] > SEEN_LAST_THIRD:
                    told, most = rise, weight
                if steps >= STEPS and best_stage < 2 and share >= INSIDE:
                    found, calm, known = self._judge(rise, share, room)
                    if found > best_stage:
                        best, best_stage, self._calm, self._known = rise, found, calm, known
            if told is not None and self._limit is not None:
                self._forecaster.add(told, limit - told.swing - told.top, now)
        if best is not None:
            self._stage, self._rise = best_stage, best
            self._room = limit - best.swing - best.top
            self._top = self._marked = best.top
            self._moved = now
        elif stage and (young or closed > 1):
            self._hold(now)

    def _judge(self, rise: Rise, share: float, room: float) -> tuple[int, float, str]:
        """The stage that a rise stands for, the seconds of calm before it, and what is known inside against it."""
        inside = self._inside
        if inside is None and share < (CONFIRMED if self._stage else SUSPECTED):
            return 0, inf, ""
        reach = _reach(rise)
        if reach < REACH * room:
            return 0, inf, ""
        now = self._now
        prior = inf
        if not self._before and share < 1.2 * CONFIRMED:
            prior = calm_before(self._floors, rise, now)
        uncalm = UNCALM * max(0.0, 1 - prior / CALM_ENOUGH)
        known, explained = "", False
        if inside is not None:
            known, explained = inside.explains(rise, room, now)
        early = min(UNCALM_MOST, INSIDE * (1 + UNCALM_INSIDE * uncalm))
        stage = 0
        if share >= CONFIRMED * (1 + 0.1 * uncalm) and reach >= REACH_CONFIRMED * room:
            stage = 2
        elif share >= min(UNCALM_MOST, SUSPECTED * (1 + uncalm)):
            stage = 1
        if explained:
            stage = 0
        elif known and reach >= REACH_CONFIRMED * room and share >= early:
            stage = 2
        return stage, prior * (now - rise.begin), known

    def _hold(self, now: float) -> None:
        """Takes the verdict back where the rise was given back, or has stopped."""
        rise = self._rise
        assert rise is not None
        lasted = now - rise.begin
        floor = rise.top
        for level in self._floors.levels:
            floor, ends = level.lows[-1], level.ends
            if len(ends) > 1 and ends[-1] - ends[-2] >= 0.04 * lasted:
                break
        self._top = max(self._top, floor)
        if self._top - self._marked > 0.1 * (self._marked - rise.base):
            self._marked, self._moved = self._top, now
        if floor < self._top - GIVEN_BACK * (self._top - rise.base):
            self._was = f"{size_words(self._top - floor)} of a rise of {size_words(self._top - rise.base)} came back"
        elif now - self._moved > STOPPED * (self._moved - rise.begin):
            self._was = f"a rise of {size_words(self._top - rise.base)} stopped {duration(now - self._moved)} ago"
        else:
            return
        self._stage, self._rise, self._known = 0, None, ""

    def _still_grew(self) -> bool:
        """Whether what is known of this process ends in a rise that had not slowed down."""
        levels = self._floors.levels
        for at in range(len(levels) - 1, -1, -1):
            if len(levels[at].lows) > PARTS:
                found = rises(self._floors, at, 0.05 * abs(levels[at].lows[-1]))
                return bool(found) and found[0].thirds[2] > 0.28
        return False


def _reach(rise: Rise) -> float:
    """How much a rise would still add if it kept slowing down as it did: without end where it did not."""
    first, middle, last = rise.thirds
    early = first + middle / 2
    if early <= 0.5:
        return inf
    ratio = (1 - early) / early
    reach = (1 - early) * ratio / (1 - ratio)
    # The last two thirds speak too, where they slow down less: a power of time does, a cache that fills does not.
    late = 0.0 if middle <= 0 else inf if last >= middle else last * last / (middle - last)
    return rise.size * max(reach, min(late, 2 * reach))


def detector() -> LeakDetector:
    """A fresh detector: the very one that the engine uses."""
    return LeakDetector()
