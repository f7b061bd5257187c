"""Assessment of a sample: pressure level, trend, leak verdict and forecast.

The level is judged at every sample. The rest is judged for figures that can leak: the watched process or tree, the
container, each graphics card, and the machine where nothing else is watched. These detectors work on minima over time,
so they get samples at the asked interval only, every two seconds at most; in between their last verdict stays.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from math import inf

from memwarden.assess.forecast import COVERAGE
from memwarden.assess.leak import LeakDetector
from memwarden.assess.pressure import PressureDetector, constraints
from memwarden.assess.trend import TrendDetector
from memwarden.model.facts import ProcessMemory, ProgramMemory, TreeMemory
from memwarden.model.sample import Sample
from memwarden.model.units import MIB
from memwarden.model.verdicts import Assessment, Forecast, LeakStage, LeakVerdict, Trend

#: Leaks are judged every two seconds at most (a timer may be a little early): a sample without it costs half as much.
#: Leaks that fill the headroom in a quarter of an hour are then suspected at 0.26 of the way, at 0.24 when judged each
#: second, at 0.34 every five seconds.
LEAST_SECONDS = 1.9

_Verdicts = tuple[Trend, LeakVerdict, Forecast | None]
#: A figure that may leak: key, present owner, description, bytes, and the bytes at its limit.
_Figure = tuple[Hashable, Hashable, str, int, int | None]


class _Series:
    """One figure that may leak, and its owner."""

    __slots__ = ("leak", "left", "owner", "stage", "what")

    def __init__(self, owner: Hashable, what: str) -> None:
        self.leak = LeakDetector()
        self.owner, self.what = owner, what
        self.stage = 0
        self.left: tuple[float, float, float] | None = None

    def feed(self, now: float, value: int, full: int | None, program: ProgramMemory | None) -> None:
        """Add a reading, and the program's evidence."""
        if program is not None:
            self.leak.evidence(program)
        self.stage, self.left = self.leak.update(now, value / MIB, None if full is None else full / MIB)


class Judge:
    """Judges samples in order. Time is the samples' own.

    Another process (pid and start time) or control group than before starts afresh.
    """

    def __init__(self) -> None:
        self._pressure = PressureDetector()
        self.forget()

    def forget(self) -> None:
        """Reset the leak verdicts: in a child after fork they may be half updated."""
        self._last: _Verdicts | None = None
        self._series: dict[Hashable, _Series] = {}
        self._worst: _Series | None = None
        self._trend = TrendDetector()
        self._trended: tuple[Hashable, Hashable] | None = None  # of which figure
        self._fed = -inf

    def assess(self, sample: Sample) -> Assessment:
        """Return the verdict on the next sample."""
        found = self._pressure.assess(sample)
        now = sample.monotonic
        if not sample.between and not self._fed <= now < self._fed + LEAST_SECONDS:
            self._feed(sample, found.available)
        if self._last is None:
            return found
        trend, leak, forecast = self._last
        return found._replace(trend=trend, leak=leak, forecast=forecast)

    def _feed(self, sample: Sample, available: int | None) -> None:
        now = self._fed = sample.monotonic
        fed: list[Hashable] = []
        for slot, owner, what, value, full in self._figures(sample, available):
            series = self._series.get(slot)
            if series is None:
                series = self._series[slot] = _Series(owner, what)
            elif series.owner != owner:
                series.owner, series.what = owner, what
                series.leak.restarted(now)
            if not fed:
                self._add_to_trend(slot, owner, now, value)
            series.feed(now, value, full, sample.program if slot == "watched" else None)
            fed.append(slot)
        if len(fed) < len(self._series) and not sample.gaps:  # gone for good, and not only unread
            self._series = {slot: self._series[slot] for slot in fed}
        self._last = self._verdicts() if self._series else None

    def _figures(self, sample: Sample, available: int | None) -> Iterator[_Figure]:
        """Yield the figures that may leak; the first one has the trend."""
        tree, process, system = sample.tree, sample.process, sample.system
        if sample.gpus:  # free memory of a card is no headroom for a process
            headrooms = [each.headroom for each in constraints(sample) if not each.limit.source.startswith("gpu ")]
            available = max(0, min(headrooms)) if headrooms else None
        if tree is not None:
            used = tree.total
            what = f"tree of {_name(tree, process)}[{tree.root.pid}]"
            yield "watched", tree.root, what, used, None if available is None else used + available
        elif process is not None:
            used = process.rss
            full = None if available is None else used + available
            yield "watched", process.key, f"{process.name}[{process.key.pid}]", used, full
        for group in sample.cgroups:
            if group.limit:
                used = group.working_set
                full = None if available is None else used + available
                yield "container", group.path, f"cgroup {group.path}", used, full
                break
        if system is not None and tree is None and process is None and "watched" not in self._series:
            yield "machine", "machine", "machine", system.used, system.total
        for gpu in sample.gpus:
            yield ("gpu", gpu.uuid), gpu.uuid, f"gpu {gpu.number}", gpu.used, gpu.total or None

    def _add_to_trend(self, slot: Hashable, owner: Hashable, now: float, value: int) -> None:
        if self._trended != (slot, owner):
            self._trended, self._trend = (slot, owner), TrendDetector()
        self._trend.add(now, float(value))

    def _verdicts(self) -> _Verdicts:
        """Return the worst verdict, and the least time left, of all figures."""
        every = list(self._series.values())
        worst_stage = max(series.stage for series in every)
        worst = self._worst
        if worst not in every or worst.stage < worst_stage:  # of two equally bad ones the earlier one
            worst = self._worst = next(series for series in every if series.stage == worst_stage)
        forecast = None
        for series in every:
            if series.left is not None and (forecast is None or series.left[0] < forecast.low):
                forecast = Forecast(*series.left, COVERAGE, series.what)
        if worst_stage:
            return self._trend.trend, worst.leak.verdict._replace(what=worst.what), forecast
        reason, before = worst.leak.reason, self._last
        if before is not None and before[1].stage is LeakStage.NONE and before[1].reason is reason:
            return self._trend.trend, before[1], forecast  # the same value is written faster
        return self._trend.trend, LeakVerdict(LeakStage.NONE, reason, None, None, None, None), forecast


def _name(tree: TreeMemory, process: ProcessMemory | None) -> str:
    """Return the name of the root; "" if it has ended and other processes of the tree still run."""
    if process is not None and process.key == tree.root:
        return process.name
    return tree.names[tree.keys.index(tree.root)] if tree.root in tree.keys else ""
