"""What is known of all calls of one name, in bounded memory."""

from __future__ import annotations

import threading

from memwarden.model.calls import CallGrowth, CallMemory, CallSummary
from memwarden.process.fork_hooks import reset_after_fork

#: Points of growth that are kept of one name: when there are more, every other one is let go.
POINTS = 256
#: Names that are kept; calls of further ones are measured, and not added up.
NAMES = 1000


class CallStats:
    """All calls of one name. Any thread may add; safe where a signal's handler or a finalizer does, too."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.RLock()
        self._begin()
        reset_after_fork(self)

    def _begin(self) -> None:
        self._calls = self._failed = self._shared = self._sampled = self._unread = 0
        self._peak = self._rise = self._growth = 0
        self._seconds = 0.0
        self._points: list[tuple[int, int]] = []
        self._alone = 0  # bytes that stayed of the calls that no other ran beside
        self._every, self._left = 1, 1  # a point is kept of every so-many-th call; calls until the next

    def add(self, memory: CallMemory, within: bool = False) -> None:
        """One call more; ``within``: it ran inside another one of this name, which counts what stayed of it."""
        with self._lock:
            self._calls += 1
            self._failed += bool(memory.error)
            self._sampled += memory.method == "sampled"
            self._shared += bool(memory.shared)
            if memory.peak > self._peak:
                self._peak = memory.peak
            if memory.rise > self._rise:
                self._rise = memory.rise
            if within:
                return
            self._seconds += memory.seconds
            self._growth += memory.growth
            if memory.shared:
                return
            self._alone += memory.growth
            self._left -= 1
            if not self._left:
                self._keep()

    def _keep(self) -> None:
        self._points.append((self._calls, self._alone))
        if len(self._points) >= POINTS:
            del self._points[::2]
            self._every *= 2
        self._left = self._every

    def add_unread(self, failed: bool) -> None:
        """One call more, of which nothing could be read."""
        with self._lock:
            self._calls += 1
            self._unread += 1
            self._failed += failed

    def growth(self) -> CallGrowth:
        """What stayed of the calls, over all of them."""
        with self._lock:
            return CallGrowth(self.name, self._calls, tuple(self._points))

    def summary(self) -> CallSummary:
        """All of it as one value."""
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
        """Begin again at nothing."""
        with self._lock:
            self._begin()

    def after_fork(self) -> None:
        """In a child: what was counted stays; the lock may be held by a thread of the parent."""
        self._lock = threading.RLock()


_tallies: dict[str, CallStats] = {}


def call_stats(name: str) -> CallStats:
    """The one of this name; where too many are kept, one that stands alone."""
    found = _tallies.get(name)
    if found is None:
        found = CallStats(name)
        if len(_tallies) < NAMES:
            found = _tallies.setdefault(name, found)
    return found


def summaries() -> tuple[CallSummary, ...]:
    """Of every name that was called, the one first of which most stayed."""
    found = [each for each in (known.summary() for known in list(_tallies.values())) if each.calls]
    return tuple(sorted(found, key=lambda each: (-(each.growth or 0), each.name)))


def growths() -> tuple[CallGrowth, ...]:
    """Of every name that was called, what stayed over its calls: evidence for whoever judges leaks."""
    return tuple(found for known in list(_tallies.values()) if (found := known.growth()).calls)


def clear() -> None:
    """Begin again at nothing, for every name."""
    for known in list(_tallies.values()):
        known.clear()
