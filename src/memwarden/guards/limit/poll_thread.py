"""A thread that looks now and again until it is sent home."""

from __future__ import annotations

import _thread
import contextlib
import os
import time
from collections.abc import Callable

#: Seconds until the first look, and how long a watchman who is sent home is waited for.
_FIRST, _PATIENCE = 0.001, 1.0
NICE = -10


class PollThread:
    """Calls ``look``, which gives the seconds until the next time, or None to end. Nothing is kept but this thread."""

    def __init__(self) -> None:
        #: The thread, as the kernel numbers it; 0 while there is none.
        self.native = 0
        self._home = False
        self._wake, self._begun, self._ended = (_thread.allocate_lock() for _ in range(3))
        for lock in (self._wake, self._begun, self._ended):
            lock.acquire()

    def begin(self, look: Callable[[], float | None], short: Callable[[], None]) -> bool:
        """Start; returns when it runs, since its stack counts as data of the process. False where no thread can be
        had, or the interpreter is ending. ``short`` is called when there was no memory to look with."""
        try:
            _thread.start_new_thread(self._run, (look, short))
        except RuntimeError:
            return False
        self._begun.acquire()
        return True

    def _run(self, look: Callable[[], float | None], short: Callable[[], None]) -> None:
        try:
            self.native = _thread.get_native_id()
            with contextlib.suppress(OSError):
                # This thread alone, where it is granted: who looks too late because others compute does not hold.
                os.setpriority(os.PRIO_PROCESS, self.native, NICE)
            self._begun.release()
            pause: float | None = _FIRST
            while pause is not None:
                self._wake.acquire(True, pause)
                if self._home:
                    return
                try:
                    pause = look()
                except (MemoryError, OSError):
                    pause = _FIRST
                    short()
        finally:
            self._ended.release()

    def there(self) -> bool:
        """Whether its thread is still there."""
        return os.path.exists(f"/proc/self/task/{self.native}")

    def nudge(self) -> None:
        """Look now."""
        with contextlib.suppress(RuntimeError):  # it was nudged already
            self._wake.release()

    def send_home(self) -> None:
        """End it, and wait until it has gone: from then on the process has a thread less."""
        self._home = True
        self.nudge()
        if not self._ended.acquire(True, _PATIENCE):
            return
        self._ended.release()
        until = time.monotonic() + _PATIENCE
        while self.there() and time.monotonic() < until:
            time.sleep(0)  # it has said that it ends, and does so in a moment
