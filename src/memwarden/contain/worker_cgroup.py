"""A control group for many workers, in which the kernel blocks those that exceed the limit until the executor acts.

Unlike a :class:`~memwarden.contain.ceiling.Ceiling` it does not kill at its limit: it reports it, and the executor
chooses a worker. The limit follows the budget.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Sequence

from memwarden.contain.cgroup1 import Cgroup1Ceiling
from memwarden.contain.own_cgroup import OwnCgroup, counter, parent_for, read, write
from memwarden.errors import CeilingUnavailable, ReadError
from memwarden.model.units import MIB

#: Between the limit at which version 2 throttles a group (``memory.high``) and the one at which it kills.
_KILL_MARGIN = 8 * MIB
#: A charge may fail though so much less is used: each processor charges 64 pages in advance, or one of 2 MiB, and
#: concurrent charges fail together. (``memory.failcnt`` does not count them: 0 in 6.18.)
_CHARGED_IN_ADVANCE = 8 * MIB


class WorkerCgroup:
    """Enforcement by the kernel between two samples; this class is the one without a group."""

    #: ``"cgroup1"``, ``"cgroup2"``, or ``"polling"`` without a group.
    kind = "polling"
    #: ``cgroup.procs`` files into which a worker writes itself.
    joins: Sequence[str] = ()
    #: Descriptor that is readable when the limit was reached; -1 without one.
    event_fd = -1
    #: Reason for which there is no group.
    reason = ""

    def set_limit(self, limit: int) -> None:
        """Limit all workers together to so many bytes, if they do not use more already."""

    def stuck(self) -> bool:
        """Return whether the kernel blocks a process of the group now; resets the event."""
        return False

    def kernel_kills(self) -> int:
        """Return how often the kernel has killed in the group."""
        return 0

    def refused(self) -> bool:
        """Return whether the kernel may have failed system calls for want of memory since the last call."""
        return False

    def close(self) -> None:
        """Remove the group."""


class WorkerCgroupV1(WorkerCgroup):
    """A version 1 group with its killer off: a process that needs more than the limit waits in the kernel."""

    kind = "cgroup1"

    def __init__(self, limit: int, given: str | None = None) -> None:
        self._group = Cgroup1Ceiling(limit, given)
        self.joins = self._group.joins
        self.event_fd = next((fd for fd, _ in self._group.watched()), -1)
        self._path = os.path.dirname(self.joins[0])
        self._limit = limit

    def set_limit(self, limit: int) -> None:
        with contextlib.suppress(OSError):  # below what is used: the limit stays as it was
            self._group.set_limit(limit)
            self._limit = limit

    def stuck(self) -> bool:
        self._group.reached()  # takes the event
        return self._group.under_oom()

    def kernel_kills(self) -> int:
        return self._group.members_killed()

    def refused(self) -> bool:
        # A page fault of a task waits for memory; one inside of read() or send() makes that fail.
        try:
            if int(read(self._path, "memory.max_usage_in_bytes")) < self._limit - _CHARGED_IN_ADVANCE:
                return False
            write(self._path, "memory.max_usage_in_bytes", "0")  # restarts at what is used
        except (OSError, ReadError):
            return False
        return True

    def close(self) -> None:
        self._group.close()


class WorkerCgroupV2(WorkerCgroup):
    """A version 2 group: at ``memory.high`` the kernel throttles, a little above (``memory.max``) it kills one."""

    kind = "cgroup2"

    def __init__(self, limit: int, given: str | None = None) -> None:
        self._own = OwnCgroup(parent_for(2, given))
        self._path = path = self._own.path
        self._notice = -1
        #: memory.events reports by POLLPRI, which selectors do not know: readable when that comes.
        self._poll = select.epoll()
        self.event_fd = self._poll.fileno()
        self._limit = limit
        self.joins = (f"{path}/cgroup.procs",)
        try:
            write(os.path.dirname(path), "cgroup.subtree_control", "+memory")
            self._write(limit)
            with contextlib.suppress(FileNotFoundError):  # no swap in this kernel
                write(path, "memory.swap.max", "0")
            self._notice = os.open(f"{path}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
            self._poll.register(self._notice, select.EPOLLPRI)
            self._high = self._count(b"high")
        except OSError as error:
            self.close()
            raise CeilingUnavailable(f"the group {path} cannot be set up: {error.strerror}") from None

    def _write(self, limit: int) -> None:
        write(self._path, "memory.high", str(limit))
        write(self._path, "memory.max", str(limit + _KILL_MARGIN))

    def set_limit(self, limit: int) -> None:
        # Lowering memory.max below what is used would have the kernel kill; high only throttles.
        with contextlib.suppress(OSError, ValueError):
            if int(read(self._path, "memory.current")) < limit:
                self._write(limit)
                self._limit = limit

    def _count(self, key: bytes) -> int:
        return counter(self._path, "memory.events", key)

    def stuck(self) -> bool:
        with contextlib.suppress(OSError):
            os.pread(self._notice, 512, 0)  # reading arms the next event
        high = self._count(b"high")
        moved, self._high = high != self._high, high
        with contextlib.suppress(OSError, ValueError, ReadError):
            return moved and int(read(self._path, "memory.current")) >= self._limit - MIB
        return False

    def kernel_kills(self) -> int:
        return self._count(b"oom_kill")

    def close(self) -> None:
        self._poll.close()
        if self._notice >= 0:
            os.close(self._notice)
            self._notice = -1
        self._own.close(patience=0.0 if self._own.pids() else 1.0)


def worker_cgroup(limit: int, given: str | None = None) -> WorkerCgroup:
    """Return the best group that this machine grants."""
    reasons = []
    for make in (WorkerCgroupV2, WorkerCgroupV1):
        try:
            return make(limit, given)
        except CeilingUnavailable as error:
            reasons.append(str(error))
    none = WorkerCgroup()
    none.reason = "; ".join(reasons)
    return none
