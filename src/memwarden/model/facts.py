"""Facts: what was read from the system, once.

Sizes are bytes. ``None`` means that the fact could not be read or does not exist here; zero is a
measurement. These are built for every sample, so they are NamedTuples, built positionally.
"""

from __future__ import annotations

from typing import NamedTuple


class ProcessKey(NamedTuple):
    """Identity of a process, which a later one with the same pid does not share."""

    pid: int
    #: The kernel's start stamp: on Linux clock ticks since boot (field 22 of ``/proc/PID/stat``).
    start: int


class SystemMemory(NamedTuple):
    """The machine's memory, from ``/proc/meminfo``."""

    total: int
    #: The kernel's estimate of what a new program may take without swapping (MemAvailable, Linux 3.14).
    available: int
    free: int
    #: File cache and buffers, without shared memory; None where the system does not report it (macOS, Windows).
    cached: int | None
    #: None where it cannot be read (Windows without its performance counters).
    swap_total: int | None
    swap_free: int | None

    @property
    def used(self) -> int:
        """Bytes that are not available: the figure that a level is judged on."""
        return self.total - self.available

    @property
    def swap_used(self) -> int | None:
        """Bytes that are swapped out."""
        return None if self.swap_total is None or self.swap_free is None else self.swap_total - self.swap_free


class ProcessMemory(NamedTuple):
    """One process."""

    key: ProcessKey
    name: str
    rss: int
    vms: int | None = None
    #: Private anonymous memory (heap, stacks): RssAnon, or resident minus shared where only statm was read.
    anon: int | None = None
    #: File-backed and shared memory that is resident, counted in every process that maps it.
    shared: int | None = None
    swap: int | None = None
    #: The highest resident size so far (VmHWM).
    peak: int | None = None
    #: The resource limit on ``vms`` (RLIMIT_AS); None where none stands.
    vms_limit: int | None = None


def _rows(
    keys: tuple[ProcessKey, ...], names: tuple[str, ...], sizes: tuple[int, ...], shares: tuple[int, ...]
) -> list[ProcessMemory]:
    parts: tuple[int | None, ...] = shares if shares or not keys else (None,) * len(keys)
    return [
        ProcessMemory(key, name, rss, None, None if shared is None else rss - shared, shared)
        for key, name, rss, shared in zip(keys, names, sizes, parts, strict=True)
    ]


class TreeMemory(NamedTuple):
    """A process tree, as columns; ``rows()`` makes :class:`ProcessMemory` on demand."""

    root: ProcessKey
    keys: tuple[ProcessKey, ...]
    names: tuple[str, ...]
    rss: tuple[int, ...]
    #: Empty where the system does not report it (macOS, Windows).
    shared: tuple[int, ...]
    #: Members that have ended and wait to be reaped; they use no memory and are in no column.
    zombies: int = 0

    @property
    def total(self) -> int:
        """The sum of resident sizes: an upper bound, since shared pages count once for each process."""
        return sum(self.rss)

    @property
    def anon(self) -> int | None:
        """The sum of the anonymous parts; None where shared parts are not known."""
        return None if len(self.shared) != len(self.rss) else sum(self.rss) - sum(self.shared)

    def rows(self) -> list[ProcessMemory]:
        """The members as single facts, largest first."""
        return sorted(_rows(self.keys, self.names, self.rss, self.shared), key=lambda row: -row.rss)


class CgroupMemory(NamedTuple):
    """One control group, in the words of version 2; version 1 is mapped onto them."""

    #: The group's path as the kernel names it in ``/proc/PID/cgroup``.
    path: str
    version: int
    usage: int
    #: None: it has no limit.
    limit: int | None
    #: File cache that the kernel would drop before it kills: inactive and active file pages and reclaimable slab.
    reclaimable: int
    anon: int | None = None
    swap: int | None = None
    swap_limit: int | None = None
    #: The highest usage so far (memory.peak, memory.max_usage_in_bytes).
    peak: int | None = None
    #: Kills by the OOM killer in this group and those below it.
    oom_kills: int | None = None

    @property
    def working_set(self) -> int:
        """Usage minus what can be reclaimed: the part that counts against the limit."""
        return max(0, self.usage - self.reclaimable)


class GpuMemory(NamedTuple):
    """One graphics processor's own memory, from NVIDIA's management library."""

    number: int
    name: str
    #: Stays the same when cards are added or reordered.
    uuid: str
    total: int
    used: int
    free: int


class ShareMemory(NamedTuple):
    """Memory of processes with shared pages divided among those that share them, as columns.

    Reading this makes the kernel walk page tables, so it is read on a CPU budget and each figure has an age.
    """

    keys: tuple[ProcessKey, ...]
    #: Proportional set size: each page divided by how many processes map it. Empty where the system does not report
    #: it (macOS, Windows).
    pss: tuple[int, ...]
    #: Unique set size: what would be freed if this process alone exited.
    uss: tuple[int, ...]
    #: Seconds since each process was measured.
    ages: tuple[float, ...]


class TopProcesses(NamedTuple):
    """The largest processes of a machine by resident size, as columns, largest first."""

    #: How many processes there are, kernel threads included.
    processes: int
    keys: tuple[ProcessKey, ...]
    names: tuple[str, ...]
    rss: tuple[int, ...]
    #: Empty where the system does not report it (macOS, Windows).
    shared: tuple[int, ...]

    def rows(self) -> list[ProcessMemory]:
        """The processes as single facts, largest first."""
        return _rows(self.keys, self.names, self.rss, self.shared)


class PsiLine(NamedTuple):
    """One line of the kernel's pressure stall information: the share of time, 0..1, that tasks waited."""

    avg10: float
    avg60: float
    avg300: float
    #: Seconds of waiting since the count began.
    waited: float


class PsiStats(NamedTuple):
    """Memory stalls as the kernel counts them (Linux 4.20): its measurement, not our level."""

    #: ``"machine"``, or the control group's path.
    source: str
    #: At least one task waited for memory.
    some: PsiLine
    #: All tasks waited at once.
    full: PsiLine | None


class DirectoryUsage(NamedTuple):
    """A directory that fills (temporary files): its contents, and the free space of its file system."""

    path: str
    #: Size of the files on disk.
    used: int
    #: Number of files, links and the like; directories are not counted.
    files: int
    #: Seconds since the oldest file was changed; None where there is none.
    oldest: float | None
    #: Free space for this user, and the size of the file system.
    free: int
    total: int
    #: Seconds since the count was complete; None during the first count (with its figures so far).
    age: float | None


class CacheFill(NamedTuple):
    """Fill of a cache: its entries (or bytes), and its bound. None: it has no bound."""

    held: float
    most: float | None


class ProgramMemory(NamedTuple):
    """A program's knowledge of its own memory, which cannot be seen from outside. None: not known."""

    caches: tuple[CacheFill, ...] | None = None
    #: Whether these are all the caches that matter. If so, a rise during which none of them filled is no cache's.
    all_caches: bool = True
    #: Tasks or requests in flight now, and done so far.
    active: int | None = None
    calls: int | None = None
    #: Full garbage collections so far.
    collections: int | None = None
    #: Bytes of Python objects, as tracemalloc or a count of containers measures them.
    retained: int | None = None


class Gap(NamedTuple):
    """A fact that is missing, and why (one of :data:`memwarden.errors.ReadError.REASONS`)."""

    what: str
    where: str
    why: str
    detail: str = ""
