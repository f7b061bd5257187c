"""A ceiling by a cgroup version 1 memory group.

The kernel's own killer is turned off in the group (``memory.oom_control``), so at the limit a task that
asks for more simply stops. The event descriptor tells us, the evidence is read while everything stands
still, and then the tree is ended. Nothing gets past the limit meanwhile: measured, at 1 GB/s and with
2 MiB pages, 0.0 to 0.2 MB.

Were the monitor killed in that state the tasks would wait for ever; a sentinel then turns the kernel's
killer on again. Without a shell for the sentinel the kernel's killer stays on.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Sequence

from memwarden.contain.ceiling import PARTING_RESERVE
from memwarden.contain.own_cgroup import OwnCgroup, parent_for, write
from memwarden.errors import CeilingUnavailable, ReadError
from memwarden.model.facts import ProcessKey
from memwarden.process.watchdog import Watchdog
from memwarden.readers.linux.cgroup import keyed_number
from memwarden.readers.linux.files import KeptFile

#: The kernel charges a group in batches of 64 pages for each processor.
_CHARGE_BATCH = 256 * 1024


class Cgroup1Ceiling:
    """Holds a tree to ``limit`` bytes in a group of its own. Raises :class:`CeilingUnavailable`."""

    kind = "cgroup1"

    def __init__(self, limit: int, given: str | None = None) -> None:
        self._limit = limit
        self._group = OwnCgroup(parent_for(1, given))
        self._sentinel: Watchdog | None = None
        self._event = -1
        path = self._group.path
        try:
            self._set_limit(limit)
            self._usage = KeptFile("usage", f"{path}/memory.usage_in_bytes", 64)
            self._control = KeptFile("oom_control", f"{path}/memory.oom_control", 256)
            self._watch_oom(path)
        except (OSError, CeilingUnavailable) as error:
            self.close()
            words = error.strerror if isinstance(error, OSError) else str(error)
            raise CeilingUnavailable(f"the group {path} cannot be set up: {words}") from None
        self.joins: Sequence[str] = (f"{path}/cgroup.procs",)

    def _watch_oom(self, path: str) -> None:
        sentinel = Watchdog('echo 0 >"$1/memory.oom_control"', path)
        self._sentinel = sentinel
        if not sentinel.standing:
            return
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        control = os.open(f"{path}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            write(path, "cgroup.event_control", f"{event} {control}")
            write(path, "memory.oom_control", "1")
        except OSError:
            os.close(event)  # the kernel's killer then ends the tree at the limit, without evidence
            return
        finally:
            os.close(control)
        self._event = event

    def set_limit(self, size: int) -> None:
        """Hold it to another number of bytes. Raises OSError (EBUSY where more is used than could be reclaimed)."""
        self._set_limit(size)
        self._limit = size

    def _set_limit(self, size: int) -> None:
        path = self._group.path
        both = os.path.exists(f"{path}/memory.memsw.limit_in_bytes")
        try:
            write(path, "memory.limit_in_bytes", str(size))
        except OSError:
            if not both:
                raise
            # Raising: memory may not be above memory and swap together.
            write(path, "memory.memsw.limit_in_bytes", str(size))
            write(path, "memory.limit_in_bytes", str(size))
        if both:
            write(path, "memory.memsw.limit_in_bytes", str(size))  # swap is no way around the limit

    @property
    def helpers(self) -> Sequence[int]:
        pid = self._sentinel.pid if self._sentinel is not None else None
        return () if pid is None else (pid,)

    @property
    def afterwards(self) -> str:
        return "the command is killed, and the kernel holds the rest to the limit and kills at it"

    def attach(self, root: ProcessKey) -> None:
        pass

    def watched(self) -> Sequence[tuple[int, int]]:
        return () if self._event < 0 else ((self._event, select.POLLIN),)

    def pace(self) -> float:
        return 1.0

    def _number(self, key: bytes) -> int:
        try:
            return keyed_number(self._control.read(), key, self._control.path) or 0
        except ReadError:
            return 0  # the group is gone

    def reached(self) -> bool:
        if self._event >= 0:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._event)
        return self.stands_still() or self.kernel_kills() > 0

    def stands_still(self) -> bool:
        """Whether somebody in it waits for memory because the limit is reached."""
        return self._number(b"under_oom") == 1

    def used(self) -> tuple[int, str]:
        return int(self._usage.read()), "cgroup"

    def peak(self) -> tuple[int, str]:
        file = KeptFile("peak", f"{self._group.path}/memory.max_usage_in_bytes", 64)
        try:
            return int(file.read()), "cgroup"
        finally:
            file.close()

    def kernel_kills(self) -> int:
        # With the kernel's killer off nobody is killed for our limit: it was for one above.
        return self._number(b"oom_kill") if self._event < 0 else 0

    def members_killed(self) -> int:
        """How often the kernel killed somebody in it, for a limit above, too."""
        return self._number(b"oom_kill")

    def killed_from_above(self) -> bool:
        return self._event >= 0 and self._number(b"oom_kill") > 0

    def members(self) -> list[ProcessKey]:
        return self._group.members()

    def part(self) -> None:
        with contextlib.suppress(OSError):
            self._set_limit(self._limit + PARTING_RESERVE)

    def overdrawn(self) -> bool:
        # Right after the limit was raised the waiting tasks still count as waiting.
        full = int(self._usage.read()) > self._limit + PARTING_RESERVE - _CHARGE_BATCH
        return full and self.stands_still()

    def kill(self) -> None:
        self._group.kill()

    def close(self) -> None:
        left = bool(self._group.pids())
        if left:
            with contextlib.suppress(OSError):
                write(self._group.path, "memory.oom_control", "0")
        if self._event >= 0:
            os.close(self._event)
            self._event = -1
        for name in ("_usage", "_control"):
            if hasattr(self, name):
                getattr(self, name).close()
        if self._sentinel is not None:
            self._sentinel.dismiss()
        self._group.close(patience=0.0 if left else 1.0)
