"""Verdicts on samples."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from memwarden.model.limits import Constraint, Limit
from memwarden.model.sample import Sample


class PressureLevel(Enum):
    """Distance to the effective limit: our verdict, not the kernel's pressure stall measurement."""

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
    #: The level of the number alone, without hysteresis.
    raw: PressureLevel
    #: The constraint that is nearest to being exceeded; None when nothing could be read.
    binding: Constraint | None
    #: The smallest limit on the path, near or not.
    effective: Limit | None
    #: Bytes that may still be allocated: the least headroom of all constraints, never negative.
    available: int | None
    #: When the level was entered, on the monotonic clock.
    since: float
    #: The level of the time that all tasks spend waiting for memory; None where that was not read.
    stalls: PressureLevel | None = None
    #: Trend of what is watched, in bytes; of the container, the machine or a card where it is no process.
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
    """Trend of a figure."""

    #: ``increasing``, ``decreasing`` or ``stable``: these three words and no other.
    word: str
    #: Number of readings.
    readings: int
    #: Confidence, 0..1: 0 where nothing is known yet.
    confidence: float
    #: Change a second, in the unit of the readings.
    slope: float


class LeakStage(Enum):
    """Certainty of a leak."""

    NONE = "none"
    SUSPECTED = "suspected"
    CONFIRMED = "confirmed"

    @property
    def rank(self) -> int:
        """0 for NONE up to 2 for CONFIRMED."""
        return _STAGE_RANK[self]


_STAGE_RANK = {stage: rank for rank, stage in enumerate(LeakStage)}


class Forecast(NamedTuple):
    """Time to the effective limit, if the growth continues."""

    #: Seconds left: hardly less, most likely, hardly more.
    low: float
    mid: float
    high: float
    #: Share of cases in which the truth lies between low and high.
    coverage: float
    #: What will be full: ``python3[4242]``, ``cgroup /app``, ``gpu 0``; None where only one figure is judged.
    what: str | None = None


class LeakVerdict(NamedTuple):
    """Verdict on a leak, with its reason."""

    stage: LeakStage
    #: Words that can be checked on a plot.
    reason: str
    #: The rolling minimum before and after its growth, bytes; None without growth.
    base: int | None
    floor: int | None
    #: Seconds since the growth began.
    lasted: float | None
    forecast: Forecast | None
    #: What leaks: ``python3[4242]``, ``cgroup /app``, ``gpu 0``; None where only one figure is judged, or none leaks.
    what: str | None = None


class Reading(NamedTuple):
    """A sample with its verdict: what ``watch()`` yields and what is recorded."""

    sample: Sample
    assessment: Assessment
