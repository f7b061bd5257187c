"""The largest processes that can be seen, from ``/proc``.

A stand-in until memwarden has a reader for a whole machine. Sizes are resident sizes: what processes share
counts in each of them. Other systems than Linux have no ``/proc`` and get a gap instead of a list.
"""

from __future__ import annotations

import os

from memwarden.errors import ReadError
from memwarden.model.facts import Gap, ProcessKey, ProcessMemory
from memwarden.readers.process import read_stat


def largest_processes(count: int, proc: str = "/proc") -> tuple[list[ProcessMemory], list[Gap]]:
    """The ``count`` largest processes, largest first, and what could not be read."""
    try:
        pids = [int(name) for name in os.listdir(proc) if name.isdecimal()]
    except OSError as error:
        why = "denied" if isinstance(error, PermissionError) else "absent"
        return [], [Gap("processes", proc, why, error.strerror or str(error))]
    found: list[ProcessMemory] = []
    gaps: list[Gap] = []
    for pid in pids:
        try:
            stat = read_stat(pid, proc)
        except ReadError as error:
            if error.why != "gone":  # it ended while we looked
                gaps.append(Gap(error.what, error.where, error.why, error.detail))
            continue
        if stat.rss:  # kernel threads and zombies hold nothing
            found.append(ProcessMemory(ProcessKey(pid, stat.start), stat.name, stat.rss))
    found.sort(key=lambda process: -process.rss)
    return found[:count], gaps
