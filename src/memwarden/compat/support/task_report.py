"""Memory at one moment as the old task monitor tells it: against the container's limit, and in its words."""

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
    """Memory at one moment, in bytes. None: it could not be read, and ``gaps`` say why."""

    wall: float
    rss: int | None
    peak: int | None
    vms: int | None
    #: What percentages are of: the container's limit or the machine's memory, and what counts against it.
    whole: Constraint | None
    available: int | None
    objects: int
    objects_age: float
    gaps: tuple[str, ...]

    @property
    def percent(self) -> float | None:
        """The process as a share of the limit."""
        return None if self.whole is None or self.rss is None else 100 * self.rss / self.whole.limit.bytes

    @property
    def system_percent(self) -> float | None:
        """All that counts against the limit, as a share of it."""
        return None if self.whole is None else 100 * self.whole.ratio


def read_now(sources: Sources) -> Reading:
    """A look; where there are no readers at all, one with nothing but the reason."""
    try:
        return look_once(sources, SYSTEM_CLOCK)
    except MemwardenError as error:  # no reader can be had here
        return nothing(error)


def nothing(error: MemwardenError) -> Reading:
    """A reading of nothing, for this reason."""
    gap = Gap("memory", "this system", "absent", str(error))
    return Reading(
        Sample(time.time(), time.monotonic(), gaps=(gap,)),
        Assessment(PressureLevel.LOW, PressureLevel.LOW, None, None, None, 0.0),
    )


def resident(sample: Sample) -> int | None:
    """Return the memory of this process."""
    return None if sample.process is None else sample.process.rss


def denominator(sample: Sample) -> Constraint | None:
    """The smallest that resident memory counts against: a container's limit, or the machine."""
    found = [each for each in constraints(sample) if each.limit.source.startswith(("cgroup ", "machine"))]
    return min(found, key=lambda each: each.limit.bytes, default=None)


def swap(sample: Sample) -> tuple[int | None, int | None]:
    """Swap of the same: all, and what is used of it. What a container's group does not tell is the machine's."""
    system, whole = sample.system, denominator(sample)
    total, used = (None, None) if system is None else (system.swap_total, system.swap_used)
    for group in sample.cgroups:
        if whole is not None and whole.limit.source == f"cgroup {group.path}" and group.swap is not None:
            limits = [each for each in (total, group.swap_limit) if each is not None]
            return min(limits, default=None), group.swap
    return total, used


def one_line(text: str) -> str:
    """Return a name without characters that could forge a line."""
    return "".join(each if each.isprintable() else " " for each in str(text))


def rounded(value: float | None) -> float | None:
    """To two places."""
    return None if value is None else round(value, 2)


def mb(size: int | None) -> float | None:
    """Bytes as a number of 2**20 bytes."""
    return None if size is None else round(size / MIB, 2)


def gb(size: int | None) -> float | None:
    """Bytes as a number of 2**30 bytes."""
    return None if size is None else round(size / (1 << 30), 2)


def shown(size: int | None) -> str:
    """Bytes for a line."""
    return "?" if size is None else f"{size / MIB:.1f}MB"


def signed(size: int | None) -> str:
    """A difference of bytes for a line, with its sign."""
    return "?" if size is None else f"{round(size / MIB, 1) + 0.0:+.1f}MB"  # never -0.0


def share(percent: float | None) -> str:
    """A percentage for a line."""
    return "?" if percent is None else f"{percent:.1f}%"
