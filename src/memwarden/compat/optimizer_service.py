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
    """Running totals of sampled resident sizes."""

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
        """Do nothing: there is nothing to close."""


class MemoryMonitoringService:
    """Monitors this process against ``memory_limit_mb`` of ``config``.

    Alerts: usage above 80 and 90 % of the nearest limit, growth by more than 100 and 500 MB, less than 500 and 200 MB
    available; each has a pause before it is repeated. They are logged. ``readers`` and ``clock`` are for tests.
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
        """True while it runs."""
        return self.service.running

    def start(self) -> None:
        """Start monitoring; nothing changes where it runs already."""
        self.service.start()

    def stop(self) -> None:
        """Stop monitoring; return at once, and leave no thread."""
        self.service.stop()

    def analyze(self) -> dict[str, Any]:
        """Return a summary since the start; sizes in MB of 2**20 bytes, growth per snapshot. Safe for JSON."""
        self.service.warden.flush(0.5)
        totals = self._snapshots
        result: dict[str, Any] = {"snapshots_count": totals.count, "service_running": self.running}
        if totals.baseline is None or totals.count < 2:
            return result | {"current_memory_mb": _current(), "error": "fewer than two snapshots so far"}
        last = self.service.warden.last
        trend, leak = (None, None) if last is None else (last.assessment.trend, last.assessment.leak)
        return result | {
            "trend": "stable" if trend is None else trend.word,
            "trend_confidence": 0.0 if trend is None else trend.confidence,
            "leak": "none" if leak is None else leak.stage.value,
            "leak_reason": "" if leak is None else leak.reason,
            "baseline_memory_mb": _mb(totals.baseline),
            "current_memory_mb": _mb(totals.current),
            "peak_memory_mb": _mb(totals.peak),
            "average_memory_mb": _mb(totals.total / totals.count),
            "memory_growth_rate_mb": round((totals.current - totals.baseline) / MIB / (totals.count - 1), 3),
            "memory_spikes": totals.spikes,
            "analysis_timestamp": iso(totals.wall),
        }


_lock = Lock()
_service: MemoryMonitoringService | None = None


def start_memory_monitoring(config: Config | None = None, interval: float = 30) -> MemoryMonitoringService:
    """Start monitoring this process. A second call with the same arguments returns the running service; one with others
    restarts it and logs that."""
    global _service
    wanted = Config() if config is None else config
    with _lock:
        before = _service
        if before is not None and before.running:
            if before.interval == interval and before.config.memory_limit_mb == wanted.memory_limit_mb:
                return before
            log.warn(
                "restarting memory monitoring with interval %g s and limit %d MB", interval, wanted.memory_limit_mb
            )
            before.stop()
        service = _service = MemoryMonitoringService(wanted, interval)
        service.start()
        return service


def stop_memory_monitoring() -> None:
    """Stop monitoring; nothing happens where it does not run."""
    global _service
    with _lock:
        service, _service = _service, None
    if service is not None:
        service.stop()


def autostart(config: Config | None = None) -> MemoryMonitoringService | None:
    """Start monitoring where ``enable_memory_monitoring`` is true; else return None."""
    wanted = Config() if config is None else config
    return start_memory_monitoring(wanted) if wanted.enable_memory_monitoring else None


def get_memory_status() -> dict[str, Any]:
    """Return :meth:`MemoryMonitoringService.analyze`; without a service only the current memory."""
    service = _service
    if service is None or not service.running:
        return {"current_memory_mb": _current(), "service_running": False}
    return service.analyze()


class MemoryOptimizer:
    """Frees memory, reads files in chunks, and counts operations; a base class."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = Config() if config is None else config
        #: What the last collection freed.
        self.last_freed: Freed | None = None
        self._every = CollectEvery(self.config.gc_frequency)

    def force_garbage_collection(self) -> int:
        """Collect garbage and trim the allocator; return the number of freed objects (``last_freed`` has more)."""
        self.last_freed = force_garbage_collection()
        return self.last_freed.objects

    def clear_caches(self) -> Outcome:
        """Clear every registered cache; the outcome names them and the memory that left the process."""
        return clear_caches()

    def operation_done(self, count: int = 1) -> Outcome | None:
        """Count operations; collect garbage every ``gc_frequency`` of them, rationed."""
        return self._every.done(count)

    def optimize_for_large_files(self) -> None:
        """Collect now, and ten times as often as ``gc_frequency`` from now on."""
        self.force_garbage_collection()
        self._every = CollectEvery(max(1, self.config.gc_frequency // 10))

    def cached_operation(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """Decorate a function: cache its last 128 results; :meth:`clear_caches` clears them."""
        cached = functools.lru_cache(maxsize=128)(function)
        caches.register_lru(cached)
        return cached  # type: ignore[return-value]  # lru_cache hides the signature

    @contextmanager
    def memory_monitoring(self, operation: str = "operation") -> Iterator[None]:
        """Log the change of the resident size over a block, at DEBUG."""
        before = _current()
        try:
            yield
        finally:
            after = _current()
            if before is not None and after is not None:
                log.debug("%s: %+.1f MB", operation, after - before)

    def get_memory_efficient_reader(self, path: str | os.PathLike[str], chunk_size: int = 8192) -> Iterator[str]:
        """Yield the text of a file in chunks of ``chunk_size`` characters."""
        size = _chunk(chunk_size)
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            while piece := file.read(size):
                yield piece

    def get_mmap_reader(self, path: str | os.PathLike[str], chunk_size: int = MAPPED_CHUNK) -> Iterator[bytes]:
        """Yield the bytes of a file in chunks of ``chunk_size``, through a memory map."""
        size = _chunk(chunk_size)
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                for at in range(0, len(mapped), size):
                    yield mapped[at : at + size]
                    if sys.platform == "linux":  # pages that were read count as resident until released
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
