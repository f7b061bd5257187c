"""The memory monitor of the video programs: figures on demand, and callbacks when the level changes.

Differences from the original: figures are those of the container where there is one; levels have hysteresis;
where nothing can be read :class:`~memwarden.errors.ReadError` is raised, and nothing is made up.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from memwarden.actions.caches import Caches
from memwarden.actions.gate import Gate
from memwarden.actions.targets import Target
from memwarden.compat.support.locks import Lock
from memwarden.compat.support.process_info import ProcessInfo, TrackedProcesses
from memwarden.compat.support.readings import Sources, figures_of, look_once
from memwarden.compat.support.shared import SYSTEM_CLOCK, Shared, shared
from memwarden.model.events import Event, EventKind
from memwarden.model.units import MIB, parse_duration
from memwarden.model.verdicts import PressureLevel, Reading
from memwarden.policy.presets import emergency
from memwarden.policy.rules import Rule
from memwarden.protocols import Clock
from memwarden.readers.factory import default_readers

#: The levels: ``"low"`` below 70 %, ``"moderate"`` from 70, ``"high"`` from 80, ``"critical"`` above 90.
MemoryPressureLevel = PressureLevel

#: The actions of each level. No process is paused or terminated below CRITICAL, and none that was not registered as
#: non-essential. The emergency uses the percentage of CRITICAL without hysteresis: a level is left half a minute after
#: memory is free again, and in that time no process must be terminated.
RULES = (
    Rule(name="gentle collection", when="level >= MODERATE", then="collect"),
    Rule(name="aggressive cleanup", when="level >= HIGH", then=("collect", "trim", "caches")),
    emergency(),
)


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """Memory at one moment, in MB of 2**20 bytes, rounded down to one decimal. ``None``: it could not be read."""

    total_mb: float
    #: What this process may still allocate: the least headroom of its container, the groups above it and the machine.
    available_mb: float
    used_mb: float
    percent_used: float
    swap_used_mb: float | None
    process_memory_mb: float | None
    pressure_level: PressureLevel
    #: Seconds since the epoch.
    timestamp: float
    #: The limit that ``total_mb`` and ``percent_used`` refer to: ``"machine"``, ``"cgroup /docker/…"``.
    limit_source: str = ""


class MemoryMonitor:
    """Memory as it stands, whenever asked; watched in the background between ``start_`` and ``stop_monitoring``.

    ``update_interval`` is in seconds; near a limit samples are taken more often. ``sources`` (makes the readers),
    ``clock`` and ``tracked`` (the registered processes) are there for tests.
    """

    def __init__(
        self,
        update_interval: float = 2.0,
        *,
        sources: Sources = default_readers,
        clock: Clock | None = None,
        tracked: TrackedProcesses | None = None,
    ) -> None:
        #: Seconds between two updates.
        self.update_interval = parse_duration(update_interval)
        self._sources = sources
        self._clock: Clock = SYSTEM_CLOCK if clock is None else clock
        self._shared = shared(sources, self._clock)
        self._callbacks: list[_OnLevel] = []
        self._tracked = TrackedProcesses(self._shared.warden.targets) if tracked is None else tracked

    @property
    def monitoring(self) -> bool:
        """True while it watches in the background."""
        return self._shared.has(self)

    def get_current_stats(self) -> MemoryStats:
        """Memory now: a fresh sample, also before monitoring was started.

        While monitoring the level is the watched one, which has seen the last minutes; else that of the
        percentage alone. Raises :class:`~memwarden.errors.ReadError` where memory cannot be read.
        """
        return self.stats_of(self.look())

    def stats_of(self, reading: Reading) -> MemoryStats:
        """The same figures of an earlier sample. Raises :class:`~memwarden.errors.ReadError`."""
        last = self._shared.warden.last if self.monitoring else None
        return _stats(reading, reading.assessment.raw if last is None else last.assessment.level)

    def look(self) -> Reading:
        """The same as a native value, with everything that could be read and what could not."""
        return look_once(self._sources, self._clock)

    @property
    def caches(self) -> Caches:
        """Caches that may be cleared from HIGH on: ``monitor.caches.register(clear, name)``."""
        return self._shared.warden.caches

    @property
    def gate(self) -> Gate:
        """New work passes it (``with monitor.gate.admitted():``); it is closed while memory is critical."""
        return self._shared.warden.gate

    def start_monitoring(self) -> None:
        """Start to watch, and to act by level; when it already does, nothing changes.

        MODERATE: garbage is collected, rationed. HIGH: the allocator is trimmed and registered caches are cleared, too.
        CRITICAL: step by step, each only if a fresh sample is still critical: no new work is admitted, memory is
        collected, trimmed and cleared, and processes tracked with ``essential=False`` are paused and then terminated.
        What can be undone is, when memory is free again or monitoring stops. All monitors of a process share one
        thread.
        """
        if not self.monitoring:
            for callback in self._callbacks:
                callback.seen = None
            self._shared.join(self, self.update_interval, [_pass, *self._callbacks], RULES)

    def stop_monitoring(self) -> None:
        """Stop watching; returns when the threads that no other monitor needs have ended."""
        self._shared.leave(self)

    def register_pressure_callback(
        self, level: PressureLevel, callback: Callable[[MemoryStats], object]
    ) -> Callable[[], None]:
        """Call ``callback(stats)`` each time that monitoring finds ``level`` entered; the result ends that.

        The level found first counts as entered. Callbacks run on a thread of their own: one that raises or
        hangs stops neither the watching nor the others.
        """
        receiver = _OnLevel(self._shared, PressureLevel(level), callback)
        self._callbacks.append(receiver)
        end = self._shared.add(self, receiver)

        def take_off() -> None:
            if receiver in self._callbacks:
                self._callbacks.remove(receiver)
            receiver.ended = True
            end()

        return take_off

    def track_process(self, pid: int, name: str = "", is_ffmpeg: bool = False, *, essential: bool = True) -> Target:
        """Track the process that has this pid now.

        With ``essential=False`` it may be paused and then terminated when memory is critical; others never are.
        Raises :class:`~memwarden.errors.ReadError` when there is no such process, and
        :class:`~memwarden.errors.ActionFailed` when it is this one and not essential.
        """
        return self._tracked.track(pid, name, is_ffmpeg, essential)

    def untrack_process(self, pid: int) -> None:
        """Forget it; nothing happens when it is not tracked."""
        self._tracked.targets.untrack_process(pid)

    def get_tracked_processes(self) -> list[ProcessInfo]:
        """Tracked processes that still run, each measured now."""
        return self._tracked.living()

    def get_ffmpeg_processes(self) -> list[ProcessInfo]:
        """Those of them that were tracked as FFmpeg."""
        return [each for each in self._tracked.living() if each.is_ffmpeg]

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until all callbacks that are due have run; False when ``timeout`` seconds pass first."""
        return self._shared.warden.flush(timeout)


class _OnLevel:
    """Calls back when its level is entered."""

    def __init__(self, shared: Shared, wanted: PressureLevel, callback: Callable[[MemoryStats], object]) -> None:
        self.ended = False
        self._shared, self._wanted, self._callback = shared, wanted, callback
        #: The last level; None where none was found since the start.
        self.seen: PressureLevel | None = None
        functools.update_wrapper(self, callback)  # reports of an exception or a hang use that name

    def __call__(self, event: Event) -> None:
        last = event.value if event.kind is EventKind.SAMPLE else self._shared.warden.last
        if event.kind not in (EventKind.SAMPLE, EventKind.LEVEL) or last is None:
            return
        reading = last
        if event.kind is EventKind.LEVEL:
            reading = Reading(last.sample._replace(wall=event.wall, monotonic=event.monotonic), event.value)
        if reading.assessment.binding is None:
            return
        before, self.seen = self.seen, reading.assessment.level
        if self.seen is self._wanted is not before and not self.ended:
            self._callback(_stats(reading, self.seen))


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


def _pass(event: Event) -> None:
    """Samples are asked for when they are wanted."""


_lock = Lock()
_monitor: MemoryMonitor | None = None


def get_memory_monitor() -> MemoryMonitor:
    """The monitor of this process: every caller gets the same one, so all share one background thread."""
    global _monitor
    with _lock:
        if _monitor is None:
            _monitor = MemoryMonitor()
        return _monitor
