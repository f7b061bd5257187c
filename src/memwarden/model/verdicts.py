"""What was judged from the facts."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from memwarden.model.limits import Constraint, Limit
from memwarden.model.sample import Sample


class PressureLevel(Enum):
    """How near the effective limit is: our verdict, not the kernel's pressure stall measurement."""

    LOW = "low"
    MODERATE = "moderate"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for LOW up to 3 for CRITICAL."""
        return _RANK[self]


_RANK = {level: rank for rank, level in enumerate(PressureLevel)}


class Assessment(NamedTuple):
    """The verdict on one sample."""

    level: PressureLevel
    #: The level that the bare number says, before edges, bands and durations.
    raw: PressureLevel
    #: The constraint that is nearest to being passed; None when nothing could be read.
    binding: Constraint | None
    #: The smallest limit on the path, whoever is near it or not.
    effective: Limit | None
    #: What may still be taken: the least headroom of all constraints, never negative.
    available: int | None
    #: When the level was entered, on the monotonic clock.
    since: float
    #: The level of the time that all tasks spend waiting for memory; None where that was not read.
    stalls: PressureLevel | None = None
    #: Where what is watched is going, in bytes; of the container, the machine or a card where it is no process.
    trend: Trend | None = None
    #: The gravest verdict on what is watched, the container and the cards; None where nothing was judged yet.
    leak: LeakVerdict | None = None
    #: The least time left of these; None where nothing rises.
    forecast: Forecast | None = None

    @property
    def ratio(self) -> float | None:
        """Used as a share of the binding limit."""
        return None if self.binding is None else self.binding.ratio


class Trend(NamedTuple):
    """Where a figure is going."""

    #: ``increasing``, ``decreasing`` or ``stable``: these three words and no other.
    word: str
    #: How many readings it rests upon.
    readings: int
    #: How sure it is, 0..1: 0 where nothing can be said yet.
    confidence: float
    #: Change a second, in the unit of the readings.
    slope: float


class LeakStage(Enum):
    """How sure a leak is."""

    NONE = "none"
    SUSPECTED = "suspected"
    CONFIRMED = "confirmed"

    @property
    def rank(self) -> int:
        """0 for NONE up to 2 for CONFIRMED."""
        return _STAGE_RANK[self]


_STAGE_RANK = {stage: rank for rank, stage in enumerate(LeakStage)}


class Forecast(NamedTuple):
    """Time to the effective limit, if it goes on so."""

    #: Seconds left: hardly less, most likely, hardly more.
    low: float
    mid: float
    high: float
    #: How often the truth lies between low and high.
    coverage: float
    #: What will be full: ``python3[4242]``, ``cgroup /app``, ``gpu 0``; None where only one figure is judged.
    what: str | None = None


class LeakVerdict(NamedTuple):
    """Whether memory in use is judged to leak, and why."""

    stage: LeakStage
    #: Words that can be checked on a plot.
    reason: str
    #: Start and end of the growth of the rolling minimum, bytes; None without growth.
    base: int | None
    floor: int | None
    #: Seconds since the rise began.
    lasted: float | None
    forecast: Forecast | None
    #: Who leaks: ``python3[4242]``, ``cgroup /app``, ``gpu 0``; None where only one figure is judged, or nobody leaks.
    what: str | None = None


class Reading(NamedTuple):
    """A sample with its verdict: what ``watch()`` yields and what is recorded."""

    sample: Sample
    assessment: Assessment
