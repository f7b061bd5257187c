"""Summary of a record in a few figures, to compare two records or choose a limit.

Samples of all writers count alike. Quantiles are exact: 24 bytes are kept for each sample.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from typing import Any, NamedTuple

from memwarden.model.decisions import Clearing, Decision
from memwarden.model.events import Event, EventKind
from memwarden.model.verdicts import LeakStage, PressureLevel, Reading

#: Share that a limit should leave above the peak. A choice, not measured: a sample may miss the highest moment, and
#: later peaks may be higher.
HEADROOM = 0.25
#: Least samples, and seconds between the first and last fifth of them, for a growth by the hour.
_LEAST, _LEAST_SECONDS = 10, 300.0


class Summary(NamedTuple):
    """A record in figures. None: the record does not have it."""

    samples: int
    #: Wall clock of the first and the last sample, and seconds watched, without pauses between runs.
    first: float
    last: float
    seconds: float
    #: Bytes used by the watched processes (without any: bytes that counted against the nearest limit).
    median: int | None
    high: int | None
    peak: int | None
    #: Bytes an hour, from the median of the first fifth to that of the last.
    growth: float | None
    #: The least limit in bytes, its source, and the highest used share of it.
    limit: int | None
    limit_source: str | None
    ratio: float | None
    #: Seconds at LOW, MODERATE, HIGH and CRITICAL.
    level_seconds: tuple[float, ...]
    #: The worst verdict, and its reason.
    leak: str
    leak_reason: str
    #: Number of episodes of rules.
    alerts: int

    @property
    def wanted(self) -> int | None:
        """Return the bytes of a limit that leaves :data:`HEADROOM` above the peak."""
        return None if self.peak is None else math.ceil(self.peak * (1 + HEADROOM))

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as a JSON-safe dict; unknown ones are absent."""
        plain = {
            "samples": self.samples,
            "watched_seconds": self.seconds,
            "used_median_bytes": self.median,
            "used_p95_bytes": self.high,
            "used_peak_bytes": self.peak,
            "growth_bytes_per_hour": self.growth,
            "limit_bytes": self.limit,
            "limit_source": self.limit_source,
            "peak_ratio": self.ratio,
            "level_seconds": {level.value: self.level_seconds[level.rank] for level in PressureLevel},
            "leak": self.leak,
            "leak_reason": self.leak_reason or None,
            "alerts": self.alerts,
            "wanted_limit_bytes": self.wanted,
        }
        return {key: value for key, value in plain.items() if value is not None}


class Summarizer:
    """Summarizes a record's events, writer by writer."""

    def __init__(self) -> None:
        self._own: array[float] = array("d")
        self._held: array[float] = array("d")
        self._times: array[float] = array("d")
        self._seconds = 0.0
        self._levels = [0.0] * len(PressureLevel)
        self._limit: int | None = None
        self._source: str | None = None
        self._ratio: float | None = None
        self._leak, self._reason, self._alerts = LeakStage.NONE, "", 0
        self._first, self._last = math.inf, -math.inf

    def add(self, events: Iterable[Event]) -> None:
        """Add the events of one writer, in their order."""
        before: Reading | None = None
        episodes: set[str] = set()
        for event in events:
            value = event.value
            if event.kind is EventKind.SAMPLE and isinstance(value, Reading):
                self._add(value, before)
                before = value
            elif event.kind is EventKind.DECISION and isinstance(value, Decision) and not value.undo:
                self._alerts += value.rule not in episodes
                episodes.add(value.rule)
            elif event.kind is EventKind.CLEARED and isinstance(value, Clearing):
                episodes.discard(value.rule)
            elif event.kind in (EventKind.START, EventKind.STOP):
                before = None  # the time between was not watched
                episodes.clear()

    def _add(self, reading: Reading, before: Reading | None) -> None:
        sample, judged = reading
        if before is not None and (passed := sample.monotonic - before.sample.monotonic) > 0:
            self._seconds += passed
            self._levels[before.assessment.level.rank] += passed
        self._first, self._last = min(self._first, sample.wall), max(self._last, sample.wall)
        self._times.append(sample.wall)
        binding, effective = judged.binding, judged.effective
        self._own.append(math.nan if sample.used is None else sample.used)
        self._held.append(math.nan if binding is None else binding.used)
        if binding is not None and binding.limit.bytes:
            self._ratio = max(binding.ratio, self._ratio or 0.0)
        if effective is not None and (self._limit is None or effective.bytes <= self._limit):
            self._limit, self._source = effective.bytes, effective.source
        if judged.leak is not None and judged.leak.stage.rank > self._leak.rank:
            self._leak, self._reason = judged.leak.stage, judged.leak.reason

    def summary(self) -> Summary:
        """Return the summary so far; without samples all figures are unknown."""
        points = self._points(self._own) or self._points(self._held)
        values = sorted(value for _, value in points)
        return Summary(
            samples=len(self._times),
            first=self._first,
            last=self._last,
            seconds=self._seconds,
            median=_quantile(values, 0.5),
            high=_quantile(values, 0.95),
            peak=_quantile(values, 1.0),
            growth=_growth(points),
            limit=self._limit,
            limit_source=self._source,
            ratio=self._ratio,
            level_seconds=tuple(self._levels),
            leak=self._leak.value,
            leak_reason=self._reason,
            alerts=self._alerts,
        )

    def _points(self, values: array[float]) -> list[tuple[float, float]]:
        return [(t, value) for t, value in zip(self._times, values, strict=True) if not math.isnan(value)]


def _quantile(values: list[float], share: float) -> int | None:
    """Return a quantile of sorted values."""
    return round(values[max(0, math.ceil(share * len(values)) - 1)]) if values else None


def _growth(points: list[tuple[float, float]]) -> float | None:
    """Return the growth from the median of the first fifth to that of the last, by the hour."""
    if len(points) < _LEAST:
        return None
    points = sorted(points)
    fifth = len(points) // 5
    begin, end = points[:fifth], points[-fifth:]
    seconds = (sum(t for t, _ in end) - sum(t for t, _ in begin)) / fifth
    if seconds < _LEAST_SECONDS:
        return None
    was, now = (sorted(value for _, value in part)[fifth // 2] for part in (begin, end))
    return (now - was) / seconds * 3600
