"""What threads that were there before a block have taken, judged by their page faults.

Memory becomes a process's own by a page fault of the thread that first touches it, and the kernel counts those for each
thread. A fault brings a page, or 2 MiB where the kernel uses huge pages, whose faults it counts for the machine. So the
most that a block's own threads can have taken is known, and what goes beyond it is others' for certain. Threads that
began after the block count as its own, unless they are under a limit themselves.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection

with contextlib.suppress(ImportError):  # not a POSIX system
    import resource

from memwarden.errors import ReadError
from memwarden.model.units import MIB
from memwarden.readers.files import read_once
from memwarden.readers.process import PAGE

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_HUGE = 2 * MIB
#: Nobody looks at more threads than these; with more, everything counts.
_MOST = 256


def boot_ticks() -> int:
    """Now, as the kernel gives the start times of threads."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS)


class Others:
    """The threads beside ``own`` that were there at ``begun`` (see :func:`boot_ticks`)."""

    def __init__(self, own: int, begun: int) -> None:
        self._own, self._begun = own, begun
        # Of every thread but the own one: its page faults.
        self._faults: dict[int, int] = {}
        self._older: set[int] = set()
        self._total = self._huge = 0
        self._tick()

    def most_of_ours(self, never_ours: Collection[int]) -> int | None:
        """The most that the block's own threads can have taken since this was asked last, in bytes; None: not known."""
        before, total, huge = self._faults, self._total, self._huge
        if not self._tick():
            return None
        theirs = sum(
            now - before.get(thread, 0)  # a thread that was not there has had all of its faults since
            for thread, now in self._faults.items()
            if thread in self._older or thread in never_ours
        )
        ours = max(0, self._total - total - theirs)
        return ours * PAGE + min(ours, self._huge - huge) * _HUGE

    def _tick(self) -> bool:
        threads = os.listdir("/proc/self/task")
        if len(threads) > _MOST:
            return False
        found = {}
        for name in threads:
            thread = int(name)
            if thread == self._own:
                continue
            try:
                fields = read_once("stat", f"/proc/self/task/{name}/stat", 1024).rpartition(b")")[2].split(None, 20)
                found[thread] = int(fields[7])
                if int(fields[19]) < self._begun:
                    self._older.add(thread)
            except (ReadError, ValueError, IndexError):
                continue  # it has ended: what it took counts as ours
        try:
            data = read_once("vmstat", "/proc/vmstat", 16384)
            at = data.index(b"\nthp_fault_alloc ")
            self._huge = int(data[at + 17 :].split(None, 1)[0])
        except (ReadError, ValueError):
            self._huge = 0  # a kernel without huge pages
        self._faults, self._total = found, resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        return True
