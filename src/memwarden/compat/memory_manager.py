"""The memory monitor of the video programs: figures on demand, and callbacks when the level changes.

Differences from the original: figures are those of the container where there is one; levels have edges that
do not flap; where nothing can be read :class:`~memwarden.errors.ReadError` is raised, and nothing is made up.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from memwarden.compat.figures import Sources, figures_of, look_once
from memwarden.compat.locks import Lock
from memwarden.engine.clock import SystemClock
from memwarden.engine.warden import Warden
from memwarden.model.events import Event, EventKind
from memwarden.model.findings import PressureLevel, Reading
from memwarden.model.units import MIB
from memwarden.protocols import Clock
from memwarden.readers.sources import own_sources

#: The levels: ``"low"`` below 70 %, ``"moderate"`` from 70, ``"high"`` from 80, ``"critical"`` above 90.
MemoryPressureLevel = PressureLevel


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """Memory at one moment, in MB of 2**20 bytes, rounded down to one decimal. ``None``: it could not be read."""

    total_mb: float
    #: What this process may still take: the least that its container, the groups above it and the machine leave.
    available_mb: float
    used_mb: float
    percent_used: float
    swap_used_mb: float | None
    process_memory_mb: float | None
    pressure_level: PressureLevel
    #: Seconds since the epoch.
    timestamp: float
    #: Whose limit ``total_mb`` and ``percent_used`` refer to: ``"machine"``, ``"cgroup /docker/…"``.
    limit_source: str = ""


class MemoryMonitor:
    """Memory as it stands, whenever asked; watched in the background between ``start_`` and ``stop_monitoring``.

    ``update_interval`` is the pace in seconds; near a limit it looks more often. ``sources`` makes the
    readers and ``clock`` tells the time; both are there for tests.
    """

    def __init__(
        self, update_interval: float = 2.0, *, sources: Sources = own_sources, clock: Clock | None = None
    ) -> None:
        self._sources = sources
        self._clock: Clock = SystemClock() if clock is None else clock
        self._warden = Warden(sources(), interval=update_interval, clock=self._clock)

    @property
    def update_interval(self) -> float:
        """Seconds between two updates."""
        return self._warden.interval

    @property
    def monitoring(self) -> bool:
        """Whether it watches in the background."""
        return self._warden.running

    def get_current_stats(self) -> MemoryStats:
        """Memory now: a fresh look, also before monitoring was started.

        While monitoring the level is the watched one, which has seen the last minutes; else it is what the
        percentage alone says. Raises :class:`~memwarden.errors.ReadError` where memory cannot be read.
        """
        reading = look_once(self._sources, self._clock)
        last = self._warden.last if self._warden.running else None
        return _stats(reading, reading.assessment.raw if last is None else last.assessment.level)

    def start_monitoring(self) -> None:
        """Begin to watch; when it already does, nothing changes."""
        if not self._warden.running:
            self._warden.start()

    def stop_monitoring(self) -> None:
        """End watching; returns when its threads have ended."""
        self._warden.stop()

    def register_pressure_callback(
        self, level: PressureLevel, callback: Callable[[MemoryStats], object]
    ) -> Callable[[], None]:
        """Call ``callback(stats)`` each time that monitoring finds ``level`` entered; the result ends that.

        The level found first counts as entered. Callbacks run on a thread of their own: one that raises or
        hangs stops neither the watching nor the others.
        """
        wanted = PressureLevel(level)

        def receive(event: Event) -> None:
            if event.kind is not EventKind.LEVEL or event.value.level is not wanted or event.value.binding is None:
                return
            last = self._warden.last
            if last is not None:
                sample = last.sample._replace(wall=event.wall, monotonic=event.monotonic)
                callback(_stats(Reading(sample, event.value), wanted))

        # Under the callback's own name, which is told when it raises or hangs.
        return self._warden.subscribe(functools.update_wrapper(receive, callback))

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until all callbacks that are due have run; False when ``timeout`` seconds pass first."""
        return self._warden.flush(timeout)


def _stats(reading: Reading, level: PressureLevel) -> MemoryStats:
    figures = figures_of(reading)
    sample = reading.sample
    swap = None if sample.system is None else sample.system.swap_used
    for group in sample.cgroups:
        if figures.source == f"cgroup {group.path}" and group.swap is not None:
            swap = group.swap
    return MemoryStats(
        total_mb=_mb(figures.total),
        available_mb=_mb(figures.available),
        used_mb=_mb(figures.used),
        percent_used=figures.percent,
        swap_used_mb=None if swap is None else _mb(swap),
        process_memory_mb=None if sample.process is None else _mb(sample.process.rss),
        pressure_level=level,
        timestamp=sample.wall,
        limit_source=figures.source,
    )


def _mb(size: int) -> float:
    return size * 10 // MIB / 10  # rounded down: 1023.96 is less than 1024


_lock = Lock()
_monitor: MemoryMonitor | None = None


def get_memory_monitor() -> MemoryMonitor:
    """The monitor of this process: every caller gets the same one, so all share one background thread."""
    global _monitor
    with _lock:
        if _monitor is None:
            _monitor = MemoryMonitor()
        return _monitor
