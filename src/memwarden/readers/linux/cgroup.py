"""Control groups of a process: its own group and every visible ancestor, versions 1, 2 and hybrid.

A group's directory follows from ``/proc/PID/cgroup`` (its path) and ``/proc/PID/mountinfo`` (the mounted parts of the
hierarchy). A container usually sees ``/docker/<id>`` as its path while its own group *is* the root of the mount, so
joining mount point and path finds nothing, or the wrong group.

"Reclaimable" memory is dropped by the kernel before it kills: active and inactive file pages and reclaimable slab, the
rule of the kernel's own MemAvailable (see ADR 4; Docker and Kubernetes leave active file pages in).

A group's usage costs 0.8 µs, everything else 15 to 20 µs more. With ``max_age`` a group is read in full only where that
can change a verdict: from half of its limit on. Below, the level can only be LOW, whatever part is reclaimable.
"""

from __future__ import annotations

import os
import posixpath
from time import monotonic
from typing import Any, NamedTuple

from memwarden.errors import ReadError
from memwarden.model.facts import CgroupMemory, Gap
from memwarden.readers.linux.files import KeptFile, pread, read_once

#: Version 1 writes "no limit" as the largest multiple of a page below 2**63.
_NO_LIMIT = 1 << 62

#: The file that holds a group's usage.
_USAGE = {1: "memory.usage_in_bytes", 2: "memory.current"}

#: Memory that the kernel drops before it kills, by the keys of each version's memory.stat.
RECLAIMABLE = {
    1: (b"total_inactive_file", b"total_active_file"),
    2: (b"inactive_file", b"active_file", b"slab_reclaimable"),
}


class Mount(NamedTuple):
    """A mounted part of the hierarchy that holds the memory controller."""

    version: int
    #: The group of the hierarchy at the mount point.
    root: str
    point: str


class Location(NamedTuple):
    """Location of a process's memory group."""

    mount: Mount
    #: The group as ``/proc/PID/cgroup`` names it.
    path: str
    #: The directory of the group.
    directory: str

    @property
    def ancestors(self) -> list[tuple[str, str]]:
        """(path, directory) of the group and of every group above it up to the mount point."""
        pairs = []
        path, directory = self.path, self.directory
        while True:
            pairs.append((path, directory))
            if directory == self.mount.point or len(directory) <= len(self.mount.point):
                return pairs
            directory = posixpath.dirname(directory)
            path = posixpath.dirname(path) or "/"


def locate(pid: int | str = "self", proc: str = "/proc", sys_fs_cgroup: str = "/sys/fs/cgroup") -> Location:
    """Find the memory group of a process. Raises :class:`ReadError` (absent: no memory controller here)."""
    groups = read_once("cgroup", f"{proc}/{pid}/cgroup").decode("utf-8", "surrogateescape")
    return _resolve(groups, _mountinfo(proc), f"{proc}/{pid}", sys_fs_cgroup)


def _mountinfo(proc: str) -> str:
    # Our own mounts, also for another process's group: only they lead to files that we can open.
    return read_once("mountinfo", f"{proc}/self/mountinfo", 65536).decode("utf-8", "surrogateescape")


def locate_unified(pid: int | str = "self", proc: str = "/proc", sys_fs_cgroup: str = "/sys/fs/cgroup") -> Location:
    """Find the version 2 group of a process, with or without a memory controller: stalls are counted in each.

    Raises :class:`ReadError` (absent: it is in no visible group, or in the root group, which is the whole machine).
    """
    where = f"{proc}/{pid}/cgroup"
    path = _paths(read_once("cgroup", where).decode("utf-8", "surrogateescape"), where).get(2)
    if path is None:
        raise ReadError("cgroup", where, "absent", "this process is in no group of version 2")
    for mount in _mounts(_mountinfo(proc), 2, sys_fs_cgroup):
        location = _place(path, mount)
        if location is not None and os.path.exists(f"{location.directory}/cgroup.type"):  # the top has none
            return location
    raise ReadError("cgroup", where, "absent", "no group of version 2 below the top can be seen")


def _resolve(groups: str, mounts: str, where: str, sys_fs_cgroup: str) -> Location:
    paths = _paths(groups, f"{where}/cgroup")
    for version in (1, 2):  # in a hybrid the memory controller is on the version 1 side
        if version not in paths:
            continue
        candidates = _mounts(mounts, version, sys_fs_cgroup)
        placed = [located for mount in candidates if (located := _place(paths[version], mount))]
        # The path may lead outside of all mounts (a container with the host's names, or a namespace): then the
        # widest mount's root is the nearest group that may contain this process.
        outside = [Location(mount, paths[version], mount.point) for mount in reversed(candidates)]
        for location in placed + outside:
            if version == 1 or _has_memory(location.directory, location.mount.point):
                return location
    raise ReadError("cgroup", f"{where}/cgroup", "absent", "no memory controller is mounted here")


def _paths(groups: str, where: str) -> dict[int, str]:
    """Return the path of the version 1 memory group and of the version 2 group, by version."""
    paths: dict[int, str] = {}
    for line in filter(None, groups.split("\n")):  # no splitlines: a name may hold other line separators
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not path.startswith("/"):
            raise ReadError("cgroup", where, "malformed", f"{line[:60]!r}")
        if number == "0" and not controllers:
            paths[2] = path
        elif "memory" in controllers.split(","):
            paths[1] = path
    return paths


def _mounts(mountinfo: str, version: int, sys_fs_cgroup: str) -> list[Mount]:
    """Return the memory hierarchies of a version, the most specific mount first."""
    found = []
    for line in mountinfo.split("\n"):
        # 36 35 98:0 ROOT POINT OPTIONS [optional…] - TYPE SOURCE SUPER (proc_pid_mountinfo(5))
        left, dash, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        if not dash or len(fields) < 6 or len(kind) < 3:
            continue
        if version == 1 and (kind[0] != "cgroup" or "memory" not in kind[2].split(",")):
            continue
        if version == 2 and kind[0] != "cgroup2":
            continue
        root, point = _unescape(fields[3]), _unescape(fields[4])
        if sys_fs_cgroup != "/sys/fs/cgroup" and (point + "/").startswith("/sys/fs/cgroup/"):
            point = sys_fs_cgroup + point[len("/sys/fs/cgroup") :]
        found.append(Mount(version, root, point))
    return sorted(found, key=lambda mount: -len(mount.root))


def _unescape(field: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field


def _place(path: str, mount: Mount) -> Location | None:
    """Return the location of a group below a mount, or of its nearest visible ancestor.

    None when it is not in the mounted part.
    """
    root = mount.root.rstrip("/")
    if not (path + "/").startswith(root + "/"):
        return None
    directory = posixpath.normpath(mount.point + "/" + path[len(root) :])
    if not (directory + "/").startswith(mount.point.rstrip("/") + "/"):
        return None
    while directory != mount.point and not os.path.isdir(directory):
        directory, path = posixpath.dirname(directory), posixpath.dirname(path)
    return Location(mount, path, directory)


def _has_memory(directory: str, point: str) -> bool:
    """Return whether memory is counted in this hierarchy; a group without a counter is in its ancestor's."""
    if directory != point and os.path.exists(f"{directory}/memory.current"):
        return True
    try:
        return b"memory" in read_once("cgroup", f"{point}/cgroup.controllers", 512).split()
    except ReadError:
        return False


class _Group:
    """One group's files, kept open."""

    def __init__(self, path: str, directory: str, version: int) -> None:
        self.path, self.directory, self.version = path, directory, version
        self.usage = KeptFile(_USAGE[version], f"{directory}/{_USAGE[version]}", 64)
        self._files: dict[str, KeptFile | None] = {_USAGE[version]: self.usage}

    def text(self, name: str) -> bytes | None:
        """Return a file's content, None where this kernel or this group has no such file."""
        if name not in self._files:
            self._files[name] = KeptFile(name, f"{self.directory}/{name}", 8192 if name == "memory.stat" else 512)
        file = self._files[name]
        if file is None:
            return None
        try:
            return file.read()
        except ReadError as error:
            if error.why != "absent":
                raise
            if not os.path.isdir(self.directory):
                raise ReadError("cgroup", self.directory, "gone", "the group was removed") from None
            self._files[name] = None  # will not appear later
            return None

    def number(self, name: str) -> int | None:
        """Return the number in a file; None where it is absent or contains ``max``, as limits may."""
        data = self.text(name)
        if data is None or (data.startswith(b"max") and name != "memory.current"):
            return None
        try:
            if not data.endswith(b"\n"):  # truncated: a part of a number is another number
                raise ValueError
            return int(data)
        except ValueError:
            raise ReadError(name, f"{self.directory}/{name}", "malformed", f"{data[:40]!r}") from None

    def keyed(self, name: str, key: bytes) -> int | None:
        """Return one number of a file of ``key number`` lines."""
        data = self.text(name)
        return None if data is None else keyed_number(data, key, f"{self.directory}/{name}")

    def memory(self) -> CgroupMemory | None:
        """Return the group's figures; None for a group without a counter (the root of version 2)."""
        return self._memory2() if self.version == 2 else self._memory1()

    def _memory2(self) -> CgroupMemory | None:
        usage = self.number("memory.current")
        if usage is None:
            return None
        stat = self.text("memory.stat") or b""
        where = f"{self.directory}/memory.stat"
        reclaimable = sum(keyed_number(stat, key, where) or 0 for key in RECLAIMABLE[2])
        return CgroupMemory(
            self.path,
            2,
            usage,
            self.number("memory.max"),
            reclaimable,
            keyed_number(stat, b"anon", where),
            self.number("memory.swap.current"),
            self.number("memory.swap.max"),
            self.number("memory.peak"),
            self.keyed("memory.events", b"oom_kill"),
        )

    def _memory1(self) -> CgroupMemory | None:
        usage = self.number("memory.usage_in_bytes")
        if usage is None:
            return None
        stat = self.text("memory.stat") or b""
        where = f"{self.directory}/memory.stat"
        reclaimable = sum(keyed_number(stat, key, where) or 0 for key in RECLAIMABLE[1])
        # Counts the ancestors outside of a container too, where groups are hierarchical.
        limit = keyed_number(stat, b"hierarchical_memory_limit", where) or self.number("memory.limit_in_bytes")
        both = keyed_number(stat, b"hierarchical_memsw_limit", where) or self.number("memory.memsw.limit_in_bytes")
        swap_limit = None
        if both is not None and both < _NO_LIMIT and limit is not None and limit < _NO_LIMIT:
            swap_limit = max(0, both - limit)
        return CgroupMemory(
            self.path,
            1,
            usage,
            limit if limit is not None and limit < _NO_LIMIT else None,
            reclaimable,
            keyed_number(stat, b"total_rss", where),
            keyed_number(stat, b"total_swap", where),
            swap_limit,
            self.number("memory.max_usage_in_bytes"),
            self.keyed("memory.oom_control", b"oom_kill"),
        )

    def close(self) -> None:
        for file in self._files.values():
            if file is not None:
                file.close()


def keyed_number(data: bytes, key: bytes, where: str) -> int | None:
    """Return the number after ``key`` at the start of a line; lines may come in any order."""
    at = 0 if data.startswith(key + b" ") else data.find(b"\n" + key + b" ") + 1
    if at == 0 and not data.startswith(key + b" "):
        return None
    at += len(key) + 1
    end = data.find(b"\n", at)
    try:
        if end < 0:  # truncated: a part of a number is another number
            raise ValueError
        return int(data[at:end])
    except ValueError:
        raise ReadError(key.decode(), where, "malformed", f"{data[at : at + 40]!r}") from None


class GroupUsages(NamedTuple):
    """Usages that were read again between two full readings, as if none of it could be reclaimed."""

    usages: list[int]
    #: The largest share used of a limit; never less than the truth.
    share: float
    #: Bytes that the nearest limit leaves; None where there is no limit.
    headroom: int | None


class CgroupReader:
    """Reads the memory groups of a process, by default of this one, limits included.

    Figures far from a limit may be ``max_age`` seconds old, see above; so may a changed limit, and the group of a
    process that was moved.
    """

    name = "cgroup"

    def __init__(
        self,
        pid: int | None = None,
        proc: str = "/proc",
        sys_fs_cgroup: str = "/sys/fs/cgroup",
        *,
        max_age: float = 0.0,
    ) -> None:
        self._max_age, self._due = max_age, 0.0
        self._pid: int | str = "self" if pid is None else pid
        self._proc, self._sys = proc, sys_fs_cgroup
        self._membership: KeptFile | None = None
        self._membership_data: bytes | None = None
        self._groups: list[_Group] = []
        # Result of the last full reading, and the usages that are read again in between: file, limit, index.
        self._found: tuple[CgroupMemory, ...] = ()
        self._again: tuple[tuple[KeptFile, int | None], ...] = ()
        self._indexes: tuple[int, ...] = ()

    def read(self) -> dict[str, Any]:
        """Return ``{"cgroups": (CgroupMemory, …), "gaps": (…)}``, the own group first; raises :class:`ReadError`."""
        again = self.usages()
        if again is None or again.share >= 0.5:
            groups, gaps = self.sample()
            return {"cgroups": groups, "gaps": gaps}
        found = list(self._found)
        for at, usage in zip(self._indexes, again.usages, strict=True):
            path, version, _, limit, reclaimable, anon, swap, swap_limit, peak, oom_kills = found[at]
            if peak is None or usage > peak:
                peak = usage
            if reclaimable > usage:
                reclaimable = usage
            found[at] = CgroupMemory(path, version, usage, limit, reclaimable, anon, swap, swap_limit, peak, oom_kills)
        return {"cgroups": tuple(found)}

    def usages(self) -> GroupUsages | None:
        """Read the usages alone, at a tenth of the cost; None where only a full reading will do."""
        if monotonic() >= self._due:
            return None
        share, headroom, usages = 0.0, None, []
        for file, limit in self._again:
            try:
                usage = int(pread(file.fd, 32, 0))
            except (OSError, ValueError):
                return None  # the full reading reports what is wrong
            usages.append(usage)
            if limit is not None:
                share = max(share, usage / limit)
                headroom = limit - usage if headroom is None else min(headroom, limit - usage)
        return GroupUsages(usages, share, headroom)

    def sample(self) -> tuple[tuple[CgroupMemory, ...], tuple[Gap, ...]]:
        """Return the groups as they are now. An ancestor that cannot be read is a gap; the rest still counts."""
        self._follow()
        found: list[CgroupMemory] = []
        gaps: list[Gap] = []
        again: list[tuple[KeptFile, int | None]] = []
        indexes: list[int] = []
        for group in self._groups:
            try:
                memory = group.memory()
            except ReadError as error:
                if error.why == "gone":
                    self._membership_data = None  # removed or moved: locate it again next time
                gaps.append(Gap(error.what, error.where, error.why, error.detail))
                continue
            if memory is not None:
                if memory.limit is not None or not found:
                    again.append((group.usage, memory.limit))
                    indexes.append(len(found))
                found.append(memory)
        if self._max_age > 0 and not gaps:
            self._found, self._again, self._indexes = tuple(found), tuple(again), tuple(indexes)
            self._due = monotonic() + self._max_age
        return tuple(found), tuple(gaps)

    def _follow(self) -> None:
        """Locate the groups, again when the process was moved."""
        if self._membership is None:
            pid = os.getpid() if self._pid == "self" and self._proc == "/proc" else self._pid
            self._membership = KeptFile("cgroup", f"{self._proc}/{pid}/cgroup", 2048)
        seen = self._membership.read()
        if seen == self._membership_data:
            return
        base = os.path.dirname(self._membership.path)
        location = _resolve(seen.decode("utf-8", "surrogateescape"), _mountinfo(self._proc), base, self._sys)
        for group in self._groups:
            group.close()
        self._groups = [_Group(path, directory, location.mount.version) for path, directory in location.ancestors]
        self._membership_data = seen

    def close(self) -> None:
        """Close the descriptors; the next read locates the groups again."""
        if self._membership is not None:
            self._membership.close()
            self._membership = None
        for group in self._groups:
            group.close()
        self._groups = []
        self._membership_data = None
        self._due = 0.0
