"""Reading small kernel files cheaply: one ``pread`` on a kept descriptor.

Measured (Python 3.11, Linux 6.18): ``pread`` of an open statm 1.35 µs; open, read, read, close with ``open()`` 10 to
40 µs. A kept descriptor never shows a later process with the same pid: reading it fails with ESRCH.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from memwarden.errors import ReadError

#: None on Windows, where nothing here is used.
pread: Callable[[int, int, int], bytes] = getattr(os, "pread", None)  # type: ignore[assignment]

_WHY = {
    errno.ENOENT: "absent",
    errno.ENOTDIR: "absent",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.EROFS: "denied",  # a container's read-only view of its groups
    errno.EOPNOTSUPP: "absent",  # accounting is turned off (psi=0)
    errno.ESRCH: "gone",
    errno.ENODEV: "gone",  # a removed control group
}

#: Windows has no O_CLOEXEC; there, too, a missing file is an error "absent".
_READ_ONLY = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)


def read_error(what: str, where: str, error: OSError | ValueError) -> ReadError:
    """Return the system's error as a typed one (ValueError: a path that holds a NUL)."""
    if isinstance(error, ValueError):
        return ReadError(what, where, "broken", str(error))
    return ReadError(what, where, _WHY.get(error.errno or 0, "broken"), error.strerror or str(error))


def most_kept(part: int = 4, most: int = 1024) -> int:
    """Return the number of descriptors that a reader may keep: a part of this process's soft limit."""
    try:
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    except (ImportError, OSError, ValueError):
        return 64
    return most if soft == resource.RLIM_INFINITY else max(0, min(most, soft // part))


class KeptFile:
    """A kernel file that is read repeatedly, in one piece.

    For files that the kernel writes as one record; one of many records is cut at a page (see :func:`read_once`).
    ``what`` names the fact in errors. The file is opened on the first read, and again after ``close``. ``fd`` is the
    descriptor, -1 while it is closed, for direct reads on a hot path.
    """

    __slots__ = ("_size", "fd", "path", "what")

    def __init__(self, what: str, path: str, size: int = 4096) -> None:
        self.what, self.path = what, path
        self._size = size
        self.fd = -1

    def read(self) -> bytes:
        """Return the whole content. Raises :class:`ReadError`."""
        try:
            if self.fd < 0:
                self.fd = os.open(self.path, _READ_ONLY)
            data = os.pread(self.fd, self._size, 0)
            while len(data) == self._size:  # perhaps more: read again in one piece, since pieces may not fit together
                self._size *= 2
                data = os.pread(self.fd, self._size, 0)
        except (OSError, ValueError) as error:
            raise read_error(self.what, self.path, error) from None
        return data

    def close(self) -> bool:
        """Close the descriptor; returns False if there was none."""
        if self.fd < 0:
            return False
        os.close(self.fd)
        self.fd = -1
        return True

    def __del__(self) -> None:
        try:
            self.close()
        except (AttributeError, OSError):  # the interpreter is exiting, or other code closed the descriptor
            pass


def read_once(what: str, path: str, size: int = 4096, *, dir_fd: int | None = None) -> bytes:
    """Return the whole content of a file that is not kept open. Raises :class:`ReadError`.

    Reads until nothing comes: a file of many records (``mountinfo``, ``children``, ``vmstat``) gives at most a page a
    read. ``path`` may be relative to the open directory ``dir_fd``.
    """
    try:
        fd = os.open(path, _READ_ONLY, dir_fd=dir_fd)
        try:
            data = b""
            while part := os.read(fd, size):
                data += part
        finally:
            os.close(fd)
    except (OSError, ValueError) as error:
        raise read_error(what, path, error) from None
    return data


def kilobytes(data: bytes, key: bytes) -> int | None:
    """Return the bytes after ``key``, the beginning of a line with a number of kB; None without such a line.

    Raises ValueError for a line without a whole number.
    """
    at = data.find(key)
    return None if at < 0 else int(data[at + len(key) : data.index(b" kB", at)]) << 10
