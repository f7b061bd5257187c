"""Memory at one moment in the format of the old task monitor: against the container's limit."""

from __future__ import annotations

import time
from typing import NamedTuple

from memwarden.assess.pressure import constraints
from memwarden.compat.support.readings import Sources, look_once
from memwarden.compat.support.shared import SYSTEM_CLOCK
from memwarden.errors import MemwardenError
from memwarden.model.facts import Gap
from memwarden.model.limits import Constraint
from memwarden.model.sample import Sample
from memwarden.model.units import MIB
from memwarden.model.verdicts import Assessment, PressureLevel, Reading


class MemoryPoint(NamedTuple):
    """Memory at one moment, in bytes. None: could not be read, see ``gaps``."""

    wall: float
    rss: int | None
    peak: int | None
    vms: int | None
    #: Base of percentages: the container's limit or the machine's memory, and the use of it.
    whole: Constraint | None
    available: int | None
    objects: int
    objects_age: float
    gaps: tuple[str, ...]

    @property
    def percent(self) -> float | None:
        """Use of the process in percent of the limit."""
        return None if self.whole is None or self.rss is None else 100 * self.rss / self.whole.limit.bytes

    @property
    def system_percent(self) -> float | None:
        """Use of the container or machine in percent of the limit."""
        return None if self.whole is None else 100 * self.whole.ratio


def read_now(sources: Sources) -> Reading:
    """Return a reading; where no reader exists, one with only the reason."""
    try:
        return look_once(sources, SYSTEM_CLOCK)
    except MemwardenError as error:  # no reader on this system
        return nothing(error)


def nothing(error: MemwardenError) -> Reading:
    """Return a reading without facts, with a gap for this error."""
    gap = Gap("memory", "this system", "absent", str(error))
    return Reading(
        Sample(time.time(), time.monotonic(), gaps=(gap,)),
        Assessment(PressureLevel.LOW, PressureLevel.LOW, None, None, None, 0.0),
    )


def resident(sample: Sample) -> int | None:
    """Return the resident size of this process."""
    return None if sample.process is None else sample.process.rss


def denominator(sample: Sample) -> Constraint | None:
    """Return the smallest limit on resident memory: a container's, or the machine."""
    found = [each for each in constraints(sample) if each.limit.source.startswith(("cgroup ", "machine"))]
    return min(found, key=lambda each: each.limit.bytes, default=None)


def swap(sample: Sample) -> tuple[int | None, int | None]:
    """Return total and used swap of the container, or of the machine where its group has no account."""
    system, whole = sample.system, denominator(sample)
    total, used = (None, None) if system is None else (system.swap_total, system.swap_used)
    for group in sample.cgroups:
        if whole is not None and whole.limit.source == f"cgroup {group.path}" and group.swap is not None:
            limits = [each for each in (total, group.swap_limit) if each is not None]
            return min(limits, default=None), group.swap
    return total, used


def one_line(text: str) -> str:
    """Replace unprintable characters, so that a name cannot forge a log line."""
    return "".join(each if each.isprintable() else " " for each in str(text))


def rounded(value: float | None) -> float | None:
    """Round to two places."""
    return None if value is None else round(value, 2)


def mb(size: int | None) -> float | None:
    """Convert bytes to MB of 2**20 bytes."""
    return None if size is None else round(size / MIB, 2)


def gb(size: int | None) -> float | None:
    """Convert bytes to GB of 2**30 bytes."""
    return None if size is None else round(size / (1 << 30), 2)


def shown(size: int | None) -> str:
    """Format bytes for a log line."""
    return "?" if size is None else f"{size / MIB:.1f}MB"


def signed(size: int | None) -> str:
    """Format a difference of bytes for a log line, with its sign."""
    return "?" if size is None else f"{round(size / MIB, 1) + 0.0:+.1f}MB"  # never -0.0


def share(percent: float | None) -> str:
    """Format a percentage for a log line."""
    return "?" if percent is None else f"{percent:.1f}%"
