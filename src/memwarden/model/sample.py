"""One sample: everything that was read at one moment."""

from __future__ import annotations

from typing import NamedTuple

from memwarden.model.facts import (
    CgroupMemory,
    DirectoryUsage,
    Gap,
    GpuMemory,
    ProcessMemory,
    ProgramMemory,
    PsiStats,
    ShareMemory,
    SystemMemory,
    TopProcesses,
    TreeMemory,
)
from memwarden.model.limits import Limit


class Sample(NamedTuple):
    """Facts of one moment. ``wall`` is seconds since the epoch, ``monotonic`` seconds on a clock that is never set."""

    wall: float
    monotonic: float
    #: Seconds from the moment this sample was due to the moment it was taken.
    late: float = 0.0
    system: SystemMemory | None = None
    process: ProcessMemory | None = None
    tree: TreeMemory | None = None
    #: The own group first, then its ancestors up to the top that can be seen.
    cgroups: tuple[CgroupMemory, ...] = ()
    #: The limit that was asked for, on what is watched.
    asked: Limit | None = None
    gaps: tuple[Gap, ...] = ()
    gpus: tuple[GpuMemory, ...] = ()
    psi: PsiStats | None = None
    shares: ShareMemory | None = None
    top: TopProcesses | None = None
    directories: tuple[DirectoryUsage, ...] = ()
    #: True for a sample between those of the asked interval; None else.
    between: bool | None = None
    #: What the program reports of itself, where it is watched from within.
    program: ProgramMemory | None = None

    @property
    def used(self) -> int | None:
        """Bytes of the watched workload: of its tree where one is watched, else of its process."""
        if self.tree is not None:
            return self.tree.total
        return None if self.process is None else self.process.rss
