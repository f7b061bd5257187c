"""A process's ``statm``, read again and again, with a kept descriptor or without."""

from __future__ import annotations

import os

from memwarden.readers.linux.process import parse_statm

#: More than any statm has.
SIZE = 256


class StatmFile:
    """What one process holds. With a descriptor a read costs 0.7 µs, without one 2.5 µs (Linux 6.18)."""

    __slots__ = ("data", "fd", "path", "rss", "shared")

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = -1
        #: What was read last; whoever finds the same again has nothing to parse.
        self.data: bytes | None = None
        self.rss = self.shared = 0

    def open(self) -> bool:
        """Keep it open; False where that cannot be (reading will say why)."""
        try:
            self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        return True

    def close(self) -> bool:
        """Give the descriptor back; False where there was none."""
        if self.fd < 0:
            return False
        os.close(self.fd)
        self.fd = -1
        return True

    def __del__(self) -> None:
        try:
            self.close()
        except (AttributeError, OSError):  # the interpreter is ending, or somebody else has closed it
            pass

    def fetch(self) -> bytes:
        """What the kernel says now. Raises OSError."""
        if self.fd >= 0:
            return os.pread(self.fd, SIZE, 0)
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, SIZE)
        finally:
            os.close(fd)

    def take(self, data: bytes) -> bool:
        """Understand it; False for one that has no memory: a zombie, a kernel thread.

        Raises :class:`~memwarden.errors.ReadError`.
        """
        virtual, rss, shared = parse_statm(data, self.path)
        if virtual == 0:
            return False
        self.rss, self.shared, self.data = rss, shared, data
        return True
