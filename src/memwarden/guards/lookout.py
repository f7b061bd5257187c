"""The lookout: one thread that looks at the memory of the process while blocks with a limit are open.

What counts is the private memory that is in use: resident minus shared, from ``statm``. Maps that are shared or have a
file behind them do not count, nor does address space that nobody has touched. The kernel counts for the process, not
for threads; what others took *for certain* is not held against a block: threads that were there before it by their
page faults (who had so few of them cannot have taken it), and, for a block in a coroutine that waited, all that was
taken while it waited.

The thread is there while a block is open and no longer, not across a fork either. It holds the lock whenever it
interrupts, and a block that is left takes the lock first: so nothing is raised after a block has been left.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import os
import sys
import time
from collections.abc import Collection
from types import FrameType
from typing import Any

from memwarden.guards.edge import Edge
from memwarden.guards.interruption import Place, absorb, handled, innermost, interrupt, place, prepare
from memwarden.guards.others import Moment, boot_ticks, most_of_ours, own_faults, this_moment
from memwarden.model.units import MIB
from memwarden.readers.process import PAGE

#: The kernel refuses what would bring the process so far past a limit, and a block that is in a ``finally`` may take
#: so much there before it is interrupted all the same.
LEEWAY = 4 * MIB
#: Bytes a second that memory is reckoned to fill at, and within what times the next look comes. One thread faults in
#: 1.3 GB/s in 4 KiB pages (measured, Linux 6.18), and several times that in pages of 2 MiB.
RATE, SHORTEST, LONGEST = 8e9, 0.001, 0.020
#: While memory grows and so little is left, threads hand the interpreter on after this many seconds instead of Python's
#: 0.005: at 1 GB/s those alone are 5 MB.
NEAR, HASTE = 64 * MIB, 0.0005
NICE = -10
#: Threads that are looked at when a block begins.
_FEW = 8
#: How long the end of the thread is waited for.
_PATIENCE = 1.0

_SUSPENDABLE = 0x20 | 0x80 | 0x200  # CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR


class Block:
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
        self.thread = 0
        self._frame: FrameType | None = None
        self._begun_at = -1
        self._handled: Any = None
        self._lent = False
        self._waits: tuple[Place, int] | None = None
        self._was_away = False
        self._seen = self._unsettled = self.native = self._begun = 0
        #: Where there are several threads: how it was when that was looked into last, the most that the block's own can
        #: have taken by then, and who ceased since to answer for itself.
        self._before: Moment | None = None
        self._ours = 0
        self._left: dict[int, int] = {}

    def begin(self, frame: FrameType, used: int, carried: int, threads: int, lent: bool) -> None:
        """It begins in this thread, in this frame; so many threads are there. ``lent``: others end it for the frame."""
        self._lent = lent
        self.thread, self._frame, self._begun_at = _thread.get_ident(), frame, frame.f_lasti
        self.native, self._begun = _thread.get_native_id(), boot_ticks()
        self._handled = sys.exception()
        self.base, self._unsettled = used - carried, 0
        self.open, self._was_away, self._seen = True, False, used
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

    def place(self) -> tuple[Place, FrameType | None]:
        """Where its thread stands, and the innermost frame there."""
        frame, block = innermost(self.thread), self._frame
        if block is None:
            return Place.AWAY, None
        now = handled(self.thread)
        return place(frame, block, self._begun_at, now is None or now is self._handled), frame

    def look(self, used: int, crowd: Crowd | None, *, leaving: bool = False) -> int:
        """Take in what the process holds now; what of it counts beyond the limit (below zero: is left)."""
        if not self.absolute:
            self._leave_out(used, crowd, leaving)
        taken = self.taken(used)
        self.peak = max(self.peak, taken)
        return taken - self.limit

    def _leave_out(self, used: int, crowd: Crowd | None, leaving: bool) -> None:
        """Find out what others have taken since the last look."""
        rise, self._seen = used - self._seen, used
        frame = self._frame
        if frame is not None and frame.f_code.co_flags & _SUSPENDABLE:
            away = not leaving and self.place()[0] is Place.AWAY
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

    def _settle(self, before: Moment, crowd: Crowd) -> None:
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

    def patience(self, where: Place, used: int) -> bool:
        """Whether to wait for a better place: until it has taken more than the leeway in such a one."""
        if self._waits is None or self._waits[0] is not where:
            self._waits = where, used
        if where is Place.OPEN or (where is Place.BUSY and self._lent):
            return where is Place.BUSY  # an exception that is still to come would keep its end from being run
        return used <= self._waits[1] + LEEWAY


def _private(statm: bytes) -> int:
    _, resident, shared, _ = statm.split(None, 3)
    return (int(resident) - int(shared)) * PAGE


class Crowd:
    """What is to be known where there are several threads: who answers for himself, and how it is now, asked once."""

    def __init__(self, answering: Collection[int]) -> None:
        self.answering = answering
        self._now: Moment | None = None

    def now(self) -> Moment | None:
        """How it is at this look."""
        if self._now is None:
            self._now = this_moment()
        return self._now


class Lookout:
    """Who is under a limit in this process, and the thread that looks."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._wake = _thread.allocate_lock()
        self._wake.acquire()
        self._ended = _thread.allocate_lock()
        self._blocks: list[Block] = []
        self._edge = Edge()
        self._statm = -1
        self._native = 0
        self._running = self._leaving = False
        self._usual: float | None = None
        #: Threads that had a block of their own since the first of those that are open.
        self._answering: set[int] = set()
        self._before = 0

    # --- the block's thread -------------------------------------------------------------------------------

    def enter(
        self,
        block: Block,
        frame: FrameType,
        *,
        refuse: bool,
        carried: int = 0,
        leeway: int = LEEWAY,
        lent: bool = False,
    ) -> None:
        """Open a block here. ``carried``: what it had taken before it was suspended. Raises OSError without a /proc."""
        prepare()
        with self._lock:
            if not self._running:
                self._start()
            used, data = self._read()
            block.begin(frame, used, carried, self._threads(), lent)
            # A block in a coroutine does not end when that waits, and others would be refused then.
            if refuse and not lent and self._threads() == 1 and not frame.f_code.co_flags & _SUSPENDABLE:
                left = block.limit - block.taken(used)
                self._edge.claim(block, data + max(0, left) + leeway)
            self._blocks.append(block)
            self._answering.add(block.native)
        self._nudge()

    def leave(self, block: Block) -> tuple[int, bool]:
        """Close a block here: what it has taken, and whether the kernel refused for its limit. May be repeated."""
        block.open = False  # at once: a signal handler may raise from here on
        with self._lock:
            held = self._edge.holds(block)
            self._edge.release(block)
            if block in self._blocks:
                self._blocks.remove(block)
            last = not self._blocks and self._running
            if last:
                self._hasten(False)
                self._answering.clear()
            try:
                if block.thread == _thread.get_ident():
                    block.look(self._read()[0], self._crowd(), leaving=True)
                taken = block.taken(self._read()[0])
            except (OSError, MemoryError):
                taken = block.peak
            faults = own_faults()
            for other in self._blocks:
                other.leaves(block.native, faults)
            block.end()
            if not self._blocks and self._statm >= 0:
                os.close(self._statm)
                self._statm = -1
        absorb(block.thread)
        if last:
            self._stop(unless_needed=True)
        return taken, held

    def used(self) -> int:
        """Private memory that the process has in use, in bytes."""
        with open("/proc/self/statm", "rb") as file:
            return _private(file.read())

    def _read(self) -> tuple[int, int]:
        """Private memory in use, and data as ``RLIMIT_DATA`` counts it, in bytes."""
        if self._statm < 0:
            self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        read = os.pread(self._statm, 256, 0)
        return _private(read), int(read.split(None, 6)[5]) * PAGE

    def alone(self) -> bool:
        """Whether the process has one thread, ours not counted."""
        for _ in range(10):
            with self._lock:
                if self._threads() == 1:
                    return True
                if len(sys._current_frames()) > 1 + self._running:
                    return False
            time.sleep(0.001)  # a thread that Python has joined is gone a moment later
        return False

    def _threads(self) -> int:
        """How many threads the process has beside ours. Its folder has a link for each and two more."""
        number = os.stat("/proc/self/task").st_nlink - 2
        return number - 1 if self._native else number

    # --- the thread that looks ----------------------------------------------------------------------------

    def _start(self) -> None:
        """Called with the lock held. Returns when it runs: its stack counts as data of the process."""
        self._leaving, self._running = False, True
        self._ended = _thread.allocate_lock()
        self._ended.acquire()
        begun = _thread.allocate_lock()
        begun.acquire()
        try:
            _thread.start_new_thread(self._run, (begun, self._ended))
        except RuntimeError:  # no thread can be had, or the interpreter is ending: the edge and the end remain
            self._running = False
            return
        begun.acquire()

    def _run(self, begun: Any, ended: Any) -> None:
        self._native = _thread.get_native_id()
        with contextlib.suppress(OSError):
            # This thread alone, where it is granted: who looks too late because others compute does not hold.
            os.setpriority(os.PRIO_PROCESS, self._native, NICE)
        begun.release()
        pause = SHORTEST
        try:
            while True:
                self._wake.acquire(True, pause)
                if self._leaving:
                    return
                try:
                    with self._lock:
                        pause = self._look()
                except (MemoryError, OSError):
                    pause = SHORTEST
        finally:
            ended.release()

    def _nudge(self) -> None:
        with contextlib.suppress(RuntimeError):  # it was nudged already
            self._wake.release()

    def _stop(self, *, unless_needed: bool = False) -> None:
        """End the thread, and wait until it has gone."""
        with self._lock:
            if not self._running or (unless_needed and self._blocks):
                return
            self._leaving, ended, native = True, self._ended, self._native
        self._nudge()
        if not ended.acquire(True, _PATIENCE):
            return
        with self._lock:
            if self._ended is not ended:
                return
            self._native, self._running = 0, False
        until = time.monotonic() + _PATIENCE
        while os.path.exists(f"/proc/self/task/{native}") and time.monotonic() < until:
            time.sleep(0)  # it has said that it ends, and does so in a moment

    def _look(self) -> float:
        """One look at everybody; seconds until the next."""
        used, _ = self._read()
        if self._threads() > 1:
            self._edge.clear()  # from here on somebody else could be hurt
        self._blocks = [block for block in self._blocks if block.open]
        crowd = self._crowd()
        left = min((-block.look(used, crowd) for block in self._blocks), default=0)
        self._hasten(left < NEAR and used > self._before and bool(self._blocks))
        self._before = used
        if left < 0:
            self._act(used)
        return min(LONGEST, max(SHORTEST, left / 2 / RATE))

    def _crowd(self) -> Crowd | None:
        return None if self._threads() == 1 else Crowd(self._answering | {self._native})

    def _hasten(self, wanted: bool) -> None:
        """Have threads hand the interpreter on sooner, or as usual. Whoever sets another interval meanwhile has it."""
        if wanted and self._usual is None and sys.getswitchinterval() > HASTE:
            self._usual = sys.getswitchinterval()
            sys.setswitchinterval(HASTE)
        elif not wanted and self._usual is not None:
            if abs(sys.getswitchinterval() - HASTE) < 1e-6:
                sys.setswitchinterval(self._usual)
            self._usual = None

    def _act(self, used: int) -> None:
        """Interrupt one block that is past its limit: the outermost one of a thread, and of several threads the one
        that has gone furthest, in proportion to what it may take."""
        outermost: dict[int, Block] = {}
        for block in self._blocks:
            if block.taken(used) > block.limit:
                outermost.setdefault(block.thread, block)
        for block in sorted(outermost.values(), key=lambda each: -each.taken(used) / each.limit):
            where, frame = block.place()
            if where is Place.AWAY or frame is None:
                continue
            block.exceeded = max(block.exceeded or 0, block.taken(used))
            if not block.patience(where, used):
                interrupt(block.thread)
            return

    # --- forks and the end --------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """A process with another thread is not forked: it ends first."""
        if self._running:
            self._stop()
        self._held = self._lock.acquire(True, _PATIENCE)

    def after_fork_in_parent(self) -> None:
        """It goes on."""
        if self._held:
            if self._blocks and not self._running:
                self._start()
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """A limit holds in the process that asked for it; blocks that were forked along are left in silence."""
        for block in self._blocks:
            block.end()
        self._edge.clear()
        if self._statm >= 0:
            os.close(self._statm)
        self.__init__()  # type: ignore[misc]

    def close(self) -> None:
        """The program ends."""
        self._stop()


lookout = Lookout()
atexit.register(lookout.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lookout.before_fork,
        after_in_parent=lookout.after_fork_in_parent,
        after_in_child=lookout.after_fork_in_child,
    )
