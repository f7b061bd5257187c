"""Whether the kernel's out-of-memory killer struck between two moments, and where."""

from __future__ import annotations

from memwarden.errors import ReadError
from memwarden.readers.cgroup import CgroupReader
from memwarden.readers.files import read_once


class OomWitness:
    """Remembers the kill counters of our own path and of the machine from when it was made."""

    def __init__(self, proc: str = "/proc", sys_fs_cgroup: str = "/sys/fs/cgroup") -> None:
        self._proc, self._sys = proc, sys_fs_cgroup
        self._groups, self._machine = self._count()

    def _count(self) -> tuple[dict[str, int], int]:
        reader = CgroupReader(proc=self._proc, sys_fs_cgroup=self._sys)
        try:
            groups, _ = reader.look()
        except ReadError:
            groups = ()
        finally:
            reader.close()
        # The root's counter is the machine's: it says nothing about where.
        kills = {group.path: group.oom_kills or 0 for group in groups if group.limit is not None}
        try:
            data = read_once("vmstat", f"{self._proc}/vmstat", 16384)
            at = data.find(b"\noom_kill ")
            machine = int(data[at + 10 :].split(None, 1)[0]) if at >= 0 else 0
        except (ReadError, ValueError):
            machine = 0
        return kills, machine

    def seen(self) -> str:
        """Where it struck since: the path of the nearest group with a limit, ``"machine"``, or ``""``."""
        groups, machine = self._count()
        for path, kills in groups.items():
            if kills > self._groups.get(path, 0):
                return path
        return "machine" if machine > self._machine else ""
