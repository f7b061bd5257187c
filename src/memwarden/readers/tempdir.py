"""Directories that fill (temporary files): what lies in them, and what their file system has left.

Counted like ``du -x``: blocks on disk, those of folders included; a file with several names once; links are not
followed and other file systems not entered. Nothing is ever deleted, and nothing written.

This reader has a thread of its own. A file system can take any time to answer: a cold disk milliseconds for a
single entry, a network's whose server is gone for ever, and no call could be taken back. The thread counts in
slices of 2 ms on 1 % of a core, and ``read`` only takes what it has found. Where it hangs a gap says so
(``slow``), and it alone may outlive ``close``. Between counts it sleeps.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from memwarden.errors import ReadError
from memwarden.model.facts import DirectoryUsage, Gap
from memwarden.readers.linux.files import read_error

THREAD = "memwarden-tempdir"
#: Folders in folders that are counted; each costs two descriptors while a count goes on.
DEEPEST = 32
#: Files with several names that are remembered, so that they count once: 10 MB at most.
_REMEMBERED = 100_000
#: Work at a stretch in seconds, and how many entries between two looks at the clock.
_SLICE, _STRIDE = 0.002, 32
#: How to list an open folder: as a path. By its descriptor Python rewinds the list when it closes it, and in a child
#: after a fork, where that is the same open file, so begins the parent's list anew. (macOS is not proven.)
_FOLDER = "/proc/self/fd/%d" if sys.platform == "linux" else "/dev/fd/%d"
#: How many times as long as it waited for a disk the thread leaves it alone.
_DISK = 10
#: The thread is asked for newer figures at most this often.
_FRESH = 1.0
#: What the first look waits for a first answer, and ``close`` for the thread.
_FIRST_ANSWER, _PARTING = 0.1, 1.0
#: What became of an entry that was there a moment ago: that is what such files are for.
_VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def default_directory() -> str:
    """Where this program's temporary files go.

    Not ``tempfile.gettempdir()``: that tries by writing, and so passes over a directory that is full.
    """
    module = sys.modules.get("tempfile")
    names = [getattr(module, "tempdir", None), *map(os.environ.get, ("TMPDIR", "TEMP", "TMP"))]
    return os.path.abspath(os.fsdecode(next(filter(None, names), "/tmp")))


class Sweep:
    """One count of a directory, a step at a time. Raises :class:`ReadError` where the directory cannot be opened."""

    def __init__(self, path: str) -> None:
        self.used = self.files = 0
        #: When the oldest file was changed, in seconds since the epoch.
        self.oldest: float | None = None
        self._path = path
        self._missed: dict[str, tuple[int, str]] = {}  # for each reason: how many folders, and the first
        self._seen: set[tuple[int, int]] = set()
        self._levels: list[tuple[int, Any, str]] = []  # descriptor, names, path
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._device = os.fstat(fd).st_dev
            self._enter(fd, path)
        except (OSError, ValueError) as error:
            raise read_error("directory", path, error) from None

    def step(self, entries: int) -> bool:
        """Count so many entries more; returns whether all are counted."""
        for _ in range(entries):
            if not self._levels:
                return True
            fd, names, path = self._levels[-1]
            entry = None
            try:
                if (entry := next(names, None)) is not None:
                    self._take(entry, fd, path)
                    continue
            except OSError as error:
                if error.errno not in _VANISHED:
                    why = read_error("directory", path, error).why
                    self._miss(why, path if entry is None else f"{path}/{entry.name}")
                if entry is not None:
                    continue
            self._leave()
        return not self._levels

    def _take(self, entry: os.DirEntry[str], fd: int, path: str) -> None:
        facts = os.stat(entry.name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISDIR(facts.st_mode):
            if facts.st_dev != self._device:
                return
            if len(self._levels) >= DEEPEST:
                self._miss("malformed", f"{path}/{entry.name}")
                return
            # By its name in the open folder, links refused: what is put in its place meanwhile leads nowhere.
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            self._enter(os.open(entry.name, flags, dir_fd=fd), f"{path}/{entry.name}")
            return
        self.files += 1
        if self.oldest is None or facts.st_mtime < self.oldest:
            self.oldest = facts.st_mtime
        size = facts.st_blocks * 512
        if facts.st_nlink > 1:
            file = facts.st_dev, facts.st_ino
            if file in self._seen:
                return
            if len(self._seen) < _REMEMBERED:
                self._seen.add(file)
            else:
                size //= facts.st_nlink  # right where all its names are in here
        self.used += size

    def _enter(self, fd: int, path: str) -> None:
        try:
            facts = os.fstat(fd)
            if facts.st_dev != self._device:  # mounted there since it was named
                os.close(fd)
                return
            self._levels.append((fd, os.scandir(_FOLDER % fd), path))
        except OSError:
            os.close(fd)
            raise
        self.used += facts.st_blocks * 512

    def _leave(self) -> None:
        fd, names, _ = self._levels.pop()
        names.close()
        os.close(fd)

    def _miss(self, why: str, path: str) -> None:
        count, first = self._missed.get(why, (0, path))
        self._missed[why] = count + 1, first

    def gaps(self) -> tuple[Gap, ...]:
        """What is not in the figures, one for each reason."""
        told = []
        for why, (count, first) in self._missed.items():
            which = f"not counted: {first!r}" + (f" and {count - 1} more" if count > 1 else "")
            if why == "denied":
                which += " (run as the owner, or name a directory of your own)"
            elif why == "malformed":
                which += f" (deeper than {DEEPEST} folders)"
            told.append(Gap("directory", self._path, why, which))
        return tuple(told)

    def close(self) -> None:
        """Give the descriptors back. May be called twice."""
        while self._levels:
            self._leave()


class _Count(NamedTuple):
    """What is known of a directory."""

    used: int
    files: int
    oldest: float | None
    free: int
    total: int
    #: When the count was complete, on the monotonic clock; None: it still goes on for the first time.
    complete: float | None
    gaps: tuple[Gap, ...]


class _Place:
    """A directory: the count that goes on, and the newest that stands."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.sweep: Sweep | None = None
        self.due = float("-inf")
        #: Replaced as a whole, so that another thread sees it whole.
        self.count: _Count | ReadError | None = None

    def begin(self, now: float, every: float) -> None:
        """See what the file system has left, and begin a count where one is due."""
        try:
            room = os.statvfs(self.path)
            if self.sweep is None and now >= self.due:
                self.sweep = Sweep(self.path)
                self.due = now + every
        except ReadError as error:
            self.count = error
        except (OSError, ValueError) as error:
            self.count = read_error("directory", self.path, error)
        else:
            free, total = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
            if isinstance(self.count, _Count) and self.count.complete is not None:
                self.count = self.count._replace(free=free, total=total)
            elif self.sweep is not None:
                self._tell(self.sweep, free, total, None)
            return
        self.end()
        self.due = now  # again as soon as somebody asks

    def go_on(self, entries: int, now: float) -> None:
        """Count on."""
        if self.sweep is not None and self.sweep.step(entries):
            assert isinstance(self.count, _Count)
            self._tell(self.sweep, self.count.free, self.count.total, now)
            self.end()

    def _tell(self, sweep: Sweep, free: int, total: int, complete: float | None) -> None:
        self.count = _Count(sweep.used, sweep.files, sweep.oldest, free, total, complete, sweep.gaps())

    def end(self) -> None:
        if self.sweep is not None:
            self.sweep.close()
            self.sweep = None


class _Counter:
    """The thread. It knows nothing of the reader."""

    def __init__(self, places: Sequence[_Place], budget: float, every: float, clock: Callable[[], float]) -> None:
        self.pid = os.getpid()
        self.places = places
        self.wanted, self.answered, self.stopping = threading.Event(), threading.Event(), threading.Event()
        #: What it asks the file system about, and since when; None while it sleeps.
        self.asks: tuple[str, float] | None = None
        self._budget, self._every, self._clock = budget, every, clock
        self.thread = threading.Thread(target=self._run, name=THREAD, daemon=True)

    def _run(self) -> None:
        try:
            while not self.stopping.is_set():
                self.wanted.clear()
                begun, used = time.monotonic(), time.thread_time()
                try:
                    unfinished = self._work()
                except Exception as error:  # noqa: BLE001 - a fault of ours is told, and the thread lives
                    unfinished = self._fail(error)
                self.answered.set()
                if unfinished:
                    took = time.monotonic() - begun
                    # A disk that is waited for is kept busy for a tenth of the time at most.
                    cost = max(time.thread_time() - used, took * _DISK * self._budget)
                    self.stopping.wait(cost / self._budget - took)
                else:
                    self.wanted.wait()
        finally:
            for place in self.places:
                place.end()

    def _work(self) -> bool:
        """Ask and count for a slice; returns whether a count is unfinished."""
        until = time.monotonic() + _SLICE
        for place in self.places:
            self.asks = place.path, self._clock()
            place.begin(self._clock(), self._every)
        for place in self.places:
            while place.sweep is not None:
                if time.monotonic() >= until or self.stopping.is_set():
                    break
                self.asks = place.path, self._clock()
                place.go_on(_STRIDE, self._clock())
        self.asks = None
        return any(place.sweep is not None for place in self.places)

    def _fail(self, error: Exception) -> bool:
        for place in self.places:
            place.end()
            place.count = ReadError("directory", place.path, "broken", repr(error))
        self.asks = None
        return False

    def stop(self) -> bool:
        """Whether it ended."""
        self.stopping.set()
        self.wanted.set()
        self.thread.join(_PARTING)
        return not self.thread.is_alive()


class TempdirReader:
    """Reads :class:`DirectoryUsage` of a directory, or of several: the system's temporary one where none is named.

    A new count begins ``every`` seconds at most, on ``budget`` of one core (some 3 µs an entry: 100,000 files take
    30 s); until it is complete the figures of the last one stand, with their age. A file system that does not
    answer for ``patience`` seconds is a gap. Directories are counted one after another.
    """

    name = "tempdir"

    def __init__(
        self,
        path: str | os.PathLike[str] | Sequence[str] | None = None,
        *,
        every: float = 30.0,
        budget: float = 0.01,
        patience: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        if path is None:
            path = default_directory()
        paths = [os.fspath(path)] if isinstance(path, str | os.PathLike) else list(path)
        self._places = [_Place(each) for each in paths]
        self._every, self._budget, self._patience = every, budget, patience
        self._monotonic, self._wall = monotonic, wall
        self._counter: _Counter | None = None
        self._asked = float("-inf")

    def read(self) -> dict[str, Any]:
        """``{"directories": (DirectoryUsage, …), "gaps": (…)}``; raises :class:`ReadError` where none is known."""
        counter, now = self._begin(), self._monotonic()
        if now >= self._asked + _FRESH:
            self._asked = now
            counter.wanted.set()
        told, gaps = [], []
        for place in self._places:
            count = place.count
            if isinstance(count, ReadError):
                gaps.append(Gap(count.what, count.where, count.why, count.detail))
            elif count is not None:
                age = None if count.complete is None else max(0.0, now - count.complete)
                oldest = None if count.oldest is None else max(0.0, self._wall() - count.oldest)
                told.append(DirectoryUsage(place.path, count.used, count.files, oldest, count.free, count.total, age))
                gaps += count.gaps
        if (asks := counter.asks) is not None and now - asks[1] > self._patience:
            words = f"its file system does not answer; the thread {THREAD} waits for it"
            gaps.append(Gap("directory", asks[0], "slow", words))
        if not told and len(gaps) == 1:
            raise ReadError(*gaps[0])
        return {"directories": tuple(told), "gaps": tuple(gaps)}

    def _begin(self) -> _Counter:
        """The thread, started where there is none."""
        counter = self._counter
        if counter is not None and counter.pid == os.getpid():
            if counter.stopping.is_set() and counter.thread.is_alive():
                raise ReadError("directory", self._places[0].path, "slow", f"the thread {THREAD} still hangs")
            if not counter.stopping.is_set():
                return counter
        if not hasattr(os, "statvfs") or not hasattr(os, "O_DIRECTORY"):
            raise ReadError(
                "directory", self._places[0].path, "absent", "directories are counted on POSIX systems only"
            )
        self._forget()
        counter = self._counter = _Counter(self._places, self._budget, self._every, self._monotonic)
        counter.thread.start()
        counter.answered.wait(_FIRST_ANSWER)
        self._asked = self._monotonic()
        return counter

    def _forget(self) -> None:
        # In a child after a fork these may hold copies of the parent's descriptors, and nobody else uses them.
        for place in self._places:
            place.end()
        self._places = [_Place(place.path) for place in self._places]

    def close(self) -> None:
        """End the thread, unless its file system holds it; the next read counts anew."""
        counter = self._counter
        if counter is None:
            return
        if counter.pid != os.getpid() or counter.stop():
            self._counter = None
            self._forget()
