"""Figures over the whole watch and over the newest readings, in constant memory."""

from __future__ import annotations

import math
from collections import deque
from typing import Any, NamedTuple

from memwarden.errors import SettingsError
from memwarden.model.decisions import Clearing, Decision
from memwarden.model.events import Event, EventKind
from memwarden.model.limits import Limit
from memwarden.model.serialize import iso
from memwarden.model.verdicts import PressureLevel, Reading


class Peak(NamedTuple):
    """The highest figure, and when it was read: seconds since the epoch."""

    used: int
    ratio: float
    wall: float


class Figures(NamedTuple):
    """Statistics so far. None: no reading has this figure yet."""

    #: Number of readings, those without a figure included.
    readings: int = 0
    #: Of the newest reading: bytes that count against the nearest limit, that limit, bytes available, and used as a
    #: share of the limit, 0..1 and above.
    used: int | None = None
    limit: Limit | None = None
    available: int | None = None
    current: float | None = None
    #: Share used: mean of the newest readings, minimum and maximum of all.
    average: float | None = None
    least: float | None = None
    peak: Peak | None = None
    #: Seconds spent at LOW, MODERATE, HIGH and CRITICAL.
    level_seconds: tuple[float, ...] = (0.0,) * len(PressureLevel)
    #: Episodes of rules, and how often a rule fired again within one.
    alerts: int = 0
    repeats: int = 0


class Statistics:
    """Recorder that keeps statistics; ``window`` is the number of readings in the average.

    Called on one thread; ``figures`` may be read on any: it is replaced as a whole. Samples may be delivered
    ``max_delay`` seconds late; :meth:`Warden.flush` and :meth:`Warden.status` deliver them.
    """

    #: Seconds; see :class:`memwarden.protocols.Recorder`.
    max_delay = 5.0

    def __init__(self, window: int = 100) -> None:
        if window < 1:
            raise SettingsError(f"window {window!r}: an average needs one reading or more")
        self.figures = Figures()
        self._ratios: deque[float] = deque(maxlen=window)
        self._level: PressureLevel | None = None
        self._since = 0.0
        self._episodes: dict[str, int] = {}

    def record(self, event: Event) -> None:
        """Count an event: readings, decisions and cleared rules."""
        value = event.value
        if event.kind is EventKind.SAMPLE and isinstance(value, Reading):
            self._add(value)
        elif event.kind is EventKind.DECISION and isinstance(value, Decision) and not value.undo:
            self._count_alert(value)
        elif event.kind is EventKind.CLEARED and isinstance(value, Clearing):
            self._episodes.pop(value.rule, None)
        elif event.kind in (EventKind.START, EventKind.STOP):
            self._level = None  # the time between was not watched
            self._episodes.clear()

    def close(self) -> None:
        """Do nothing: the figures stay."""

    def _add(self, reading: Reading) -> None:
        sample, assessment = reading
        before, binding = self.figures, assessment.binding
        seconds = before.level_seconds
        if self._level is not None:
            passed = max(0.0, sample.monotonic - self._since)
            at = self._level.rank
            seconds = (*seconds[:at], seconds[at] + passed, *seconds[at + 1 :])
        self._level, self._since = assessment.level, sample.monotonic
        figures = before._replace(
            readings=before.readings + 1, level_seconds=seconds, available=assessment.available,
            used=None, limit=None, current=None,
        )  # fmt: skip
        if binding is not None and binding.limit.bytes:
            ratio = binding.ratio
            self._ratios.append(ratio)
            peak, least = before.peak, before.least
            figures = figures._replace(
                used=binding.used,
                limit=binding.limit,
                current=ratio,
                average=math.fsum(self._ratios) / len(self._ratios),
                least=ratio if least is None else min(least, ratio),
                peak=Peak(binding.used, ratio, sample.wall) if peak is None or ratio > peak.ratio else peak,
            )
        self.figures = figures

    def _count_alert(self, decision: Decision) -> None:
        # An episode has several decisions, and each repetition again: distinguished by rule and repetition.
        known = self._episodes.get(decision.rule)
        if known is None:
            self.figures = self.figures._replace(alerts=self.figures.alerts + 1)
        elif decision.repeat > known:
            self.figures = self.figures._replace(repeats=self.figures.repeats + 1)
        self._episodes[decision.rule] = max(decision.repeat, known or 0)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as a JSON-safe dict; unknown ones are absent."""
        now = self.figures
        peak, limit = now.peak, now.limit
        plain: dict[str, Any] = {
            "schema": 1,
            "type": "statistics",
            "readings": now.readings,
            "window_readings": self._ratios.maxlen,
            "current_ratio": now.current,
            "average_ratio": now.average,
            "least_ratio": now.least,
            "peak_ratio": None if peak is None else peak.ratio,
            "peak_used_bytes": None if peak is None else peak.used,
            "peak_time": None if peak is None else iso(peak.wall),
            "used_bytes": now.used,
            "available_bytes": now.available,
            "limit_bytes": None if limit is None else limit.bytes,
            "limit_source": None if limit is None else limit.source,
            "level_seconds": {level.value: now.level_seconds[level.rank] for level in PressureLevel},
            "alerts": now.alerts,
            "repeats": now.repeats,
        }
        return {key: value for key, value in plain.items() if value is not None}
