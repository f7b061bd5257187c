"""A ceiling by a cgroup version 2 memory group.

``memory.high`` stands at the limit: a task that gets there is slowed down by the kernel while we are told
through ``memory.events``, freeze the group and read the evidence. ``memory.max`` stands one parting
reserve above it; who gets there is killed by the kernel, the whole group at once (``memory.oom.group``).

``high`` is also counted when the kernel merely drops file cache at the limit, so the event is believed
only when the memory that cannot be reclaimed is at the limit.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Sequence

from memwarden.contain.ceiling import PARTING_RESERVE
from memwarden.contain.own_cgroup import OwnCgroup, hands_memory_down, need_entry, parent_for, write
from memwarden.errors import CeilingUnavailable, ReadError
from memwarden.model.facts import ProcessKey
from memwarden.model.units import MIB
from memwarden.process.watchdog import Watchdog
from memwarden.readers.linux.cgroup import RECLAIMABLE, keyed_number
from memwarden.readers.linux.files import KeptFile, read_once

#: How far under the limit the unreclaimable part may be for a ``high`` event to be believed: charges come in
#: batches for each processor.
_SLACK = 1 * MIB


class Cgroup2Ceiling:
    """Holds a tree to ``limit`` bytes in a group of its own. Raises :class:`CeilingUnavailable`."""

    kind = "cgroup2"

    def __init__(self, limit: int, given: str | None = None) -> None:
        self._limit = limit
        parent = parent_for(2, given)
        self._need_controller(parent)
        need_entry(parent)
        self._group = OwnCgroup(parent)
        self._sentinel: Watchdog | None = None
        path = self._group.path
        self._events = KeptFile("events", f"{path}/memory.events", 512)
        self._stat = KeptFile("stat", f"{path}/memory.stat", 8192)
        self._current = KeptFile("current", f"{path}/memory.current", 64)
        self._notice = -1
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
        # cgroup.kill is there since Linux 5.14; before, the kernel shall kill at the ceiling instead of slowing down.
        self._kills = os.path.exists(f"{path}/cgroup.kill")
        self._sentinel = Watchdog('echo 1 >"$1/cgroup.kill"' if self._kills else 'echo max >"$1/memory.high"', path)
        self._high = self._count(b"high")
        self.joins: Sequence[str] = (f"{path}/cgroup.procs",)

    @staticmethod
    def _need_controller(parent: str) -> None:
        try:
            granted = hands_memory_down(parent)
        except ReadError as error:
            raise CeilingUnavailable(str(error)) from None
        if not granted:
            raise CeilingUnavailable(
                f"{parent} does not hand the memory controller down (cgroup.subtree_control), and it is not ours"
                " to change; name a delegated group with --cgroup"
            )

    @property
    def helpers(self) -> Sequence[int]:
        pid = self._sentinel.pid if self._sentinel is not None else None
        return () if pid is None else (pid,)

    @property
    def afterwards(self) -> str:
        if self._kills:
            return "a shell that waits for that ends the whole tree"
        return "the command is killed, and the kernel holds the rest to the limit and kills at it"

    def attach(self, root: ProcessKey) -> None:
        pass

    def watched(self) -> Sequence[tuple[int, int]]:
        return ((self._notice, select.POLLPRI),)

    def pace(self) -> float:
        return 1.0

    def _count(self, key: bytes) -> int:
        try:
            return keyed_number(self._events.read(), key, self._events.path) or 0
        except ReadError:
            return 0  # the group is gone

    def _unreclaimable(self) -> int:
        stat, where = self._stat.read(), self._stat.path
        dropped = sum(keyed_number(stat, key, where) or 0 for key in RECLAIMABLE)
        return int(self._current.read()) - dropped

    def reached(self) -> bool:
        os.pread(self._notice, 512, 0)  # reading is what arms the next notice
        if self.kernel_kills():
            return True
        high = self._count(b"high")
        if high == self._high:
            return False
        self._high = high
        if self._unreclaimable() < self._limit - _SLACK:
            return False
        with contextlib.suppress(OSError):
            write(self._group.path, "cgroup.freeze", "1")
        return True

    def used(self) -> tuple[int, str]:
        return int(self._current.read()), "cgroup"

    def peak(self) -> tuple[int, str]:
        try:
            return int(read_once("peak", f"{self._group.path}/memory.peak", 64)), "cgroup"
        except ReadError:  # Linux before 5.19
            return 0, ""

    def kernel_kills(self) -> int:
        # A kill for want of memory above is counted here, too, but then nobody was at a limit in here.
        return self._count(b"oom_kill") if self._count(b"oom") else 0

    def killed_from_above(self) -> bool:
        return self._count(b"oom_kill") > 0 and not self._count(b"oom")

    def members(self) -> list[ProcessKey]:
        return self._group.members()

    def part(self) -> None:
        with contextlib.suppress(OSError):
            write(self._group.path, "memory.high", "max")  # no more slowing down: memory.max holds
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

    def close(self) -> None:
        left = bool(self._group.pids())
        for file in (self._events, self._stat, self._current):
            file.close()
        if self._notice >= 0:
            os.close(self._notice)
            self._notice = -1
        if self._sentinel is not None:
            self._sentinel.dismiss()
        self._group.close(patience=0.0 if left else 1.0)
