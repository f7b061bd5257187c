"""Size of directories and free space, counted by a thread on a small share of a core.

A file system may take any time to answer (a network file system without its server), and no sample must wait for it.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from memwarden.errors import ReadError
from memwarden.model.facts import DirectoryUsage, Gap
from memwarden.readers.collect import gap_of
from memwarden.readers.linux.files import read_error

THREAD = "memwarden-tempdir"
#: Nested folders that are counted; each costs a descriptor during a count.
DEEPEST = 32
#: Files with several names that are remembered, so that they count once: 10 MB at most.
_MAX_LINKED = 100_000
#: Entries that are counted in one piece: 1.5 ms.
_SLICE = 512
#: The thread rests this many times as long as it waited for a disk.
_DISK = 10
#: Seconds between two updates of the free space.
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
        self._levels: list[tuple[str, Any]] = []  # path, and its remaining entries
        try:
            facts = os.stat(path)
            self._device = facts.st_dev
            self._enter(path, facts)
        except (OSError, ValueError) as error:
            raise read_error("directory", path, error) from None

    def step(self, entries: int) -> bool:
        """Count this many entries; returns True when all are counted."""
        for _ in range(entries):
            if not self._levels:
                return True
            path, names = self._levels[-1]
            try:
                entry = next(names, None)
                if entry is None:
                    self._leave()
                else:
                    path = entry.path
                    self._add(entry)
            except OSError as error:  # of the folder itself: its iterator is exhausted then
                if error.errno not in _VANISHED:
                    self._skip(read_error("directory", path, error).why, path)
        return not self._levels

    def _add(self, entry: os.DirEntry[str]) -> None:
        facts = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(facts.st_mode):
            if facts.st_dev == self._device:
                self._enter(entry.path, facts)
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

    def _enter(self, path: str, facts: os.stat_result) -> None:
        if len(self._levels) >= DEEPEST:
            self._skip("malformed", path)
            return
        self._levels.append((path, os.scandir(path)))
        self.used += facts.st_blocks * 512

    def _leave(self) -> None:
        _, names = self._levels.pop()
        names.close()

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


class _Directory:
    """A directory: the count in progress, and the newest figures."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.count: DirectoryCount | None = None
        self.due = float("-inf")
        #: Replaced as a whole, so that another thread sees consistent figures. ``oldest`` and ``age`` are times here,
        #: of the file and of the complete count.
        self.figures: tuple[DirectoryUsage, tuple[Gap, ...]] | ReadError | None = None

    def advance(self, now: float, every: float) -> bool:
        """Read the free space and count some entries; returns True if the count is unfinished."""
        try:
            disk = os.statvfs(self.path)
            if self.count is None and now >= self.due:
                self.count, self.due = DirectoryCount(self.path), now + every
            complete = self.count is not None and self.count.step(_SLICE)
        except Exception as error:  # noqa: BLE001 - a fault becomes a gap, and the thread goes on
            self.close()
            self.due = now  # again at the next update
            if isinstance(error, OSError | ValueError):
                error = read_error("directory", self.path, error)
            if not isinstance(error, ReadError):
                error = ReadError("directory", self.path, "broken", repr(error))
            self.figures = error
            return False
        free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
        last = None if isinstance(self.figures, ReadError) else self.figures
        count = self.count
        if count is not None and (complete or last is None or last[0].age is None):
            age = now if complete else None
            usage = DirectoryUsage(self.path, count.used, count.files, count.oldest, free, total, age)
            self.figures = usage, count.gaps()
        elif last is not None:
            self.figures = last[0]._replace(free=free, total=total), last[1]
        if complete:
            self.close()
        return self.count is not None

    def close(self) -> None:
        if self.count is not None:
            self.count.close()
            self.count = None


class _CountThread(threading.Thread):
    """Keeps the figures of directories up to date. It has no reference to the reader."""

    def __init__(self, paths: Sequence[str], budget: float, every: float, clock: Callable[[], float]) -> None:
        super().__init__(name=THREAD, daemon=True)
        self.directories = [_Directory(path) for path in paths]
        self.answered, self.stopping = threading.Event(), threading.Event()
        #: The directory that is being read, and since when; None while it sleeps.
        self.calling: tuple[str, float] | None = None
        self._budget, self._every, self._clock = budget, every, clock

    def run(self) -> None:
        while not self.stopping.is_set():
            start, used = time.monotonic(), time.thread_time()
            unfinished = False
            for each in self.directories:
                self.calling = each.path, self._clock()
                unfinished |= each.advance(self.calling[1], self._every)
            self.calling = None
            self.answered.set()
            rest = max((time.thread_time() - used) / self._budget, (time.monotonic() - start) * _DISK)
            self.stopping.wait(rest if unfinished else max(rest, _FRESH))
        self.close()

    def close(self) -> None:
        for each in self.directories:
            each.close()


class TempdirReader:
    """Reads :class:`DirectoryUsage` of one directory or several, by default of the system's temporary one.

    A new count starts every ``every`` seconds, on ``budget`` of one core (about 3 µs an entry: 100,000 files take
    30 s); until it is complete the last figures are returned with their age. A file system that does not answer for
    ``timeout`` seconds is a gap.
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
        paths = [path] if isinstance(path, str | os.PathLike) else path
        self._paths = [os.path.abspath(each) for each in paths]
        self._every, self._budget, self._timeout = every, budget, timeout
        self._monotonic, self._wall = monotonic, wall
        self._thread: _CountThread | None = None

    def read(self) -> dict[str, Any]:
        """Return ``{"directories": (DirectoryUsage, …), "gaps": (…)}``; raises :class:`ReadError` without figures."""
        thread, now = self._start(), self._monotonic()
        usages: list[DirectoryUsage] = []
        gaps: list[Gap] = []
        for figures in [each.figures for each in thread.directories]:
            if isinstance(figures, ReadError):
                gaps.append(gap_of(figures))
            elif figures is not None:
                usage, skipped = figures
                age = None if usage.age is None else max(0.0, now - usage.age)
                oldest = None if usage.oldest is None else max(0.0, self._wall() - usage.oldest)
                usages.append(usage._replace(oldest=oldest, age=age))
                gaps += skipped
        if (calling := thread.calling) is not None and now - calling[1] > self._timeout:
            detail = f"its file system does not answer; the thread {THREAD} waits for it"
            gaps.append(Gap("directory", calling[0], "slow", detail))
        if not usages and len(gaps) == 1:
            raise ReadError(*gaps[0])
        return {"directories": tuple(usages), "gaps": tuple(gaps)}

    def _start(self) -> _CountThread:
        """Return the thread, started if there is none."""
        thread = self._thread
        if thread is not None and thread.is_alive():
            if thread.stopping.is_set():
                raise ReadError("directory", self._paths[0], "slow", f"the thread {THREAD} still hangs")
            return thread
        self.close()
        if not hasattr(os, "statvfs"):
            raise ReadError("directory", self._paths[0], "absent", "directories are counted on POSIX systems only")
        thread = self._thread = _CountThread(self._paths, self._budget, self._every, self._monotonic)
        thread.start()
        thread.answered.wait(_FIRST_ANSWER)
        return thread

    def close(self) -> None:
        """Stop the thread, unless it hangs in its file system; the next read counts again."""
        thread = self._thread
        if thread is None:
            return
        if thread.is_alive():
            thread.stopping.set()
            thread.join(_STOP_SECONDS)
        if not thread.is_alive():
            thread.close()  # in a child after fork: copies of the parent's descriptors
            self._thread = None
