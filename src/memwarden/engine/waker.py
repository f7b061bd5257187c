"""What the thread that looks sleeps on: it wakes when its time has come, when somebody rings, or for the kernel."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from memwarden.model.facts import CgroupMemory

if TYPE_CHECKING:
    from memwarden.readers.linux.wakeups import Wakeup

#: Wake-ups of the kernel that come closer together than this are one: a group that thrashes tells of it without end.
DEAF_SECONDS = 0.01
#: More than this a poll does not take; the kernel counts its milliseconds in 31 bits.
LONGEST_SECONDS = 86400.0


class Waker:
    """Like :class:`threading.Event`, for one waiter: a wait is one system call and allocates nothing.

    (An event's wait makes a lock, takes two and walks three Python frames; at a hundred looks a second that is a
    tenth of what a look costs.)
    """

    def __init__(self) -> None:
        self._rung = False
        self._closed = threading.Lock()  # open: there is a ring that nobody has waited for yet
        self._closed.acquire()
        #: Whether the last wait ended for the kernel's sake.
        self.woken = False
        self._wakeups: dict[int, Wakeup] = {}
        self._poll: Any = None  # a select.poll, which Windows has not
        self._event = -1
        self._writing = threading.RLock()  # nobody may ring a descriptor that is another's by then
        self._heard = 0.0

    def set(self) -> None:
        """Ring; it goes on ringing until it is cleared."""
        self._rung = True
        try:
            self._closed.release()
        except RuntimeError:
            pass  # it rings already
        if sys.platform == "linux" and self._event >= 0:
            with self._writing:
                if self._event >= 0:
                    os.eventfd_write(self._event, 1)

    def clear(self) -> None:
        """Stop ringing; for the one who waits."""
        self._rung = False
        self._closed.acquire(blocking=False)
        if sys.platform == "linux" and self._event >= 0:
            try:
                os.eventfd_read(self._event)
            except BlockingIOError:
                pass

    def is_set(self) -> bool:
        """Whether it rings."""
        return self._rung

    def wait(self, timeout: float) -> bool:
        """Wait for it, or for the kernel, ``timeout`` seconds at most; returns whether it rings."""
        self.woken = False
        if self._rung:
            return True
        if self._poll is None:
            return self._wait_for_ring(min(timeout, threading.TIMEOUT_MAX))
        deaf = self._heard + DEAF_SECONDS - monotonic()
        if deaf > 0:
            if self._wait_for_ring(min(timeout, deaf)):
                return True
            timeout -= deaf
        while timeout > 0 and not self.woken:
            if self._wait_for_kernel(min(timeout, LONGEST_SECONDS)):
                return True
            timeout -= LONGEST_SECONDS
        return False

    def _wait_for_ring(self, timeout: float) -> bool:
        # Who rings while another ring is cleared leaves the lock open: that is a ring, too.
        return self._closed.acquire(timeout=timeout) or self._rung

    def _wait_for_kernel(self, timeout: float) -> bool:
        rings = False
        for fd, _ in self._poll.poll(timeout * 1000):
            wakeup = self._wakeups.get(fd)
            if wakeup is None:
                rings = True  # our own descriptor
                continue
            self.woken, self._heard = True, monotonic()
            if not wakeup.clear():  # its group is gone
                self._poll.unregister(fd)
                del self._wakeups[fd]
                wakeup.close()
        return rings or self._rung

    # --- the kernel ---------------------------------------------------------------------------------------

    def listen(self, wakeups: Iterable[Wakeup]) -> None:
        """Wake for these, too, and give them back in the end; for the one who waits.

        Raises :class:`OSError` when no descriptor is left; then they are given back at once.
        """
        granted = list(wakeups)
        if sys.platform != "linux" or not granted:
            return
        try:
            event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError:
            for wakeup in granted:
                wakeup.close()
            raise
        poll = select.poll()
        poll.register(event, select.POLLIN)
        for wakeup in granted:
            poll.register(wakeup.fileno(), wakeup.events)
        self._wakeups = {wakeup.fileno(): wakeup for wakeup in granted}
        # Who rings from here on rings the descriptor; who did before has left a trace that the next wait looks at.
        self._poll, self._event = poll, event

    def follow(self, groups: Sequence[CgroupMemory]) -> None:
        """Let the wake-ups know how the groups stand."""
        for wakeup in self._wakeups.values():
            wakeup.follow(groups)

    @property
    def listening(self) -> tuple[str, ...]:
        """What the kernel wakes for."""
        return tuple(wakeup.name for wakeup in self._wakeups.values())

    def close(self) -> None:
        """Give the descriptors back; for the one who waited."""
        self._poll = None
        with self._writing:
            event, self._event = self._event, -1
            if event >= 0:
                os.close(event)
        for wakeup in self._wakeups.values():
            wakeup.close()
        self._wakeups = {}

    def after_fork(self) -> None:
        """In a child: close the copies of the descriptors. A lock may be held by a thread of the parent."""
        self._writing = threading.RLock()
        self.close()
