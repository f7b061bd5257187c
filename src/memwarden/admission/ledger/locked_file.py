"""A file with locks on single bytes, which any process that uses it may delete and replace."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import sys

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

from memwarden.errors import RecordError

#: Where the locked bytes are: no file is as long.
_LOCKS = 1 << 40
#: Lock numbers are below it.
MAX_LOCKS = 65535


class LockedFile:
    """One descriptor of the file, since closing any descriptor of it drops this process's locks."""

    def __init__(self, path: str) -> None:
        if fcntl is None:
            raise RecordError(f"ledger {path}: this system has no file locks, which a ledger needs", path=path)
        self.path = path
        self._fd, self._id = -1, (0, 0)
        #: Bytes that the file is read with.
        self.length = 0

    def _links(self) -> int:
        """Return how many names the open file has; -1 where the descriptor is not ours (other code closed it)."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                status = os.fstat(self._fd)
                if (status.st_dev, status.st_ino) == self._id:
                    return status.st_nlink
        return -1

    def is_current(self) -> bool:
        """Return whether the file is open, and was not deleted."""
        return self._links() > 0

    def open(self, length: int) -> None:
        """Open the file, making it where there is none. Raises :class:`RecordError`."""
        self.close()
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise RecordError(f"ledger {self.path}: is no regular file; name another one", path=self.path)
        self._fd, self._id, self.length = fd, (status.st_dev, status.st_ino), length

    def close(self) -> None:
        """Close the file; this drops all of its locks."""
        if self._links() >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
        self._fd = -1

    def delete(self) -> None:
        """Delete the open file, so that every process opens a new one."""
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(self.path, follow_symlinks=False)
            if (status.st_dev, status.st_ino) == self._id:
                os.unlink(self.path)
        self.close()

    def error(self, error: OSError) -> RecordError:
        """Return the error with the file's name and advice."""
        advice = {
            errno.ENOSPC: "free some space",
            errno.EDQUOT: "free some space",
            errno.ENOLCK: "name a file on a file system that has locks",
            errno.ELOOP: "it is a link, and links are not followed: name the file itself",
            errno.EMFILE: "close some files",
        }.get(error.errno or 0, "make the file and its folder accessible, or name another file")
        return RecordError(f"ledger {self.path}: {error.strerror or error}; {advice}", path=self.path)

    # --- locks ----------------------------------------------------------------------------------------

    def try_lock(self, number: int) -> bool:
        """Take a lock; return whether it was free."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _LOCKS + number)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        return True

    def unlock(self, number: int) -> None:
        """Release a lock, if the file is open."""
        if self._links() >= 0:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, _LOCKS + number)

    def lock_owner(self, number: int) -> str:
        """Return a description of the process that holds a lock."""
        if sys.platform == "linux":
            with contextlib.suppress(OSError, struct.error):
                layout = struct.Struct("@hhqqi")
                asked = layout.pack(fcntl.F_WRLCK, os.SEEK_SET, _LOCKS + number, 1, 0) + bytes(8)
                kind, _, _, _, pid = layout.unpack_from(fcntl.fcntl(self._fd, fcntl.F_GETLK, asked))
                if kind != fcntl.F_UNLCK and pid > 0:
                    return f"process {pid}, which may be stopped"
        return "another process"

    # --- content --------------------------------------------------------------------------------------

    def read(self) -> bytes:
        """Return the whole content."""
        while True:
            data = os.pread(self._fd, self.length + 1, 0)
            if len(data) <= self.length:
                return data
            self.length *= 2

    def read_at(self, offset: int, size: int) -> bytes:
        """Return so many bytes, or fewer at the end."""
        return os.pread(self._fd, size, offset)

    def write_at(self, offset: int, data: bytes) -> None:
        """Write these bytes."""
        os.pwrite(self._fd, data, offset)

    def allocate(self, length: int) -> None:
        """Take the disk space now: then a full disk is noticed by a request, not by a release."""
        try:
            os.posix_fallocate(self._fd, 0, length)
        except (AttributeError, OSError) as error:  # macOS, or a file system that cannot
            if isinstance(error, OSError) and error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            size = os.fstat(self._fd).st_size
            os.pwrite(self._fd, bytes(max(0, length - size)), size)


def is_abandoned(path: str) -> bool:
    """Return whether no process uses this file. Not for a file that this process has open itself."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, MAX_LOCKS, _LOCKS)
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except (OSError, AttributeError):
        return False
    finally:
        os.close(fd)
