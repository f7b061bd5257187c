"""``MemoryTracker``: a program's memory at points that it names, against a baseline, and the peaks between them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from memwarden.assess.trend import trend_of
from memwarden.engine.warden import Warden
from memwarden.guards.measure.advice import advice
from memwarden.guards.measure.call_stats import growths
from memwarden.guards.measure.peak_rss import PeakScope, PeakScopes, marks
from memwarden.model.calls import CallGrowth
from memwarden.model.verdicts import Reading, Trend
from memwarden.process.fork_hooks import reset_after_fork
from memwarden.readers.gc_objects import GcObjects, census

#: Snapshots that are kept; the oldest go first.
SNAPSHOTS = 1000
#: A peak is a spike when it is above the average of the snapshots by this factor.
SPIKE = 1.5


class Snapshot(NamedTuple):
    """Memory at one point of a program. Sizes are bytes; None: it could not be read."""

    label: str
    #: Seconds since the epoch.
    wall: float
    #: Resident now, and the most that was resident since the snapshot before.
    rss: int
    peak: int
    vms: int | None
    #: What this process may still take, the limit that is nearest to being passed, and whose that is.
    available: int | None
    limit: int | None
    source: str
    swap_used: int | None
    #: Objects that the cycle collector knows, and how many seconds ago they were counted.
    objects: int
    objects_age: float
    #: Resident against the baseline; None before there is one.
    delta: int | None


class Analysis(NamedTuple):
    """What the snapshots say together. Sizes are bytes."""

    snapshots: int
    #: Resident at the baseline; None where none was set.
    baseline: int | None
    current: int
    #: The most that was resident since the baseline, or since the first snapshot.
    peak: int
    average: float
    #: Between the first kept snapshot and the last, for each step.
    growth_per_snapshot: float
    #: Snapshots before which, or at which, memory was above :data:`SPIKE` times the average.
    spikes: tuple[Snapshot, ...]
    objects: int
    objects_age: float
    #: Where the snapshots are going; its slope is bytes a second.
    trend: Trend
    #: What could be done, computed from all this and from what stays of the calls of measured functions.
    advice: tuple[str, ...]


def _look() -> Reading:
    warden = Warden()
    try:
        return warden.look()
    finally:
        warden.close()


class MemoryTracker:
    """Takes snapshots, and knows the peak between them from the kernel, not from looking often.

    ::

        tracker = MemoryTracker()
        tracker.set_baseline()
        rows = load()
        tracker.take_snapshot("loaded")
        print(tracker.growth, tracker.peak, tracker.analyze())

    It begins with the first of these calls, and ends with :meth:`close`, with ``with``, or when it is forgotten. Any
    thread may use it; after a fork peaks count from the fork. Where memory cannot be read these methods raise
    :class:`~memwarden.errors.ReadError`.
    """

    def __init__(
        self,
        *,
        most: int = SNAPSHOTS,
        look: Callable[[], Reading] = _look,
        objects: GcObjects = census,
        wall: Callable[[], float] = time.time,
        board: PeakScopes = marks,
        grown: Callable[[], Iterable[CallGrowth]] = growths,
    ) -> None:
        self._look, self._census, self._wall, self._board = look, objects, wall, board
        self._growths = grown
        self._kept: deque[Snapshot] = deque(maxlen=most)
        self._baseline: Snapshot | None = None
        self._lock = threading.RLock()
        #: What measures since the baseline, and what since the last snapshot.
        self._whole: PeakScope | None = None
        self._part: PeakScope | None = None
        reset_after_fork(self)

    def set_baseline(self) -> Snapshot:
        """Count growth and peak from here; called again, from there."""
        with self._lock:
            self.close()
            self._baseline = None
            self._baseline = self._snapshot("baseline")._replace(delta=0)
            return self._baseline

    def take_snapshot(self, label: str = "") -> Snapshot:
        """Memory now, under a name of yours; kept."""
        with self._lock:
            snapshot = self._snapshot(label)
            self._kept.append(snapshot)
            return snapshot

    def now(self) -> Snapshot:
        """Memory now, not kept; the next snapshot's peak counts from the one before all the same."""
        with self._lock:
            return self._snapshot("", keep_part=True)

    def _snapshot(self, label: str, *, keep_part: bool = False) -> Snapshot:
        if self._part is None:
            self._begin()
        part = self._part
        assert part is not None
        peak, rss = self._board.peak(part)
        if not keep_part:
            self._board.drop(part)
            self._part = self._board.open(self, background=True)
        with self._board.unseen() if self._census.due else contextlib.nullcontext():
            objects, age = self._census.objects()
        sample, assessment = self._look()
        binding = assessment.binding
        return Snapshot(
            label=label,
            wall=self._wall(),
            rss=rss,
            peak=peak,
            vms=None if sample.process is None else sample.process.vms,
            available=assessment.available,
            limit=None if binding is None else binding.limit.bytes,
            source="" if binding is None else binding.limit.source,
            swap_used=None if sample.system is None else sample.system.swap_used,
            objects=objects,
            objects_age=age,
            delta=None if self._baseline is None else rss - self._baseline.rss,
        )

    @property
    def baseline(self) -> Snapshot | None:
        """The one that growth is counted from."""
        return self._baseline

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """Those that were taken, oldest first."""
        with self._lock:
            return tuple(self._kept)

    @property
    def peak(self) -> int:
        """The most that was resident since the baseline, up to now."""
        with self._lock:
            if self._whole is None:
                self._begin()
            assert self._whole is not None
            return self._board.peak(self._whole)[0]

    def _begin(self) -> None:
        self._whole = self._board.open(self, background=True)
        self._part = self._board.open(self, background=True)

    @property
    def growth(self) -> int | None:
        """Resident now against the baseline; None before there is one."""
        return None if self._baseline is None else self.delta()

    def delta(self, since: str | None = None) -> int:
        """Resident now against the newest snapshot of this name, or the baseline. Raises KeyError where none is."""
        with self._lock:
            before = self._baseline
            if since is not None:
                before = next((each for each in reversed(self._kept) if each.label == since), None)
            if before is None:
                raise KeyError("no baseline was set" if since is None else f"no snapshot is called {since!r}")
            if self._whole is None:
                self._begin()
            assert self._whole is not None
            return self._board.peak(self._whole)[1] - before.rss

    def analyze(self) -> Analysis | None:
        """What the snapshots say together; None for fewer than two."""
        with self._lock:
            kept = tuple(self._kept)
            if len(kept) < 2:
                return None
            average = sum(each.rss for each in kept) / len(kept)
            spikes = tuple(each for each in kept if each.peak > SPIKE * average)
            trend = trend_of([(each.wall, each.rss) for each in kept])
            return Analysis(
                snapshots=len(kept),
                baseline=None if self._baseline is None else self._baseline.rss,
                current=kept[-1].rss,
                peak=self.peak,
                average=average,
                growth_per_snapshot=(kept[-1].rss - kept[0].rss) / (len(kept) - 1),
                spikes=spikes,
                objects=kept[-1].objects,
                objects_age=kept[-1].objects_age,
                trend=trend,
                advice=advice(kept, spikes, trend, self._growths()),
            )

    def close(self) -> None:
        """Measure no longer; what was kept stays."""
        with self._lock:
            for mark in (self._whole, self._part):
                if mark is not None:
                    self._board.drop(mark)
            self._whole = self._part = None

    def __enter__(self) -> MemoryTracker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def after_fork(self) -> None:
        """In a child: the lock may be held by a thread of the parent."""
        self._lock = threading.RLock()
