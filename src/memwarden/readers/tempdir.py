"""Size of directories (temporary files), and the free space of their file systems.

Counted like ``du -x``: blocks on disk, those of folders included; a file with several names once; links are not
followed and other file systems not entered. Nothing is deleted or written.

A file system may take any time to answer: a cold disk milliseconds for one entry, a dead network server for ever, and
no call can be cancelled. So a thread counts in slices of 2 ms on 1 % of a core, and ``read`` returns its figures. A
hanging call is a gap (``slow``), and this thread alone may outlive ``close``. Between counts it sleeps.
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
from memwarden.readers.collect import gap_of
from memwarden.readers.linux.files import read_error

THREAD = "memwarden-tempdir"
#: Nested folders that are counted; each costs two descriptors during a count.
DEEPEST = 32
#: Files with several names that are remembered, so that they count once: 10 MB at most.
_MAX_LINKED = 100_000
#: Length of a slice in seconds, and entries between two checks of the clock.
_SLICE, _STRIDE = 0.002, 32
#: Path of an open folder. Listing by descriptor would rewind it on close, also the parent's in a child after fork,
#: which shares the open file. (macOS is not tested.)
_FOLDER = "/proc/self/fd/%d" if sys.platform == "linux" else "/dev/fd/%d"
#: The thread rests this many times as long as it waited for a disk.
_DISK = 10
#: Newer figures are requested from the thread at most this often (seconds).
_FRESH = 1.0
#: Seconds that the first sample waits for figures, and ``close`` for the thread.
_FIRST_ANSWER, _STOP_SECONDS = 0.1, 1.0
#: Errors of an entry that was removed or replaced since it was listed: usual for temporary files.
_VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def default_directory() -> str:
    """Return the directory of this program's temporary files.

    Not ``tempfile.gettempdir()``: that tries to write, and so skips a directory that is full.
    """
    module = sys.modules.get("tempfile")
    names = [getattr(module, "tempdir", None), *map(os.environ.get, ("TMPDIR", "TEMP", "TMP"))]
    return os.path.abspath(os.fsdecode(next(filter(None, names), "/tmp")))


class DirectoryCount:
    """One count of a directory, a step at a time. Raises :class:`ReadError` where the directory cannot be opened."""

    def __init__(self, path: str) -> None:
        self.used = self.files = 0
        #: Modification time of the oldest file, in seconds since the epoch.
        self.oldest: float | None = None
        self._path = path
        self._skipped: dict[str, tuple[int, str]] = {}  # for each reason: how many folders, and the first
        self._seen: set[tuple[int, int]] = set()
        self._levels: list[tuple[int, Any, str]] = []  # descriptor, names, path
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._device = os.fstat(fd).st_dev
            self._enter(fd, path)
        except (OSError, ValueError) as error:
            raise read_error("directory", path, error) from None

    def step(self, entries: int) -> bool:
        """Count this many entries; returns True when all are counted."""
        for _ in range(entries):
            if not self._levels:
                return True
            fd, names, path = self._levels[-1]
            entry = None
            try:
                if (entry := next(names, None)) is not None:
                    self._add(entry, fd, path)
                    continue
            except OSError as error:
                if error.errno not in _VANISHED:
                    why = read_error("directory", path, error).why
                    self._skip(why, path if entry is None else f"{path}/{entry.name}")
                if entry is not None:
                    continue
            self._leave()
        return not self._levels

    def _add(self, entry: os.DirEntry[str], fd: int, path: str) -> None:
        facts = os.stat(entry.name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISDIR(facts.st_mode):
            if facts.st_dev != self._device:
                return
            if len(self._levels) >= DEEPEST:
                self._skip("malformed", f"{path}/{entry.name}")
                return
            # By its name in the open folder, without following links, which may replace it meanwhile.
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
            if len(self._seen) < _MAX_LINKED:
                self._seen.add(file)
            else:
                size //= facts.st_nlink  # exact if all its names are in this directory
        self.used += size

    def _enter(self, fd: int, path: str) -> None:
        try:
            facts = os.fstat(fd)
            if facts.st_dev != self._device:  # mounted there meanwhile
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

    def _skip(self, why: str, path: str) -> None:
        count, first = self._skipped.get(why, (0, path))
        self._skipped[why] = count + 1, first

    def gaps(self) -> tuple[Gap, ...]:
        """Return what is not in the figures, one gap for each reason."""
        gaps = []
        for why, (count, first) in self._skipped.items():
            detail = f"not counted: {first!r}" + (f" and {count - 1} more" if count > 1 else "")
            if why == "denied":
                detail += " (run as the owner, or name a directory of your own)"
            elif why == "malformed":
                detail += f" (deeper than {DEEPEST} folders)"
            gaps.append(Gap("directory", self._path, why, detail))
        return tuple(gaps)

    def close(self) -> None:
        """Close the descriptors. May be called twice."""
        while self._levels:
            self._leave()


class _Figures(NamedTuple):
    """Figures of a directory."""

    used: int
    files: int
    oldest: float | None
    free: int
    total: int
    #: When the count was complete, on the monotonic clock; None while the first count goes on.
    complete: float | None
    gaps: tuple[Gap, ...]


class _Directory:
    """A directory: the count in progress, and the newest figures."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.count: DirectoryCount | None = None
        self.due = float("-inf")
        #: Replaced as a whole, so that another thread sees consistent figures.
        self.figures: _Figures | ReadError | None = None

    def start(self, now: float, every: float) -> None:
        """Read the free space, and start a count if one is due."""
        try:
            disk = os.statvfs(self.path)
            if self.count is None and now >= self.due:
                self.count = DirectoryCount(self.path)
                self.due = now + every
        except ReadError as error:
            self.figures = error
        except (OSError, ValueError) as error:
            self.figures = read_error("directory", self.path, error)
        else:
            free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
            if isinstance(self.figures, _Figures) and self.figures.complete is not None:
                self.figures = self.figures._replace(free=free, total=total)
            elif self.count is not None:
                self._publish(self.count, free, total, None)
            return
        self.stop()
        self.due = now  # again at the next read

    def step(self, entries: int, now: float) -> None:
        """Continue the count."""
        if self.count is not None and self.count.step(entries):
            assert isinstance(self.figures, _Figures)
            self._publish(self.count, self.figures.free, self.figures.total, now)
            self.stop()

    def _publish(self, count: DirectoryCount, free: int, total: int, complete: float | None) -> None:
        self.figures = _Figures(count.used, count.files, count.oldest, free, total, complete, count.gaps())

    def stop(self) -> None:
        if self.count is not None:
            self.count.close()
            self.count = None


class _CountThread:
    """The thread. It has no reference to the reader."""

    def __init__(
        self, directories: Sequence[_Directory], budget: float, every: float, clock: Callable[[], float]
    ) -> None:
        self.pid = os.getpid()
        self.directories = directories
        self.wanted, self.answered, self.stopping = threading.Event(), threading.Event(), threading.Event()
        #: The directory whose file system is being called, and since when; None while it sleeps.
        self.calling: tuple[str, float] | None = None
        self._budget, self._every, self._clock = budget, every, clock
        self.thread = threading.Thread(target=self._run, name=THREAD, daemon=True)

    def _run(self) -> None:
        try:
            while not self.stopping.is_set():
                self.wanted.clear()
                start, used = time.monotonic(), time.thread_time()
                try:
                    unfinished = self._work()
                except Exception as error:  # noqa: BLE001 - a fault becomes a gap, and the thread goes on
                    unfinished = self._fail(error)
                self.answered.set()
                if unfinished:
                    took = time.monotonic() - start
                    # A slow disk is kept busy for a tenth of the time at most.
                    cost = max(time.thread_time() - used, took * _DISK * self._budget)
                    self.stopping.wait(cost / self._budget - took)
                else:
                    self.wanted.wait()
        finally:
            for each in self.directories:
                each.stop()

    def _work(self) -> bool:
        """Count for one slice; returns True if a count is unfinished."""
        until = time.monotonic() + _SLICE
        for each in self.directories:
            self.calling = each.path, self._clock()
            each.start(self._clock(), self._every)
        for each in self.directories:
            while each.count is not None:
                if time.monotonic() >= until or self.stopping.is_set():
                    break
                self.calling = each.path, self._clock()
                each.step(_STRIDE, self._clock())
        self.calling = None
        return any(each.count is not None for each in self.directories)

    def _fail(self, error: Exception) -> bool:
        for each in self.directories:
            each.stop()
            each.figures = ReadError("directory", each.path, "broken", repr(error))
        self.calling = None
        return False

    def stop(self) -> bool:
        """Stop the thread; returns False if it did not end in time."""
        self.stopping.set()
        self.wanted.set()
        self.thread.join(_STOP_SECONDS)
        return not self.thread.is_alive()


class TempdirReader:
    """Reads :class:`DirectoryUsage` of one directory or several, by default of the system's temporary one.

    A new count starts every ``every`` seconds, on ``budget`` of one core (about 3 µs an entry: 100,000 files take
    30 s); until it is complete the last figures are returned with their age. A file system that does not answer for
    ``timeout`` seconds is a gap. Directories are counted one after another.
    """

    name = "tempdir"

    def __init__(
        self,
        path: str | os.PathLike[str] | Sequence[str] | None = None,
        *,
        every: float = 30.0,
        budget: float = 0.01,
        timeout: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        if path is None:
            path = default_directory()
        paths = [os.fspath(path)] if isinstance(path, str | os.PathLike) else list(path)
        self._directories = [_Directory(each) for each in paths]
        self._every, self._budget, self._timeout = every, budget, timeout
        self._monotonic, self._wall = monotonic, wall
        self._thread: _CountThread | None = None
        self._asked = float("-inf")

    def read(self) -> dict[str, Any]:
        """Return ``{"directories": (DirectoryUsage, …), "gaps": (…)}``; raises :class:`ReadError` without figures."""
        thread, now = self._start(), self._monotonic()
        if now >= self._asked + _FRESH:
            self._asked = now
            thread.wanted.set()
        usages: list[DirectoryUsage] = []
        gaps: list[Gap] = []
        for each in self._directories:
            known = each.figures
            if isinstance(known, ReadError):
                gaps.append(gap_of(known))
            elif known is not None:
                age = None if known.complete is None else max(0.0, now - known.complete)
                oldest = None if known.oldest is None else max(0.0, self._wall() - known.oldest)
                usages.append(DirectoryUsage(each.path, known.used, known.files, oldest, known.free, known.total, age))
                gaps += known.gaps
        if (calling := thread.calling) is not None and now - calling[1] > self._timeout:
            detail = f"its file system does not answer; the thread {THREAD} waits for it"
            gaps.append(Gap("directory", calling[0], "slow", detail))
        if not usages and len(gaps) == 1:
            raise ReadError(*gaps[0])
        return {"directories": tuple(usages), "gaps": tuple(gaps)}

    def _start(self) -> _CountThread:
        """Return the thread, started if there is none."""
        thread = self._thread
        if thread is not None and thread.pid == os.getpid():
            if thread.stopping.is_set() and thread.thread.is_alive():
                raise ReadError("directory", self._directories[0].path, "slow", f"the thread {THREAD} still hangs")
            if not thread.stopping.is_set():
                return thread
        if not hasattr(os, "statvfs") or not hasattr(os, "O_DIRECTORY"):
            raise ReadError(
                "directory", self._directories[0].path, "absent", "directories are counted on POSIX systems only"
            )
        self._forget()
        thread = self._thread = _CountThread(self._directories, self._budget, self._every, self._monotonic)
        thread.thread.start()
        thread.answered.wait(_FIRST_ANSWER)
        self._asked = self._monotonic()
        return thread

    def _forget(self) -> None:
        # In a child after fork these may have copies of the parent's descriptors, which nothing else uses.
        for each in self._directories:
            each.stop()
        self._directories = [_Directory(each.path) for each in self._directories]

    def close(self) -> None:
        """Stop the thread, unless it hangs in its file system; the next read counts again."""
        thread = self._thread
        if thread is None:
            return
        if thread.pid != os.getpid() or thread.stop():
            self._thread = None
            self._forget()
