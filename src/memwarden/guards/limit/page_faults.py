"""What other threads have taken, judged by page faults.

Memory becomes a process's own by a page fault of the thread that first touches it, and the kernel counts those for each
thread. A fault brings a page, or 2 MiB where the kernel uses huge pages, which it tells of by process. So the most that
a block's own threads can have taken between two moments is known, and what goes beyond it is others' for
certain. Threads that began after the block count as its own, unless they are under a limit themselves.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

with contextlib.suppress(ImportError):  # not a POSIX system
    import resource

from memwarden.errors import ReadError
from memwarden.model.units import MIB
from memwarden.readers.linux.files import read_once
from memwarden.readers.linux.process import PAGE

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_HUGE = 2 * MIB
#: Nobody looks at more threads than these; with more, everything counts.
_MOST = 256


def boot_ticks() -> int:
    """Now, as the kernel gives the start times of threads."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS)


def own_faults() -> int:
    """Page faults of the calling thread so far."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt


class ThreadSnapshot(NamedTuple):
    """What the process held, and who had how many page faults."""

    used: int
    #: Of each thread.
    faults: Mapping[int, int]
    #: When each began, in ticks since boot.
    began: Mapping[int, int]
    #: Of all threads, those that have ended included.
    total: int
    #: Of the machine, in huge pages.
    huge: int


def most_of_ours(
    before: ThreadSnapshot,
    now: ThreadSnapshot,
    own: int,
    begun: int,
    answering: Collection[int],
    left: Mapping[int, int],
) -> int:
    """The most that a block's own threads can have taken between two moments, in bytes.

    ``own`` is its thread, ``begun`` when it began (see :func:`boot_ticks`), ``answering`` threads that answer for
    themselves, ``left`` the page faults that some of those had when they ceased to.
    """
    theirs = 0
    for thread, faults in now.faults.items():
        if thread != own and (thread in answering or now.began[thread] < begun):
            theirs += faults - before.faults.get(thread, 0)  # who was not there has had all of its faults since
    for thread, faults in left.items():
        if thread not in now.faults:
            theirs += max(0, faults - before.faults.get(thread, 0))
    ours = max(0, now.total - before.total - theirs)
    huge = min(ours, now.huge - before.huge) * _HUGE
    if huge:  # of all the machine: this process may have none
        huge = min(huge, _in_huge_pages())
    return ours * PAGE + huge


def this_moment() -> ThreadSnapshot | None:
    """How it is now; None where that cannot be told, or would take too long."""
    threads = os.listdir("/proc/self/task")
    if len(threads) > _MOST or not _can_read():
        return None
    faults, began = {}, {}
    # From here on the interpreter is not handed on: else others would go on between the reads, and what they take
    # meanwhile would count as ours.
    for name in threads:
        fields = _read(b"/proc/self/task/" + name.encode() + b"/stat").rpartition(b")")[2].split(None, 20)
        if len(fields) > 20:  # else it has just ended
            faults[int(name)], began[int(name)] = int(fields[7]), int(fields[19])
    _, resident, shared, _ = _read(b"/proc/self/statm").split(None, 3)
    vmstat = _read(b"/proc/vmstat")
    at = vmstat.find(b"\nthp_fault_alloc ")
    huge = int(vmstat[at + 17 :].split(None, 1)[0]) if at >= 0 else 0  # a kernel without huge pages
    total = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return ThreadSnapshot((int(resident) - int(shared)) * PAGE, faults, began, total, huge)


def _in_huge_pages() -> int:
    """Bytes of this process in huge pages. The kernel walks its page tables for it, 13 to 20 µs for each MB."""
    try:
        data = read_once("smaps_rollup", "/proc/self/smaps_rollup")
        at = data.index(b"\nAnonHugePages:")
        return int(data[at + 15 : data.index(b" kB", at)]) * 1024
    except (ReadError, ValueError):
        return 1 << 62  # not known


_libc: Any = None


def _can_read() -> bool:
    """Whether files can be read without handing the interpreter on: by ``ctypes.PyDLL``."""
    global _libc
    if _libc is None:
        try:
            import ctypes

            _libc = ctypes.PyDLL(None)
            _libc.read.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
        except (ImportError, OSError, AttributeError):
            return False
    return True


def _read(path: bytes) -> bytes:
    fd = _libc.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if fd < 0:
        return b""
    data = b""
    while True:  # a file of many records gives a page at a time
        buffer = bytes(4096)
        size = _libc.read(fd, buffer, len(buffer))
        if size <= 0:
            break
        data += buffer[:size]
    _libc.close(fd)
    return data
