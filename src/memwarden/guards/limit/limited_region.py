"""The code under one limit: where it runs, and how much memory counts as its own.

The kernel counts memory per process. A block is charged only with what cannot be another's:

- beside other threads: at most what its own threads can have allocated (:mod:`memwarden.guards.limit.page_faults`);
- in a coroutine: what is allocated while that runs without being suspended. Two samples are known to lie within one
  step when the event loop's frame below it is the same one; at any other sample the count restarts at 0.
"""

from __future__ import annotations

import _thread
import contextlib
import sys
import time
from collections.abc import Collection
from types import FrameType
from typing import Any

from memwarden.errors import ReadError
from memwarden.guards.limit.interrupt import InterruptSafety, handled_exception, innermost_frame, judge
from memwarden.guards.limit.page_faults import ThreadSnapshot, boot_ticks, max_own_growth, take_snapshot, thread_faults
from memwarden.guards.limit.proc_files import read_memory
from memwarden.guards.measure.peak_rss import PeakScope, peak_scopes
from memwarden.model.units import MIB
from memwarden.readers.linux.process import PAGE

#: The kernel refuses allocations that would exceed a limit by this much, and a block in a ``finally`` may allocate this
#: much there before it is interrupted all the same.
LEEWAY = 3 * MIB
#: With more threads no snapshot is taken at the entry but at the first sample: each costs 10 µs.
_FEW_THREADS = 8
_COROUTINE = 0x80
_SUSPENDABLE = 0x20 | _COROUTINE | 0x200  # CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR


def suspendable(frame: FrameType) -> bool:
    """Return whether the frame is a coroutine's or generator's."""
    return bool(frame.f_code.co_flags & _SUSPENDABLE)


def _current_step(frame: FrameType, thread: int) -> FrameType | None:
    """Return asyncio's frame that runs the current step of a coroutine: it has a new one for each step.

    None where it is not running, for a generator (its consumer may go on within one step), and in other event loops.
    """
    if not frame.f_code.co_flags & _COROUTINE:
        return None
    each = innermost_frame(thread)
    while each is not None and each is not frame:
        each = each.f_back
    while each is not None and suspendable(each):
        each = each.f_back
    known = each is not None and each.f_code.co_name == "_run" and each.f_globals.get("__name__") == "asyncio.events"
    return each if known else None


class OtherThreads:
    """The other threads at one sample; page faults are read once, when first asked for."""

    def __init__(self, limited: Collection[int]) -> None:
        self.limited = limited
        self._snapshot: ThreadSnapshot | None = None

    def snapshot(self) -> ThreadSnapshot | None:
        """Return the snapshot of this sample."""
        if self._snapshot is None:
            self._snapshot = take_snapshot()
        return self._snapshot


class LimitedRegion:
    """The code under one limit. Sizes are bytes."""

    def __init__(self, name: str, limit: int, absolute: bool) -> None:
        self.name, self.limit, self.absolute = name, limit, absolute
        #: Use of the process at the entry, and what others have allocated since.
        self.base = self.foreign = 0
        self.peak = 0
        #: What it used when it was found to exceed its limit; None while it never was.
        self.exceeded: int | None = None
        self.open = False
        #: What it had taken when it was left; None while it is open.
        self.final: int | None = None
        #: Whether its limit was the one for which the kernel refused when it ended.
        self.refusing = False
        #: Whether this is a copy in a forked child, where nothing is limited.
        self.forked = False
        self.thread = self.native = 0
        self._frame: FrameType | None = None
        self._step: FrameType | None = None
        self._entered_at, self._entered, self._by_helper = -1, 0, False
        self._handled: Any = None
        self._over_since: float | None = None
        self._waits: tuple[InterruptSafety, int] | None = None
        #: Use at the last sample, and growth since the last snapshot.
        self._seen = self._unsettled = 0
        #: The last snapshot, the most that the block can have allocated by then, and the faults of threads that left
        #: their last block since.
        self._before: ThreadSnapshot | None = None
        self._own = 0
        self._left: dict[int, int] = {}
        #: The kernel's peak since the entry; page faults of the thread at the entry, and private bytes in use; and the
        #: most bytes in shared and file-backed maps in any sample.
        self._peak_scope: PeakScope | None = None
        self._faults = self._private = self._shared = 0

    def enter(self, frame: FrameType, used: int, carried: int, threads: int, by_helper: bool) -> None:
        """Start in the calling thread, in ``frame``.

        ``carried`` is what earlier steps of a decorated coroutine have allocated; what the process gave back since the
        last one is deducted. ``by_helper``: ``contextlib`` enters and leaves on behalf of the frame.
        """
        carried = max(min(carried, 0), carried - max(0, self._seen - used))
        self.thread, self.native, self._entered = _thread.get_ident(), _thread.get_native_id(), boot_ticks()
        self._frame, self._entered_at, self._by_helper = frame, frame.f_lasti, by_helper
        self._step = _current_step(frame, self.thread)
        self._handled = sys.exception()
        self.open, self.refusing, self.final = True, False, None
        self._count_from(used, carried)
        if not suspendable(frame):
            with contextlib.suppress(ReadError):
                self._peak_scope = peak_scopes.open(self)
                self._faults, self._private, self._shared = thread_faults(), used, self._peak_scope.rss - used
        if 1 < threads <= _FEW_THREADS and not self.absolute:
            self._before = take_snapshot()

    def close(self, taken: int) -> None:
        """Note what it has taken, and drop every reference."""
        self.open, self.final = False, taken
        self._frame = self._step = self._handled = self._before = None

    def note_shared(self, shared: int) -> None:
        """Take in the resident bytes of shared and file-backed maps."""
        self._shared = max(self._shared, shared)

    def spike(self) -> int:
        """Return the most that the block had taken at once by the kernel's peak, given back since included.

        A buffer that is freed before its call returns is in no sample. Maps of files and shared memory are in the peak,
        too, so a block that uses them is not judged by it: 0. A map of a file brings several pages with each fault.
        """
        scope, self._peak_scope = self._peak_scope, None
        if scope is None:
            return 0
        with contextlib.suppress(ReadError):
            peak, rss = peak_scopes.close(scope)
            self.note_shared(rss - read_memory()[0])
            if self._shared - (scope.rss - self._private) <= self.limit // 8:
                taken = peak - self._shared - (0 if self.absolute else self._private)
                return min(taken, (thread_faults() - self._faults) * PAGE)
        return 0

    def _count_from(self, used: int, carried: int = 0) -> None:
        self.base, self._own, self._seen = used - carried, max(0, carried), used
        self.foreign = self._unsettled = 0
        self._before = None

    def taken(self, used: int) -> int:
        """Return what counts against the limit when the process uses ``used``."""
        if self.absolute:
            return used
        taken = used - self.base - self.foreign
        return taken if self._before is None else min(taken, self._own + max(0, self._unsettled))

    def safety(self) -> InterruptSafety:
        """Return how safe it is to interrupt its thread now."""
        if self._frame is None:
            return InterruptSafety.OUTSIDE
        now = handled_exception(self.thread)
        handling = now is not None and now is not self._handled
        return judge(innermost_frame(self.thread), self._frame, self._entered_at, handling)

    def sample(self, used: int, others: OtherThreads | None) -> int:
        """Take in the current use of the process; return by how much the block exceeds its limit (negative: free)."""
        if not self.absolute:
            self._attribute(used, others)
        taken = self.taken(used)
        self.peak = max(self.peak, taken)
        if taken <= self.limit:
            self._over_since = None
        elif self._over_since is None:
            self._over_since = time.monotonic()
        return taken - self.limit

    def over_for(self) -> float:
        """Return for how many seconds samples have found it over its limit."""
        return 0.0 if self._over_since is None else time.monotonic() - self._over_since

    def _attribute(self, used: int, others: OtherThreads | None) -> None:
        if self._frame is not None and suspendable(self._frame):
            step = _current_step(self._frame, self.thread)
            if step is None or step is not self._step:
                self._count_from(used)  # it was suspended since the last sample: others may have run
            self._step = step
        self._unsettled += used - self._seen
        self._seen = used
        if others is None:
            return
        if self._before is None:
            self._before, self._own = others.snapshot(), max(0, self.taken(used))
        elif abs(self._unsettled) > max(MIB, self.limit // 16) or self.taken(used) > self.limit:
            self._settle(self._before, others)

    def _settle(self, before: ThreadSnapshot, others: OtherThreads) -> None:
        """Deduct what other threads allocated. What is freed is theirs first, so that the block is not credited."""
        now = others.snapshot()
        if now is None:
            return
        rise, self._unsettled = self._unsettled + now.used - self._seen, 0
        own = max_own_growth(before, now, self.native, self._entered, others.limited, self._left)
        self._before, self._seen, self._own = now, now.used, self._own + own
        self._left.clear()
        self.foreign = max(self.foreign, 0) + max(0, rise - own) if rise > 0 else max(0, self.foreign + rise)

    def thread_left(self, thread: int, faults: int) -> None:
        """Take in that a thread left its last block, with so many page faults."""
        self._left[thread] = faults

    def should_wait(self, safety: InterruptSafety, used: int) -> bool:
        """Return whether to wait for a safer point: until it has allocated more than the leeway at such a one."""
        if self._waits is None or self._waits[0] is not safety:
            self._waits = safety, used
        if safety is InterruptSafety.SAFE:
            return False
        if safety is InterruptSafety.UNCERTAIN and self._by_helper:
            return True  # a pending exception would prevent its end from being run
        return used <= self._waits[1] + LEEWAY
