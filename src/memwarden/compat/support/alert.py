"""Alerts of the simple monitor: raised above a threshold, over some points below it."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime

from memwarden.compat.support.locks import Lock
from memwarden.compat.support.readings import moment
from memwarden.compat.support.shared import SYSTEM_CLOCK
from memwarden.errors import SettingsError
from memwarden.policy.rules import Rule
from memwarden.protocols import Clock

AlertCallback = Callable[[float], object]

#: Points below the threshold at which an alert is over (half the threshold where that is less).
BAND = 3.0


class MemoryAlert:
    """Raises an alert for a reading above the threshold, more than 60 s after the last alert.

    The cooldown is measured on the monotonic clock. Setting ``last_alert_time`` to None ends it.
    """

    def __init__(
        self,
        threshold_percent: float = 80.0,
        alert_callback: AlertCallback | None = None,
        *,
        clock: Clock | None = None,
        utc_offset: bool = False,
    ) -> None:
        if not 0 <= threshold_percent < math.inf:
            raise SettingsError(f"alert threshold {threshold_percent!r}: must be a percentage such as 80.0")
        self.threshold_percent = threshold_percent
        self.alert_callback = alert_callback
        self.alert_cooldown_seconds = 60.0
        self.last_alert_time: datetime | None = None
        #: Whether an alert was raised that is not over.
        self.active = False
        self._clock: Clock = SYSTEM_CLOCK if clock is None else clock
        self._utc_offset = utc_offset
        self._lock = Lock()
        self._raised = 0.0

    def check(self, memory_percent: float) -> bool:
        """True if this reading, made now, raises an alert; then the callback is called with it."""
        raised = self.due(memory_percent, self._clock.wall(), self._clock.monotonic())
        if raised and self.alert_callback is not None:
            self.alert_callback(memory_percent)
        return raised

    def due(self, memory_percent: float, wall: float, monotonic: float) -> bool:
        """True if a reading made at that time raises an alert; the callback is not called."""
        if not memory_percent > self.threshold_percent:
            return False
        with self._lock:
            if self.last_alert_time is not None and monotonic - self._raised <= self.alert_cooldown_seconds:
                return False
            self.last_alert_time, self._raised = moment(wall, self._utc_offset), monotonic
            self.active = True
            return True

    def over(self, memory_percent: float) -> bool:
        """True if this reading ends an alert: once, at three points below the threshold."""
        if not memory_percent <= self.threshold_percent - min(BAND, self.threshold_percent / 2):
            return False
        with self._lock:
            was, self.active = self.active, False
            return was

    @property
    def rule(self) -> Rule:
        """The same as a rule, for samples between the checks: it fires once, until it is over."""
        percent = f"{self.threshold_percent:f}".rstrip("0").rstrip(".")
        return Rule(name=f"usage above {percent}%", when=f"used > {percent}%", then="mark", rest=math.inf)

    @property
    def threshold_text(self) -> str:
        """The threshold as it is written: 80.0 is "80", 87.5 is "87.5"."""
        return f"{self.threshold_percent:.10g}"
