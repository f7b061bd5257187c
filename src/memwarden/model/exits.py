"""How a contained command came to its end."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from memwarden.errors import LimitExceeded
from memwarden.model.facts import ProcessMemory
from memwarden.model.limits import Limit


class ExitReason(Enum):
    """Who ended the command."""

    #: It ended by itself, with an exit code.
    EXIT = "exit"
    #: A signal that was not ours ended it, and no sign of memory shortage was seen.
    SIGNAL = "signal"
    #: The limit that was asked for: memwarden or the kernel at memwarden's ceiling ended it.
    LIMIT = "limit"
    #: The kernel killed it for want of memory somewhere else: its container, an ancestor group, the machine.
    KERNEL_OOM = "kernel_oom"


class Evidence(NamedTuple):
    """What was read at the limit, while the tree stood still."""

    monotonic: float
    #: Bytes that counted against the limit, and who counted: ``"cgroup"``, ``"pss"`` or ``"rss"``.
    used: int
    counted_by: str
    #: The members, largest first.
    processes: tuple[ProcessMemory, ...] = ()


class ExitReport(NamedTuple):
    """What came of a command that was held."""

    kind: ExitReason
    #: The exit code of the command itself, or None when a signal ended it.
    code: int | None
    signal: int | None
    seconds: float
    #: How the limit was held: ``"cgroup2"``, ``"cgroup1"``, ``"polling"``; None where none was asked for.
    ceiling: str | None = None
    limit: Limit | None = None
    #: The highest use that was seen, and who counted.
    peak: int | None = None
    peak_counted_by: str = ""
    evidence: Evidence | None = None
    #: Where the kernel's out-of-memory killer struck, when it did: a group's path, or ``"machine"``.
    oom_where: str = ""
    #: What was done, step by step, in words.
    steps: tuple[str, ...] = ()
    #: Members of the tree that live on after the command itself.
    left: tuple[ProcessMemory, ...] = ()

    def raise_for_limit(self) -> ExitReport:
        """Raise :class:`LimitExceeded` (a MemoryError) when the limit ended the command; else the ending itself."""
        if self.kind is ExitReason.LIMIT and self.limit is not None:
            raise LimitExceeded(
                f"ended by its limit of {self.limit.bytes} bytes after {self.seconds:.1f} s",
                limit=self.limit.bytes,
                used=self.peak,
            )
        return self
