"""What is known inside a process about a rise of its memory: what explains it, and what speaks against it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from math import isfinite
from typing import NamedTuple

from memwarden.assess.reasons import size_words
from memwarden.assess.segments import Rise

#: Moments that are kept; when there are twice as many every second one is dropped.
MARKS = 12
#: A cache that filled by less than this share during a rise has no part in it.
FILLED = 0.02
#: A rise must have been seen at rest within this last share of it, with this share of it there.
AT_REST, STILL_THERE = 0.35, 0.6


class _Mark(NamedTuple):
    at: float
    fills: tuple[float, ...] | None
    all_caches: bool
    calls: float | None
    retained: float | None
    collections: float | None


class ProgramEvidence:
    """The evidence of one process over time. Times are the detector's own seconds."""

    __slots__ = ("_every", "_idle", "_idle_known", "_last", "_marks", "_skipped")

    def __init__(self) -> None:
        self._marks: list[_Mark] = []
        self._every, self._skipped = 1, 0
        self._last: _Mark | None = None
        self._idle = -1.0
        self._idle_known = False

    def tell(
        self,
        now: float,
        caches: Iterable[tuple[float, float | None]] | None,
        all_caches: bool,
        active: int | None,
        collections: int | None,
        calls: int | None,
        retained: float | None,
    ) -> None:
        """Takes what is known at a moment."""
        fills = None
        if caches is not None:
            fills = tuple(_share(held, most) for held, most in caches if most is not None and most > 0)
        if active is not None:
            self._idle_known = True
            if active <= 0:
                self._idle = now
        self._last = mark = _Mark(now, fills, all_caches, calls, retained, collections)
        self._skipped += 1
        if self._skipped >= self._every:
            self._skipped = 0
            self._marks.append(mark)
            if len(self._marks) >= 2 * MARKS:
                del self._marks[::2]
                self._every *= 2

    def explains(self, rise: Rise, room: float, now: float) -> tuple[str, bool]:
        """What it says of a rise: words that speak against it ("" for nothing), and whether it explains it."""
        last = self._last
        if last is None:
            return "", False
        begin = self._mark_at(rise.begin)
        said: list[str] = []
        if last.fills is not None:
            filling, left = _filling(begin.fills, last.fills)
            if filling:
                # What is still to come if the caches are all of it. Too much for the room is no excuse.
                return "", rise.size * left <= room
            if last.all_caches:
                said.append("no bounded cache filled meanwhile" if last.fills else "there is no bounded cache")
        if self._idle_known and self._idle >= 0:
            if self._idle < now - AT_REST * (now - rise.begin):
                return "", True
            said.append("it is there with nothing in flight")
        if last.collections is not None and begin.collections is not None:
            middle = self._mark_at(now - AT_REST * (now - rise.begin))
            if middle.collections is not None and last.collections <= middle.collections:
                return "", True
            said.append("it outlived full garbage collections")
        if last.retained is not None and begin.retained is not None:
            held = last.retained - begin.retained
            if held < 0.3 * rise.size:
                return "", False  # not Python's objects: fragments or native memory, of which nothing is known here
            said.append(f"Python objects hold {size_words(held)} more")
        if last.calls is not None and begin.calls is not None and last.calls > begin.calls:
            said.append(f"{1024 * rise.size / (last.calls - begin.calls):.1f} KiB for each call")
        return ", ".join(said), False

    def _mark_at(self, at: float) -> _Mark:
        marks = self._marks
        return marks[max(0, bisect_right(marks, at, key=lambda mark: mark.at) - 1)]


def _share(held: float, most: float) -> float:
    share = held / most
    return min(1.0, max(0.0, share)) if isfinite(share) else 0.0


def _filling(before: tuple[float, ...] | None, now: tuple[float, ...]) -> tuple[bool, float]:
    """Whether a cache filled meanwhile and has not been full for long, and how much more of the same is to come."""
    if before is None or len(before) != len(now):
        before = (0.0,) * len(now)  # caches that came later filled since
    gained = left = 0.0
    for old, new in zip(before, now, strict=True):
        if new - old > FILLED:
            gained += new - old
            left += 1 - new
    return gained > 0, left / gained if gained else 0.0
