"""The sampler thread's wait: it ends after a timeout, at ``set()``, or for the kernel."""

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

#: Wake-ups of the kernel that come closer together than this are one: a group that thrashes sends them without end.
MERGE_SECONDS = 0.01
#: More than this a poll does not take; the kernel counts its milliseconds in 31 bits.
LONGEST_SECONDS = 86400.0


class Waker(threading.Event):
    """An event, for one waiter, that the kernel can end the wait for, too: by a poll of descriptors."""

    def __init__(self) -> None:
        super().__init__()
        #: Whether the kernel ended the last wait.
        self.woken = False
        self._wakeups: dict[int, Wakeup] = {}
        self._poll: Any = None  # a select.poll, which Windows has not
        self._event = -1
        self._writing = threading.RLock()  # so that no descriptor is written that is another file's by then
        self._woken_at = 0.0

    def set(self) -> None:
        """End the wait, and each further one until it is cleared."""
        super().set()
        if sys.platform == "linux" and self._event >= 0:
            with self._writing:
                if self._event >= 0:
                    os.eventfd_write(self._event, 1)

    def clear(self) -> None:
        """Clear it; for the waiting thread."""
        super().clear()
        if sys.platform == "linux" and self._event >= 0:
            try:
                os.eventfd_read(self._event)
            except BlockingIOError:
                pass

    def wait(self, timeout: float = LONGEST_SECONDS) -> bool:  # type: ignore[override]
        """Wait for it, or for the kernel, ``timeout`` seconds at most; returns whether it is set."""
        self.woken = False
        if self._poll is None or self.is_set():
            return super().wait(min(timeout, threading.TIMEOUT_MAX))
        pause = self._woken_at + MERGE_SECONDS - monotonic()
        if pause > 0:
            if super().wait(min(timeout, pause)):
                return True
            timeout -= pause
        while timeout > 0 and not self.woken:
            if self._wait_for_kernel(min(timeout, LONGEST_SECONDS)):
                return True
            timeout -= LONGEST_SECONDS
        return False

    def _wait_for_kernel(self, timeout: float) -> bool:
        is_set = False
        for fd, _ in self._poll.poll(timeout * 1000):
            wakeup = self._wakeups.get(fd)
            if wakeup is None:
                is_set = True  # our own descriptor
                continue
            self.woken, self._woken_at = True, monotonic()
            if not wakeup.clear():  # its group is gone
                self._poll.unregister(fd)
                del self._wakeups[fd]
                wakeup.close()
        return is_set or self.is_set()

    # --- the kernel ---------------------------------------------------------------------------------------

    def listen(self, wakeups: Iterable[Wakeup]) -> None:
        """Wake for these, too, and close them in the end; for the waiting thread.

        Raises :class:`OSError` when no descriptor is left; then they are closed at once.
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
        # A set from here on writes the descriptor; an earlier one is seen by the next wait.
        self._poll, self._event = poll, event

    def follow(self, groups: Sequence[CgroupMemory]) -> None:
        """Pass the state of the groups on to the wake-ups."""
        for wakeup in self._wakeups.values():
            wakeup.follow(groups)

    @property
    def listening(self) -> tuple[str, ...]:
        """The names of the kernel's wake-ups."""
        return tuple(wakeup.name for wakeup in self._wakeups.values())

    def close(self) -> None:
        """Close the descriptors; for the waiting thread."""
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
