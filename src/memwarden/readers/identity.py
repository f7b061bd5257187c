"""Who a process is: pid and start time, and who descends from it."""

from __future__ import annotations

import contextlib
import os

from memwarden.errors import ReadError
from memwarden.model.facts import ProcessKey
from memwarden.readers.process import read_stat
from memwarden.readers.tree import TreeReader


class ProcProbe:
    """Identities from a ``/proc``."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc

    def key_of(self, pid: int) -> ProcessKey:
        """The identity of whoever has this pid now. Raises :class:`ReadError`."""
        return ProcessKey(pid, read_stat(pid, self._proc).start)

    def own(self) -> ProcessKey:
        """This process."""
        return self.key_of(os.getpid())

    def alive(self, key: ProcessKey) -> bool:
        """Whether this very process still runs (one that waits to be reaped does not)."""
        try:
            stat = read_stat(key.pid, self._proc)
        except ReadError:
            return False
        return stat.start == key.start and stat.state not in "ZX"

    def tree(self, key: ProcessKey) -> list[ProcessKey]:
        """The process and all that descend from it; empty when it is gone or another one."""
        if not self.alive(key):
            return []
        reader = TreeReader(key.pid, self._proc, keep=0)
        with contextlib.closing(reader), contextlib.suppress(ReadError):
            members = reader.members()
            return members if key in members else []
        return []
