"""A ceiling by a cgroup version 1 memory group.

The kernel's OOM killer is turned off in the group (``memory.oom_control``), so at the limit a task that asks for
more blocks. The event descriptor reports it, the evidence is read while the tree is blocked, and then the tree is
stopped. Nothing passes the limit meanwhile: measured 0.0 to 0.2 MB at 1 GB/s and with 2 MiB pages.

With the killer off the kernel refuses memory to a system call (``read()`` of a file that is not cached) without an
event. ``memory.max_usage_in_bytes`` cannot tell that from file cache that was reclaimed at the limit, and with a limit
on memory and swap together ``memory.failcnt`` stays 0 (6.18), so the memory that cannot be reclaimed is read while the
group is nearly full.

If the monitor is killed in that state, a watchdog turns the OOM killer on again; otherwise the tasks would block
forever. Without a shell for the watchdog the OOM killer stays on.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Sequence

from memwarden.contain.ceiling import PARTING_RESERVE, CgroupCeiling
from memwarden.contain.own_cgroup import parent_for, write
from memwarden.errors import CeilingUnavailable, ReadError
from memwarden.readers.linux.process import PAGE

#: The kernel charges a group in batches of 64 pages for each processor.
_CHARGE_BATCH = 256 * 1024
#: The group counts as nearly full from this share of its limit on: a refused allocation may be large.
_NEARLY_FULL = 0.96
#: Seconds between readings of a nearly full group: as long as its memory takes to fill at 4 GB/s, but at least this.
_SHORTEST = 0.005
_FASTEST = 4e9


class Cgroup1Ceiling(CgroupCeiling):
    """Ceiling of ``limit`` bytes in a group of its own. Raises :class:`CeilingUnavailable`."""

    kind = "cgroup1"
    _counters = "memory.oom_control"
    _version = 1

    def __init__(self, limit: int, given: str | None = None) -> None:
        super().__init__(limit, parent_for(1, given))
        self._unreclaimable_peak = 0
        #: What could be taken or reclaimed at the last reading of the nearly full group; None while it is not.
        self._headroom: int | None = None
        path = self._group.path
        try:
            self._set_limit(limit)
            self._watch_oom(path)
        except (OSError, CeilingUnavailable) as error:
            self.close()
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise CeilingUnavailable(f"the group {path} cannot be set up: {reason}") from None

    def _watch_oom(self, path: str) -> None:
        if not self._watch('echo 0 >"$1/memory.oom_control"').running:
            return
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        control = os.open(f"{path}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        usage = os.open(f"{path}/memory.usage_in_bytes", os.O_RDONLY | os.O_CLOEXEC)
        try:
            write(path, "cgroup.event_control", f"{event} {control}")
            write(path, "cgroup.event_control", f"{event} {usage} {int(self._limit * _NEARLY_FULL)}")
            write(path, "memory.oom_control", "1")
        except OSError:
            os.close(event)  # the OOM killer then kills at the limit, without evidence
            return
        finally:
            os.close(control)
            os.close(usage)
        self._notice = event

    def set_limit(self, size: int) -> None:
        """Change the limit. Raises OSError (EBUSY if more is in use than can be reclaimed)."""
        self._set_limit(size)
        self._limit = size

    def _set_limit(self, size: int) -> None:
        names = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]  # swap is no way around the limit
        if size > self._limit:
            names.reverse()  # memory may not be above memory and swap together
        for name in names:
            if os.path.exists(f"{self._group.path}/{name}"):
                write(self._group.path, name, str(size))

    def watched(self) -> Sequence[tuple[int, int]]:
        return () if self._notice < 0 else ((self._notice, select.POLLIN),)

    def reached(self) -> bool:
        if self._notice >= 0:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._notice)
        self._read_nearly_full()
        return self.under_oom() or self.kernel_kills() > 0

    def _read_nearly_full(self) -> None:
        self._headroom = None
        with contextlib.suppress(ReadError):  # no descriptor is free: the limit holds without this
            usage = self._number("memory.usage_in_bytes")
            if self._notice >= 0 and usage >= self._limit * _NEARLY_FULL:
                unreclaimable = self._unreclaimable(usage)
                self._headroom = self._limit - unreclaimable
                self._unreclaimable_peak = max(self._unreclaimable_peak, unreclaimable)

    def pace(self) -> float:
        return 1.0 if self._headroom is None else max(_SHORTEST, self._headroom / _FASTEST)

    def unreclaimable_at_limit(self) -> int:
        stood = self.peak()[0] >= self._limit - PAGE and self._unreclaimable_peak >= self._limit * _NEARLY_FULL
        return self._unreclaimable_peak if stood else 0

    def under_oom(self) -> bool:
        """Return whether a task of the group blocks because the limit is reached."""
        return self._count(b"under_oom") == 1

    def used(self) -> tuple[int, str]:
        return self._number("memory.usage_in_bytes"), "cgroup"

    def peak(self) -> tuple[int, str]:
        return self._number("memory.max_usage_in_bytes"), "cgroup"

    def kernel_kills(self) -> int:
        # With the OOM killer off, a kill in the group was for a limit above.
        return self._count(b"oom_kill") if self._notice < 0 else 0

    def members_killed(self) -> int:
        """Return the number of OOM kills in the group, for limits above included."""
        return self._count(b"oom_kill")

    def killed_from_above(self) -> bool:
        return self._notice >= 0 and self.members_killed() > 0

    def part(self) -> None:
        with contextlib.suppress(OSError):
            self._set_limit(self._limit + PARTING_RESERVE)

    def overdrawn(self) -> bool:
        # Right after the limit was raised, blocked tasks still count as blocked.
        full = self._number("memory.usage_in_bytes") > self._limit + PARTING_RESERVE - _CHARGE_BATCH
        return full and self.under_oom()

    def kill(self) -> None:
        self._group.kill()

    def _release(self) -> None:
        write(self._group.path, "memory.oom_control", "0")
