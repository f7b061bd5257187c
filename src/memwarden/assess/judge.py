"""Everything that is judged of a sample: its level, and where memory is going.

The level is judged at every look. Trend, leak verdict and time left are judged of what can leak: the watched process or
tree, the container, each graphics card, and the machine where nothing else is watched. These judge by floors over
time, so they are fed at the asked interval and no more often than they need; other looks leave what they told as it
is.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from math import inf
from typing import TYPE_CHECKING

from memwarden.assess.pressure import PressureDetector, constraints
from memwarden.assess.reasons import NO_RISE
from memwarden.assess.trend import TrendDetector
from memwarden.model.facts import ProcessMemory, ProgramMemory, TreeMemory
from memwarden.model.sample import Sample
from memwarden.model.units import MIB
from memwarden.model.verdicts import Assessment, Forecast, LeakStage, LeakVerdict, Trend

if TYPE_CHECKING:
    from memwarden.assess.leak import LeakDetector

#: What leaks is judged every two seconds at most (a timer may be a little early): a look in which nothing is judged
#: costs half as much. Leaks that fill the room in a quarter of an hour are suspected at 0.26 of the way then, at 0.24
#: when judged each second, at 0.34 every five seconds; at a pace that slows down with the age forecasts are worse.
LEAST_SECONDS = 1.9

_Fed = tuple[float, int, int | None, ProgramMemory | None]
_Told = tuple[Trend, LeakVerdict, Forecast | None]
#: One figure that may leak: which it is, whose it is now, its words, bytes, and the bytes at which it is full.
_Figure = tuple[Hashable, Hashable, str, int, int | None]


class _Series:
    """One figure that may leak, and whose it is.

    A single reading says nothing, so the detector is made for the second one (and imported: 4 of the 54 ms from a
    program's import of memwarden to its first sample).
    """

    __slots__ = ("_first", "_leak", "left", "owner", "stage", "what")

    def __init__(self, owner: Hashable, what: str) -> None:
        self._first: _Fed | None = None
        self._leak: LeakDetector | None = None
        self.owner, self.what = owner, what
        self.stage = 0
        self.left: tuple[float, float, float] | None = None

    @property
    def leak(self) -> LeakDetector:
        """The detector, which knows all that was fed."""
        if self._leak is None:
            from memwarden.assess.leak import LeakDetector

            self._leak = LeakDetector()
            if self._first is not None:
                self._pass_on(self._leak, *self._first)
        return self._leak

    @property
    def reason(self) -> str:
        """Why it is judged as it is."""
        return NO_RISE if self._leak is None else self._leak.reason

    def feed(self, now: float, value: int, full: int | None, program: ProgramMemory | None) -> None:
        """The next reading, and what the program tells of it."""
        if self._leak is None and self._first is None:
            self._first = now, value, full, program
        else:
            self._pass_on(self.leak, now, value, full, program)

    def _pass_on(
        self, leak: LeakDetector, now: float, value: int, full: int | None, program: ProgramMemory | None
    ) -> None:
        if program is not None:
            _evidence(leak, program)
        self.stage, self.left = leak.update(now, value / MIB, None if full is None else full / MIB)


class Judge:
    """Judges samples in order, by the very detectors that can be had alone. Time is the samples' own.

    A process that is another one than before (pid and start), or another control group, begins anew.
    """

    def __init__(self) -> None:
        self._pressure = PressureDetector()
        self.forget()

    def forget(self) -> None:
        """Begin anew with what leaks: in a child after fork, where this may have been left half done."""
        self._told: _Told | None = None
        self._series: dict[Hashable, _Series] = {}
        self._worst: _Series | None = None
        self._trend = TrendDetector()
        self._trended: tuple[Hashable, Hashable] | None = None  # whose trend it is
        self._fed = -inf

    def assess(self, sample: Sample) -> Assessment:
        """The verdict on the next sample."""
        found = self._pressure.assess(sample)
        now = sample.monotonic
        if not sample.between and not self._fed <= now < self._fed + LEAST_SECONDS:
            self._feed(sample, found.available)
        return found if self._told is None else _whole(found, self._told)

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
                self._follow(slot, owner, now, value)
            series.feed(now, value, full, sample.program if slot == "watched" else None)
            fed.append(slot)
        if len(fed) < len(self._series) and not sample.gaps:  # what is gone for good, and not only unread
            self._series = {slot: self._series[slot] for slot in fed}
        self._told = self._tell() if self._series else None

    def _figures(self, sample: Sample, available: int | None) -> Iterator[_Figure]:
        """What may leak; the one whose trend is told first."""
        tree, process, system = sample.tree, sample.process, sample.system
        if sample.gpus:  # what a card leaves is no room for a process
            rooms = [each.headroom for each in constraints(sample) if not each.limit.source.startswith("gpu ")]
            available = max(0, min(rooms)) if rooms else None
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

    def _follow(self, slot: Hashable, owner: Hashable, now: float, value: int) -> None:
        if self._trended != (slot, owner):
            self._trended, self._trend = (slot, owner), TrendDetector()
        self._trend.add(now, float(value))

    def _tell(self) -> _Told:
        """The gravest verdict, and the least time left, of all that may leak."""
        every = list(self._series.values())
        grave = max(series.stage for series in every)
        worst = self._worst
        if worst not in every or worst.stage < grave:  # of two as grave the one that was told before
            worst = self._worst = next(series for series in every if series.stage == grave)
        forecast = None
        for series in every:
            if series.left is not None and (forecast is None or series.left[0] < forecast.low):
                from memwarden.assess.forecast import COVERAGE

                forecast = Forecast(*series.left, COVERAGE, series.what)
        if grave:
            return self._trend.trend, worst.leak.verdict._replace(what=worst.what), forecast
        reason, before = worst.reason, self._told
        if before is not None and before[1].stage is LeakStage.NONE and before[1].reason is reason:
            return self._trend.trend, before[1], forecast  # the same value is written faster
        return self._trend.trend, LeakVerdict(LeakStage.NONE, reason, None, None, None, None), forecast


def _evidence(leak: LeakDetector, program: ProgramMemory) -> None:
    retained = None if program.retained is None else program.retained / MIB
    leak.evidence(
        caches=program.caches,
        all_caches=program.all_caches,
        active=program.active,
        collections=program.collections,
        calls=program.calls,
        retained_mib=retained,
    )


def _name(tree: TreeMemory, process: ProcessMemory | None) -> str:
    """What its root is called; nothing where it has ended, and others of the tree live on."""
    if process is not None and process.key == tree.root:
        return process.name
    return tree.names[tree.keys.index(tree.root)] if tree.root in tree.keys else ""


def _whole(found: Assessment, told: _Told) -> Assessment:
    level, raw, binding, effective, available, since, stalls, *_ = found
    return Assessment(level, raw, binding, effective, available, since, stalls, *told)
