"""Recorded machines and containers, made again below a folder: what the kernel shows in each of them.

Each function fills a :class:`~memwarden.testing.ProcTree` and gives it back; the shapes are those of real
``/proc`` and ``/sys/fs/cgroup`` files (Linux 5.15 to 6.18, Docker 24 and 27, systemd 252), the numbers are round.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from memwarden.readers.linux.cgroup import CgroupReader
from memwarden.testing import ProcTree

MIB, GIB = 1 << 20, 1 << 30
#: What version 1 writes where no limit stands (on 4 KiB pages).
V1_NO_LIMIT = 9223372036854771712
CONTAINER = "4f1a5c8e9b2d"

#: Names that a process may give itself (15 bytes, anything but NUL), made to mislead a parser.
HOSTILE_NAMES = {
    "closes and opens": b"a) R 1 (b",
    "only parentheses": b")))(((",
    "imitates the fields": b") S 1 1 1 1 1",
    "imitates a zombie": b"x) Z 0 0 0",
    "line ends": b"a\nVmRSS: 1 kB",
    "backslash": b"a\\nb\\",
    "spaces": b"  two  words ",
    "empty": b"",
    "not UTF-8": b"\xff\xfe\x80",
    "half a letter": "naïve".encode()[:3],
    "tab and return": b"\t\r\x0b\x1f",
    "json": b'","pid":1,"',
    "terminal": b"\x1b[2J\x07",
    "separators": "a\u2028b\x85".encode(),
}


def v2_line(root: str = "/", point: str = "/sys/fs/cgroup") -> str:
    """A mountinfo line of a version 2 hierarchy."""
    return f"30 24 0:26 {root} {point} rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def v1_line(root: str = "/", point: str = "/sys/fs/cgroup/memory", controllers: str = "memory") -> str:
    """A mountinfo line of a version 1 hierarchy."""
    return f"41 32 0:35 {root} {point} ro,nosuid,nodev,noexec,relatime - cgroup cgroup rw,{controllers}\n"


def other_mounts(count: int) -> str:
    """Mounts that have nothing to do with memory, as an engine host has them by the hundred."""
    return "".join(
        f"{100 + number} 24 0:{50 + number} / /var/lib/docker/overlay2/{number:064x}/merged rw - overlay overlay rw\n"
        for number in range(count)
    )


V1_PATHS = "12:pids:{0}\n11:hugetlb:{0}\n9:cpu,cpuacct:{0}\n4:memory:{0}\n1:name=systemd:{0}\n0::{0}\n"


def v1_stat(rss: int, cache: int, limit: int, *, swap: int = 0, memsw: int | None = None) -> str:
    """``memory.stat`` of version 1; half of the cache is active. The own figures differ from the totals on purpose."""
    lines = {
        "cache": cache // 2,
        "rss": rss // 2,
        "swap": 0,
        "inactive_file": 4096,
        "active_file": 4096,
        "hierarchical_memory_limit": limit,
    }
    if memsw is not None:
        lines["hierarchical_memsw_limit"] = memsw
    lines |= {"total_cache": cache, "total_rss": rss, "total_rss_huge": 0, "total_swap": swap}
    lines |= {"total_inactive_file": cache - cache // 2, "total_active_file": cache // 2, "total_unevictable": 0}
    return "".join(f"{key} {value}\n" for key, value in lines.items())[:-1]


def v2_stat(anon: int, inactive_file: int = 0, active_file: int = 0, slab_reclaimable: int = 0) -> str:
    """``memory.stat`` of version 2."""
    lines = {
        "anon": anon,
        "file": inactive_file + active_file,
        "kernel": 2 * MIB,
        "shmem": 0,
        "inactive_anon": anon,
        "active_anon": 0,
        "inactive_file": inactive_file,
        "active_file": active_file,
        "unevictable": 0,
        "slab_reclaimable": slab_reclaimable,
        "slab_unreclaimable": MIB,
        "slab": slab_reclaimable + MIB,
        "workingset_refault_anon": 0,
        "pgfault": 12345,
    }
    return "".join(f"{key} {value}\n" for key, value in lines.items())[:-1]


def v2_group(
    tree: ProcTree,
    path: str,
    usage: int,
    limit: int | str = "max",
    *,
    stat: str = "",
    swap: int = 0,
    swap_limit: int | str = "max",
    kills: int = 0,
) -> None:
    """A version 2 group with a memory account."""
    tree.group(
        path,
        cgroup__controllers="cpuset cpu io memory hugetlb pids rdma misc",
        cgroup__procs="",
        memory__current=usage,
        memory__max=limit,
        memory__peak=usage + MIB,
        memory__stat=stat or v2_stat(usage),
        memory__swap__current=swap,
        memory__swap__max=swap_limit,
        memory__events=f"low 0\nhigh 0\nmax 3\noom {kills}\noom_kill {kills}\noom_group_kill 0",
    )


def v1_group(
    tree: ProcTree,
    path: str,
    usage: int,
    limit: int = V1_NO_LIMIT,
    *,
    hierarchical: int | None = None,
    cache: int = 0,
    swap: int = 0,
    memsw: int | None = None,
    hierarchical_memsw: int | None = None,
    kills: int = 0,
) -> None:
    """A version 1 group; ``memsw`` is given where the kernel accounts swap."""
    least = limit if hierarchical is None else hierarchical
    both = memsw if hierarchical_memsw is None else hierarchical_memsw
    tree.group(
        path,
        cgroup__procs="",
        memory__usage_in_bytes=usage,
        memory__limit_in_bytes=limit,
        memory__max_usage_in_bytes=usage + MIB,
        memory__stat=v1_stat(usage - cache, cache, least, swap=swap, memsw=both),
        memory__oom_control=f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}",
    )
    if memsw is not None:
        tree.group(path, memory__memsw__limit_in_bytes=memsw)


def bare_metal(tree: ProcTree) -> ProcTree:
    """A host with systemd and version 2: slices without limits, and a root that keeps no account."""
    tree.meminfo(16 * GIB, 12 * GIB, SwapTotal=2 * GIB, SwapFree=GIB, Buffers=MIB, Cached=3 * GIB, Shmem=GIB)
    tree.mounted("self", "0::/user.slice/user-1000.slice/session-2.scope\n", other_mounts(3) + v2_line())
    tree.group("", cgroup__controllers="cpuset cpu io memory pids", cgroup__procs="")
    v2_group(tree, "user.slice", 900 * MIB)
    v2_group(tree, "user.slice/user-1000.slice", 800 * MIB)
    v2_group(tree, "user.slice/user-1000.slice/session-2.scope", 700 * MIB, stat=v2_stat(500 * MIB, 200 * MIB))
    return tree


def container_v1(tree: ProcTree, limit: int = 512 * MIB) -> ProcTree:
    """Docker on version 1 without a cgroup namespace: the path is the host's, the group is the mount's own root."""
    tree.meminfo(64 * GIB, 60 * GIB)
    path = f"/docker/{CONTAINER}"
    tree.mounted("self", V1_PATHS.format(path), v1_line(path, "/sys/fs/cgroup/cpu", "cpu") + v1_line(path))
    v1_group(tree, "memory", 300 * MIB, limit, cache=100 * MIB, swap=3 * MIB, memsw=limit * 2, kills=1)
    return tree


def container_v2(tree: ProcTree, limit: int = 512 * MIB) -> ProcTree:
    """Docker on version 2 with its cgroup namespace: the path is the root, and the root has an account."""
    tree.meminfo(64 * GIB, 60 * GIB)
    tree.mounted("self", "0::/\n", v2_line())
    stat = v2_stat(180 * MIB, 60 * MIB, 40 * MIB, 20 * MIB)
    v2_group(tree, "", 300 * MIB, limit, stat=stat, swap=5 * MIB, swap_limit=limit, kills=2)
    return tree


def hybrid(tree: ProcTree, limit: int = 256 * MIB) -> ProcTree:
    """systemd's hybrid: memory on version 1, and a version 2 hierarchy beside it that has no memory controller."""
    tree.meminfo(8 * GIB, 6 * GIB)
    mounts = v2_line(point="/sys/fs/cgroup/unified") + v1_line(controllers="cpu,cpuacct", point="/sys/fs/cgroup/cpu")
    tree.mounted("self", V1_PATHS.format("/system.slice/app.service"), mounts + v1_line())
    tree.group("unified", cgroup__controllers="", cgroup__procs="")
    tree.group("unified/system.slice/app.service", cgroup__controllers="", cgroup__procs="")
    v1_group(tree, "memory", 3 * GIB)
    v1_group(tree, "memory/system.slice", 2 * GIB)
    v1_group(tree, "memory/system.slice/app.service", 200 * MIB, limit)
    return tree


def nested(tree: ProcTree) -> ProcTree:
    """A pod of 1 GiB around a container of 4 GiB: the ancestor's limit is the smaller one, and nearer."""
    tree.meminfo(64 * GIB, 60 * GIB)
    tree.mounted("self", "0::/kubepods/pod1/app\n", v2_line())
    tree.group("", cgroup__controllers="cpu memory pids", cgroup__procs="")
    v2_group(tree, "kubepods", 3 * GIB, 32 * GIB)
    v2_group(tree, "kubepods/pod1", 900 * MIB, GIB)
    v2_group(tree, "kubepods/pod1/app", 400 * MIB, 4 * GIB)
    return tree


def leaf_without_account(tree: ProcTree) -> ProcTree:
    """A group to which memory was not delegated: it is counted, and limited, in the slice above it."""
    tree.meminfo(8 * GIB, 6 * GIB)
    tree.mounted("self", "0::/user.slice/app.scope\n", v2_line())
    tree.group("", cgroup__controllers="cpu memory pids", cgroup__procs="")
    v2_group(tree, "user.slice", 400 * MIB, GIB)
    tree.group("user.slice/app.scope", cgroup__controllers="cpu pids", cgroup__procs="")
    return tree


def no_swap_account(tree: ProcTree, limit: int = 256 * MIB) -> ProcTree:
    """Version 1 on a kernel that does not account swap, and a machine without any."""
    tree.meminfo(4 * GIB, 3 * GIB)
    tree.mounted("self", V1_PATHS.format("/app"), v1_line())
    v1_group(tree, "memory", GIB)
    v1_group(tree, "memory/app", 100 * MIB, limit)
    return tree


def outside_the_mount(tree: ProcTree, limit: int = 512 * MIB) -> ProcTree:
    """A process that stands outside of its cgroup namespace: its path climbs above the mounted part."""
    tree.meminfo(8 * GIB, 6 * GIB)
    tree.mounted("self", "0::/../../other\n", v2_line())
    v2_group(tree, "", 300 * MIB, limit)
    return tree


def limited_from_above_v1(tree: ProcTree) -> ProcTree:
    """Version 1 in a container: an ancestor that cannot be seen limits to 128 MiB, the own limit says 1 GiB."""
    tree.meminfo(8 * GIB, 6 * GIB)
    path = f"/docker/{CONTAINER}"
    tree.mounted("self", V1_PATHS.format(path), v1_line(path))
    v1_group(
        tree,
        "memory",
        100 * MIB,
        GIB,
        hierarchical=128 * MIB,
        memsw=2 * GIB,
        hierarchical_memsw=192 * MIB,
    )
    return tree


#: Every recorded machine, by its name.
MACHINES = {
    function.__name__: function
    for function in (
        bare_metal,
        container_v1,
        container_v2,
        hybrid,
        nested,
        leaf_without_account,
        no_swap_account,
        outside_the_mount,
        limited_from_above_v1,
    )
}


def groups_of(tree: ProcTree) -> CgroupReader:
    """A reader of the groups of the tree's own process."""
    return CgroupReader(proc=tree.proc, sys_fs_cgroup=tree.sys)


def own_process(tree: ProcTree, pid: int = 4242) -> None:
    """Let ``/proc/self`` be a process, as the kernel's link does."""
    tree.process(pid, name="python3")
    for name in ("stat", "statm", "status"):
        tree.write(f"proc/self/{name}", (tree.folder / "proc" / str(pid) / name).read_bytes())


class CountedTree(ProcTree):
    """A ``/proc`` whose counter of process numbers is kept: a new or replaced process moves it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._starts: dict[int, int] = {}
        self.write("proc/self/status", "Name:\tpython3\nNSpid:\t4242\n")
        self.count(4242)

    def process(self, pid: int, **more: Any) -> None:
        super().process(pid, **more)
        if self._starts.get(pid) != (start := more.get("start", 100)):
            self._starts[pid] = start
            self.count(pid)

    def end(self, pid: int) -> None:
        super().end(pid)
        self._starts.pop(pid, None)

    def count(self, last: int) -> None:
        """The number that was given out last."""
        self.write("proc/sys/kernel/ns_last_pid", f"{last}\n")


def ended_files_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kept descriptor of a process that has ended answers ESRCH, as the kernel's do; a plain file reads on."""
    pread = os.pread

    def answer(fd: int, size: int, offset: int) -> bytes:
        if os.fstat(fd).st_nlink == 0:
            raise ProcessLookupError(3, "No such process")
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", answer)


def descriptors() -> int:
    """How many descriptors (on Windows: handles) this process has open."""
    if sys.platform != "linux":
        import psutil

        process = psutil.Process()
        return process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
    return len(os.listdir("/proc/self/fd")) - 1
