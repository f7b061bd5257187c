"""The lookout: one thread that looks at the memory of the process while blocks with a limit are open.

What counts is resident minus shared memory, from ``statm``: maps that are shared or have a file behind them do not, nor
does address space that nobody has touched.

The thread is there while a block is open and no longer, not across a fork either. It holds the lock whenever it
interrupts, and a block that is left takes the lock first: so nothing is asked of a thread once its block has been left.
"""

from __future__ import annotations

import _thread
import atexit
import functools
import os
import sys
import time
from collections.abc import Callable
from types import FrameType

from memwarden.guards.limit.data_rlimit import DataRlimit
from memwarden.guards.limit.interrupt import InterruptSafety, absorb, interrupt, prepare
from memwarden.guards.limit.limited_region import LEEWAY, LimitedRegion, OtherThreads, suspendable
from memwarden.guards.limit.page_faults import own_faults
from memwarden.guards.limit.poll_thread import PollThread
from memwarden.model.units import MIB
from memwarden.process.fork_hooks import GUARDS, at_fork
from memwarden.readers.linux.process import PAGE

#: Bytes a second that memory is reckoned to fill at, and within what times the next look comes. One thread faults in
#: 1.3 GB/s in 4 KiB pages (measured, Linux 6.18), and several times that in pages of 2 MiB.
RATE, SHORTEST, LONGEST = 8e9, 0.001, 0.020
#: While memory grows and so little is left, threads hand the interpreter on after this many seconds instead of Python's
#: 0.005: at 1 GB/s those alone are 5 MB.
NEAR, HASTE = 64 * MIB, 0.0005
#: A fork waits so long for somebody who enters or leaves a block.
_FORK_PATIENCE = 1.0


class LimitMonitor:
    """Who is under a limit in this process, and the thread that looks."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._held = False
        self._blocks: list[LimitedRegion] = []
        self._edge = DataRlimit()
        self._statm = -1
        #: Who looks now, and everybody who did and may still be on the way home.
        self._watchman: PollThread | None = None
        self._watchmen: list[PollThread] = []
        #: Threads that had a block of their own since the first of those that are open.
        self._answering: set[int] = set()
        self._usual: float | None = None
        self._before = 0
        #: Who asked the thread to stay between blocks, and when it looks next.
        self._kept = 0
        self._due = 0.0

    # --- the block's thread -------------------------------------------------------------------------------

    def enter(
        self,
        block: LimitedRegion,
        frame: FrameType,
        *,
        refuse: bool,
        carried: int = 0,
        leeway: int = LEEWAY,
        lent: bool = False,
    ) -> Callable[[], object]:
        """Open a block here. ``carried``: what it had taken before it was suspended. Raises OSError without a /proc.

        Gives what is to be called first when an exception came out of the block: there may be no memory left, and this
        gives the room free that is kept for what is to be done then.
        """
        prepare()
        with self._lock:
            if self._watchman is None:
                self._post()
            threads = self._threads()
            # A block in a coroutine does not end when that waits, and others would be refused then.
            refuse = refuse and not lent and not suspendable(frame) and threads == 1
            if refuse:
                self._edge.prepare()
            used, data = self._read()
            block.begin(frame, used, carried, threads, lent)
            if refuse:
                left = block.limit - block.taken(used)
                self._edge.claim(block, data + max(0, left) + leeway)
            self._blocks.append(block)
            self._answering.add(block.native)
            soon = (block.limit - block.taken(used)) / 2 / RATE
            if self._watchman is not None and self._due - time.monotonic() > soon:
                self._watchman.nudge()
            return self._edge.room()

    def leave(self, block: LimitedRegion) -> int:
        """Close a block here; gives what it has taken. May be repeated."""
        block.open = False  # at once: a signal handler may raise from here on, and the next look then finishes this
        if block.void:
            return 0
        watchman = None
        with self._lock:
            self._release(block)
            self._drop_closed()
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
            if not self._blocks and not self._kept:
                watchman = self._dismiss()
        absorb(block.thread)
        if watchman is not None:
            watchman.send_home()
        return taken

    def keep(self) -> None:
        """More blocks will follow: have the thread stay until :meth:`let_go`."""
        with self._lock:
            self._kept += 1

    def let_go(self) -> None:
        """No more blocks follow."""
        watchman = None
        with self._lock:
            self._kept = max(0, self._kept - 1)  # kept in the parent, perhaps
            if not self._blocks and not self._kept:
                watchman = self._dismiss()
        if watchman is not None:
            watchman.send_home()

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
                if len(sys._current_frames()) > 1 + len(self._watchmen):
                    return False
            time.sleep(0.001)  # a thread that Python has joined is gone a moment later
        return False

    def _threads(self) -> int:
        """How many threads the process has beside ours. Its folder has a link for each and two more."""
        if len(self._watchmen) > (self._watchman is not None):
            self._watchmen = [each for each in self._watchmen if each is self._watchman or each.there()]
        return max(1, os.stat("/proc/self/task").st_nlink - 2 - len(self._watchmen))

    # --- the thread that looks ----------------------------------------------------------------------------

    def _post(self) -> None:
        """Have somebody look. Called with the lock held, so that nobody looks before this is done."""
        watchman = PollThread()
        if watchman.begin(functools.partial(self._look, watchman), self._short):
            self._watchmen.append(watchman)
            self._watchman = watchman

    def _dismiss(self) -> PollThread | None:
        """Nobody is under a limit any more. Called with the lock held; who looked is to be sent home without it."""
        watchman, self._watchman = self._watchman, None
        self._hasten(False)
        self._answering.clear()
        self._edge.clear()
        fd, self._statm = self._statm, -1  # in this order: a number that was closed may be somebody else's file
        if fd >= 0:
            os.close(fd)
        return watchman

    def _look(self, watchman: PollThread) -> float | None:
        """One look at everybody; seconds until the next."""
        with self._lock:
            if self._watchman is not watchman:
                return None
            self._drop_closed()
            if not self._blocks:
                if not self._kept:
                    self._dismiss()
                    return None
                self._hasten(False)
                self._due = time.monotonic() + LONGEST
                return LONGEST
            used, _ = self._read()
            if self._threads() > 1:
                self._edge.clear()  # from here on somebody else could be hurt
            crowd = self._crowd()
            left = min(-block.look(used, crowd) for block in self._blocks)
            self._hasten(left < NEAR and used > self._before)
            self._before = used
            if left < 0:
                self._act(used)
            pause = min(LONGEST, max(SHORTEST, left / 2 / RATE))
            self._due = time.monotonic() + pause
            return pause

    def _drop_closed(self) -> None:
        """Forget blocks that are closed: one whose end was broken off, too."""
        for block in [each for each in self._blocks if not each.open]:
            self._blocks.remove(block)
            self._release(block)

    def _release(self, block: LimitedRegion) -> None:
        block.refusing = block.refusing or self._edge.holds(block)
        self._edge.release(block)

    def _short(self) -> None:
        """Not even a look can be had without memory."""
        self._edge.room()()

    def _crowd(self) -> OtherThreads | None:
        return (
            None if self._threads() == 1 else OtherThreads(self._answering | {each.native for each in self._watchmen})
        )

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
        outermost: dict[int, LimitedRegion] = {}
        for block in self._blocks:
            if block.taken(used) > block.limit:
                outermost.setdefault(block.thread, block)
        for block in sorted(outermost.values(), key=lambda each: -each.taken(used) / each.limit):
            where = block.place()
            if where is InterruptSafety.AWAY:
                continue
            block.exceeded = max(block.exceeded or 0, block.taken(used))
            if not block.patience(where, used):
                interrupt(block.thread)
            return

    # --- forks and the end --------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """A process with another thread is not forked: who looks goes home before."""
        self.close()
        self._held = self._lock.acquire(True, _FORK_PATIENCE)

    def after_fork_in_parent(self) -> None:
        """It goes on."""
        if self._held:
            if self._blocks and self._watchman is None:
                self._post()
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """A limit holds in the process that asked for it; blocks that were forked along are left in silence."""
        for block in self._blocks:
            block.end()
            block.void, block.exceeded = True, None
        self._watchman = None
        self._dismiss()
        self.__init__()  # type: ignore[misc]

    def close(self) -> None:
        """Nobody looks any more: the program ends, or forks."""
        watchman, self._watchman = self._watchman, None
        if watchman is not None:
            watchman.send_home()


def _private(statm: bytes) -> int:
    _, resident, shared, _ = statm.split(None, 3)
    return (int(resident) - int(shared)) * PAGE


lookout = LimitMonitor()
atexit.register(lookout.close)
at_fork(
    GUARDS,
    before=lookout.before_fork,
    parent=lookout.after_fork_in_parent,
    child=lookout.after_fork_in_child,
)
