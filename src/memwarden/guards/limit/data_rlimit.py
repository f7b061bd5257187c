"""The edge: a soft ``RLIMIT_DATA`` of this process, so that the kernel refuses what would go far past a limit.

The kernel counts private writable memory against it when it is mapped, not when it is used. A large buffer is so
refused before any of it is there, and shared or file-backed maps do not count. The limit holds for the whole
process, and whoever allocates next gets the MemoryError: so it is set only while the process has no other thread.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable

with contextlib.suppress(ImportError):  # not a POSIX system
    import resource

from memwarden.model.units import KIB

#: Room that is kept for the error's handling, in which even our own code may need memory: an arena of Python's (1 MiB
#: since 3.10) and what is around it. It is mapped and never touched.
RESERVE = 1536 * KIB


class DataRlimit:
    """The one soft limit of the process, and who wants it where. Not locked: its owner is.

    The lowest claim holds. When nobody claims any more, the process has the limit that it had. When somebody else has
    changed the limit meanwhile, theirs stays, and the claims that were there are forgotten.
    """

    def __init__(self) -> None:
        self._claims: dict[object, int] = {}
        #: The limit that was found, while ours may stand in its place.
        self._found: int | None = None
        #: What was set last and before: a signal handler may have raised between the two.
        self._ours: tuple[int, ...] = ()
        self._reserve: mmap.mmap | None = None

    def prepare(self) -> None:
        """Keep room for what is to be done at the edge; before the data is read that :meth:`claim` is told."""
        if self._reserve is None or self._reserve.closed:
            with contextlib.suppress(OSError):  # so little room that none can be kept
                self._reserve = mmap.mmap(-1, RESERVE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def room(self) -> Callable[[], object]:
        """What gives that room free: a call that needs no memory itself, not even for a frame."""
        return int if self._reserve is None else self._reserve.close

    def claim(self, owner: object, data: int) -> bool:
        """Refuse what would bring the process's data beyond ``data`` bytes; False where that cannot be."""
        now = self._yield_to_others()
        if self._found is None:
            self._found, self._ours = now, (now,)
        self._claims[owner] = data
        if not self._apply():
            self._claims.pop(owner, None)
            return False
        return True

    def release(self, owner: object) -> None:
        """Give up a claim; nothing happens where there is none (any more)."""
        if owner in self._claims:
            self._yield_to_others()
            self._claims.pop(owner, None)
            self._apply()

    def clear(self) -> None:
        """Give up every claim."""
        if self._found is not None:
            self._yield_to_others()
            self._claims.clear()
            self._apply()

    def holds(self, owner: object) -> bool:
        """Whether it is this claim that the kernel refuses for: the lowest one."""
        return self._claims.get(owner) == min(self._claims.values(), default=-1)

    def _yield_to_others(self) -> int:
        now = resource.getrlimit(resource.RLIMIT_DATA)[0]
        if self._found is not None and now not in self._ours:
            self._claims.clear()
            self._found = None
        return now

    def _apply(self) -> bool:
        """Set the lowest of the claims, or what was found; False where the system does not let us."""
        found = self._found
        if found is None:
            return True
        wanted = min(self._claims.values(), default=found)
        if found != resource.RLIM_INFINITY:
            wanted = min(wanted, found)
        if self._claims:
            self.prepare()
        elif self._reserve is not None:
            self._reserve.close()
        self._ours = (*self._ours[-1:], wanted)
        try:
            resource.setrlimit(resource.RLIMIT_DATA, (wanted, resource.getrlimit(resource.RLIMIT_DATA)[1]))
        except (OSError, ValueError):
            return False
        if not self._claims:
            self._found = None
        return True
