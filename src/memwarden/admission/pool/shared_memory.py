"""Shared memory of a worker: it counts against every limit and is not among the anonymous pages.

``mmap.mmap(-1, n)``, ``multiprocessing.shared_memory`` and files in ``/dev/shm`` are shared memory. What several
processes map is divided between them (proportional share), which costs a walk over the page tables; between two walks
growth counts whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from memwarden.errors import ReadError
from memwarden.model.units import MIB
from memwarden.readers.linux.process import read_pss, read_shmem

#: Less growth of the shared pages than this is taken for mapped files.
_NOTICED = 4 * MIB
#: A walk is followed by a pause of so many times its duration.
_REST = 50


class SharedMemory:
    """Shared memory of one process beyond its first sample."""

    def __init__(
        self, pid: int, shared: int, proc: str = "/proc", monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """``shared``: resident bytes in files and shared memory together, now."""
        self._pid, self._proc, self._monotonic = pid, proc, monotonic
        self._first_shared = shared
        self._first, self._first_share = self._mapped_bytes(), self._walk()
        self._mapped = self._first
        self._due = 0.0

    def bytes(self, shared: int) -> int:
        """Return the process's share of the shared memory added since; ``shared`` as above."""
        if shared < self._first_shared + _NOTICED:
            return 0
        mapped = self._mapped_bytes()
        if mapped < self._first + _NOTICED:
            return 0
        now = self._monotonic()
        if now >= self._due and mapped != self._mapped:
            self._share = self._walk()
            self._mapped = mapped
            self._due = self._monotonic() + (self._monotonic() - now) * _REST
        return max(0, self._share - self._first_share + mapped - self._mapped)

    def _mapped_bytes(self) -> int:
        try:
            return read_shmem(self._pid, self._proc)
        except ReadError:
            return 0

    def _walk(self) -> int:
        try:
            self._share = read_pss(self._pid, self._proc, field="Pss_Shmem")
        except ReadError:
            self._share = self._mapped_bytes()  # an older kernel, or not permitted: an upper bound
        return self._share
