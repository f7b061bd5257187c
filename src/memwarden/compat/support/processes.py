"""The largest processes that can be seen, asked for once.

Sizes are resident sizes: what processes share counts in each of them.
"""

from __future__ import annotations

import sys
from contextlib import closing

from memwarden.errors import ReadError
from memwarden.model.facts import Gap, ProcessMemory
from memwarden.protocols import Reader
from memwarden.readers.linux.machine import MachineReader


def largest_processes(count: int, proc: str = "/proc") -> tuple[list[ProcessMemory], list[Gap]]:
    """The ``count`` largest processes, largest first, and what could not be read."""
    with closing(_reader(count, proc)) as reader:
        try:
            found = reader.read()
        except ReadError as error:
            return [], [Gap(error.what, error.where, error.why, error.detail)]
    return found["top"].rows(), list(found["gaps"])


def _reader(count: int, proc: str) -> Reader:
    if sys.platform != "linux" and proc == "/proc":
        from memwarden.readers.portable import PortableMachine

        return PortableMachine(count)
    return MachineReader(count, proc, keep=0)
