"""Temporary files and directories that are removed whatever happens to their process.

They are made below ``memwarden-UID`` in the system's temporary directory, or where the caller asks, and removed by
:meth:`TemporaryPath.remove`, at interpreter exit, and after a kill by the next process that makes a temporary file (see
:mod:`memwarden.guards.resources.stale_tempfiles`). On a file system without locks, and on Windows, files of a killed
process stay.

A child after fork owns no file of its parent: it neither removes it nor keeps it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable

from memwarden.engine.lifecycle import opening
from memwarden.errors import ActionFailed, SettingsError
from memwarden.guards.resources import stale_tempfiles
from memwarden.model.log import debug, warn
from memwarden.process.exit_hooks import arm, call_at_exit
from memwarden.process.fork_hooks import reset_after_fork
from memwarden.process.namespaces import namespace

PREFIX = "memwarden-"


class _Run:
    """A run directory, locked where the file system has locks. It is removed at exit."""

    def __init__(self, home: str) -> None:
        prefix = stale_tempfiles.run_prefix(stale_tempfiles.own_key(), namespace("pid"))
        self._fd, self._id = -1, (0, 0)
        while self._fd < 0:
            self.path = os.path.join(home, prefix + os.urandom(4).hex())
            try:
                os.mkdir(self.path, 0o700)
            except FileExistsError:
                continue
            try:
                with opening():
                    self._fd = stale_tempfiles.lock(self.path, wait=True)
            except FileNotFoundError:  # another process removed it before
                continue
            except OSError as error:
                debug("%s cannot be locked (%s): it stays after a kill", self.path, error)
                return
            facts = os.fstat(self._fd)
            self._id = facts.st_dev, facts.st_ino
            if not stale_tempfiles.is_at(self.path, self._fd):
                self.unlock()

    def unlock(self) -> None:
        """Release the lock, unless the program has closed its descriptor: another file may have the number since."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                facts = os.fstat(self._fd)
                if (facts.st_dev, facts.st_ino) == self._id:
                    os.close(self._fd)
        self._fd = -1


class _RunDirectories:
    """The run directories of this process, by parent directory."""

    def __init__(self) -> None:
        self._reset()
        reset_after_fork(self)
        call_at_exit(self.remove_all, order=2)  # after the scopes, which may still write

    def _reset(self) -> None:
        self.pid = os.getpid()
        # Reentrant: a signal handler of the program may make or remove a file meanwhile.
        self.lock = threading.RLock()
        self.runs: dict[str, _Run] = {}
        self.swept: set[str] = set()

    def after_fork(self) -> None:
        """Forget the parent's files in a child; a copy of its lock would keep them after its exit."""
        if self.pid != os.getpid():
            for run in self.runs.values():
                run.unlock()
            self._reset()

    def run(self, home: str) -> _Run:
        """Return the run directory, under the lock. Raises OSError."""
        if home not in self.swept:
            self.swept.add(home)
            stale_tempfiles.reap(home, [run.path for run in self.runs.values()])
        run = self.runs.get(home)
        if run is None or not os.path.isdir(run.path):
            run = self.runs[home] = _Run(home)
            arm()
        return run

    def remove_all(self) -> None:
        """Remove all files, at exit."""
        if self.pid != os.getpid():
            return
        with self.lock:
            for run in self.runs.values():
                with contextlib.suppress(OSError):
                    if stale_tempfiles.empty(run.path):
                        os.rmdir(run.path)
                run.unlock()
            self.runs = {}


_own = _RunDirectories()


class TemporaryPath:
    """A temporary file or directory of this process, at ``path``; made by :func:`make_file`, :func:`make_directory`."""

    def __init__(self, path: str, link: str | None) -> None:
        self.path = path
        self._link, self._pid = link, os.getpid()

    def remove(self) -> str:
        """Remove it; return an error text, or ``""``. A file that was moved away or removed is no error.

        Only the process that made it does. What cannot be removed is retried at exit and by other processes.
        """
        if self._pid != os.getpid():
            return ""
        wrong = stale_tempfiles.remove(self.path)
        if wrong:
            warn("temporary file not removed, retried later: %s", wrong)
        elif self._link is not None:
            stale_tempfiles.remove(self._link)
        return wrong


def home_directory() -> str:
    """Return this user's private directory for temporary files. Raises :class:`~memwarden.errors.ActionFailed`."""
    import tempfile  # 10 ms, for random numbers and compression

    owner = os.getuid() if hasattr(os, "getuid") else "tmp"
    home = os.path.join(os.path.abspath(tempfile.gettempdir()), f"memwarden-{owner}")
    wrong = ""
    try:
        os.mkdir(home, 0o700)
    except FileExistsError:
        facts = os.lstat(home)
        if not stat.S_ISDIR(facts.st_mode):
            wrong = "is no directory"
        elif hasattr(os, "getuid") and facts.st_uid != os.getuid():
            wrong = f"belongs to another user ({facts.st_uid})"
        elif facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            os.chmod(home, 0o700)
    except OSError as error:
        wrong = str(error.strerror or error)
    if wrong:
        raise ActionFailed(f"temporary files: {home}: {wrong}; set TMPDIR to a folder of yours")
    return home


def make_file(suffix: str = "", prefix: str = PREFIX, directory: str | os.PathLike[str] | None = None) -> TemporaryPath:
    """Make an empty, closed file that only this user may read.

    ``directory`` is for a file that becomes part of a directory's content. Raises
    :class:`~memwarden.errors.SettingsError` for a bad suffix or prefix, and OSError where the file cannot be made.
    """

    def make(path: str) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        os.close(os.open(path, flags, 0o600))

    return _make(make, suffix, prefix, directory)


def make_directory(
    suffix: str = "", prefix: str = PREFIX, directory: str | os.PathLike[str] | None = None
) -> TemporaryPath:
    """Make an empty directory that only this user may enter; it is removed with its content. As :func:`make_file`."""
    return _make(lambda path: os.mkdir(path, 0o700), suffix, prefix, directory)


def _make(
    make: Callable[[str], None], suffix: str, prefix: str, directory: str | os.PathLike[str] | None
) -> TemporaryPath:
    _part_of_a_name("suffix", suffix)
    _part_of_a_name("prefix", prefix)
    word = os.urandom(8).hex()
    home = home_directory()
    if _own.pid != os.getpid():  # forked by other code than os.fork
        _own.after_fork()
    with _own.lock:
        run = _own.run(home)
        path = os.path.join(run.path if directory is None else os.path.abspath(directory), prefix + word + suffix)
        link = None if directory is None else os.path.join(run.path, f"out-{word}")
        try:
            if link is not None:
                _note(path, link)
            make(path)
            return TemporaryPath(path, link)
        except BaseException:  # an interrupt, too
            for each in (path, link):
                if each is not None:
                    stale_tempfiles.remove(each)
            raise


def _part_of_a_name(what: str, given: object) -> None:
    if not isinstance(given, str) or any(each and each in given for each in (os.sep, os.altsep, "\0")):
        raise SettingsError(f"{what} {given!r}: must be part of a file name, such as '.mp4'")


def _note(path: str, link: str) -> None:
    """Link to a file that will be made elsewhere."""
    try:
        os.symlink(path, link)
    except (OSError, NotImplementedError) as error:
        debug("%s: no link can be made (%s), so %s stays after a kill", link, error, path)


def reap() -> list[str]:
    """Remove temporary files of killed processes of this user; return the removed run directories.

    The first temporary file of a process does so too.
    """
    with _own.lock:
        return stale_tempfiles.reap(home_directory(), [run.path for run in _own.runs.values()])
