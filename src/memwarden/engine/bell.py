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
    from memwarden.readers.wakeups import Wakeup

#: Wake-ups of the kernel that come closer together than this are one: a group that thrashes tells of it without end.
DEAF_SECONDS = 0.01


class Bell:
    """Like :class:`threading.Event`, for one waiter: a wait is one system call and allocates nothing.

    (An event's wait makes a lock, takes two and walks three Python frames; at a hundred looks a second that is a
    tenth of what a look costs.)
    """

    def __init__(self) -> None:
        self._rung = False
        self._closed = threading.Lock()
        self._closed.acquire()
        #: Whether the last wait ended for the kernel's sake.
        self.woken = False
        self._wakeups: dict[int, Wakeup] = {}
        self._poll: Any = None  # a select.poll, which Windows has not
        self._event = -1
        self._heard = 0.0

    def set(self) -> None:
        """Ring; it goes on ringing until it is cleared."""
        self._rung = True
        try:
            self._closed.release()
        except RuntimeError:
            pass  # it rings already
        if sys.platform == "linux" and self._event >= 0:
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
        if self._poll is not None:
            deaf = self._heard + DEAF_SECONDS - monotonic()
            if deaf <= 0 or timeout <= deaf:
                return self._rung or self._wait_for_kernel(timeout, deaf > 0)
            if self._wait_for_kernel(deaf, True):
                return True
            return self._wait_for_kernel(timeout - deaf, False)
        if not self._rung and self._closed.acquire(timeout=min(timeout, threading.TIMEOUT_MAX)):
            self._closed.release()
        return self._rung

    def _wait_for_kernel(self, timeout: float, deaf: bool) -> bool:
        if deaf:
            if not self._rung and self._closed.acquire(timeout=timeout):
                self._closed.release()
            return self._rung
        for fd, _ in self._poll.poll(timeout * 1000):
            wakeup = self._wakeups.get(fd)
            if wakeup is not None:
                self.woken, self._heard = True, monotonic()
                if not wakeup.clear():  # its group is gone
                    self._poll.unregister(fd)
                    del self._wakeups[fd]
                    wakeup.close()
        return self._rung

    # --- the kernel ---------------------------------------------------------------------------------------

    def listen(self, wakeups: Iterable[Wakeup]) -> None:
        """Wake for these, too, and give them back in the end; for the one who waits."""
        for wakeup in wakeups:
            self._wakeups[wakeup.fileno()] = wakeup
        if sys.platform == "linux" and self._wakeups:
            self._poll = select.poll()
            self._event = os.eventfd(int(self._rung), os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._poll.register(self._event, select.POLLIN)
            for fd, wakeup in self._wakeups.items():
                self._poll.register(fd, wakeup.events)

    def follow(self, groups: Sequence[CgroupMemory]) -> None:
        """Let the wake-ups know how the groups stand."""
        for wakeup in self._wakeups.values():
            wakeup.follow(groups)

    @property
    def listening(self) -> tuple[str, ...]:
        """What the kernel wakes for."""
        return tuple(wakeup.name for wakeup in self._wakeups.values())

    def close(self) -> None:
        """Give the descriptors back; for the one who waited, or in a child after fork."""
        self._poll = None
        event, self._event = self._event, -1
        if event >= 0:
            os.close(event)
        for wakeup in self._wakeups.values():
            wakeup.close()
        self._wakeups = {}
