"""The checks of the simple monitor: from each sample to an entry of its log."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memwarden.compat.support.alert import MemoryAlert
from memwarden.compat.support.metrics import MemoryMetrics
from memwarden.compat.support.readings import figures_of, iso, moment, whole_mb
from memwarden.engine.warden import STOP_PATIENCE_SECONDS
from memwarden.errors import ReadError, RecordError
from memwarden.model import log
from memwarden.model.events import Event, EventKind
from memwarden.model.verdicts import Reading
from memwarden.process.fork_hooks import reset_after_fork
from memwarden.protocols import Clock
from memwarden.records.jsonl import JsonlRecorder


class Checks:
    """One run of the monitor: makes a check of each sample, and an entry of the log of each check."""

    def __init__(
        self,
        path: Path,
        metrics: MemoryMetrics,
        alert: MemoryAlert,
        utc_offset: bool,
        clock: Clock,
        last: Callable[[], Reading | None],
    ) -> None:
        self._metrics, self._alert, self._utc_offset = metrics, alert, utc_offset
        self._clock, self._last = clock, last
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
        self._started = self._stopped = False
        self.after_fork()
        reset_after_fork(self)

    def after_fork(self) -> None:
        """In a child: close the copy of the descriptor."""
        self._lock = threading.RLock()
        self._file.close()

    def record(self, event: Event) -> None:
        """Take in an event. Raises :class:`RecordError` when an entry was lost."""
        with self._lock:
            try:
                self._record(event)
            finally:
                if self._stopped:  # it hung when it was stopped
                    self._file.close()

    def stop(self) -> None:
        """Write STOP and close the file; where the disk hangs the file is closed when it is back."""
        self._stopped = True
        if self._lock.acquire(timeout=STOP_PATIENCE_SECONDS):
            try:
                if self._started:
                    stop = Event(EventKind.STOP, self._clock.wall(), self._clock.monotonic())
                    self._write(stop, [_note("STOP", "Memory monitor stopped")])
            except RecordError as error:
                log.warn("%s", error)
            finally:
                self._file.close()
                self._lock.release()

    def _record(self, event: Event) -> None:
        if event.kind is EventKind.SAMPLE:
            start = [] if self._started else [_note("START", "Memory monitor started")]
            self._started = True
            try:
                self._write(event, start + self._check(event))
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
            log.warn("%s", message)
            return [_note("ALERT", message)]
        if self._alert.over(percent):
            message = f"MEMORY ALERT over: {percent:.1f}% of RAM in use (threshold: {self._alert.threshold_text}%)"
            log.logger().info("%s", message, extra=log.extra_of(None))
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


def _note(event_type: str, message: str) -> dict[str, str]:
    return {"event_type": event_type, "message": message}


def _entry(event: Event) -> dict[str, Any]:
    return event.details or {}
