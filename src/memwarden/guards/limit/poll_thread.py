"""A thread that calls a function at intervals until it is stopped."""

from __future__ import annotations

import _thread
import contextlib
import os
import time
from collections.abc import Callable

#: Seconds until the first call, and the longest wait for the thread's end.
_FIRST, _STOP_TIMEOUT = 0.001, 1.0


class PollThread:
    """Calls ``sample``, which returns the seconds until the next call, or None to stop.

    No :class:`threading.Thread`: that would appear in ``threading.enumerate()`` of the program.
    """

    def __init__(self) -> None:
        #: The thread's id in the kernel and in Python; 0 before it runs.
        self.native = self.ident = 0
        self._stopping = False
        self._wake, self._started, self._ended = (_thread.allocate_lock() for _ in range(3))
        for lock in (self._wake, self._started, self._ended):
            lock.acquire()

    def start(self, sample: Callable[[], float | None], out_of_memory: Callable[[], object]) -> bool:
        """Start, and return when it runs, since its stack counts as data of the process.

        Returns False where no thread can be started. ``out_of_memory`` is called when ``sample`` failed for memory.
        """
        try:
            _thread.start_new_thread(self._run, (sample, out_of_memory))
        except RuntimeError:  # none is left, or the interpreter is ending
            return False
        self._started.acquire()
        return True

    def _run(self, sample: Callable[[], float | None], out_of_memory: Callable[[], object]) -> None:
        try:
            self.native, self.ident = _thread.get_native_id(), _thread.get_ident()
            self._started.release()
            pause: float | None = _FIRST
            while pause is not None:
                self._wake.acquire(True, pause)
                if self._stopping:
                    return
                try:
                    pause = sample()
                except (MemoryError, OSError):
                    pause = _FIRST
                    out_of_memory()
        finally:
            self._ended.release()

    def exists(self) -> bool:
        """Return whether the kernel still has the thread."""
        return os.path.exists(f"/proc/self/task/{self.native}")

    def wake(self) -> None:
        """Have ``sample`` called now."""
        with contextlib.suppress(RuntimeError):  # it was woken already
            self._wake.release()

    def stop(self) -> None:
        """Stop it, and wait until the kernel has removed the thread."""
        self._stopping = True
        self.wake()
        if not self._ended.acquire(True, _STOP_TIMEOUT):
            return
        self._ended.release()
        until = time.monotonic() + _STOP_TIMEOUT
        while self.exists() and time.monotonic() < until:
            time.sleep(0)
