"""The service and the optimizer of the old ``customer_snapshot.utils.memory_optimizer``.

Both are thin: the service is :class:`memwarden.guards.service.MemoryMonitoringService`, the optimizer's methods are
:mod:`memwarden.guards.budget.reclaim`.
"""

from __future__ import annotations

import functools
import mmap
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from memwarden.compat.config import Config
from memwarden.compat.support.locks import Lock
from memwarden.errors import SettingsError
from memwarden.guards import service as native
from memwarden.guards.budget.reclaim import CollectEvery, Freed, caches, clear_caches, force_garbage_collection
from memwarden.model import log
from memwarden.model.decisions import Outcome
from memwarden.model.events import Event, EventKind
from memwarden.model.serialize import iso
from memwarden.model.units import MIB
from memwarden.protocols import Clock, Reader
from memwarden.readers.factory import rss_function

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: A snapshot above so many times the mean of all is a spike.
SPIKE = 1.5
#: Bytes that a memory-mapped reader yields at a time.
MAPPED_CHUNK = MIB


class _Snapshots:
    """Resident sizes as they are sampled, as sums that do not grow."""

    max_delay = 0.0

    def __init__(self) -> None:
        self.count = self.spikes = self.total = self.peak = self.current = 0
        self.baseline: int | None = None
        self.wall = 0.0

    def record(self, event: Event) -> None:
        if event.kind is not EventKind.SAMPLE or event.value.sample.process is None:
            return
        size = event.value.sample.process.rss
        if self.baseline is None:
            self.baseline = size
        self.count += 1
        self.total += size
        self.spikes += size > SPIKE * self.total / self.count
        self.peak, self.current, self.wall = max(self.peak, size), size, event.wall

    def close(self) -> None:
        """Nothing is kept open."""


class MemoryMonitoringService:
    """Watches this process, by ``config``: ``memory_limit_mb`` is the limit that alerts go by.

    Alerts: usage above 80 and 90 % of the nearest limit, growth by more than 100 and 500 MB, less than 500 and 200 MB
    available; each rests before it is repeated. They are logged. ``readers`` and ``clock`` are there for tests.
    """

    def __init__(
        self,
        config: Config | None = None,
        interval: float = 30,
        *,
        readers: list[Reader] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.config = Config() if config is None else config
        self.interval = interval
        self._snapshots = _Snapshots()
        #: The native service underneath.
        self.service = native.MemoryMonitoringService(
            interval, self.config.memory_limit_mb * MIB, recorders=[self._snapshots], readers=readers, clock=clock
        )

    @property
    def running(self) -> bool:
        """Whether it watches."""
        return self.service.running

    def start(self) -> None:
        """Begin to watch; when it already does, nothing changes."""
        self.service.start()

    def stop(self) -> None:
        """End watching; returns at once, and no thread is left."""
        self.service.stop()

    def analyze(self) -> dict[str, Any]:
        """What was seen since the start; sizes in MB of 2**20 bytes, growth for each snapshot. Safe for JSON."""
        self.service.warden.flush(0.5)
        seen = self._snapshots
        told: dict[str, Any] = {"snapshots_count": seen.count, "service_running": self.running}
        if seen.baseline is None or seen.count < 2:
            return told | {"current_memory_mb": _current(), "error": "fewer than two snapshots so far"}
        last = self.service.warden.last
        trend, leak = (None, None) if last is None else (last.assessment.trend, last.assessment.leak)
        return told | {
            "trend": "stable" if trend is None else trend.word,
            "trend_confidence": 0.0 if trend is None else trend.confidence,
            "leak": "none" if leak is None else leak.stage.value,
            "leak_reason": "" if leak is None else leak.reason,
            "baseline_memory_mb": _mb(seen.baseline),
            "current_memory_mb": _mb(seen.current),
            "peak_memory_mb": _mb(seen.peak),
            "average_memory_mb": _mb(seen.total / seen.count),
            "memory_growth_rate_mb": round((seen.current - seen.baseline) / MIB / (seen.count - 1), 3),
            "memory_spikes": seen.spikes,
            "analysis_timestamp": iso(seen.wall),
        }


_lock = Lock()
_service: MemoryMonitoringService | None = None


def start_memory_monitoring(config: Config | None = None, interval: float = 30) -> MemoryMonitoringService:
    """Watch this process. A second call with the same arguments gives the service that runs; one with others stops
    that, says so in the log, and starts anew."""
    global _service
    wanted = Config() if config is None else config
    with _lock:
        before = _service
        if before is not None and before.running:
            if before.interval == interval and before.config.memory_limit_mb == wanted.memory_limit_mb:
                return before
            log.warn("memory monitoring starts anew, every %g s below %d MB", interval, wanted.memory_limit_mb)
            before.stop()
        service = _service = MemoryMonitoringService(wanted, interval)
        service.start()
        return service


def stop_memory_monitoring() -> None:
    """Watch no more; nothing happens where nothing is watched."""
    global _service
    with _lock:
        service, _service = _service, None
    if service is not None:
        service.stop()


def autostart(config: Config | None = None) -> MemoryMonitoringService | None:
    """Start monitoring where ``enable_memory_monitoring`` says so; None where it does not."""
    wanted = Config() if config is None else config
    return start_memory_monitoring(wanted) if wanted.enable_memory_monitoring else None


def get_memory_status() -> dict[str, Any]:
    """What the service saw (:meth:`MemoryMonitoringService.analyze`); without one ``current_memory_mb`` and
    ``service_running``. Safe for JSON."""
    service = _service
    if service is None or not service.running:
        return {"current_memory_mb": _current(), "service_running": False}
    return service.analyze()


class MemoryOptimizer:
    """Frees memory, reads files in pieces, and counts operations; made to be subclassed."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = Config() if config is None else config
        #: What the last collection freed.
        self.last_freed: Freed | None = None
        self._every = CollectEvery(self.config.gc_frequency)

    def force_garbage_collection(self) -> int:
        """Collect all garbage and trim the allocator; how many objects were freed (``last_freed`` has more)."""
        self.last_freed = force_garbage_collection()
        return self.last_freed.objects

    def clear_caches(self) -> Outcome:
        """Clear every registered cache; the outcome says which, and what came back."""
        return clear_caches()

    def operation_done(self, count: int = 1) -> Outcome | None:
        """So many operations more were done; every ``gc_frequency`` of them garbage is collected, rationed."""
        return self._every.done(count)

    def optimize_for_large_files(self) -> None:
        """Collect now, and ten times as often as ``gc_frequency`` says from now on."""
        self.force_garbage_collection()
        self._every = CollectEvery(max(1, self.config.gc_frequency // 10))

    def cached_operation(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """A decorator: remember the last 128 results, in a cache that :meth:`clear_caches` clears."""
        cached = functools.lru_cache(maxsize=128)(function)
        caches.register_lru(cached)
        return cached  # type: ignore[return-value]  # lru_cache hides the signature

    @contextmanager
    def memory_monitoring(self, operation: str = "operation") -> Iterator[None]:
        """Log how the resident size has changed over a block, as a debug message."""
        before = _current()
        try:
            yield
        finally:
            after = _current()
            if before is not None and after is not None:
                log.debug("%s: %+.1f MB", operation, after - before)

    def get_memory_efficient_reader(self, path: str | os.PathLike[str], chunk_size: int = 8192) -> Iterator[str]:
        """The text of a file in pieces of ``chunk_size`` characters."""
        size = _chunk(chunk_size)
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            while piece := file.read(size):
                yield piece

    def get_mmap_reader(self, path: str | os.PathLike[str], chunk_size: int = MAPPED_CHUNK) -> Iterator[bytes]:
        """The bytes of a file in pieces of ``chunk_size``, through a map of it; an empty file has none."""
        size = _chunk(chunk_size)
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                for at in range(0, len(mapped), size):
                    yield mapped[at : at + size]
                    if sys.platform == "linux":  # pages that were read count as ours until they are let go
                        mapped.madvise(mmap.MADV_DONTNEED)


def _chunk(size: int) -> int:
    if type(size) is not int or size < 1:
        raise SettingsError(f"chunk_size {size!r}: a whole number, 1 or more")
    return size


def _current() -> float | None:
    resident = rss_function()
    return None if resident is None else _mb(resident())


def _mb(size: float) -> float:
    return round(size / MIB, 1)
