"""Work under a limit: who does it where, and what it has taken.

What counts is the private memory of the process that is in use. The kernel counts for the process, not for threads;
what others took *for certain* is not held against a block: for one in a coroutine, all that was taken while it waited;
for one beside other threads, what its own cannot have taken (see :mod:`memwarden.guards.limit.page_faults`).
"""

from __future__ import annotations

import _thread
import sys
from collections.abc import Collection
from types import FrameType
from typing import Any

from memwarden.guards.limit.interrupt import InterruptSafety, handled, innermost, place
from memwarden.guards.limit.page_faults import ThreadSnapshot, boot_ticks, most_of_ours, this_moment
from memwarden.model.units import MIB

#: The kernel refuses what would bring the process so far past a limit, and a block that is in a ``finally`` may take
#: so much there before it is interrupted all the same.
LEEWAY = 3 * MIB
#: Threads that are looked at when a block begins: 10 µs each. With more only when it has lasted until the first look.
_FEW = 8
_SUSPENDABLE = 0x20 | 0x80 | 0x200  # CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR


def suspendable(frame: FrameType) -> bool:
    """Whether it is a coroutine's or generator's, which may wait in the middle of a block."""
    return bool(frame.f_code.co_flags & _SUSPENDABLE)


class OtherThreads:
    """What is to be known where there are several threads: who answers for himself, and how it is now, asked once."""

    def __init__(self, answering: Collection[int]) -> None:
        self.answering = answering
        self._now: ThreadSnapshot | None = None

    def now(self) -> ThreadSnapshot | None:
        """How it is at this look."""
        if self._now is None:
            self._now = this_moment()
        return self._now


class LimitedRegion:
    """Work under a limit: who does it where, and what it has taken."""

    def __init__(self, name: str, limit: int, absolute: bool) -> None:
        self.name, self.limit, self.absolute = name, limit, absolute
        #: What the process held when the block began; what it holds beyond that is held against the limit.
        self.base = 0
        #: What others have taken since.
        self.foreign = 0
        #: The most that was seen.
        self.peak = 0
        #: What it had taken when it was found past its limit; None while it never was.
        self.exceeded: int | None = None
        self.open = False
        #: Whether it was for its limit that the kernel refused when it ended.
        self.refusing = False
        #: Whether this is a copy in a forked child, where nothing is limited.
        self.void = False
        self.thread = 0
        self._frame: FrameType | None = None
        self._begun_at = -1
        self._handled: Any = None
        self._lent = False
        self._waits: tuple[InterruptSafety, int] | None = None
        self._was_away = False
        self._seen = self._unsettled = self.native = self._begun = 0
        #: Where there are several threads: how it was when that was looked into last, the most that the block's own can
        #: have taken by then, and who ceased since to answer for itself.
        self._before: ThreadSnapshot | None = None
        self._ours = 0
        self._left: dict[int, int] = {}

    def begin(self, frame: FrameType, used: int, carried: int, threads: int, lent: bool) -> None:
        """It begins in this thread, in this frame; so many threads are there. ``lent``: others end it for the frame."""
        self._lent = lent
        self.thread, self._frame, self._begun_at = _thread.get_ident(), frame, frame.f_lasti
        self.native, self._begun = _thread.get_native_id(), boot_ticks()
        self._handled = sys.exception()
        self.base, self._unsettled = used - carried, 0
        self.open, self.refusing, self._was_away, self._seen = True, False, False, used
        # With many threads only when the block has lasted until the first look: 10 µs each.
        self._before = this_moment() if 1 < threads <= _FEW and not self.absolute else None
        self._ours = max(0, carried)

    def end(self) -> None:
        """It holds on to nothing any more."""
        self.open = False
        self._frame = self._handled = self._before = None

    def taken(self, used: int) -> int:
        """What counts against the limit when the process holds ``used``."""
        if self.absolute:
            return used
        taken = used - self.base - self.foreign
        return taken if self._before is None else min(taken, self._ours + max(0, self._unsettled))

    def place(self) -> InterruptSafety:
        """Where its thread stands."""
        if self._frame is None:
            return InterruptSafety.AWAY
        now = handled(self.thread)
        handled_before = now is None or now is self._handled
        return place(innermost(self.thread), self._frame, self._begun_at, handled_before)

    def look(self, used: int, crowd: OtherThreads | None, *, leaving: bool = False) -> int:
        """Take in what the process holds now; what of it counts beyond the limit (below zero: is left)."""
        if not self.absolute:
            self._leave_out(used, crowd, leaving)
        taken = self.taken(used)
        self.peak = max(self.peak, taken)
        return taken - self.limit

    def _leave_out(self, used: int, crowd: OtherThreads | None, leaving: bool) -> None:
        """Find out what others have taken since the last look."""
        rise, self._seen = used - self._seen, used
        if self._frame is not None and suspendable(self._frame):
            away = not leaving and self.place() is InterruptSafety.AWAY
            if away and self._was_away:
                self.foreign += rise
                rise = 0
            self._was_away = away
        self._unsettled += rise
        if crowd is None:
            return
        if self._before is None:
            self._before, self._ours = crowd.now(), max(0, self.taken(used))
            return
        if abs(self._unsettled) > max(MIB, self.limit // 16) or self.taken(used) > self.limit:
            self._settle(self._before, crowd)

    def _settle(self, before: ThreadSnapshot, crowd: OtherThreads) -> None:
        """Tell what threads took that are not the block's own. What is given back is taken to be theirs as long as they
        have any: so never too little is held against the block."""
        now = crowd.now()
        if now is None:
            return
        rise, self._unsettled = self._unsettled + now.used - self._seen, 0
        ours = most_of_ours(before, now, self.native, self._begun, crowd.answering, self._left)
        self._before, self._seen, self._ours = now, now.used, self._ours + ours
        self._left.clear()
        self.foreign = max(self.foreign, 0) + max(0, rise - ours) if rise > 0 else max(0, self.foreign + rise)

    def leaves(self, thread: int, faults: int) -> None:
        """A thread that answered for itself does so no longer."""
        self._left[thread] = faults

    def patience(self, where: InterruptSafety, used: int) -> bool:
        """Whether to wait for a better place: until it has taken more than the leeway in such a one."""
        if self._waits is None or self._waits[0] is not where:
            self._waits = where, used
        if where is InterruptSafety.OPEN or (where is InterruptSafety.BUSY and self._lent):
            return where is InterruptSafety.BUSY  # an exception that is still to come would keep its end from being run
        return used <= self._waits[1] + LEEWAY
