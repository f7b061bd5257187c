"""What a task will need, learned from what such tasks needed.

A footprint is learned for each kind of task (:class:`~memwarden.model.footprints.Kind`): its newest ``KEPT`` peaks with
their input sizes, the curve through them, and how far single tasks go beyond it. ``curves.py`` says how that becomes a
reservation. Here: what is kept, what is forgotten, and what is guessed before anything is known.
"""

from __future__ import annotations

import math
import os
import threading
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from memwarden.admission.footprints.regression import LEAST_POINTS, Costs, Curve, cheapest, fit, with_censored
from memwarden.errors import SettingsError
from memwarden.model.footprints import PastTask, Prediction, TaskKey, TaskOutcome
from memwarden.model.units import MIB, size_text

if TYPE_CHECKING:
    from memwarden.admission.footprints.store import FootprintStore

#: Finished tasks that are remembered of a kind, and killed ones that have not been made good.
KEPT, KEPT_KILLS = 256, 32
#: Kinds that are remembered in a process; the one that was used longest ago goes first.
KEPT_KINDS = 512
#: A repeat gets so many times what it was seen with, at least.
REPEAT = 1.5
#: Killed at so much of what it would be given now, a task had outgrown its reservation: the curve may have moved.
_OUTGROWN = 0.9
#: What is reserved beyond the ratio that was chosen: pages, arenas and what was not seen of so few (divided by n).
MARGIN, ALLOWANCE = 1.02, 0.5
#: The newest tasks, which are held against all older ones: where their ranks are this many standard deviations off
#: (once in 16000 looks by chance) and their median by so much, the code or its data has changed.
DRIFT_WINDOW, DRIFT_DEVIATIONS, DRIFT_LEAST = 16, 4.0, 0.05
#: Sooner than that: so many in a row over the reservation that the older ones ask for that chance does it once in
#: 100000 looks.
DRIFT_CHANCE = 1e-5
_PAGE = 4096
_MOST_BYTES, _MOST_SIZE = (1 << 63) - 1, 1e18


class Fit(NamedTuple):
    """What was learned of a kind: made anew when there is more, never changed."""

    curve: Curve
    #: Times the curve: the reservation, and what a repeat gets.
    ratio: float
    top: float
    #: The share of tasks within the reservation.
    quantile: float
    n: int
    seconds: float
    confidence: str
    why: str
    #: Bytes at the median size, and in the mean of all tasks.
    typical: float
    mean: float


class Footprint:
    """What is remembered of one kind, some 8 KiB."""

    def __init__(self) -> None:
        #: Of finished tasks, oldest first; a size that nobody knows is NaN.
        self.sizes, self.peaks, self.seconds = array("d"), array("d"), array("d")
        #: Size and bytes of killed ones, as long as none of their size has finished with as much.
        self.bounds: list[tuple[float, float]] = []
        #: Sizes of which one was killed and none has finished, with the bytes it was killed at. (Where some have
        #: finished, as where all are of one size, it may have been an outlier, and says little of the next.)
        self.open: dict[float | None, float] = {}
        self.finished = self.kills = self.drifts = 0
        self.fit: Fit | None = None
        #: What the version before was learned to need: goes for this one, until enough or something else is seen.
        self.former: Fit | None = None
        self._due = 0

    def take(self, size: float, peak: float, seconds: float, *, killed: bool) -> None:
        """Remember a task."""
        if killed:
            self.kills += 1
            self.bounds = [*self.bounds, (size, peak)][-KEPT_KILLS:]
            if not (size in self.sizes if size == size else any(map(math.isnan, self.sizes))):
                bound = max(peak, self.open.pop(_given(size), 0.0))
                self.open[_given(size)] = bound  # at the end
                if len(self.open) > KEPT_KILLS:
                    del self.open[next(iter(self.open))]
            self._due += 2
        else:
            self.finished += 1
            self.open.pop(_given(size), None)
            # A repeat that finished tells more than the attempt that was killed.
            self.bounds = [each for each in self.bounds if _given(each[0]) != _given(size) or peak < each[1]]
            for column, value in ((self.sizes, size), (self.peaks, peak), (self.seconds, seconds)):
                column.append(value)
                if len(column) > KEPT:
                    del column[0]
            self._due += 1
            former, known = self.former, self.fit
            if former is not None:
                usual = former.curve.at(_given(size))
                if len(self.peaks) >= LEAST_POINTS or not usual / former.top <= peak <= usual * former.top:
                    self.former = None
            if known is not None and peak > known.curve.at(_given(size)) * known.ratio:
                self._due += 2

    def take_all(self, tasks: Iterable[PastTask]) -> None:
        """Remember tasks, oldest first."""
        for size, peak, seconds, killed in tasks:
            self.take(size, max(1.0, peak), seconds, killed=killed)

    def learn(self, free: float, costs: Costs) -> None:
        """Make the fit anew where enough is new. ``free`` is bytes (see ``cheapest``)."""
        if self._due >= max(1, len(self.peaks) // 16):
            self.learn_now(free, costs)

    def learn_now(self, free: float, costs: Costs) -> None:
        """Make the fit anew."""
        self._due = 0
        if self.former is not None:
            why = f"{len(self.peaks)} finished, and as the version before: {self.former.why}"
            self.fit = self.former._replace(n=len(self.peaks), confidence="low", why=why)
            return
        if not self.peaks:
            self.fit = None
            return
        curve, ratios = self._curve()
        keep = _changed(ratios, self.fit.quantile if self.fit is not None else 0.8)
        if keep:
            self.drifts += 1
            for column in (self.sizes, self.peaks, self.seconds):
                del column[:-keep]
            self.bounds = self.bounds[-keep:]
            curve, ratios = self._curve()
        n = len(ratios)
        censored = [bound / curve.at(_given(size)) for size, bound in self.bounds]
        shares = with_censored(ratios, censored)
        typical = curve.at(median(size for size in self.sizes if size == size) if curve.sized else None)
        seconds = median(self.seconds)
        ratio, quantile = cheapest(shares, seconds=seconds, free=max(1.0, free / typical), costs=costs)
        allowance = MARGIN * (1 + ALLOWANCE / n)
        top = max(1.0, shares[-1][0]) * 1.05
        self.fit = Fit(
            curve,
            ratio * allowance,
            max(ratio, top) * allowance,
            quantile,
            n,
            seconds,
            *_words(curve, n, quantile),
            typical,
            math.fsum(self.peaks) / n,
        )

    def describe(self) -> dict[str, Any]:
        """All of it as plain data."""
        told: dict[str, Any] = {
            "finished": self.finished,
            "kills": self.kills,
            "drifts": self.drifts,
            "points": [
                {"size": _given(size), "peak_bytes": int(peak), "run_seconds": seconds}
                for size, peak, seconds in zip(self.sizes, self.peaks, self.seconds, strict=True)
            ],
            "killed": [{"size": _given(size), "at_least_bytes": int(bound)} for size, bound in self.bounds],
            "curve": None,
        }
        if self.fit is not None:
            curve = self.fit.curve
            sizes = [size for size in self.sizes if size == size] or [0.0]
            low, high = min(sizes), max(sizes)
            told["curve"] = {
                "shape": curve.shape,
                "sized": curve.sized,
                "median": [
                    {"size": size, "bytes": int(curve.at(size))}
                    for size in sorted({low + (high - low) * step / 32 for step in range(33)})
                ],
                "reserve_ratio": self.fit.ratio,
                "repeat_ratio": self.fit.top,
                "quantile": self.fit.quantile,
                "confidence": self.fit.confidence,
                "typical_bytes": int(self.fit.typical),
                "run_seconds": self.fit.seconds,
                "why": self.fit.why,
            }
        return told

    def _curve(self) -> tuple[Curve, list[float]]:
        curve = fit(self.sizes, self.peaks)
        return curve, [peak / curve.at(_given(size)) for size, peak in zip(self.sizes, self.peaks, strict=True)]


def _given(size: float) -> float | None:
    return size if size == size else None


def _changed(ratios: list[float], quantile: float) -> int:
    """How many of the newest to keep, when they do not fit to the older ones; 0 when they do.

    Ranks (Mann and Whitney 1947) do not care how far an outlier is out.
    """
    new, older = ratios[-DRIFT_WINDOW:], sorted(ratios[:-DRIFT_WINDOW])
    m, n = len(new), len(older)
    if n >= DRIFT_WINDOW and abs(math.log(median(new) / median(older))) > DRIFT_LEAST:
        above = sum((bisect_left(older, ratio) + bisect_right(older, ratio)) / 2 for ratio in new)
        if abs(above - m * n / 2) > DRIFT_DEVIATIONS * math.sqrt(m * n * (m + n + 1) / 12):
            return DRIFT_WINDOW
    outside = max(1 - quantile, 1 / len(ratios))
    run = max(4, math.ceil(math.log(DRIFT_CHANCE) / math.log(outside))) if outside < 0.5 else DRIFT_WINDOW
    before = sorted(ratios[:-run])
    if len(before) >= 2 * DRIFT_WINDOW and run < DRIFT_WINDOW:
        reserved = before[min(len(before) - 1, int(quantile * len(before)))]
        if min(ratios[-run:]) > reserved * (1 + DRIFT_LEAST):
            return run
    return 0


def _words(curve: Curve, n: int, quantile: float) -> tuple[str, str]:
    confidence = "low" if n < 8 else "fair" if n < 32 else "good"
    return confidence, f"{curve.shape}; {n} finished; {quantile:.0%} stay within the reservation, the cheapest"


class Footprints:
    """Predicts by learning; a :class:`~memwarden.protocols.Predictor`.

    ``budget`` (bytes; by default this machine's memory) and ``slots`` (tasks at once; by default its processors) may be
    changed at any time: they say what over-reserving costs, and what a first task gets. With a ``store`` it knows what
    was learned before, and keeps what it learns; what goes wrong with that never stops it (see ``trouble``).

    May be called from any thread. A prediction takes microseconds once the kind is known here; to learn takes a
    millisecond or less now and then, and what the store takes every second.
    """

    #: It may be asked again and again while a task waits, since it knows more every time.
    quick = True

    def __init__(
        self,
        *,
        budget: int | None = None,
        slots: int | None = None,
        costs: Costs | None = None,
        store: FootprintStore | None = None,
    ) -> None:
        self.budget = budget if budget is not None else _machine()
        self.slots = slots if slots is not None else os.cpu_count() or 1
        if self.budget < 1 or self.slots < 1:
            raise SettingsError(f"budget {budget!r}, slots {slots!r}: both must be more than zero")
        self._costs = costs or Costs()
        self._store = store
        self._kinds: dict[TaskKey, Footprint] = {}
        self._pid, self._lock = os.getpid(), threading.RLock()

    def predict(
        self, kind: TaskKey | str, size: float | None = None, *, at_least: int = 0, hint: int = 0
    ) -> Prediction:
        """What a task of this kind and input size should get.

        ``at_least``: bytes that an earlier attempt of this very task was seen with. Where that was as much as it would
        be given now, it gets half as much again, or what nearly all get along with; where it was less, the task was
        not killed for its own sake, and nothing is known of it. ``hint``: bytes that somebody says it needs; believed
        until three have finished.
        """
        key = _pair(kind)
        known = self._kinds.get(key) or self._footprint(key)
        if size is not None:
            size = _given(_sound(size))
        found = known.fit
        if found is None:
            return self._guess(known, size, at_least, hint)
        curve, ratio, top, quantile, n, seconds, confidence, why, _, _ = found
        middle = curve.at(size)
        reserve, most = middle * ratio, middle * top
        if known.open and (bound := known.open.get(size, 0.0)) >= reserve:
            reserve, why = max(most, bound * REPEAT), f"one of this size was killed at {size_text(bound)}; {why}"
        if at_least > reserve * _OUTGROWN:
            reserve, why = max(most, at_least * REPEAT), f"a repeat, seen with {size_text(at_least)}; {why}"
        if n < 3 and hint > reserve:
            reserve, why = hint, f"as hinted; only {n} finished"
        if size is not None and size > 2 * curve.largest and curve.sized:
            confidence, why = "low", f"the largest seen was of size {curve.largest:g}; {why}"
        reserve = _whole(reserve)
        return Prediction(reserve, int(middle), max(reserve, _whole(most)), quantile, n, seconds, confidence, why)

    def observe(
        self,
        kind: TaskKey | str,
        size: float | None,
        peak: int,
        seconds: float,
        outcome: TaskOutcome = "finished",
    ) -> None:
        """Learn from a task that has ended: its own peak in bytes, and how long it ran.

        With ``killed_at`` the peak is what it was seen with when it was ended: it needs at least that.
        """
        if outcome not in ("finished", "killed_at"):
            raise SettingsError(f"outcome {outcome!r}: 'finished' or 'killed_at'")
        if not 0 <= peak <= _MOST_BYTES or not 0 <= seconds < math.inf:
            raise SettingsError(f"peak {peak!r}, seconds {seconds!r}: neither may be negative or without end")
        key = _pair(kind)
        with self._turn():
            known = self._footprint(key)
            sound = math.nan if size is None else _sound(size)
            killed = outcome == "killed_at"
            forgot = self._learn(known, sound, max(1.0, float(peak)), seconds, killed=killed)
            if self._store is not None:
                self._store.add(key, PastTask(sound, int(peak), seconds, killed))
                if forgot:
                    self._store.forget(key, len(known.peaks))
                self._hear()

    def _learn(self, known: Footprint, size: float, peak: float, seconds: float, *, killed: bool) -> bool:
        """Whether a change was noticed, and the past forgotten."""
        known.take(size, peak, seconds, killed=killed)
        drifts = known.drifts
        known.learn(self._free(known), self._costs)
        return known.drifts > drifts

    def _hear(self) -> None:
        """Learn what other processes wrote."""
        assert self._store is not None
        for kind, task in self._store.news():
            if (known := self._kinds.get(kind)) is not None:
                self._learn(known, task.size, max(1.0, task.peak), task.seconds, killed=task.killed)

    def _free(self, known: Footprint) -> float:
        """Bytes that such a task may reserve without keeping them from anybody: the slots run out first."""
        means = [(len(each.peaks), each.fit.mean) for each in self._kinds.values() if each.fit is not None]
        if known.fit is None:
            return 0.0
        mean = sum(count * each for count, each in means) / max(1, sum(count for count, _ in means))
        return max(0.0, self.budget / self.slots - mean + known.fit.typical)

    def _guess(self, known: Footprint, size: float | None, at_least: int, hint: int) -> Prediction:
        """Nothing of this kind has finished."""
        siblings = [each.fit.typical * each.fit.ratio for each in list(self._kinds.values()) if each.fit is not None]
        share = self.budget / self.slots
        if hint:
            reserve, why = float(hint), "as hinted; none has finished"
        elif siblings:
            reserve, why = max(siblings), "none has finished; as much as the largest of the other kinds takes"
        else:
            reserve, why = share, f"nothing has finished; one of {self.slots} shares of the budget"
        middle = int(reserve)
        bound = max(at_least, known.open.get(size, 0.0))
        if bound:
            reserve, why = max(reserve, bound * REPEAT), f"killed at {size_text(bound)}; none has finished"
        whole = _whole(reserve)
        return Prediction(whole, middle, _whole(reserve * REPEAT), None, 0, 0.0, "none", why)

    def describe(self, kind: TaskKey | str) -> dict[str, Any]:
        """All that is known of a kind, as plain data: points, curve, quantile, kills, drift."""
        with self._turn():
            key = _pair(kind)
            known = self._footprint(key)
            known.learn_now(self._free(known), self._costs)
            return {"schema": 1, "kind": key.name, "version": key.version, **known.describe()}

    def kinds(self) -> list[TaskKey]:
        """The kinds that are known here."""
        return list(self._kinds)

    @property
    def trouble(self) -> str:
        """Why nothing is kept in the store at the moment; empty where nothing is wrong."""
        return "" if self._store is None else self._store.trouble

    def save(self) -> None:
        """Write to the store what it does not have yet, and learn what others wrote. Raises :class:`RecordError`."""
        if self._store is not None:
            with self._turn():
                self._store.save()
                self._hear()

    def close(self) -> None:
        """Save, and give the store's descriptors back. Raises :class:`RecordError`."""
        if self._store is not None:
            with self._turn():
                self._store.close()

    def _footprint(self, key: TaskKey) -> Footprint:
        with self._turn():
            known = self._kinds.pop(key, None)
            if known is None:
                known = Footprint()
                if self._store is not None:
                    tasks, former = self._store.load(key)
                    if former:
                        before = Footprint()
                        before.take_all(former)
                        before.learn_now(0.0, self._costs)
                        known.former = before.fit
                    known.take_all(tasks)
                    known.learn_now(0.0, self._costs)  # what else will run here, nobody knows yet
                if len(self._kinds) >= KEPT_KINDS:
                    del self._kinds[next(iter(self._kinds))]
            self._kinds[key] = known
            return known

    def _turn(self) -> threading.RLock:
        if self._pid != os.getpid():  # a thread of the parent may hold what we inherited
            self._pid, self._lock = os.getpid(), threading.RLock()
        return self._lock


class Function:
    """A function of kind and size as a predictor: ``Function(lambda kind, size: 64 * MIB + 3 * size)``.

    It learns nothing; a repeat gets half as much again as it was seen with, at least. ``None`` or 0 from the function
    leaves the task to ``otherwise``, which is told of every task that ends.
    """

    def __init__(
        self, function: Callable[[TaskKey, float | None], float | None], *, otherwise: Footprints | None = None
    ) -> None:
        self._function, self._otherwise = function, otherwise or Footprints()

    def predict(
        self, kind: TaskKey | str, size: float | None = None, *, at_least: int = 0, hint: int = 0
    ) -> Prediction:
        """What the function says. Raises :class:`SettingsError` where that is no number of bytes."""
        said = self._function(_pair(kind), size)
        if not said:
            return self._otherwise.predict(kind, size, at_least=at_least, hint=hint)
        if not 0 < said < _MOST_BYTES:
            raise SettingsError(f"prediction {said!r} for {_pair(kind).name}: must be a number of bytes above zero")
        reserve = _whole(max(said, at_least * REPEAT))
        return Prediction(
            reserve, int(said), _whole(reserve * REPEAT), None, 0, 0.0, "fair", "by the caller's function"
        )

    def observe(
        self, kind: TaskKey | str, size: float | None, peak: int, seconds: float, outcome: TaskOutcome = "finished"
    ) -> None:
        """Tell ``otherwise``."""
        self._otherwise.observe(kind, size, peak, seconds, outcome)


def _pair(kind: TaskKey | str) -> TaskKey:
    return kind if type(kind) is TaskKey else TaskKey(kind) if isinstance(kind, str) else TaskKey(*kind)


def _sound(size: float) -> float:
    """A size that can be reckoned with; NaN for what is none."""
    try:
        number = float(size)
    except OverflowError:
        return _MOST_SIZE
    return min(number, _MOST_SIZE) if number >= 0 else math.nan


def _whole(count: float) -> int:
    """Whole pages."""
    return int(min(-(-count // _PAGE) * _PAGE, _MOST_BYTES - _PAGE))


def _machine() -> int:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return max(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), MIB)
    return 1024 * MIB
