"""Evidence from inside a process about its growth: explanations, and signs of a leak."""

from __future__ import annotations

from bisect import bisect_right
from math import isfinite
from typing import NamedTuple

from memwarden.assess.reasons import size_text
from memwarden.assess.segments import Segment
from memwarden.model.facts import ProgramMemory
from memwarden.model.units import MIB

#: Records that are kept; at twice as many every second one is dropped.
MAX_RECORDS = 12
#: A cache that filled by less than this share during the growth has no part in it.
FILLED = 0.02
#: The program must have been idle within this last share of the growth.
IDLE_SHARE = 0.35


class _Record(NamedTuple):
    at: float
    #: Of each cache with a bound; None where no caches are known.
    fills: tuple[float, ...] | None
    program: ProgramMemory


class ProgramEvidence:
    """Evidence of one process over time, in the detector's seconds."""

    __slots__ = ("_every", "_idle", "_last", "_records", "_skipped")

    def __init__(self) -> None:
        self._records: list[_Record] = []
        self._every, self._skipped = 1, 0
        self._last: _Record | None = None
        self._idle = -1.0  # when nothing was in flight last

    def add(self, now: float, program: ProgramMemory) -> None:
        """Add the evidence of this moment."""
        fills = None
        if program.caches is not None:
            fills = tuple(_share(held, most) for held, most in program.caches if most is not None and most > 0)
        if program.active is not None and program.active <= 0:
            self._idle = now
        self._last = record = _Record(now, fills, program._replace(caches=None))
        self._skipped += 1
        if self._skipped >= self._every:
            self._skipped = 0
            self._records.append(record)
            if len(self._records) >= 2 * MAX_RECORDS:
                del self._records[::2]
                self._every *= 2

    def explains(self, segment: Segment, headroom: float, now: float) -> tuple[str, bool]:
        """Return the signs of a leak in a segment ("" for none), and whether the evidence explains its growth."""
        if self._last is None:
            return "", False
        begin = self._record_at(segment.begin)
        before, present = begin.program, self._last.program
        signs: list[str] = []
        if self._last.fills is not None:
            filling, left = _filling(begin.fills, self._last.fills)
            if filling:
                # The growth still to come if the caches cause all of it; too much for the headroom explains nothing.
                return "", segment.size * left <= headroom
            if present.all_caches:
                signs.append("no bounded cache filled meanwhile" if self._last.fills else "there is no bounded cache")
        if self._idle >= 0:
            if self._idle < now - IDLE_SHARE * (now - segment.begin):
                return "", True
            signs.append("it remains with nothing in flight")
        if present.collections is not None and before.collections is not None:
            middle = self._record_at(now - IDLE_SHARE * (now - segment.begin)).program.collections
            if middle is not None and present.collections <= middle:
                return "", True
            signs.append("it outlived full garbage collections")
        if present.retained is not None and before.retained is not None:
            held = (present.retained - before.retained) / MIB
            if held < 0.3 * segment.size:
                return "", False  # fragmentation or native memory, not Python objects
            signs.append(f"Python objects hold {size_text(held)} more")
        if present.calls is not None and before.calls is not None and present.calls > before.calls:
            signs.append(f"{1024 * segment.size / (present.calls - before.calls):.1f} KiB for each call")
        return ", ".join(signs), False

    def _record_at(self, at: float) -> _Record:
        records = self._records
        return records[max(0, bisect_right(records, at, key=lambda record: record.at) - 1)]


def _share(held: float, most: float) -> float:
    share = held / most
    return min(1.0, max(0.0, share)) if isfinite(share) else 0.0


def _filling(before: tuple[float, ...] | None, now: tuple[float, ...]) -> tuple[bool, float]:
    """Return whether a cache filled meanwhile and was not full for long, and the share of growth still to come."""
    if before is None or len(before) != len(now):
        before = (0.0,) * len(now)  # caches that were added later filled since
    gained = left = 0.0
    for old, new in zip(before, now, strict=True):
        if new - old > FILLED:
            gained += new - old
            left += 1 - new
    return gained > 0, left / gained if gained else 0.0
