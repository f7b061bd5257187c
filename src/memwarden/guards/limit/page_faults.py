"""Upper bound of what a block's own threads have allocated, from page faults.

Memory is allocated to a process by a page fault of the thread that first touches it, and the kernel counts faults per
thread. A fault brings one page, or 2 MiB where huge pages are used, which the kernel counts per machine. What exceeds
the bound was allocated by other threads for certain. Threads that were started after the block count as its own, unless
they are under a limit themselves.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Mapping
from typing import NamedTuple

with contextlib.suppress(ImportError):  # not a POSIX system
    import resource

from memwarden.guards.limit.proc_files import can_hold_interpreter, read_memory, read_proc
from memwarden.model.units import MIB
from memwarden.readers.linux.process import PAGE

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_HUGE = 2 * MIB
#: With more threads than this no snapshot is taken, and everything counts: each costs 10 µs.
_MAX_THREADS = 256


def boot_ticks() -> int:
    """Return the time since boot, in the unit of the kernel's thread start times."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS)


def thread_faults() -> int:
    """Return the page faults of the calling thread so far."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt


class ThreadSnapshot(NamedTuple):
    """Private memory of the process in bytes, and page faults by thread."""

    used: int
    faults: Mapping[int, int]
    #: Start time of each thread, in ticks since boot.
    started: Mapping[int, int]
    #: Faults of all threads, including those that have ended.
    total: int
    #: Huge pages that the machine has allocated.
    huge: int


def max_own_growth(
    before: ThreadSnapshot,
    now: ThreadSnapshot,
    own: int,
    entered: int,
    limited: Collection[int],
    left: Mapping[int, int],
) -> int:
    """Return the most that a block's own threads can have allocated between two snapshots, in bytes.

    ``own`` is its thread, ``entered`` its start in :func:`boot_ticks`, ``limited`` are threads under a limit of their
    own, ``left`` the page faults that some of those had when their last block ended.
    """
    others = 0
    for thread, faults in now.faults.items():
        if thread != own and (thread in limited or now.started[thread] < entered):
            others += faults - before.faults.get(thread, 0)
    for thread, faults in left.items():
        if thread not in now.faults:
            others += max(0, faults - before.faults.get(thread, 0))
    faults = max(0, now.total - before.total - others)
    huge = min(faults, now.huge - before.huge) * _HUGE
    if huge:  # of the whole machine: this process may have none
        huge = min(huge, _in_huge_pages())
    return faults * PAGE + huge


def take_snapshot() -> ThreadSnapshot | None:
    """Return the current counts; None where they are not available or would take too long."""
    threads = os.listdir("/proc/self/task")
    if len(threads) > _MAX_THREADS or not can_hold_interpreter():
        return None
    faults, started = {}, {}
    # No other Python thread runs between these reads: what it allocated meanwhile would count as the block's.
    for name in threads:
        fields = read_proc(b"/proc/self/task/" + name.encode() + b"/stat").rpartition(b")")[2].split(None, 20)
        if len(fields) > 20:  # else it has just ended
            faults[int(name)], started[int(name)] = int(fields[7]), int(fields[19])
    used, _ = read_memory()
    total = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return ThreadSnapshot(used, faults, started, total, _number(b"/proc/vmstat", b"\nthp_fault_alloc ", 0))


def _in_huge_pages() -> int:
    """Return the bytes of this process in huge pages. The kernel walks its page tables: 13 to 20 µs for each MB."""
    return _number(b"/proc/self/smaps_rollup", b"\nAnonHugePages:", 1 << 52) * 1024


def _number(path: bytes, name: bytes, missing: int) -> int:
    _, found, rest = read_proc(path).partition(name)
    return int(rest.split(None, 1)[0]) if found else missing
