"""The largest processes that can be seen, asked for once.

Sizes are resident sizes: what processes share counts in each of them. Other systems than Linux have no ``/proc``
and get a gap instead of a list.
"""

from __future__ import annotations

from contextlib import closing

from memwarden.errors import ReadError
from memwarden.model.facts import Gap, ProcessMemory
from memwarden.readers.machine import MachineReader


def largest_processes(count: int, proc: str = "/proc") -> tuple[list[ProcessMemory], list[Gap]]:
    """The ``count`` largest processes, largest first, and what could not be read."""
    with closing(MachineReader(count, proc, keep=0)) as reader:
        try:
            top, gaps = reader.look()
        except ReadError as error:
            return [], [Gap(error.what, error.where, error.why, error.detail)]
    return top.rows(), list(gaps)
