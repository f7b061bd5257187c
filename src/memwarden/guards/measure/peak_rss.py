"""Highest resident size of the process during each of several overlapping measurements.

The kernel keeps one peak per process (``VmHWM``) and resets it on request (``5`` written to ``/proc/self/clear_refs``,
Linux 4.0, no privilege; 1.7 µs). Opening a scope first credits the current peak to the newest open scope and then
resets it, so an inner scope never hides the peak of an outer one. A closing scope passes its peak to the next older
one, which was open all that time too; so opening and closing cost the same however many are open.

Memory that another thread takes and frees within the few microseconds between reading and resetting is missed. Where
the kernel refuses the reset, a thread samples every :data:`SAMPLE_SECONDS` while any scope is open.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from memwarden.errors import ExtraMissing, ReadError
from memwarden.process.fork_hooks import reset_after_fork
from memwarden.readers.factory import peak_reader
from memwarden.readers.peak import PeakReader, record_peak

#: Sampling interval where the kernel's peak cannot be reset.
SAMPLE_SECONDS = 0.005
#: A peak this far above the resident size must fall when it is reset (other threads do not take that much at once);
#: after so many resets without effect the kernel is taken to ignore them.
_MUST_FALL, _DOUBTS = 4 << 20, 3


def reset_kernel_peak() -> bool:
    """Reset ``VmHWM`` of this process to its resident size; False where the kernel refuses."""
    try:
        # Opened each time: a program that closes all descriptors may give the number of a kept one to another file.
        fd = os.open("/proc/self/clear_refs", os.O_WRONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            os.write(fd, b"5")
        finally:
            os.close(fd)
    except OSError:  # refused, or no such file
        return False
    return True


class PeakScope:
    """One open measurement. ``owner`` is held weakly: a scope closes by itself when its owner is collected."""

    __slots__ = ("exact", "inherited", "owner", "peak", "rss", "thread")

    def __init__(self, owner: Any, exact: bool, rss: int, background: bool) -> None:
        self.owner = weakref.ref(owner)
        #: True where the kernel gives the peak, False where it is sampled.
        self.exact = exact
        #: The highest size known so far, without the kernel's peak since its last reset.
        self.peak = rss
        #: Resident size when it was opened.
        self.rss = rss
        #: True in a child process, for a scope that its parent opened.
        self.inherited = False
        #: The thread that opened it; None for one that spans all threads.
        self.thread = None if background else threading.get_ident()


class PeakScopes:
    """The open scopes of this process. Thread-safe, also in signal handlers and finalizers."""

    def __init__(
        self, reader: Callable[[], PeakReader] = peak_reader, reset: Callable[[], bool] = reset_kernel_peak
    ) -> None:
        self._make_reader, self._reset = reader, reset
        self._reader: PeakReader | None = None
        #: Reentrant: a finalizer or a signal handler may measure on the thread that holds it.
        self.lock = threading.RLock()
        #: Open scopes, oldest first. To be changed under the lock.
        self.open_scopes: list[PeakScope] = []
        #: The kernel's peak at the last reading, and at a reset that failed: only a higher one is then news.
        self._last = self._base = 0
        #: Resets without effect that may still be another thread's doing; 0: a reset was seen to work.
        self._doubts = _DOUBTS
        #: The thread that samples, and the event that stops it; None while none runs.
        self._sampling: tuple[threading.Thread, threading.Event] | None = None
        reset_after_fork(self)

    def open(self, owner: object, *, background: bool = False) -> PeakScope:
        """Open a scope. Raises :class:`ReadError`; then none is open."""
        with self.lock:
            while self.open_scopes and self.open_scopes[-1].owner() is None:
                self._remove(self.open_scopes[-1])
            rss = self._credit()
            self._base = 0 if self._reset_peak(rss) else self._last
            scope = PeakScope(owner, not self._base, rss, background)
            self.open_scopes.append(scope)
            if self._base and self._sampling is None:
                self._start_sampling()
            return scope

    def peak(self, scope: PeakScope) -> tuple[int, int]:
        """Return the peak of an open scope up to now, and the resident size. Raises :class:`ReadError`."""
        with self.lock:
            peak, rss = self._read()
            return max(peak, self._known(scope)), rss

    def close(self, scope: PeakScope) -> tuple[int, int]:
        """Close a scope; return its peak and the resident size. Raises :class:`ReadError`; it is closed then, too."""
        with self.lock:
            try:
                peak, rss = self._read()
                scope.peak = max(peak, scope.peak)
            finally:
                self._remove(scope)
        return scope.peak, rss

    def drop(self, scope: PeakScope) -> None:
        """Close a scope without reading; nothing happens when it is not open."""
        with self.lock:
            self._remove(scope)

    @contextlib.contextmanager
    def excluded(self) -> Iterator[None]:
        """Leave memory that is taken and freed inside out of all peaks: memwarden's own work."""
        with self.lock:
            self._credit()
        try:
            yield
        finally:
            with self.lock:
                _, rss = self._read()
                self._base = 0 if self._reset_peak(rss) else self._last

    def sample(self) -> bool:
        """Credit the resident size now; return False when no scope is open any more."""
        if not self.lock.acquire(blocking=False):
            return True  # another thread opens or closes a scope, and reads
        try:
            self._credit()
            for scope in [scope for scope in self.open_scopes if scope.owner() is None]:
                self._remove(scope)
            return bool(self.open_scopes)
        except ReadError:
            return True
        finally:
            self.lock.release()

    def _read(self) -> tuple[int, int]:
        """Return the peak since the last reset, as far as known, and the resident size."""
        reader = self._reader
        if reader is None:
            try:
                reader = self._reader = self._make_reader()
            except ExtraMissing as error:
                raise ReadError("memory", "psutil", "absent", str(error)) from None
        try:
            peak, rss = reader.read()
        except ReadError as error:
            if error.why != "malformed":
                raise
            peak, rss = reader.read()
        self._last = peak
        record_peak(peak)
        return (peak if peak > self._base else rss), rss

    def _credit(self) -> int:
        """Credit the kernel's peak to the newest scope; return the resident size."""
        peak, rss = self._read()
        if self.open_scopes and peak > (newest := self.open_scopes[-1]).peak:
            newest.peak = peak
        return rss

    def _reset_peak(self, rss: int) -> bool:
        if not self._reset():
            return False
        if self._doubts and self._last - rss > _MUST_FALL:
            # Sandboxes (gVisor) accept the write and ignore it: the peak must be seen to fall once.
            before = self._last
            self._read()
            if self._last >= before:
                self._doubts -= 1
                if not self._doubts:
                    self._reset = bool  # always False
                return False
            self._doubts = 0
        return True

    def _known(self, scope: PeakScope) -> int:
        """Return the peak of a scope and of the open ones that are newer."""
        scopes = self.open_scopes
        newer = scopes[scopes.index(scope) :] if scope in scopes else [scope]
        return max(each.peak for each in newer)

    def _remove(self, scope: PeakScope) -> None:
        """Take a scope from the list, and pass its peak to the next older one."""
        scopes = self.open_scopes
        if not scopes or scopes[-1] is not scope:
            if scope not in scopes:
                return
            scope.peak = self._known(scope)
        at = scopes.index(scope)
        if at and (older := scopes[at - 1]).peak < scope.peak:
            older.peak = scope.peak
        scopes.remove(scope)
        if not scopes and self._sampling is not None:
            (thread, done), self._sampling = self._sampling, None
            done.set()
            # It never waits for the lock. At the end of the interpreter it is frozen, and a join would not return.
            if thread is not threading.current_thread() and not sys.is_finalizing():
                thread.join()

    def _start_sampling(self) -> None:
        """Sample on a thread while scopes are open, where the kernel's peak cannot be reset."""
        done = threading.Event()

        def run() -> None:
            while not done.wait(SAMPLE_SECONDS) and self.sample():
                pass

        if not sys.is_finalizing():  # the start would never return
            thread = threading.Thread(target=run, name="memwarden-peaks", daemon=True)
            with contextlib.suppress(RuntimeError):  # at a limit of threads
                thread.start()
                self._sampling = thread, done

    def release(self) -> None:
        """Close the one descriptor that stays open; the next reading opens it again."""
        with self.lock:
            if self._reader is not None:
                self._reader.close()

    def after_fork(self) -> None:
        """Keep the scopes of the forking thread in the child; their figures count from the fork."""
        self.lock = threading.RLock()
        if self._reader is not None:
            self._reader.close()
        self._last = self._base = 0
        self._sampling = None
        here = threading.get_ident()
        self.open_scopes = [scope for scope in self.open_scopes if scope.thread in (None, here)]
        try:
            rss = self._read()[1] if self.open_scopes else 0
        except ReadError:
            rss = 0
        for scope in self.open_scopes:
            scope.inherited, scope.peak, scope.rss = True, rss, rss


#: The scopes of this process.
peak_scopes = PeakScopes()
