"""Temporary files whose owner was killed: telling them from those of the living, and removing them.

Each process keeps its temporary files in a *run directory* below one home for each user, and holds a lock (``flock``)
on that directory for as long as it has any. The kernel drops the lock when the process ends, however it ends, and in
whatever container it is. The name of the directory says whose it is (pid, start time, pid namespace).

A run directory is removed only where the lock is free *and*, as far as it can be seen from here, its owner is dead by
identity, too: a program that closes all of its descriptors loses the lock, and its files must stay.

What was made in a folder of the user's own stands as a symbolic link in the run directory, made before the file itself,
so that there is no moment in which a kill leaves a file that nobody knows.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Collection

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

from memwarden.errors import MemwardenError
from memwarden.model.facts import ProcessKey
from memwarden.model.log import debug
from memwarden.process.namespaces import namespace
from memwarden.readers.factory import identity_probe

#: A run directory's name: pid, start time and pid namespace of its owner, and a random word.
_RUN = re.compile(r"run-([0-9a-f]+)-([0-9a-f]+)-([0-9a-f]+)-[0-9a-f]{8}")
#: A link to what was made elsewhere; what it leads to bears the same random word.
_OUT = re.compile(r"out-([0-9a-f]{16})")


def owner_word(key: ProcessKey, pidns: int) -> str:
    """How a run directory of this process begins; a random word follows."""
    return f"run-{key.pid:x}-{key.start:x}-{pidns:x}-"


def own_key() -> ProcessKey:
    """This process; with a start time of 0 where nobody tells it."""
    try:
        return identity_probe().own()
    except MemwardenError:
        return ProcessKey(os.getpid(), 0)


def lock(path: str, *, wait: bool) -> int:
    """A descriptor that holds the lock on a directory. Raises OSError: BlockingIOError where another has it."""
    if fcntl is None:
        raise OSError("this system has no file locks")
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_at(path: str, fd: int) -> bool:
    """Whether the open directory is still the one of this name."""
    try:
        there, here = os.stat(path, follow_symlinks=False), os.fstat(fd)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def reap(home: str, own: Collection[str] = ()) -> list[str]:
    """Remove the run directories below ``home`` whose owners are dead; returns their paths. ``own`` are left alone.

    Raises nothing: what cannot be removed stays for the next start.
    """
    removed = []
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(home)):
            path = os.path.join(home, name)
            if (match := _RUN.fullmatch(name)) is not None and path not in own:
                with contextlib.suppress(OSError):
                    fd = lock(path, wait=False)  # BlockingIOError: its owner lives, or another reaper is at it
                    try:
                        if is_at(path, fd) and not _lives(match) and empty(path):
                            os.rmdir(path)
                            removed.append(path)
                    finally:
                        os.close(fd)
    if removed:
        debug("temporary files of %d dead processes removed from %s", len(removed), home)
    return removed


def _lives(match: re.Match[str]) -> bool:
    """Whether the owner is seen to live though its lock is free."""
    pid, start, pidns = (int(each, 16) for each in match.groups())
    owner = ProcessKey(pid, start)
    # This process's own identity, but not a directory of its own: of the program that it was before an exec.
    if not start or pidns != namespace("pid") or owner == own_key():
        return False
    try:
        return identity_probe().alive(owner)
    except MemwardenError:  # nobody tells processes apart here: the lock alone decides
        return False


def empty(path: str) -> bool:
    """Remove what a run directory holds, and what was made elsewhere for it; whether nothing is left."""
    for name in os.listdir(path):
        entry = os.path.join(path, name)
        match = _OUT.fullmatch(name)
        if match is not None:
            target = os.readlink(entry)
            # A link that was tampered with leads nowhere: what we make bears the word of its link.
            if match[1] in os.path.basename(target) and remove(target):
                continue
        if remove(entry):
            return False
    return True


def remove(path: str) -> str:
    """Remove a file, a link or a whole directory; returns what is wrong, or ``""``. One that is gone is no fault."""
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return ""
        import shutil

        try:
            shutil.rmtree(path)
        except PermissionError:
            _open_up(path)
            shutil.rmtree(path)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, RecursionError) as error:
        return f"{path}: {getattr(error, 'strerror', None) or error}"
    return ""


def _open_up(path: str) -> None:
    """Give the owner back the right to remove what is below: programs make folders read-only."""
    with contextlib.suppress(OSError):
        os.chmod(path, 0o700)
    for folder, names, _ in os.walk(path):
        for name in names:
            each = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                if not os.path.islink(each):
                    os.chmod(each, 0o700)
