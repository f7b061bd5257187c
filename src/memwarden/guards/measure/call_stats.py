"""Statistics of all measured calls of one name, in bounded memory."""

from __future__ import annotations

import threading

from memwarden.model.calls import CallGrowth, CallMemory, CallSummary
from memwarden.process.fork_hooks import reset_after_fork

#: Growth points per name; when there are more, every second one is dropped.
POINTS = 256
#: Names that are kept; calls of further ones are measured, but not added up.
NAMES = 1000


class CallStats:
    """All calls of one name. Thread-safe, also in signal handlers and finalizers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.RLock()
        self._reset()
        reset_after_fork(self)

    def _reset(self) -> None:
        self._calls = self._failed = self._shared = self._sampled = self._unread = 0
        self._peak = self._rise = self._growth = 0
        self._seconds = 0.0
        self._points: list[tuple[int, int]] = []
        self._exclusive_growth = 0  # of calls without concurrent ones
        self._every, self._left = 1, 1  # one point for so many calls; calls until the next

    def add(self, memory: CallMemory, nested: bool = False) -> None:
        """Add one call. ``nested``: it ran inside another one of this name, which counts the growth of both."""
        with self._lock:
            self._calls += 1
            self._failed += bool(memory.error)
            self._sampled += memory.method == "sampled"
            self._shared += bool(memory.shared)
            self._peak = max(self._peak, memory.peak)
            self._rise = max(self._rise, memory.rise)
            if nested:
                return
            self._seconds += memory.seconds
            self._growth += memory.growth
            if memory.shared:
                return
            self._exclusive_growth += memory.growth
            self._left -= 1
            if not self._left:
                self._points.append((self._calls, self._exclusive_growth))
                if len(self._points) >= POINTS:
                    del self._points[::2]
                    self._every *= 2
                self._left = self._every

    def add_unread(self, failed: bool) -> None:
        """Add one call without figures."""
        with self._lock:
            self._calls += 1
            self._unread += 1
            self._failed += failed

    def growth(self) -> CallGrowth:
        """Return the growth over all calls."""
        with self._lock:
            return CallGrowth(self.name, self._calls, tuple(self._points))

    def summary(self) -> CallSummary:
        """Return all figures as one value."""
        with self._lock:
            measured = self._calls > self._unread
            return CallSummary(
                name=self.name,
                calls=self._calls,
                failed=self._failed,
                shared=self._shared,
                sampled=self._sampled,
                unread=self._unread,
                peak=self._peak if measured else None,
                rise=self._rise if measured else None,
                growth=self._growth if measured else None,
                slope=self.growth().slope,
                seconds=self._seconds,
            )

    def clear(self) -> None:
        """Forget all calls."""
        with self._lock:
            self._reset()

    def after_fork(self) -> None:
        """Replace the lock in a child, where a thread of the parent may hold it; the counts stay."""
        self._lock = threading.RLock()


_all_stats: dict[str, CallStats] = {}


def call_stats(name: str) -> CallStats:
    """Return the statistics of this name; beyond :data:`NAMES` names a new object that no report shows."""
    found = _all_stats.get(name)
    if found is None:
        found = CallStats(name)
        if len(_all_stats) < NAMES:
            found = _all_stats.setdefault(name, found)
    return found


def summaries() -> tuple[CallSummary, ...]:
    """Return a summary of each name that was called, the largest growth first."""
    found = [each for each in (stats.summary() for stats in list(_all_stats.values())) if each.calls]
    return tuple(sorted(found, key=lambda each: (-(each.growth or 0), each.name)))


def growths() -> tuple[CallGrowth, ...]:
    """Return the growth of each name that was called: evidence for leak detection."""
    return tuple(found for stats in list(_all_stats.values()) if (found := stats.growth()).calls)


def clear() -> None:
    """Forget the calls of every name."""
    for stats in list(_all_stats.values()):
        stats.clear()
