"""A soft ``RLIMIT_DATA`` of this process, so that the kernel refuses allocations that would go far past a limit.

The kernel counts private writable memory when it is mapped, not when it is used: a large buffer is refused before any
of it is in use, and shared or file-backed maps do not count. The limit holds for the whole process, and any thread may
get the MemoryError: so it is set only while the process has no other thread.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable

with contextlib.suppress(ImportError):  # not a POSIX system
    import resource

from memwarden.model.units import KIB

#: Address space kept for the handling of errors: an arena of Python's (1 MiB since 3.10) and some more. It is mapped
#: and never touched.
RESERVE = 1536 * KIB


class DataRlimit:
    """The soft limit of the process, and the claims on it. Not locked: its owner is.

    The lowest claim is set. Without claims the process has its original limit again. When other code has changed the
    limit meanwhile, its value stays, and the claims are dropped.
    """

    def __init__(self) -> None:
        self._claims: dict[object, int] = {}
        #: The limit of the process, while it is replaced.
        self._original: int | None = None
        #: The last two values set: a signal handler may have raised between noting and setting one.
        self._set: tuple[int, ...] = ()
        self._reserve: mmap.mmap | None = None

    @property
    def claimed(self) -> bool:
        """True while the kernel refuses for a claim."""
        return bool(self._claims)

    def prepare(self) -> None:
        """Map the reserve; call it before reading the data size for :meth:`claim`."""
        if self._reserve is None or self._reserve.closed:
            with contextlib.suppress(OSError):  # too little memory is left for it
                self._reserve = mmap.mmap(-1, RESERVE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def reserve_release(self) -> Callable[[], object]:
        """Return a call that frees the reserve and needs no memory itself, not even for a frame."""
        return int if self._reserve is None else self._reserve.close

    def claim(self, owner: object, data: int) -> bool:
        """Have the kernel refuse what would bring the process past ``data`` bytes of data; False where it cannot."""
        now = self._check_for_change()
        if self._original is None:
            self._original, self._set = now, (now,)
        self._claims[owner] = data
        if not self._apply():
            self._claims.pop(owner, None)
            return False
        return True

    def release(self, owner: object) -> None:
        """Drop a claim, where there is one."""
        if owner in self._claims:
            self._check_for_change()
            self._claims.pop(owner, None)
            self._apply()

    def clear(self) -> None:
        """Drop all claims."""
        if self._original is not None:
            self._check_for_change()
            self._claims.clear()
            self._apply()

    def binds(self, owner: object) -> bool:
        """Return whether this claim is the lowest, for which the kernel refuses."""
        return self._claims.get(owner) == min(self._claims.values(), default=-1)

    def _check_for_change(self) -> int:
        now = resource.getrlimit(resource.RLIMIT_DATA)[0]
        if self._original is not None and now not in self._set:
            self._claims.clear()
            self._original = None
        return now

    def _apply(self) -> bool:
        """Set the lowest claim, or the original limit; False where the system refuses."""
        original = self._original
        if original is None:
            return True
        wanted = min(self._claims.values(), default=original)
        if original != resource.RLIM_INFINITY:
            wanted = min(wanted, original)
        if self._claims:
            self.prepare()
        elif self._reserve is not None:
            self._reserve.close()
        self._set = (*self._set[-1:], wanted)
        try:
            resource.setrlimit(resource.RLIMIT_DATA, (wanted, resource.getrlimit(resource.RLIMIT_DATA)[1]))
        except (OSError, ValueError):
            return False
        if not self._claims:
            self._original = None
        return True
