"""Samples the memory of this process while blocks with a limit are open, and interrupts what exceeds its limit.

One thread samples; it exists while a block is open, and not across a fork. It holds the lock whenever it interrupts,
and a block that is left takes the lock first: so no thread is interrupted once its block has been left.
"""

from __future__ import annotations

import _thread
import atexit
import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from memwarden.guards.limit.data_rlimit import DataRlimit
from memwarden.guards.limit.interrupt import InterruptSafety, absorb, interrupt, load
from memwarden.guards.limit.limited_region import LEEWAY, LimitedRegion, OtherThreads, suspendable
from memwarden.guards.limit.page_faults import thread_faults
from memwarden.guards.limit.poll_thread import PollThread
from memwarden.guards.limit.proc_files import read_memory, read_sizes
from memwarden.process.fork_hooks import GUARDS, at_fork

#: Assumed fill rate in bytes a second, and bounds of the time between samples. One thread faults in 1.3 GB/s in 4 KiB
#: pages (measured, Linux 6.18), and several times that in pages of 2 MiB.
RATE, SHORTEST, LONGEST = 8e9, 0.001, 0.020
#: Seconds for which a block may exceed its limit, where the kernel bounds by how much, before it is interrupted.
_REFUSED_FIRST = 0.02
#: Seconds for which a fork waits for a thread that enters or leaves a block.
_FORK_TIMEOUT = 1.0
#: Seconds for which the start of a thread waits for the same.
_START_TIMEOUT = 0.1


class LimitMonitor:
    """The open blocks of this process, and the thread that samples for them."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._locked_for_fork = False
        self._regions: list[LimitedRegion] = []
        self._rlimit = DataRlimit()
        #: The thread that samples, and all that may still be ending.
        self._poll_thread: PollThread | None = None
        self._poll_threads: list[PollThread] = []
        #: Threads that have had a block of their own since the first of the open ones.
        self._limited: set[int] = set()
        #: Coroutines and generators that keep the thread between their steps; time of the next sample.
        self._kept = 0
        self._due = 0.0

    # --- called by the thread of a block ------------------------------------------------------------------

    def enter(
        self,
        region: LimitedRegion,
        frame: FrameType,
        *,
        refuse: bool,
        carried: int = 0,
        leeway: int = LEEWAY,
        by_helper: bool = False,
    ) -> Callable[[], object]:
        """Open a block in the calling thread. Raises OSError without a ``/proc``.

        Returns a call that frees the reserve for the handling of errors: make it first when an exception came out of
        the block, since there may be no other memory left.
        """
        load()
        with self._lock:
            if self._poll_thread is None:
                self._start_thread()
            threads = self._count_threads()
            # A coroutine may wait in the middle of a block: then others would be refused.
            refuse = refuse and not by_helper and not suspendable(frame) and not self._other_python_threads()
            if refuse:
                self._rlimit.prepare()
            used, data = read_memory()
            region.enter(frame, used, carried, threads, by_helper)
            left = region.limit - region.taken(used)
            if refuse:
                self._rlimit.claim(region, data + max(0, left) + leeway)
            self._regions.append(region)
            self._limited.add(region.native)
            if self._poll_thread is not None and self._due - time.monotonic() > left / 2 / RATE:
                self._poll_thread.wake()
            return self._rlimit.reserve_release()

    def leave(self, region: LimitedRegion) -> int:
        """Close a block in the calling thread; return what it has taken. May be repeated."""
        region.open = False  # first: a signal handler may raise from here on, and the next sample then removes it
        if region.forked:
            return 0
        stopping = None
        with self._lock:
            self._release(region)
            self._remove_closed()
            if region.final is None:
                try:
                    used, _ = read_memory()
                    if region.thread == _thread.get_ident():
                        region.sample(used, self._other_threads())
                    taken = max(region.taken(used), region.spike())
                except (OSError, MemoryError):
                    taken = region.peak
                faults = thread_faults()
                for other in self._regions:
                    other.thread_left(region.native, faults)
                region.close(taken)
            if not self._regions and not self._kept:
                stopping = self._detach_thread()
        absorb(region.thread)
        if stopping is not None:
            stopping.stop()
        return region.final or 0

    def keep(self) -> None:
        """Keep the thread between blocks until :meth:`release`."""
        with self._lock:
            self._kept += 1

    def release(self) -> None:
        """Undo one :meth:`keep`."""
        stopping = None
        with self._lock:
            self._kept = max(0, self._kept - 1)  # kept in the parent, perhaps
            if not self._regions and not self._kept:
                stopping = self._detach_thread()
        if stopping is not None:
            stopping.stop()

    def single_threaded(self) -> bool:
        """Return whether the process has one thread, the one of this monitor not counted."""
        for _ in range(10):
            with self._lock:
                if self._count_threads() == 1:
                    return True
                if len(sys._current_frames()) > 1 + len(self._poll_threads):
                    return False
            time.sleep(0.001)  # a thread that Python has joined is gone a moment later
        return False

    def before_thread_start(self) -> None:
        """Refuse nothing from here on: a thread's stack counts as data of the process, though nothing of it is used."""
        # A signal handler may start a thread while this one enters or leaves a block: it must not wait for itself.
        if self._rlimit.claimed and self._lock.acquire(True, _START_TIMEOUT):
            try:
                self._rlimit.clear()
            finally:
                self._lock.release()

    def _other_python_threads(self) -> bool:
        """Return whether a thread beside the limited one and ours may run Python code.

        Threads of C libraries (numpy's BLAS) work for their callers.
        """
        return len(set(sys._current_frames()) - {each.ident for each in self._poll_threads}) > 1

    def _count_threads(self) -> int:
        """Return the number of threads without ours. The folder has a link for each thread and two more."""
        if len(self._poll_threads) > (self._poll_thread is not None):
            self._poll_threads = [each for each in self._poll_threads if each is self._poll_thread or each.exists()]
        return max(1, os.stat("/proc/self/task").st_nlink - 2 - len(self._poll_threads))

    # --- the thread that samples --------------------------------------------------------------------------

    def _start_thread(self) -> None:
        """Start the thread; with the lock held, so that its first sample comes after this."""
        thread = PollThread()
        if thread.start(functools.partial(self._sample, thread), self._out_of_memory):
            self._poll_threads.append(thread)
            self._poll_thread = thread

    def _detach_thread(self) -> PollThread | None:
        """Clear what is set while blocks are open; with the lock held. The thread returned is to be stopped without."""
        thread, self._poll_thread = self._poll_thread, None
        self._limited.clear()
        self._rlimit.clear()
        return thread

    def _sample(self, thread: PollThread) -> float | None:
        """Take one sample for all blocks; return the seconds until the next."""
        with self._lock:
            if self._poll_thread is not thread:
                return None
            self._remove_closed()
            if not self._regions:
                if not self._kept:
                    self._detach_thread()
                    return None
                pause = LONGEST
            else:
                used, _, shared = read_sizes()
                if self._other_python_threads():
                    self._rlimit.clear()  # another thread could be refused from here on
                others = self._other_threads()
                for region in self._regions:
                    region.note_shared(shared)
                left = min(-region.sample(used, others) for region in self._regions)
                if left < 0:
                    self._interrupt_one(used)
                pause = min(LONGEST, max(SHORTEST, left / 2 / RATE))
            self._due = time.monotonic() + pause
            return pause

    def _remove_closed(self) -> None:
        """Remove closed blocks, including those in which a signal handler raised at their end."""
        for region in [each for each in self._regions if not each.open]:
            self._regions.remove(region)
            self._release(region)

    def _release(self, region: LimitedRegion) -> None:
        region.refusing = region.refusing or self._rlimit.binds(region)
        self._rlimit.release(region)

    def _out_of_memory(self) -> None:
        """Free the reserve: a sample needs some memory."""
        self._rlimit.reserve_release()()

    def _other_threads(self) -> OtherThreads | None:
        if self._count_threads() == 1:
            return None
        return OtherThreads(self._limited | {each.native for each in self._poll_threads})

    def _interrupt_one(self, used: int) -> None:
        """Interrupt one block that exceeds its limit: the outermost of its thread, the furthest of several threads."""
        outermost: dict[int, LimitedRegion] = {}
        for region in self._regions:
            if region.taken(used) > region.limit:
                outermost.setdefault(region.thread, region)
        for region in sorted(outermost.values(), key=lambda each: -each.taken(used) / each.limit):
            safety = region.safety()
            if safety is InterruptSafety.OUTSIDE:
                continue
            if self._rlimit.binds(region) and region.over_for() < _REFUSED_FIRST:
                return  # a refused allocation may be unwinding it: an interruption would be raised in its caller
            region.exceeded = max(region.exceeded or 0, region.taken(used))
            if not region.should_wait(safety, used):
                interrupt(region.thread)
            return

    # --- forks and the end --------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Stop the thread: a process with another thread should not be forked."""
        self.close()
        self._locked_for_fork = self._lock.acquire(True, _FORK_TIMEOUT)

    def after_fork_in_parent(self) -> None:
        """Start the thread again."""
        if self._locked_for_fork:
            if self._regions and self._poll_thread is None:
                self._start_thread()
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """Void the blocks: a limit holds in the process that asked for it."""
        for region in self._regions:
            region.close(0)
            region.forked, region.exceeded = True, None
        self._detach_thread()
        self.__init__()  # type: ignore[misc]

    def close(self) -> None:
        """Stop the thread: the program ends or forks."""
        thread, self._poll_thread = self._poll_thread, None
        if thread is not None:
            thread.stop()


def _start_unrefused(thread: threading.Thread) -> None:
    monitor.before_thread_start()
    _start(thread)


monitor = LimitMonitor()
#: Python 3.11 has no audit event for it.
_start = threading.Thread.start
threading.Thread.start = functools.wraps(_start)(_start_unrefused)  # type: ignore[method-assign, assignment]
atexit.register(monitor.close)
at_fork(
    GUARDS,
    before=monitor.before_fork,
    parent=monitor.after_fork_in_parent,
    child=monitor.after_fork_in_child,
)
