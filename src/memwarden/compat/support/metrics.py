"""Readings in percent over time: average, peak and trend of the simple monitor."""

from __future__ import annotations

import math
from collections import deque
from datetime import datetime
from typing import Any

from memwarden.assess.trend import TrendDetector
from memwarden.compat.support.locks import Lock
from memwarden.compat.support.readings import iso, moment
from memwarden.compat.support.shared import SYSTEM_CLOCK
from memwarden.protocols import Clock


class MemoryMetrics:
    """Readings in percent over time: the last ``window_size``, and the peak of all. Any thread may ask or record."""

    def __init__(self, window_size: int = 100, *, clock: Clock | None = None, utc_offset: bool = False) -> None:
        self.window_size = window_size
        #: How many alerts were raised (not how many readings were above the threshold).
        self.alert_count = 0
        self._clock: Clock = SYSTEM_CLOCK if clock is None else clock
        self._utc_offset = utc_offset
        self._lock = Lock()
        self._window: deque[tuple[float, datetime]] = deque(maxlen=window_size)
        self._peak: tuple[float, datetime] | None = None
        self._trend = TrendDetector()
        self._count = 0

    def record(self, memory_percent: float, wall: float | None = None) -> None:
        """Take in a reading, made now or at ``wall`` (seconds since the epoch)."""
        reading = memory_percent, moment(self._clock.wall() if wall is None else wall, self._utc_offset)
        with self._lock:
            self._window.append(reading)
            self._count += 1
            # By the number of the reading: clocks are set, and a trend is no rate.
            self._trend.add(float(self._count), memory_percent)
            if self._peak is None or memory_percent > self._peak[0]:
                self._peak = reading

    def count_alert(self) -> None:
        """One alert more."""
        with self._lock:
            self.alert_count += 1

    def window(self) -> list[tuple[float, datetime]]:
        """The readings of the window with the time of each, oldest first."""
        with self._lock:
            return list(self._window)

    @property
    def memory_readings(self) -> list[float]:
        """The readings of the window, oldest first."""
        return [percent for percent, _ in self.window()]

    @property
    def timestamps(self) -> list[datetime]:
        """The time of each of them."""
        return [when for _, when in self.window()]

    @property
    def peak_memory(self) -> float | None:
        """The highest reading of all, also beyond the window; None before the first."""
        peak = self._peak
        return None if peak is None else peak[0]

    @property
    def peak_time(self) -> datetime | None:
        """The time at which the peak was first reached."""
        peak = self._peak
        return None if peak is None else peak[1]

    def get_average(self) -> float | None:
        """The mean of the window; None before the first reading."""
        return _mean(self.memory_readings)

    def get_trend(self) -> str:
        """``"increasing"``, ``"decreasing"`` or ``"stable"``, see :mod:`memwarden.assess.trend`."""
        with self._lock:
            return self._trend.trend.word

    def get_summary(self) -> dict[str, Any]:
        """Everything, as text, with the numbers beside it under names that end in ``_percent``.

        ``trend_confidence`` is 0..1, ``trend_readings`` the number of readings that the trend is based on.
        """
        with self._lock:
            readings, peak, alerts = [percent for percent, _ in self._window], self._peak, self.alert_count
            trend = self._trend.trend
        current, average = readings[-1] if readings else None, _mean(readings)
        highest = None if peak is None else peak[0]
        return {
            "current": percent_text(current),
            "average": percent_text(average),
            "peak": percent_text(highest),
            "peak_time": None if peak is None else iso(peak[1]),
            "trend": trend.word,
            "readings": len(readings),
            "alert_count": alerts,
            "current_percent": current,
            "average_percent": average,
            "peak_percent": highest,
            "trend_confidence": trend.confidence,
            "trend_readings": trend.readings,
        }


def _mean(readings: list[float]) -> float | None:
    return math.fsum(readings) / len(readings) if readings else None


def percent_text(value: float | None) -> str:
    """A percentage as these names show it."""
    return "N/A" if value is None else f"{value:.1f}%"
