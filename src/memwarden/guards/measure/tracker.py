"""``MemoryTracker``: labelled snapshots of a program's memory against a baseline, with the peaks between them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from memwarden.assess.trend import trend_of
from memwarden.engine.warden import Warden
from memwarden.guards.measure.call_stats import growths
from memwarden.guards.measure.peak_rss import PeakScope, PeakScopes, peak_scopes
from memwarden.model.calls import CallGrowth
from memwarden.model.units import MIB, size_text
from memwarden.model.verdicts import Reading, Trend
from memwarden.process.fork_hooks import reset_after_fork
from memwarden.readers.gc_objects import GcObjects, gc_objects

#: Snapshots that are kept; the oldest are dropped first.
SNAPSHOTS = 1000
#: A peak is a spike when it is above the average of the snapshots by this factor.
SPIKE = 1.5
#: Growth is reported from this much on, and from this share of all that grew.
LEAST_GROWTH, GROWTH_SHARE = MIB, 0.1
#: At most so many functions, and so many spikes, are named.
MOST_NAMED = 3
#: Less than this share of the limit available is reported.
LITTLE_AVAILABLE = 0.2


class Snapshot(NamedTuple):
    """Memory at one point of a program. Sizes are bytes; None: could not be read."""

    label: str
    #: Seconds since the epoch.
    wall: float
    #: Resident now, and the highest resident size since the snapshot before.
    rss: int
    peak: int
    vms: int | None
    #: Bytes that this process may still take, the limit that leaves least, and its source.
    available: int | None
    limit: int | None
    source: str
    swap_used: int | None
    #: Objects that the garbage collector tracks, and how many seconds ago they were counted.
    objects: int
    objects_age: float
    #: Resident less the baseline; None before there is one.
    delta: int | None


class Analysis(NamedTuple):
    """Summary of the snapshots. Sizes are bytes."""

    snapshots: int
    #: Resident at the baseline; None where none was set.
    baseline: int | None
    current: int
    #: Highest resident size since the baseline, or since the first snapshot.
    peak: int
    average: float
    #: Between the first kept snapshot and the last, per step.
    growth_per_snapshot: float
    #: Snapshots with a peak above :data:`SPIKE` times the average.
    spikes: tuple[Snapshot, ...]
    objects: int
    objects_age: float
    #: Trend of the resident size; its slope is bytes per second.
    trend: Trend
    #: Suggestions, computed from all this and from the growth of measured functions.
    advice: tuple[str, ...]


def _read() -> Reading:
    with contextlib.closing(Warden()) as warden:
        return warden.sample()


class MemoryTracker:
    """Takes snapshots; the peaks between them are the kernel's and need no sampling.

    ::

        tracker = MemoryTracker()
        tracker.set_baseline()
        rows = load()
        tracker.take_snapshot("loaded")
        print(tracker.growth, tracker.peak, tracker.analyze())

    It starts with the first of these calls, and stops with :meth:`close`, with ``with``, or when it is collected.
    Thread-safe; after a fork peaks count from the fork. Where memory cannot be read these methods raise
    :class:`~memwarden.errors.ReadError`.
    """

    def __init__(
        self,
        *,
        most: int = SNAPSHOTS,
        read: Callable[[], Reading] = _read,
        objects: GcObjects = gc_objects,
        wall: Callable[[], float] = time.time,
        scopes: PeakScopes = peak_scopes,
    ) -> None:
        self._read, self._census, self._wall, self._scopes = read, objects, wall, scopes
        self._kept: deque[Snapshot] = deque(maxlen=most)
        self._baseline: Snapshot | None = None
        self._lock = threading.RLock()
        #: The scopes since the baseline, and since the last snapshot.
        self._whole: PeakScope | None = None
        self._part: PeakScope | None = None
        reset_after_fork(self)

    def set_baseline(self) -> Snapshot:
        """Count growth and peak from now on; may be called again."""
        with self._lock:
            self.close()
            self._baseline = None
            self._baseline = self._snapshot("baseline")._replace(delta=0)
            return self._baseline

    def take_snapshot(self, label: str = "") -> Snapshot:
        """Return memory now and keep it under a label."""
        with self._lock:
            snapshot = self._snapshot(label)
            self._kept.append(snapshot)
            return snapshot

    def now(self) -> Snapshot:
        """Return memory now without keeping it; the next snapshot's peak still counts from the one before."""
        with self._lock:
            return self._snapshot("", keep_part=True)

    def _snapshot(self, label: str, *, keep_part: bool = False) -> Snapshot:
        self._start()
        # Before the resident size is read: memory that our own work leaves with the allocator (8 bytes per object for
        # the count) would else be growth of the program, between this snapshot and the next.
        with self._scopes.excluded() if self._census.due else contextlib.nullcontext():
            objects, age = self._census.objects()
        sample, assessment = self._read()
        binding = assessment.binding
        part = self._part
        assert part is not None
        peak, rss = self._scopes.peak(part)
        if not keep_part:
            self._scopes.drop(part)
            self._part = self._scopes.open(self, background=True)
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
        """The snapshot that growth is counted from."""
        return self._baseline

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """The kept snapshots, oldest first."""
        with self._lock:
            return tuple(self._kept)

    @property
    def peak(self) -> int:
        """Highest resident size since the baseline, up to now."""
        return self._peak_and_rss()[0]

    def _peak_and_rss(self) -> tuple[int, int]:
        with self._lock:
            self._start()
            assert self._whole is not None
            return self._scopes.peak(self._whole)

    def _start(self) -> None:
        if self._whole is None:
            self._whole = self._scopes.open(self, background=True)
            self._part = self._scopes.open(self, background=True)

    @property
    def growth(self) -> int | None:
        """Resident now less the baseline; None before there is one."""
        return None if self._baseline is None else self.delta()

    def delta(self, since: str | None = None) -> int:
        """Return resident now less the newest snapshot of this label, or the baseline. Raises KeyError for neither."""
        with self._lock:
            before = self._baseline
            if since is not None:
                before = next((each for each in reversed(self._kept) if each.label == since), None)
            if before is None:
                raise KeyError("no baseline was set" if since is None else f"no snapshot is called {since!r}")
            return self._peak_and_rss()[1] - before.rss

    def analyze(self) -> Analysis | None:
        """Summarize the snapshots; None for fewer than two."""
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
                advice=advice(kept, spikes, trend, growths()),
            )

    def close(self) -> None:
        """Stop measuring; the kept snapshots stay."""
        with self._lock:
            for scope in (self._whole, self._part):
                if scope is not None:
                    self._scopes.drop(scope)
            self._whole = self._part = None

    def __enter__(self) -> MemoryTracker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def after_fork(self) -> None:
        """Replace the lock in a child, where a thread of the parent may hold it."""
        self._lock = threading.RLock()


def advice(
    snapshots: Sequence[Snapshot], spikes: Sequence[Snapshot], trend: Trend, calls: Iterable[CallGrowth]
) -> tuple[str, ...]:
    """Return suggestions, the most important first; none where nothing stands out.

    ``calls`` is the growth of measured functions.
    """
    first, last = snapshots[0], snapshots[-1]
    grown = last.rss - first.rss
    found = []
    if last.available is not None and last.limit and last.available < LITTLE_AVAILABLE * last.limit:
        found.append(
            f"{size_text(last.available)} of {size_text(last.limit)} ({last.source}) are available: raise the limit,"
            " or process less at a time"
        )
    leaks = [(each.slope * each.calls, each.slope, each) for each in calls if each.slope is not None]
    for total, slope, each in sorted(leaks, key=lambda leak: -leak[0])[:MOST_NAMED]:
        if total >= max(LEAST_GROWTH, GROWTH_SHARE * grown):
            found.append(
                f"{each.name} grows by {size_text(slope)} per call, {size_text(total)} over {each.calls} calls:"
                " look for a container that it only adds to"
            )
    if not found and trend.word == "increasing" and grown >= LEAST_GROWTH:
        found.append(
            f"memory grew by {size_text(grown)} over {len(snapshots)} snapshots, and no measured function accounts for"
            " it: put @memory_profile on those that run between them"
        )
    for spike in sorted(spikes, key=lambda each: -each.peak)[:MOST_NAMED]:
        name = repr(spike.label) if spike.label else "a snapshot"
        found.append(
            f"before {name} memory peaked at {size_text(spike.peak)}, and {size_text(spike.rss)} of it remained:"
            " process less at a time there"
        )
    return tuple(found)
