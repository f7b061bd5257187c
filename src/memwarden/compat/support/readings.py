"""Shared by the monitors of this package: one sample, and its figures in one shape.

``total``, ``used`` and the percentage belong to the constraint that is nearest to being exceeded, which is what
the level is judged on: in a container its limit, and the machine where the machine is the fuller of the two
or where there is no limit. ``available`` is the least that any of them leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from memwarden.engine.warden import Warden
from memwarden.errors import ReadError
from memwarden.model.facts import Gap
from memwarden.model.units import MIB
from memwarden.model.verdicts import Reading
from memwarden.protocols import Clock, Reader

#: Makes fresh readers: each one is used by one thread only.
Sources = Callable[[], Sequence[Reader]]


class Readings(NamedTuple):
    """Memory as the old programs show it, in bytes."""

    total: int
    used: int
    available: int
    #: The limit that ``total`` is: ``"machine"``, ``"cgroup /docker/…"``.
    source: str

    @property
    def percent(self) -> float:
        """Used as a share of the limit, 0..100 and beyond."""
        return 100 * self.used / self.total


def look_once(sources: Sources, clock: Clock) -> Reading:
    """Take one sample with readers of its own, from any thread, whether or not a monitor runs."""
    warden = Warden(sources(), clock=clock)
    try:
        return warden.sample()
    finally:
        warden.close()


def figures_of(reading: Reading) -> Readings:
    """Return the figures of a reading. Raises :class:`ReadError` where none could be read."""
    binding, available = reading.assessment.binding, reading.assessment.available
    if binding is None or available is None:
        missing = Gap("memory", "the readers that were given", "absent", "none of them reports a limit")
        raise ReadError(*next(iter(reading.sample.gaps), missing))
    return Readings(binding.limit.bytes, binding.used, available, binding.limit.source)


def whole_mb(size: int) -> str:
    """Bytes as a whole number of 2**20 bytes."""
    return f"{size / MIB:.0f}"


def moment(wall: float, utc_offset: bool = False) -> datetime:
    """Local time, naive as the old programs wrote it, or with its offset."""
    local = datetime.fromtimestamp(wall)
    return local.astimezone() if utc_offset else local


def iso(when: datetime) -> str:
    """ISO 8601, microseconds always."""
    return when.isoformat(timespec="microseconds")
