"""One kernel mark, many that measure: the highest resident size of the process while each of them was open.

The kernel keeps one mark (``VmHWM``) and sets it back on request (``5`` written to ``/proc/self/clear_refs``, Linux
4.0, no privilege; 1.7 µs). Who begins to measure first takes what the mark says for those that are open already, and
then sets it back; so an inner one never hides the outer one's peak. Open ones stand in a list, oldest first. What the
mark says goes to the newest alone, and from there, when that closes, to the next older one: all that the newer saw,
the older saw, too. So both ends cost the same however many are open.

Between taking and setting back lie some microseconds: what another thread takes *and* gives back within them is seen
by nobody. Where the kernel refuses, a thread looks every :data:`SAMPLE_SECONDS` while somebody measures.
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

#: How often the resident size is read where the kernel's mark cannot be set back.
SAMPLE_SECONDS = 0.005
#: The kernel's mark must go down when it is this much above what is resident: more than other threads take at once.
_TELLING, _DOUBTS = 4 << 20, 3


def reset_kernel_mark() -> bool:
    """Set ``VmHWM`` of this process back to what is resident now; False where the kernel does not let us."""
    try:
        # Opened anew each time: a program that closes all descriptors may give a kept one's number to another file.
        fd = os.open("/proc/self/clear_refs", os.O_WRONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            os.write(fd, b"5")
        finally:
            os.close(fd)
    except OSError:  # refused, or no such file
        return False
    return True


class PeakScope:
    """One that measures. ``owner`` is held weakly: one that is forgotten while open closes by itself."""

    __slots__ = ("exact", "inherited", "owner", "peak", "rss", "thread")

    def __init__(self, owner: Any, exact: bool, rss: int, background: bool) -> None:
        self.owner = weakref.ref(owner)
        #: Whether the kernel tells its peak.
        self.exact = exact
        #: The most that is known of yet, without what the kernel's mark says since it was last set back.
        self.peak = rss
        #: What was resident when it was opened.
        self.rss = rss
        #: Whether a parent opened it, before the fork.
        self.inherited = False
        #: The thread that opened it; None: it measures in the background of all.
        self.thread = None if background else threading.get_ident()


class PeakScopes:
    """Those that are open in this process. Any thread may open and close; safe where a signal's handler does, too."""

    def __init__(
        self, water: Callable[[], PeakReader] = peak_reader, reset: Callable[[], bool] = reset_kernel_mark
    ) -> None:
        self._make_water, self._reset = water, reset
        self._water: PeakReader | None = None
        # Reentrant: a finalizer or a handler may measure while we are at it, on this very thread.
        self.lock = threading.RLock()
        #: What is open, oldest first, and how many of them measure in the background. To be changed with the lock only.
        self.marks: list[PeakScope] = []
        self.background = 0
        #: What the kernel's mark said last, and when it could not be set back: from there on only more is news.
        self._said = self._base = 0
        #: How often it may still be taken for another thread's doing that the mark did not go down; 0: it did.
        self._doubts = _DOUBTS
        self._sampler: _Sampler | None = None
        reset_after_fork(self)

    def open(self, owner: object, *, background: bool = False) -> PeakScope:
        """Begin to measure. Raises :class:`ReadError`; then nothing is open."""
        with self.lock:
            while self.marks and self.marks[-1].owner() is None:
                self._remove(self.marks[-1])
            rss = self._fold()
            self._base = 0 if self._set_back(rss) else self._said
            mark = PeakScope(owner, not self._base, rss, background)
            self.marks.append(mark)
            self.background += background
            if self._base and self._sampler is None:
                self._sampler = _Sampler.begin(self)
            return mark

    def peak(self, mark: PeakScope) -> tuple[int, int]:
        """The peak of an open mark up to now, and what is resident now. Raises :class:`ReadError`."""
        with self.lock:
            peak, rss = self._look()
            return max(peak, self._seen(mark)), rss

    def close(self, mark: PeakScope) -> tuple[int, int]:
        """End measuring; its peak, and what is resident now. Raises :class:`ReadError`, and it is closed then, too."""
        with self.lock:
            try:
                peak, rss = self._look()
                if peak > mark.peak:
                    mark.peak = peak
            finally:
                self._remove(mark)
        if self._sampler is not None:
            self._rest()
        return mark.peak, rss

    def drop(self, mark: PeakScope) -> None:
        """Close it without a look; nothing happens when it is not open."""
        with self.lock:
            self._remove(mark)
        self._rest()

    def _rest(self) -> None:
        with self.lock:
            sampler = None
            if not self.marks:
                sampler, self._sampler = self._sampler, None
        if sampler is not None:
            sampler.stop()

    @contextlib.contextmanager
    def unseen(self) -> Iterator[None]:
        """What is taken and given back inside counts for nobody's peak, but for the process's own: our own work."""
        with self.lock:
            self._fold()
        try:
            yield
        finally:
            with self.lock:
                _, rss = self._look()
                self._base = 0 if self._set_back(rss) else self._said

    def sample(self) -> bool:
        """Take what is resident now; whether somebody still measures."""
        if not self.lock.acquire(blocking=False):
            return True  # somebody opens or closes, and looks himself
        try:
            self._fold()
            for mark in [mark for mark in self.marks if mark.owner() is None]:
                self._remove(mark)
            if not self.marks:
                self._sampler = None
            return bool(self.marks)
        except ReadError:
            return True
        finally:
            self.lock.release()

    def _look(self) -> tuple[int, int]:
        """The peak since the mark was set back, as far as known, and what is resident. Raises :class:`ReadError`."""
        water = self._water
        if water is None:
            try:
                water = self._water = self._make_water()
            except ExtraMissing as error:
                raise ReadError("memory", "psutil", "absent", str(error)) from None
        try:
            said, rss = water.read()
        except ReadError as error:
            if error.why != "malformed":
                raise
            said, rss = water.read()
        self._said = said
        record_peak(said)
        return (said if said > self._base else rss), rss

    def _fold(self) -> int:
        """Take what the mark says for the newest; it goes on to the older ones from there. Returns what is resident."""
        peak, rss = self._look()
        if self.marks and peak > (newest := self.marks[-1]).peak:
            newest.peak = peak
        return rss

    def _set_back(self, rss: int) -> bool:
        if not self._reset():
            return False
        if self._doubts and self._said - rss > _TELLING:
            # Some kernels that are none (a sandbox's) take the word and do nothing. It must be seen to go down once.
            before = self._said
            self._look()
            if self._said >= before:
                self._doubts -= 1
                if not self._doubts:
                    self._reset = bool  # which says False
                return False
            self._doubts = 0
        return True

    def _seen(self, mark: PeakScope) -> int:
        """What is known of it: its own, and what those saw that opened after it and are open still."""
        newer = self.marks[self.marks.index(mark) :] if mark in self.marks else [mark]
        return max(each.peak for each in newer)

    def _remove(self, mark: PeakScope) -> None:
        """Take it from the list; what it saw goes to it, where it is not the newest, and to the next older one."""
        marks = self.marks
        if not marks or marks[-1] is not mark:
            if mark not in marks:
                return
            mark.peak = self._seen(mark)
        at = marks.index(mark)
        if at and (older := marks[at - 1]).peak < mark.peak:
            older.peak = mark.peak
        marks.remove(mark)
        self.background -= mark.thread is None

    def release(self) -> None:
        """Give back the one descriptor that is kept from the first call on; the next look opens it again."""
        with self.lock:
            if self._water is not None:
                self._water.close()

    def after_fork(self) -> None:
        """In a child: those of other threads are gone, and figures count from the fork."""
        self.lock = threading.RLock()
        if self._water is not None:
            self._water.close()
        self._said = self._base = 0
        self._sampler = None
        here = threading.get_ident()
        self.marks = [mark for mark in self.marks if mark.thread in (None, here)]
        self.background = sum(mark.thread is None for mark in self.marks)
        try:
            rss = self._look()[1] if self.marks else 0
        except ReadError:
            rss = 0
        for mark in self.marks:
            mark.inherited, mark.peak, mark.rss = True, rss, rss


class _Sampler:
    """A thread that looks, for as long as somebody measures and the kernel does not."""

    @classmethod
    def begin(cls, marks: PeakScopes) -> _Sampler | None:
        """One that runs; None where no thread can be had: at the end of the interpreter, or at a limit."""
        if sys.is_finalizing():  # it would wait for ever for the thread to begin
            return None
        try:
            return cls(marks)
        except RuntimeError:
            return None

    def __init__(self, marks: PeakScopes) -> None:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(marks,), name="memwarden-peaks", daemon=True)
        self._thread.start()

    def _run(self, marks: PeakScopes) -> None:
        while not self._done.wait(SAMPLE_SECONDS) and marks.sample():
            pass

    def stop(self) -> None:
        """Returns when the thread has ended."""
        self._done.set()
        if self._thread is not threading.current_thread() and not sys.is_finalizing():
            self._thread.join(1.0)


#: Those of this process.
marks = PeakScopes()
