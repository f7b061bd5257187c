"""The simple monitor: a check every few minutes, an alert above a threshold, a trend, a log of JSON lines.

Differences from the original, beside the faults that are mended:

* Figures are those of the container where there is one, not only the machine's.
* Without ``log_file`` the log is ``memory_monitor.log`` in this user's own state directory. A name in a
  shared directory such as ``/tmp`` is one that anybody may have taken before us, a link to another file
  included, and there is no such place on Windows.
* The log is kept open, flushed at every entry that is not a check, and rotated at 64 MiB.
* A second ``get_monitor`` that asks for something else is refused (see there).
* The trend is one of three words; below six readings it is "stable", and the count stands beside it.

Entries of the log hold their numbers as strings. A check that could not be made is an entry with
``event_type`` "GAP", and no figures.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from memwarden.compat.figures import Figures, Sources, figures_of, iso, look_once, moment, whole_mb
from memwarden.compat.locks import Lock
from memwarden.compat.processes import largest_processes
from memwarden.engine.clock import SystemClock
from memwarden.engine.warden import Warden
from memwarden.errors import ReadError, RecordError, SettingsError
from memwarden.model.events import Event, EventKind
from memwarden.protocols import Clock
from memwarden.readers.sources import own_sources
from memwarden.records.jsonl import JsonlRecorder
from memwarden.records.places import state_directory

_log = logging.getLogger("memwarden")

#: Readings that count as recent when the trend is judged.
RECENT = 5
#: The change of the recent mean against the older one that makes a trend.
CHANGE = 0.10
#: What ``start`` waits for the first check to be written, at most.
FIRST_CHECK_SECONDS = 1.0

AlertCallback = Callable[[float], object]


class MemoryMetrics:
    """Readings in percent over time: the last ``window_size``, and the peak of all. Any thread may ask or record."""

    def __init__(self, window_size: int = 100, *, clock: Clock | None = None, utc_offset: bool = False) -> None:
        self.window_size = window_size
        #: How many alerts were raised (not how many readings were above the threshold).
        self.alert_count = 0
        self._clock: Clock = SystemClock() if clock is None else clock
        self._utc_offset = utc_offset
        self._lock = Lock()
        self._window: deque[tuple[float, datetime]] = deque(maxlen=window_size)
        self._peak: tuple[float, datetime] | None = None

    def record(self, memory_percent: float, wall: float | None = None) -> None:
        """Take in a reading, made now or at ``wall`` (seconds since the epoch)."""
        reading = memory_percent, moment(self._clock.wall() if wall is None else wall, self._utc_offset)
        with self._lock:
            self._window.append(reading)
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
        """When each of them was made."""
        return [when for _, when in self.window()]

    @property
    def peak_memory(self) -> float | None:
        """The highest reading of all, also beyond the window; None before the first."""
        peak = self._peak
        return None if peak is None else peak[0]

    @property
    def peak_time(self) -> datetime | None:
        """When the peak was first reached."""
        peak = self._peak
        return None if peak is None else peak[1]

    def get_average(self) -> float | None:
        """The mean of the window; None before the first reading."""
        return _mean(self.memory_readings)

    def get_trend(self) -> str:
        """``"increasing"``, ``"decreasing"`` or ``"stable"``: the last five readings against the older ones."""
        return _trend(self.memory_readings)

    def get_summary(self) -> dict[str, Any]:
        """Everything, as text, with the numbers beside it under names that end in ``_percent``."""
        with self._lock:
            readings, peak, alerts = [percent for percent, _ in self._window], self._peak, self.alert_count
        current, average = readings[-1] if readings else None, _mean(readings)
        highest = None if peak is None else peak[0]
        return {
            "current": _percent(current),
            "average": _percent(average),
            "peak": _percent(highest),
            "peak_time": None if peak is None else iso(peak[1]),
            "trend": _trend(readings),
            "readings": len(readings),
            "alert_count": alerts,
            "current_percent": current,
            "average_percent": average,
            "peak_percent": highest,
        }


def _mean(readings: list[float]) -> float | None:
    return math.fsum(readings) / len(readings) if readings else None


def _trend(readings: list[float]) -> str:
    older, recent = _mean(readings[:-RECENT]), _mean(readings[-RECENT:])
    if older is None or recent is None:
        return "stable"
    # Rounded: ten percent more than 50 is 55, also in binary fractions.
    change = round(recent - older, 9)
    if change > 0 and change >= round(CHANGE * older, 9):
        return "increasing"
    return "decreasing" if change < 0 and -change >= round(CHANGE * older, 9) else "stable"


def _percent(value: float | None) -> str:
    return "N/A" if value is None else f"{value:.1f}%"


class MemoryAlert:
    """Says when a reading is worth an alert: above the threshold, and more than 60 s after the last alert.

    The cooldown is measured on a clock that nobody sets. Setting ``last_alert_time`` to None ends it.
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
        self._clock: Clock = SystemClock() if clock is None else clock
        self._utc_offset = utc_offset
        self._lock = Lock()
        self._raised = 0.0

    def check(self, memory_percent: float) -> bool:
        """Whether this reading, made now, raises an alert; if so the callback is called with it."""
        raised = self.due(memory_percent, self._clock.wall(), self._clock.monotonic())
        if raised and self.alert_callback is not None:
            self.alert_callback(memory_percent)
        return raised

    def due(self, memory_percent: float, wall: float, monotonic: float) -> bool:
        """Whether a reading made at that time raises an alert; it then counts as raised, but nobody is called."""
        if not memory_percent > self.threshold_percent:
            return False
        with self._lock:
            if self.last_alert_time is not None and monotonic - self._raised <= self.alert_cooldown_seconds:
                return False
            self.last_alert_time, self._raised = moment(wall, self._utc_offset), monotonic
            return True

    @property
    def threshold_text(self) -> str:
        """The threshold as it is written: 80.0 is "80", 87.5 is "87.5"."""
        return f"{self.threshold_percent:.10g}"


class _Checks:
    """The recorder behind the monitor: makes a check of each sample and an entry of the log of each check."""

    def __init__(self, path: Path, metrics: MemoryMetrics, alert: MemoryAlert, utc_offset: bool) -> None:
        self._metrics, self._alert, self._utc_offset = metrics, alert, utc_offset
        # Months of checks are what the log is for, so age alone does not end a file.
        self._file = JsonlRecorder(path, max_age=math.inf, encode=_entry)
        #: Readings that raised an alert and for which the callback has not been called yet.
        self.alarms: deque[float] = deque(maxlen=100)
        #: Why the newest entry could not be kept.
        self.trouble: RecordError | None = None
        #: Set when a check was made and written, or could not be.
        self.checked = threading.Event()

    def record(self, event: Event) -> None:
        """Take in what the warden tells. Raises :class:`RecordError` when an entry was lost."""
        if event.kind is EventKind.START:
            self._write(event, [_said("START", "Memory monitor started")])
        elif event.kind is EventKind.STOP:
            self._write(event, [_said("STOP", "Memory monitor stopped")])
        elif event.kind is EventKind.SAMPLE:
            try:
                self._write(event, self._check(event))
            finally:
                self.checked.set()

    def _check(self, event: Event) -> list[dict[str, str]]:
        try:
            figures = figures_of(event.value)
        except ReadError as error:
            return [_said("GAP", f"Memory could not be read: {error}")]
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
        if self._alert.due(percent, event.wall, event.monotonic):
            message = f"MEMORY ALERT: {percent:.1f}% of RAM in use (threshold: {self._alert.threshold_text}%)"
            self._metrics.count_alert()
            self.alarms.append(percent)
            _log.warning("%s", message)
            entries.append(_said("ALERT", message))
        return entries

    def _write(self, event: Event, entries: list[dict[str, str]]) -> None:
        self.trouble = None
        time = {"timestamp": iso(moment(event.wall, self._utc_offset))}
        for entry in entries:
            # What is no check is flushed to the disk at once.
            kind = EventKind.SAMPLE if "percent" in entry else EventKind.DECISION
            try:
                self._file.record(Event(kind=kind, wall=event.wall, monotonic=event.monotonic, details=time | entry))
            except RecordError as error:
                self.trouble = error
        if self.trouble is not None:
            raise self.trouble

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


def _said(event_type: str, message: str) -> dict[str, str]:
    return {"event_type": event_type, "message": message}


def _entry(event: Event) -> dict[str, Any]:
    return event.details or {}


class SimpleMemoryMonitor:
    """Checks memory every ``check_interval_seconds``, alerts above ``alert_threshold_percent``, keeps a log.

    ``alert_callback(percent)`` is called at each alert, on a thread of its own: one that raises or hangs ends
    no check. ``utc_offset`` writes times with their offset instead of naive local time. ``sources`` makes the
    readers and ``clock`` tells the time; both are there for tests.
    """

    def __init__(
        self,
        check_interval_seconds: float = 300,
        alert_threshold_percent: float = 80.0,
        log_file: str | os.PathLike[str] | None = None,
        *,
        alert_callback: AlertCallback | None = None,
        utc_offset: bool = False,
        sources: Sources = own_sources,
        clock: Clock | None = None,
    ) -> None:
        self.check_interval_seconds = check_interval_seconds
        self.log_file = Path(state_directory(), "memory_monitor.log") if log_file is None else Path(log_file)
        self._asked_for_log = log_file is not None
        self._utc_offset, self._sources = utc_offset, sources
        self._clock: Clock = SystemClock() if clock is None else clock
        self.metrics = MemoryMetrics(clock=self._clock, utc_offset=utc_offset)
        self.alert = MemoryAlert(alert_threshold_percent, alert_callback, clock=self._clock, utc_offset=utc_offset)
        self._checks = _Checks(self.log_file, self.metrics, self.alert, utc_offset)
        self._warden = Warden(sources(), interval=check_interval_seconds, recorders=(self._checks,), clock=self._clock)
        # Behind the recorder, so it comes after the check that raised the alert; and apart from it, so a
        # callback that hangs is set aside alone.
        self._warden.subscribe(self._alert_callback)
        self._started = 0.0
        self._ended: float | None = None

    @property
    def alert_threshold_percent(self) -> float:
        """The percentage above which an alert is raised."""
        return self.alert.threshold_percent

    @property
    def running(self) -> bool:
        """Whether it checks in the background."""
        return self._warden.running

    def start(self) -> SimpleMemoryMonitor:
        """Write START, make the first check, and go on in a daemon thread. When it already runs nothing changes.

        Raises :class:`~memwarden.errors.RecordError` when the log file that was asked for cannot be written;
        the default one is missed with a warning in the program's log.
        """
        if self._warden.running:
            return self
        self._started, self._ended = self._clock.monotonic(), None
        self._checks.checked = checked = threading.Event()
        self._warden.start()
        checked.wait(FIRST_CHECK_SECONDS)
        trouble = self._checks.trouble
        if trouble is not None and self._asked_for_log:
            self.stop()
            raise trouble
        return self

    def stop(self) -> None:
        """End the checks, write STOP, and leave no thread; returns at once."""
        if self._warden.running:
            self._ended = self._clock.monotonic()
            self._warden.stop()

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until the checks made so far are recorded; False when ``timeout`` seconds pass first."""
        return self._warden.flush(timeout)

    def _alert_callback(self, event: Event) -> None:
        alarms = self._checks.alarms
        while alarms:
            percent, callback = alarms.popleft(), self.alert.alert_callback
            if callback is not None:
                callback(percent)

    def _uptime(self) -> float:
        if self._warden.running:
            return self._clock.monotonic() - self._started
        return 0.0 if self._ended is None else self._ended - self._started

    def get_status(self) -> dict[str, Any]:
        """Memory now (a fresh look) and whether it is checked; ``error`` says why there are no figures.

        Texts as the original gave them; the numbers stand beside them as ``percent``, ``used_bytes``,
        ``available_bytes``, ``total_bytes`` and ``uptime_seconds``.
        """
        return self._status(self._figures())

    def _figures(self) -> Figures | ReadError:
        try:
            return figures_of(look_once(self._sources, self._clock))
        except ReadError as error:
            return error

    def _status(self, figures: Figures | ReadError) -> dict[str, Any]:
        uptime = self._uptime()
        if isinstance(figures, ReadError):
            known: dict[str, Any] = dict.fromkeys(
                ("memory_used_mb", "memory_available_mb", "memory_total_mb", "percent")
            )
            known |= {"memory_percent": None, "status": "unknown", "error": str(figures)}
        else:
            known = {
                "memory_percent": _percent(figures.percent),
                "memory_used_mb": whole_mb(figures.used),
                "memory_available_mb": whole_mb(figures.available),
                "memory_total_mb": whole_mb(figures.total),
                "status": "high" if figures.percent > self.alert.threshold_percent else "normal",
                "percent": figures.percent,
                "used_bytes": figures.used,
                "available_bytes": figures.available,
                "total_bytes": figures.total,
                "limit_source": figures.source,
            }
        return {
            "timestamp": iso(moment(self._clock.wall(), self._utc_offset)),
            **known,
            "monitoring": self._warden.running,
            "uptime": str(timedelta(seconds=int(uptime))),
            "uptime_seconds": uptime,
        }

    def get_detailed_status(self) -> dict[str, Any]:
        """``system_memory``, ``metrics`` and the five largest processes that can be seen (``top_processes``).

        A process's ``memory_percent`` is its resident size as a share of the same limit, a number as text
        without the sign. ``gaps`` says what could not be read.
        """
        figures = self._figures()
        status = self._status(figures)
        processes, gaps = largest_processes(5)
        said = [str(ReadError(*gap)) for gap in gaps]
        shares: list[float | None]
        if isinstance(figures, ReadError):
            said.insert(0, str(figures))
            shares = [None] * len(processes)
        else:
            shares = [100 * process.rss / figures.total for process in processes]
        return {
            "system_memory": {
                "percent": status["memory_percent"],
                "used_mb": status["memory_used_mb"],
                "available_mb": status["memory_available_mb"],
                "total_mb": status["memory_total_mb"],
            },
            "metrics": self.metrics.get_summary(),
            "top_processes": [
                {
                    "pid": process.key.pid,
                    "name": process.name,
                    "memory_percent": "N/A" if share is None else f"{share:.1f}",
                    "memory_bytes": process.rss,
                }
                for process, share in zip(processes, shares, strict=True)
            ],
            "gaps": said,
        }

    def get_stats(self) -> dict[str, Any]:
        """The metrics with the readings themselves: ``readings`` in percent, ``timestamps`` of each, ``count``."""
        window = self.metrics.window()
        summary = self.metrics.get_summary()
        return summary | {
            "readings": [percent for percent, _ in window],
            "timestamps": [iso(when) for _, when in window],
            "count": len(window),
        }

    def print_stats(self) -> None:
        """Print memory, metrics and state as a block of text."""
        status, metrics = self.get_status(), self.metrics.get_summary()
        size = [status[key] or "N/A" for key in ("memory_used_mb", "memory_total_mb", "memory_available_mb")]
        print(
            "=" * 70,
            "MEMORY MONITOR STATISTICS",
            "=" * 70,
            f"Current Memory: {status['memory_percent'] or 'N/A'} ({size[0]}MB / {size[1]}MB)",
            f"Available: {size[2]}MB",
            f"Status: {status['status'].upper()}",
            "",
            "METRICS",
            "-" * 70,
            f"Average: {metrics['average']}",
            f"Peak: {metrics['peak']} at {metrics['peak_time'] or 'N/A'}",
            f"Trend: {metrics['trend'].upper()}",
            f"Readings: {metrics['readings']}",
            f"Alerts Triggered: {metrics['alert_count']}",
            "",
            f"Monitoring: {status['monitoring']}",
            f"Uptime: {status['uptime']}",
            f"Log File: {self.log_file}",
            "=" * 70,
            sep="\n",
        )


_lock = Lock()
_monitor: SimpleMemoryMonitor | None = None
#: The defaults as objects of their own: a caller who writes 300 gives another one, so what was said can be told
#: from what was left out.
_INTERVAL, _THRESHOLD = float("300"), float("80")


def get_monitor(
    check_interval_seconds: float = _INTERVAL,
    alert_threshold_percent: float = _THRESHOLD,
    log_file: str | os.PathLike[str] | None = None,
) -> SimpleMemoryMonitor:
    """The monitor of this process, made by the first call, with its values.

    A later call may leave out what it does not care about. One that asks for something else than the monitor
    has raises :class:`~memwarden.errors.SettingsError`: it would otherwise wait for alerts, or read a log,
    that never come, and a warning would be lost where nobody looks. Use a ``SimpleMemoryMonitor`` of your
    own for a second set of values, or ``reset_monitor()`` first.
    """
    global _monitor
    with _lock:
        if _monitor is None:
            _monitor = SimpleMemoryMonitor(check_interval_seconds, alert_threshold_percent, log_file)
            return _monitor
        has = _monitor
    asked: list[tuple[str, object, object]] = []
    if check_interval_seconds is not _INTERVAL:
        asked.append(("check_interval_seconds", check_interval_seconds, has.check_interval_seconds))
    if alert_threshold_percent is not _THRESHOLD:
        asked.append(("alert_threshold_percent", alert_threshold_percent, has.alert_threshold_percent))
    if log_file is not None:
        asked.append(("log_file", os.path.abspath(log_file), os.path.abspath(has.log_file)))
    differ = [f"{name} is {value!r}, not {want!r}" for name, want, value in asked if want != value]
    if differ:
        raise SettingsError(
            f"the monitor of this process exists already, and its {'; its '.join(differ)}; "
            "make a SimpleMemoryMonitor of your own, or call reset_monitor() first"
        )
    return has


def reset_monitor() -> None:
    """Stop the monitor of this process and forget it; the next ``get_monitor`` makes a new one."""
    global _monitor
    with _lock:
        monitor, _monitor = _monitor, None
    if monitor is not None:
        monitor.stop()
