"""What a worker holds in shared memory: it counts against every limit, and is not among the anonymous pages.

Python's own ``mmap.mmap(-1, n)`` is shared memory, as are ``multiprocessing.shared_memory`` and files in ``/dev/shm``.
What several processes have mapped is divided between them (the kernel's proportional share), which costs a walk over
the page tables; between two walks what was added counts whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from memwarden.errors import ReadError
from memwarden.model.units import MIB
from memwarden.readers.linux.process import read_pss, read_shmem

#: With less than so much more in shared pages (of files, mostly) nobody asks.
_NOTICED = 4 * MIB
#: Walks take no more than this part of the time.
_REST = 50


class SharedMemory:
    """The shared memory of one process beyond what it had at first."""

    def __init__(
        self, pid: int, shared: int, proc: str = "/proc", monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """``shared`` are its resident bytes in files and shared memory together, now."""
        self._pid, self._proc, self._monotonic = pid, proc, monotonic
        self._first_shared = shared
        self._first, self._share = self._read(), self._walk()
        self._mapped = self._first
        self._due = 0.0

    def bytes(self, shared: int) -> int:
        """Its part of the shared memory that came since; ``shared`` as above."""
        if shared < self._first_shared + _NOTICED:
            return 0
        mapped = self._read()
        if mapped < self._first + _NOTICED:
            return 0
        now = self._monotonic()
        if now >= self._due and mapped != self._mapped:
            self._latest = self._walk()
            self._mapped = mapped
            self._due = self._monotonic() + (self._monotonic() - now) * _REST
        return max(0, self._latest - self._share + mapped - self._mapped)

    def _read(self) -> int:
        try:
            return read_shmem(self._pid, self._proc)
        except ReadError:
            return 0

    def _walk(self) -> int:
        try:
            self._latest = read_pss(self._pid, self._proc, field="Pss_Shmem")
        except ReadError:
            self._latest = self._read()  # an older kernel, or one that refuses: an upper bound
        return self._latest
