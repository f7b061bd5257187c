"""Reports on contained commands: the reason of the exit, and the evidence that was read at the limit."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from memwarden.errors import LimitExceeded
from memwarden.model.facts import ProcessMemory
from memwarden.model.limits import Limit


class ExitReason(Enum):
    """Reason why a command exited."""

    #: By itself, with an exit code.
    EXITED = "exited"
    #: By a signal that memwarden did not send, without a sign of memory shortage.
    SIGNALED = "signaled"
    #: Killed at the limit that was asked for, by memwarden or by the kernel at memwarden's ceiling; or failed after the
    #: kernel refused memory there (``unreclaimable``).
    LIMIT = "limit"
    #: Killed by the kernel because memory ran out elsewhere: in its container, an ancestor group, the machine.
    KERNEL_OOM = "kernel_oom"


class Evidence(NamedTuple):
    """Memory use at the limit, read while the tree was stopped."""

    monotonic: float
    #: Bytes that counted against the limit.
    used: int
    #: Source of ``used``: ``"cgroup"``, ``"pss"`` or ``"rss"``.
    counted_by: str
    #: Members of the tree, largest first.
    processes: tuple[ProcessMemory, ...] = ()


class ExitReport(NamedTuple):
    """Report on a contained command that has exited."""

    reason: ExitReason
    #: Exit code of the command itself; None when a signal killed it.
    exit_code: int | None
    signal: int | None
    seconds: float
    #: Kind of the ceiling: ``"cgroup2"``, ``"cgroup1"``, ``"polling"``; None without a limit.
    ceiling: str | None = None
    limit: Limit | None = None
    #: Highest use in bytes, and its source (see :class:`Evidence`).
    peak: int | None = None
    peak_counted_by: str = ""
    evidence: Evidence | None = None
    #: Place where the kernel's OOM killer struck: ``"ceiling"``, the path of a group, ``"machine"``, or ``""``.
    oom_location: str = ""
    #: Bytes that could not be reclaimed while the tree stood at its limit, where the kernel refuses memory to system
    #: calls and kills nothing; else 0.
    unreclaimable: int = 0
    #: Log of the shutdown, one step a line.
    steps: tuple[str, ...] = ()
    #: Members of the tree that still run after the command itself has exited.
    survivors: tuple[ProcessMemory, ...] = ()

    @property
    def returncode(self) -> int:
        """The exit code, or the negative signal number, as :class:`subprocess.Popen` has it."""
        return self.exit_code if self.exit_code is not None else -(self.signal or 0)

    def raise_for_limit(self) -> ExitReport:
        """Raise :class:`LimitExceeded` (a MemoryError) if the command ended at its limit; else return self."""
        if self.reason is ExitReason.LIMIT and self.limit is not None:
            peak = "" if self.peak is None else f" (peak {self.peak} bytes)"
            how = "failed" if self.unreclaimable else "killed"
            raise LimitExceeded(
                f"{how} at its limit of {self.limit.bytes} bytes after {self.seconds:.1f} s{peak}; raise limit= or "
                "give the command less to do",
                limit=self.limit.bytes,
                used=self.peak,
            )
        return self
