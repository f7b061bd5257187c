"""The checks of the simple monitor: from each sample to an entry of its log."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memwarden.compat.support.alert import MemoryAlert
from memwarden.compat.support.metrics import MemoryMetrics
from memwarden.compat.support.readings import figures_of, iso, moment, whole_mb
from memwarden.errors import ReadError, RecordError
from memwarden.model.events import Event, EventKind
from memwarden.model.verdicts import Reading
from memwarden.records.jsonl import JsonlRecorder

_log = logging.getLogger("memwarden")


class Checks:
    """One run of the monitor: makes a check of each sample, and an entry of the log of each check."""

    def __init__(
        self,
        path: Path,
        metrics: MemoryMetrics,
        alert: MemoryAlert,
        utc_offset: bool,
        last: Callable[[], Reading | None],
    ) -> None:
        self._metrics, self._alert, self._utc_offset, self._last = metrics, alert, utc_offset, last
        #: Alerts between the checks come by it.
        self.rule = alert.rule
        # Months of checks are what the log is for, so age alone does not end a file.
        self._file = JsonlRecorder(path, max_age=math.inf, encode=_entry)
        # Readings that raised an alert and for which the callback has not been called yet.
        self._alarms: deque[float] = deque(maxlen=100)
        #: Why the newest entry could not be kept.
        self.trouble: RecordError | None = None
        #: Set when a check was made and written, or could not be.
        self.checked = threading.Event()

    def record(self, event: Event) -> None:
        """Take in an event. Raises :class:`RecordError` when an entry was lost."""
        if event.kind is EventKind.START:
            self._write(event, [_note("START", "Memory monitor started")])
        elif event.kind is EventKind.STOP:
            self._write(event, [_note("STOP", "Memory monitor stopped")])
        elif event.kind is EventKind.SAMPLE:
            try:
                self._write(event, self._check(event))
            finally:
                self.checked.set()
        elif event.kind in (EventKind.DECISION, EventKind.CLEARED) and event.value.rule == self.rule.name:
            # Memory passed the threshold between two checks, which may lie far apart.
            reading = self._last()
            if reading is not None and reading.assessment.binding is not None:
                self._write(event, self._judge(100 * reading.assessment.binding.ratio, event))

    def alert_callback(self, event: Event) -> None:
        """Call the alert's callback for each reading that raised one."""
        while self._alarms:
            percent, callback = self._alarms.popleft(), self._alert.alert_callback
            if callback is not None:
                callback(percent)

    def _check(self, event: Event) -> list[dict[str, str]]:
        try:
            figures = figures_of(event.value)
        except ReadError as error:
            return [_note("GAP", f"Memory could not be read: {error}")]
        percent = figures.percent
        self._metrics.record(percent, event.wall)
        entries = [
            {
                "percent": f"{percent:.1f}",
                "used_mb": whole_mb(figures.used),
                "available_mb": whole_mb(figures.available),
                "total_mb": whole_mb(figures.total),
                "trend": self._metrics.get_trend(),
            }
        ]
        return entries + self._judge(percent, event)

    def _judge(self, percent: float, event: Event) -> list[dict[str, str]]:
        """Return the entries of an alert that is raised or over."""
        if self._alert.due(percent, event.wall, event.monotonic):
            message = f"MEMORY ALERT: {percent:.1f}% of RAM in use (threshold: {self._alert.threshold_text}%)"
            self._metrics.count_alert()
            self._alarms.append(percent)
            _log.warning("%s", message)
            return [_note("ALERT", message)]
        if self._alert.over(percent):
            message = f"MEMORY ALERT over: {percent:.1f}% of RAM in use (threshold: {self._alert.threshold_text}%)"
            _log.info("%s", message)
            return [_note("CLEARED", message)]
        return []

    def _write(self, event: Event, entries: list[dict[str, str]]) -> None:
        self.trouble = None
        time = {"timestamp": iso(moment(event.wall, self._utc_offset))}
        for entry in entries:
            # All but checks are flushed to the disk at once.
            kind = EventKind.SAMPLE if "percent" in entry else EventKind.DECISION
            try:
                self._file.record(Event(kind=kind, wall=event.wall, monotonic=event.monotonic, details=time | entry))
            except RecordError as error:
                self.trouble = error
        if self.trouble is not None:
            raise self.trouble

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _note(event_type: str, message: str) -> dict[str, str]:
    return {"event_type": event_type, "message": message}


def _entry(event: Event) -> dict[str, Any]:
    return event.details or {}
