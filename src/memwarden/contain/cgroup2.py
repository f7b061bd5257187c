"""A ceiling by a cgroup version 2 memory group.

``memory.high`` is the limit: the kernel throttles a task that reaches it and reports it through ``memory.events``;
memwarden then freezes the group and reads the evidence. ``memory.max`` is one parting reserve above; there the
kernel kills the whole group at once (``memory.oom.group``).

``high`` also counts when the kernel merely drops file cache at the limit, so the event counts only if the memory
that cannot be reclaimed is at the limit.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Sequence

from memwarden.contain.ceiling import PARTING_RESERVE, CgroupCeiling
from memwarden.contain.own_cgroup import parent_for, write
from memwarden.errors import CeilingUnavailable, ReadError
from memwarden.model.units import MIB

#: A ``high`` event counts if the unreclaimable memory is this close to the limit: charges come in batches for each
#: processor.
_SLACK = 1 * MIB


class Cgroup2Ceiling(CgroupCeiling):
    """Ceiling of ``limit`` bytes in a group of its own. Raises :class:`CeilingUnavailable`."""

    kind = "cgroup2"
    _counters = "memory.events"
    _version = 2

    def __init__(self, limit: int, given: str | None = None) -> None:
        super().__init__(limit, parent_for(2, given))
        path = self._group.path
        try:
            # memwarden/ is ours, so its controllers may be turned on for the group below it.
            write(os.path.dirname(path), "cgroup.subtree_control", "+memory")
            write(path, "memory.max", str(limit + PARTING_RESERVE))
            write(path, "memory.high", str(limit))
            with contextlib.suppress(FileNotFoundError):  # no swap in this kernel
                write(path, "memory.swap.max", "0")
            with contextlib.suppress(FileNotFoundError):  # Linux before 4.19
                write(path, "memory.oom.group", "1")
            self._notice = os.open(f"{path}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
            os.read(self._notice, 512)
        except OSError as error:
            self.close()
            raise CeilingUnavailable(f"the group {path} cannot be set up: {error.strerror}") from None
        if os.path.exists(f"{path}/cgroup.kill"):  # Linux 5.14
            self.if_killed = "a helper shell kills the whole tree"
            self._watch('echo 1 >"$1/cgroup.kill"')
        else:
            self._watch('echo max >"$1/memory.high"')  # the kernel kills at the ceiling instead of throttling
        self._high = self._count(b"high")

    def watched(self) -> Sequence[tuple[int, int]]:
        return ((self._notice, select.POLLPRI),)

    def reached(self) -> bool:
        os.pread(self._notice, 512, 0)  # reading arms the next notification
        if self.kernel_kills():
            return True
        high = self._count(b"high")
        if high == self._high:
            return False
        self._high = high
        if self._unreclaimable(self._number("memory.current")) < self._limit - _SLACK:
            return False
        with contextlib.suppress(OSError):
            write(self._group.path, "cgroup.freeze", "1")
        return True

    def used(self) -> tuple[int, str]:
        return self._number("memory.current"), "cgroup"

    def peak(self) -> tuple[int, str]:
        try:
            return self._number("memory.peak"), "cgroup"
        except ReadError:  # Linux before 5.19
            return 0, ""

    def kernel_kills(self) -> int:
        # A kill for a limit above counts as oom_kill, too, but then no group in here was at its limit.
        return self._count(b"oom_kill") if self._count(b"oom") else 0

    def unreclaimable_at_limit(self) -> int:
        # `oom` counts allocations that were about to fail; a kill counts as both.
        return self.peak()[0] if self._count(b"oom") and not self._count(b"oom_kill") else 0

    def killed_from_above(self) -> bool:
        return self._count(b"oom_kill") > 0 and not self._count(b"oom")

    def part(self) -> None:
        with contextlib.suppress(OSError):
            write(self._group.path, "memory.high", "max")  # no more throttling: memory.max is the limit
            write(self._group.path, "cgroup.freeze", "0")

    def overdrawn(self) -> bool:
        return self.kernel_kills() > 0

    def kill(self) -> None:
        try:
            write(self._group.path, "cgroup.kill", "1")
        except OSError:
            self._group.kill()
            with contextlib.suppress(OSError):
                write(self._group.path, "cgroup.freeze", "0")
