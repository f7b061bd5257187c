"""Detection of kills by the kernel's OOM killer between two moments, and their location."""

from __future__ import annotations

import contextlib

from memwarden.contain.own_cgroup import counter
from memwarden.errors import ReadError
from memwarden.model.facts import CgroupMemory
from memwarden.readers.linux.cgroup import CgroupReader, locate


class OomEvents:
    """Compares the OOM kill counters of our cgroup path and of the machine with those at its construction."""

    def __init__(self, proc: str = "/proc", sys_fs_cgroup: str = "/sys/fs/cgroup") -> None:
        self._proc, self._sys = proc, sys_fs_cgroup
        groups, self._machine = self._count()
        self._kills = {group.path: group.oom_kills or 0 for group in groups}
        self._full = self._at_their_limit()

    def _count(self) -> tuple[list[CgroupMemory], int]:
        with contextlib.closing(CgroupReader(proc=self._proc, sys_fs_cgroup=self._sys)) as reader:
            try:
                groups, _ = reader.sample()
            except ReadError:
                groups = ()
        # The root's counter is the machine's, and says nothing about the location.
        limited = [group for group in groups if group.limit is not None]
        return limited, counter(self._proc, "vmstat", b"oom_kill")

    def _at_their_limit(self) -> dict[str, int]:
        """Return how often each group (version 2, Linux 5.2) was itself the one at its limit.

        A kill counts in the victim's group and in all above it, wherever the limit is set.
        """
        try:
            ancestors = locate(proc=self._proc, sys_fs_cgroup=self._sys).ancestors
        except ReadError:
            return {}
        return {path: counter(directory, "memory.events.local", b"oom") for path, directory in ancestors}

    def seen(self, below: bool = False) -> str:
        """Return the location of a kill since: the path of the group at its limit, ``"machine"``, or ``""``.

        ``below``: a process in a group below ours was killed for a limit above that group.
        """
        groups, machine = self._count()
        for at, victim in enumerate(groups):
            if (victim.oom_kills or 0) > self._kills.get(victim.path, 0):
                return self._culprit(groups[at:])
        if below and groups:
            return self._culprit(groups)
        return "machine" if machine > self._machine else ""

    def _culprit(self, path: list[CgroupMemory]) -> str:
        """Return the group that was at its limit, of the victim's and those above it."""
        full = self._at_their_limit()
        for group in path:
            if full.get(group.path, 0) > self._full.get(group.path, 0):
                return group.path
        # Version 1 shows in every group the smallest limit of its path; the outermost group that shows it has it.
        same = [group for group in path if group.version == 1 and group.limit == path[0].limit]
        return (same or path)[-1 if same else 0].path
