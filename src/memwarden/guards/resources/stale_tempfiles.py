"""Removal of temporary files of killed processes.

Each process keeps its temporary files in a *run directory* below one directory per user, and holds a lock (``flock``)
on it. The kernel releases the lock when the process exits or is killed, in any container. The name of the run directory
identifies its owner (pid, start time, pid namespace).

A run directory is removed only where the lock is free *and*, as far as it can be seen from here, its owner has exited:
a program that closes all of its descriptors loses the lock, and must keep its files.

A file in a directory of the user's own has a symbolic link in the run directory, made before the file, so that no kill
can leave a file without a link.
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

#: Name of a run directory: pid, start time and pid namespace of its owner, and a random word.
_RUN = re.compile(r"run-([0-9a-f]+)-([0-9a-f]+)-([0-9a-f]+)-[0-9a-f]{8}")
#: A link to a file made elsewhere; the name of its target contains the same random word.
_OUT = re.compile(r"out-([0-9a-f]{16})")


def run_prefix(key: ProcessKey, pidns: int) -> str:
    """Return the first part of the name of a process's run directories; a random word follows."""
    return f"run-{key.pid:x}-{key.start:x}-{pidns:x}-"


def own_key() -> ProcessKey:
    """Return the key of this process; with start time 0 where it cannot be read."""
    try:
        return identity_probe().own()
    except MemwardenError:
        return ProcessKey(os.getpid(), 0)


def lock(path: str, *, wait: bool) -> int:
    """Lock a directory; return the descriptor. Raises OSError: BlockingIOError where it is locked."""
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
    """Return True while the open directory is the one of this name."""
    try:
        there, here = os.stat(path, follow_symlinks=False), os.fstat(fd)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def reap(home: str, own: Collection[str] = ()) -> list[str]:
    """Remove the run directories of exited processes below ``home``, except ``own``; return their paths.

    Raises nothing: what cannot be removed is retried by the next process.
    """
    removed = []
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(home)):
            path = os.path.join(home, name)
            if (match := _RUN.fullmatch(name)) is not None and path not in own:
                with contextlib.suppress(OSError):
                    fd = lock(path, wait=False)  # BlockingIOError: its owner runs, or another process removes it
                    try:
                        if is_at(path, fd) and not _owner_runs(match) and empty(path):
                            os.rmdir(path)
                            removed.append(path)
                    finally:
                        os.close(fd)
    if removed:
        debug("temporary files of %d dead processes removed from %s", len(removed), home)
    return removed


def _owner_runs(match: re.Match[str]) -> bool:
    """Return True where the owner is seen to run though its lock is free."""
    pid, start, pidns = (int(each, 16) for each in match.groups())
    owner = ProcessKey(pid, start)
    # Our own identity, but not one of our directories: left by the program before an exec.
    if not start or pidns != namespace("pid") or owner == own_key():
        return False
    try:
        return identity_probe().alive(owner)
    except MemwardenError:  # no process identity on this system: the lock alone decides
        return False


def empty(path: str) -> bool:
    """Remove the content of a run directory and the targets of its links; return True when it is empty."""
    for name in os.listdir(path):
        entry = os.path.join(path, name)
        match = _OUT.fullmatch(name)
        if match is not None:
            target = os.readlink(entry)
            # Only a target with the link's own word is ours; anything else was tampered with.
            if match[1] in os.path.basename(target) and remove(target):
                continue
        if remove(entry):
            return False
    return True


def remove(path: str) -> str:
    """Remove a file, a link or a directory with its content; return an error text, or ``""``. Absent is no error."""
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
    """Make all directories below writable for the owner: programs make some read-only."""
    with contextlib.suppress(OSError):
        os.chmod(path, 0o700)
    for folder, names, _ in os.walk(path):
        for name in names:
            each = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                if not os.path.islink(each):
                    os.chmod(each, 0o700)
