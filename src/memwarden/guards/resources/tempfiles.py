"""Temporary files and directories that go away whatever becomes of their process.

They are made below ``memwarden-UID`` in the system's temporary directory, or where the caller says, and removed by
:meth:`TemporaryPath.remove`, when the interpreter ends, and after a kill by whoever comes first: the sentinel where one
was asked for, else the first process that makes a temporary file afterwards (see :mod:`memwarden.guards.resources.stale_tempfiles`). Where
a file system has no locks (or the system none, as Windows), nothing that a killed process left is ever removed.

A child after fork owns nothing of its parent's: it neither removes it nor keeps it alive.
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
from memwarden.process.watchdog import Watchdog

PREFIX = "memwarden-"

#: Waits until the owner is dead by identity, too (it may only have closed its descriptors: then a reaper will see to
#: it), and removes its run directories and what they link to. $1 is the home; told are its pid, its start time and how
#: its run directories begin. A process's name may hold parentheses and line ends: fields are counted from the last one.
_REMOVE = r"""
PATH=/usr/local/bin:/usr/bin:/bin
home=$1
set -f
set -- $words
pid=$1 start=$2 run=$3
[ -n "$run" ] || exit 0
lives() {
    stat=
    while IFS= read -r line || [ -n "$line" ]; do
        stat="$stat $line"
    done 2>/dev/null <"/proc/$pid/stat" || return 1
    set -- ${stat##*) }
    [ "${20}" = "$start" ] && [ "$1" != Z ] && [ "$1" != X ]
}
tries=0
while lives; do
    tries=$((tries + 1))
    [ "$tries" -gt 100 ] && exit 0
    sleep 0.1
done
set +f
for each in "$home/$run"*; do
    [ -d "$each" ] || continue
    for link in "$each"/out-*; do
        [ -L "$link" ] || continue
        target=$(readlink -- "$link" && echo x)
        target=${target%?x}
        case ${target##*/} in *"${link##*/out-}"*) rm -rf -- "$target" ;; esac
    done
    rm -rf -- "$each" || { chmod -R u+rwx -- "$each" && rm -rf -- "$each"; }
done
"""


class _Run:
    """A run directory, locked where that can be. It stays until the end: removing one may cost milliseconds."""

    def __init__(self, home: str) -> None:
        word = stale_tempfiles.owner_word(stale_tempfiles.own_key(), namespace("pid"))
        while True:
            self.path = os.path.join(home, word + os.urandom(4).hex())
            try:
                os.mkdir(self.path, 0o700)
            except FileExistsError:
                continue
            if self._take():
                return

    def _take(self) -> bool:
        """Lock it; False when a reaper took it between making and locking."""
        self._fd, self._id = -1, (0, 0)
        try:
            with opening():
                fd = stale_tempfiles.lock(self.path, wait=True)
                self._fd = fd
        except FileNotFoundError:
            return False
        except OSError as error:
            debug("%s cannot be locked (%s): a kill leaves it for good", self.path, error)
            return True
        if not stale_tempfiles.is_at(self.path, fd):
            os.close(fd)
            return False
        facts = os.fstat(fd)
        self._id = facts.st_dev, facts.st_ino
        return True

    def stands(self) -> bool:
        """Whether it is still there; its lock is taken again where somebody has closed our descriptor."""
        if self._fd < 0:
            return os.path.isdir(self.path)
        if not self._is_ours():
            return self._take()
        return os.fstat(self._fd).st_nlink > 0

    def _is_ours(self) -> bool:
        try:
            facts = os.fstat(self._fd)
        except OSError:
            return False
        return (facts.st_dev, facts.st_ino) == self._id

    def leave(self) -> None:
        """Give the lock back."""
        if self._fd >= 0 and self._is_ours():
            os.close(self._fd)
        self._fd = -1


class _Own:
    """The run directories of this process, by home."""

    def __init__(self) -> None:
        self._begin()
        reset_after_fork(self)
        call_at_exit(self.remove_all, order=2)  # what is held may still write

    def _begin(self) -> None:
        self.pid = os.getpid()
        # Reentrant: a signal handler of the program may make or remove a file while we do.
        self.lock = threading.RLock()
        self.runs: dict[str, _Run] = {}
        self.swept: set[str] = set()
        self.sentinels: dict[str, Watchdog] = {}

    def after_fork(self) -> None:
        """In a child: the files are the parent's, and a copy of the lock would keep them after its end."""
        if self.pid != os.getpid():
            for run in self.runs.values():
                run.leave()
            self._begin()

    def run(self, home: str) -> _Run:
        """Under the lock: the run directory. Raises OSError."""
        if home not in self.swept:
            self.swept.add(home)
            stale_tempfiles.reap(home, [run.path for run in self.runs.values()])
        run = self.runs.get(home)
        if run is None or not run.stands():
            run = self.runs[home] = _Run(home)
            arm()
        return run

    def remove_all(self) -> None:
        """At the end of the program."""
        if self.pid != os.getpid():
            return
        with self.lock:
            for run in self.runs.values():
                with contextlib.suppress(OSError):
                    if stale_tempfiles.empty(run.path):
                        os.rmdir(run.path)
                run.leave()
            self.runs = {}
        for sentinel in self.sentinels.values():
            sentinel.dismiss()
        self.sentinels = {}

    def guard(self, home: str) -> None:
        """Under the lock: have a shell that removes what we have in ``home`` when we are killed."""
        sentinel = self.sentinels.get(home)
        if sentinel is None or not sentinel.running:
            key = stale_tempfiles.own_key()
            with opening():
                sentinel = self.sentinels[home] = Watchdog(_REMOVE, home)
            word = stale_tempfiles.owner_word(key, namespace("pid"))
            if not all(sentinel.send(str(each)) for each in (key.pid, key.start, word)):
                warn("no shell can be started: after a kill temporary files stay until the next start")


_own = _Own()


class TemporaryPath:
    """A temporary file or directory of this process, at ``path``; made by :func:`make_file`, :func:`make_directory`."""

    def __init__(self, path: str, link: str | None) -> None:
        self.path = path
        self._link, self._pid = link, os.getpid()

    def remove(self) -> str:
        """Remove it; returns what is wrong, or ``""``. One that was moved away or is gone is no fault.

        Only the process that made it does. What cannot be removed is left to the end of the program and to reapers.
        """
        if self._pid != os.getpid():
            return ""
        wrong = stale_tempfiles.remove(self.path)
        if wrong:
            warn("temporary file not removed, and tried again later: %s", wrong)
        elif self._link is not None:
            stale_tempfiles.remove(self._link)
        return wrong


def home_directory() -> str:
    """This user's directory for temporary files, made private. Raises :class:`~memwarden.errors.ActionFailed`."""
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


def make_file(
    suffix: str = "", prefix: str = PREFIX, directory: str | os.PathLike[str] | None = None, *, sentinel: bool = False
) -> TemporaryPath:
    """An empty file, closed, that only this user may read.

    ``directory`` is where it shall stand, for a file that becomes part of what is there. With ``sentinel`` a shell
    (about 1 MiB, one for the process) removes it within a moment of a kill; without it the next start does.
    Raises :class:`~memwarden.errors.SettingsError` for a name that is none, and OSError where it cannot be made.
    """

    def make(path: str) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        os.close(os.open(path, flags, 0o600))

    return _make(make, suffix, prefix, directory, sentinel)


def make_directory(
    suffix: str = "", prefix: str = PREFIX, directory: str | os.PathLike[str] | None = None, *, sentinel: bool = False
) -> TemporaryPath:
    """An empty directory that only this user may enter; removed with all that is in it. As :func:`make_file`."""
    return _make(lambda path: os.mkdir(path, 0o700), suffix, prefix, directory, sentinel)


def _make(
    make: Callable[[str], None], suffix: str, prefix: str, directory: str | os.PathLike[str] | None, sentinel: bool
) -> TemporaryPath:
    _part_of_a_name("suffix", suffix)
    _part_of_a_name("prefix", prefix)
    word = os.urandom(8).hex()
    home = home_directory()
    if _own.pid != os.getpid():  # forked without Python's knowledge
        _own.after_fork()
    with _own.lock:
        if sentinel:
            _own.guard(home)
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
    """Note down what will be made elsewhere."""
    try:
        os.symlink(path, link)
    except (OSError, NotImplementedError) as error:
        debug("%s: no link can be made (%s), so a kill leaves %s for good", link, error, path)


def reap() -> list[str]:
    """Remove what killed processes of this user left, as the first temporary file of a process does by itself.

    Returns the run directories that were removed.
    """
    with _own.lock:
        return stale_tempfiles.reap(home_directory(), [run.path for run in _own.runs.values()])
