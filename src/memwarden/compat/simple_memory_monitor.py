"""The simple monitor: a check every few minutes, an alert above a threshold, a trend, a log of JSON lines.

Differences from the original, apart from fixed faults:

* Figures are those of the container where there is one, not only the machine's.
* Without ``log_file`` the log is ``memory_monitor.log`` in this user's own state directory. A name in a
  shared directory such as ``/tmp`` may exist already, as a link to another file for one, and Windows has no such
  directory.
* The log is kept open, flushed at every entry that is not a check, and rotated at 64 MiB.
* A second ``get_monitor`` that asks for something else is refused (see there).
* The trend is one of three words; below six readings it is "stable", and the count stands beside it.

Entries of the log hold their numbers as strings. A check that could not be made is an entry with
``event_type`` "GAP", and no figures; where memory is back below the threshold stands one with "CLEARED".
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from memwarden.compat.support.alert import AlertCallback as AlertCallback
from memwarden.compat.support.alert import MemoryAlert as MemoryAlert
from memwarden.compat.support.checks import Checks
from memwarden.compat.support.locks import Lock
from memwarden.compat.support.metrics import MemoryMetrics as MemoryMetrics
from memwarden.compat.support.metrics import percent_text
from memwarden.compat.support.processes import largest_processes
from memwarden.compat.support.readings import Readings, Sources, figures_of, iso, look_once, moment, whole_mb
from memwarden.compat.support.shared import SYSTEM_CLOCK, shared
from memwarden.errors import ReadError, SettingsError
from memwarden.model.units import parse_duration
from memwarden.policy.presets import interval_for
from memwarden.protocols import Clock
from memwarden.readers.factory import default_readers
from memwarden.records.paths import state_directory

#: What ``start`` waits for the first check to be written, at most.
FIRST_CHECK_SECONDS = 1.0


class SimpleMemoryMonitor:
    """Checks memory every ``check_interval_seconds``, alerts above ``alert_threshold_percent``, keeps a log.

    ``alert_callback(percent)`` is called at each alert, on a thread of its own: one that raises or hangs
    stops no check. ``utc_offset`` writes times with their offset instead of naive local time. ``sources`` (makes
    the readers) and ``clock`` are there for tests.
    """

    def __init__(
        self,
        check_interval_seconds: float = 300,
        alert_threshold_percent: float = 80.0,
        log_file: str | os.PathLike[str] | None = None,
        *,
        alert_callback: AlertCallback | None = None,
        utc_offset: bool = False,
        sources: Sources = default_readers,
        clock: Clock | None = None,
    ) -> None:
        parse_duration(check_interval_seconds)
        self.check_interval_seconds = check_interval_seconds
        self.log_file = Path(state_directory(), "memory_monitor.log") if log_file is None else Path(log_file)
        self._asked_for_log = log_file is not None
        self._utc_offset, self._sources = utc_offset, sources
        self._clock: Clock = SYSTEM_CLOCK if clock is None else clock
        self.metrics = MemoryMetrics(clock=self._clock, utc_offset=utc_offset)
        self.alert = MemoryAlert(alert_threshold_percent, alert_callback, clock=self._clock, utc_offset=utc_offset)
        self._shared = shared(sources, self._clock)
        self._started = 0.0
        self._ended: float | None = None

    @property
    def alert_threshold_percent(self) -> float:
        """The percentage above which an alert is raised."""
        return self.alert.threshold_percent

    @property
    def running(self) -> bool:
        """True while it checks in the background."""
        return self._shared.has(self)

    def start(self) -> SimpleMemoryMonitor:
        """Write START, make the first check, and go on in a daemon thread. When it already runs nothing changes.

        All monitors of a process share that thread. Raises :class:`~memwarden.errors.RecordError` when the log file
        that was asked for cannot be written; the default one is missed with a warning in the program's log.
        """
        checks = Checks(
            self.log_file, self.metrics, self.alert, self._utc_offset, self._clock, lambda: self._shared.warden.last
        )
        started = self._clock.monotonic()
        # The callback behind the check that raised the alert: one that hangs is set aside alone.
        receivers = [checks.record, checks.alert_callback]
        if not self._shared.join(self, self.check_interval_seconds, receivers, [checks.rule], checks.stop):
            return self
        self._started, self._ended = started, None
        checks.checked.wait(FIRST_CHECK_SECONDS)
        if checks.trouble is not None and self._asked_for_log:
            self.stop()
            raise checks.trouble
        return self

    def stop(self) -> None:
        """Stop the checks, write STOP, and leave no thread that no other monitor needs; returns at once."""
        ended = self._clock.monotonic()
        if self._shared.leave(self):
            self._ended = ended

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until the checks made so far are recorded; False when ``timeout`` seconds pass first."""
        return self._shared.warden.flush(timeout)

    def _uptime(self) -> float:
        if self.running:
            return self._clock.monotonic() - self._started
        return 0.0 if self._ended is None else self._ended - self._started

    def get_status(self) -> dict[str, Any]:
        """Memory now (a fresh sample) and whether it is checked; ``error`` has the reason for missing figures.

        Texts as the original gave them; the numbers stand beside them as ``percent``, ``used_bytes``,
        ``available_bytes``, ``total_bytes`` and ``uptime_seconds``.
        """
        return self._status(self._figures())

    def _figures(self) -> Readings | ReadError:
        try:
            return figures_of(look_once(self._sources, self._clock))
        except ReadError as error:
            return error

    def _status(self, figures: Readings | ReadError) -> dict[str, Any]:
        uptime = self._uptime()
        if isinstance(figures, ReadError):
            known: dict[str, Any] = dict.fromkeys(
                ("memory_used_mb", "memory_available_mb", "memory_total_mb", "percent")
            )
            known |= {"memory_percent": None, "status": "unknown", "error": str(figures)}
        else:
            known = {
                "memory_percent": percent_text(figures.percent),
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
            "monitoring": self.running,
            "uptime": str(timedelta(seconds=int(uptime))),
            "uptime_seconds": uptime,
        }

    def get_detailed_status(self) -> dict[str, Any]:
        """``system_memory``, ``metrics`` and the five largest processes that can be seen (``top_processes``).

        A process's ``memory_percent`` is its resident size as a share of the same limit, a number as text
        without the sign. ``gaps`` lists what could not be read.
        """
        figures = self._figures()
        status = self._status(figures)
        processes, gaps = largest_processes(5)
        problems = [str(ReadError(*gap)) for gap in gaps]
        shares: list[float | None]
        if isinstance(figures, ReadError):
            problems.insert(0, str(figures))
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
            "gaps": problems,
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
#: The defaults as objects of their own: a 300 in a call is another object, which distinguishes it from an argument
#: that was left out.
_INTERVAL, _THRESHOLD = float("300"), float("80")


def get_monitor(
    check_interval_seconds: float = _INTERVAL,
    alert_threshold_percent: float = _THRESHOLD,
    log_file: str | os.PathLike[str] | None = None,
) -> SimpleMemoryMonitor:
    """The monitor of this process, made by the first call, with its values.

    A later call may leave arguments out. One with another value than the monitor's raises
    :class:`~memwarden.errors.SettingsError`: its caller would otherwise wait for alerts, or read a log, that never
    come, and a warning is easily missed. Use a ``SimpleMemoryMonitor`` of your own for a second set of values, or
    ``reset_monitor()`` first.
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


def check_interval_for(duration: float | str) -> int:
    """Seconds between two checks in a run of this length (seconds, or ``"90m"``, ``"2d"``).

    A minute below one hour, five minutes up to a day, ten minutes beyond.
    """
    return int(interval_for(parse_duration(duration)))
