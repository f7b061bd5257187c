"""The interface of a ceiling: a mechanism that keeps a process tree within a number of bytes."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence

from memwarden.contain.own_cgroup import OwnCgroup, counter, read
from memwarden.model.facts import ProcessKey
from memwarden.model.units import MIB
from memwarden.process.watchdog import Watchdog
from memwarden.readers.linux.cgroup import RECLAIMABLE, keyed_number

#: Bytes that a tree may take beyond its limit while it handles SIGTERM. The kernel (or the next poll) enforces it.
PARTING_RESERVE = 1 * MIB


class Ceiling(ABC):
    """Ceiling of one tree. All calls come from the guard thread."""

    #: ``"cgroup2"``, ``"cgroup1"`` or ``"polling"``.
    kind: str
    #: ``cgroup.procs`` files that the launcher writes itself into before it becomes the command.
    joins: Sequence[str] = ()
    #: Pids of helper processes beside the tree that belong to the ceiling.
    helpers: Sequence[int] = ()
    #: Protection of the tree after this process is killed, as a sentence.
    if_killed: str

    def attach(self, root: ProcessKey) -> None:
        """Take over the command that was just started."""
        return

    def watched(self) -> Sequence[tuple[int, int]]:
        """Return (descriptor, poll events) pairs that become ready when the limit may be reached."""
        return ()

    def pace(self) -> float:
        """Return the longest time in seconds until the next call of :meth:`reached`."""
        return 1.0

    @abstractmethod
    def reached(self) -> bool:
        """Return whether the tree is at its limit; if so, it is stopped until :meth:`part`."""

    @abstractmethod
    def used(self) -> tuple[int, str]:
        """Return the bytes that count against the limit now, and their source."""

    @abstractmethod
    def peak(self) -> tuple[int, str]:
        """Return the highest use so far, and its source."""

    def kernel_kills(self) -> int:
        """Return the number of kills by the kernel for reaching this limit."""
        return 0

    def unreclaimable_at_limit(self) -> int:
        """Return the bytes that could not be reclaimed while the tree stood at its limit and was not killed; else 0.

        The kernel refuses memory to system calls there: ``read()`` fails (ENOMEM, EFAULT) or returns less than it was
        asked for.
        """
        return 0

    def killed_from_above(self) -> bool:
        """Return whether the kernel killed a member because memory ran out above: in an ancestor, the machine."""
        return False

    @abstractmethod
    def members(self) -> list[ProcessKey]:
        """Return the live members of the tree."""

    @abstractmethod
    def part(self) -> None:
        """Resume the tree within the parting reserve, so that it can handle SIGTERM."""

    @abstractmethod
    def overdrawn(self) -> bool:
        """Return whether the parting reserve is used up."""

    @abstractmethod
    def kill(self) -> None:
        """Send SIGKILL to every member; returns before they have exited."""

    @abstractmethod
    def close(self) -> None:
        """Release everything. Surviving members stay under the kernel's limit, if there is one."""


class CgroupCeiling(Ceiling):
    """The part that the ceilings of both cgroup versions share: a control group of our own, and a watchdog."""

    if_killed = "the command is killed, and the kernel keeps the rest at the limit and kills there"
    #: File with the counters of the kernel's kills, and the version of the hierarchy.
    _counters: str
    _version: int

    def __init__(self, limit: int, parent: str) -> None:
        self._limit = limit
        self._group = OwnCgroup(parent)
        self._watchdog: Watchdog | None = None
        self._notice = -1
        self.joins = (f"{self._group.path}/cgroup.procs",)

    def _watch(self, script: str) -> Watchdog:
        self._watchdog = watchdog = Watchdog(script, self._group.path)
        if watchdog.pid is not None:
            self.helpers = (watchdog.pid,)
        return watchdog

    def _count(self, key: bytes) -> int:
        return counter(self._group.path, self._counters, key)

    def _number(self, name: str) -> int:
        return int(read(self._group.path, name))

    def _unreclaimable(self, usage: int) -> int:
        """Return the part of the group's usage that the kernel cannot reclaim."""
        stat = read(self._group.path, "memory.stat")
        return usage - sum(keyed_number(stat, key, "memory.stat") or 0 for key in RECLAIMABLE[self._version])

    def members(self) -> list[ProcessKey]:
        return self._group.members()

    def close(self) -> None:
        occupied = bool(self._group.pids())
        if occupied:
            with contextlib.suppress(OSError):
                self._release()
        if self._notice >= 0:
            os.close(self._notice)
            self._notice = -1
        if self._watchdog is not None:
            self._watchdog.dismiss()
        self._group.close(patience=0.0 if occupied else 1.0)

    def _release(self) -> None:
        """Leave survivors under the kernel's limit without a monitor."""
        return
