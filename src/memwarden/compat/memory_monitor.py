"""The old ``fileintel.utils.memory_monitor``: memory of one task, logged at its start, at checkpoints and at its end.

Native are :class:`memwarden.MemoryTracker` and :func:`memwarden.force_garbage_collection`; here are the old names,
shapes and lines. Differences from the original: the peak between two checkpoints is the kernel's; percentages are
shares of the container's limit where there is one; a figure that cannot be read is None, with its gap; the collection
after a task is rationed, and free memory of the allocator is returned to the system.
"""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from memwarden.actions.collect import SHARE
from memwarden.compat.support.readings import Sources, iso, moment
from memwarden.compat.support.task_report import (
    MemoryPoint,
    denominator,
    gb,
    mb,
    nothing,
    one_line,
    read_now,
    resident,
    rounded,
    share,
    shown,
    signed,
    swap,
)
from memwarden.errors import MemwardenError, ReadError, SettingsError
from memwarden.guards.budget.reclaim import Freed
from memwarden.guards.budget.reclaim import force_garbage_collection as _collect
from memwarden.guards.measure.peak_rss import PeakScopes, peak_scopes
from memwarden.guards.measure.tracker import MemoryTracker
from memwarden.model import log
from memwarden.model.units import MIB
from memwarden.model.verdicts import Reading
from memwarden.readers.factory import default_readers, tree_reader
from memwarden.readers.gc_objects import GcObjects, gc_objects
from memwarden.readers.linux.process import read_pss

#: Peak of a task in MB, and use of the limit in percent, above which a warning is logged.
PEAK_WARNING_MB, PERCENT_WARNING = 1000.0, 80.0
#: Default of :func:`check_memory_threshold`.
THRESHOLD_MB = 3000.0
#: A collection that returns more than this many MB is logged.
FREED_LOGGED_MB = 10.0
_INFO, _WARNING = 20, 30  # those of logging


class MemoryMonitor:
    """Memory of one task. ``enable_gc`` collects garbage at its end, on at most 1 % of the time.

    ``peak_warning_mb`` and ``percent_warning`` are the thresholds of warnings for the peak of the task and the use of
    the limit; the first warning names ``task_id``. Monitors may be nested and used side by side: each has its own peak.
    ``sources``, ``objects`` and ``scopes`` are there for tests. Raises :class:`SettingsError` for a bad threshold.
    """

    def __init__(
        self,
        task_name: str = "task",
        enable_gc: bool = True,
        *,
        task_id: str = "",
        peak_warning_mb: float = PEAK_WARNING_MB,
        percent_warning: float = PERCENT_WARNING,
        sources: Sources = default_readers,
        objects: GcObjects = gc_objects,
        scopes: PeakScopes = peak_scopes,
    ) -> None:
        self.task_name, self.task_id, self.enable_gc = task_name, task_id, enable_gc
        self.peak_warning_mb = _above_zero("peak_warning_mb", peak_warning_mb)
        self.percent_warning = _above_zero("percent_warning", percent_warning)
        self._sources, self._census = sources, objects
        self._reading = nothing(ReadError("memory", "this process", "absent", "not read yet"))
        self._tracker = MemoryTracker(read=self._given, objects=objects, scopes=scopes)
        self._running = False
        self._start: int | None = None
        self._summary: dict[str, Any] | None = None

    def start_monitoring(self) -> None:
        """Log START, and count delta and peak from here; called again, from there."""
        self._tracker.close()
        self._running, self._summary = True, None
        point = self._look()
        self._start = point.rss
        self._log("START", point)

    def checkpoint(self, label: str) -> None:
        """Log memory now, under a label."""
        self._log(f"checkpoint:{one_line(label)}", self._look())

    def get_memory_info(self) -> dict[str, Any]:
        """Return memory now; all keys are always present, None where a figure could not be read (see ``gaps``).

        ``process`` also has ``children_mb`` and ``pss_mb``, which walk the child processes and the page tables of this
        one: some 20 µs for each MB.
        """
        point = self._look()
        gaps = list(point.gaps)
        info = self._info(point)
        info["process"] |= {
            "children_mb": mb(_measured(gaps, _children)),
            "pss_mb": mb(_measured(gaps, lambda: read_pss(os.getpid()))),
        }
        return info | {"gaps": gaps}

    def finish_monitoring(self) -> dict[str, Any]:
        """Log FINISH with delta and peak, collect garbage, and return both as a summary in MB.

        The figures are from before the collection. A second call returns the same summary; without a start its
        ``start_mb`` and ``delta_mb`` are None.
        """
        if self._summary is None:
            self._summary = self._end("FINISH")
        return dict(self._summary)

    def force_garbage_collection(self) -> dict[str, Any]:
        """Collect garbage of all generations now and return free memory of the allocator to the system.

        Not rationed. ``freed_mb`` is memory that left the process; None where not measured.
        """
        freed = _force()
        return {
            "before_mb": mb(freed.before),
            "after_mb": mb(freed.after),
            "freed_mb": mb(freed.returned),
            "objects_collected": freed.objects,
            "collections_by_generation": dict(zip(("gen0", "gen1", "gen2"), freed.generations, strict=True)),
        }

    def _end(self, what: str) -> dict[str, Any]:
        """Log the last line of a task and its warning, and collect garbage."""
        running, start, point = self._running, self._start, self._look()
        self._tracker.close()
        self._running, self._start = False, None
        delta = None if not running or start is None or point.rss is None else point.rss - start
        self._log(f"{what} (delta={signed(delta)}, peak={shown(point.peak)})", point)
        if point.peak is not None and point.peak > self.peak_warning_mb * MIB:
            name = one_line(f"{self.task_name}[{self.task_id}]" if self.task_id else self.task_name)
            log.warn("Task %s used significant memory: peak=%s, delta=%s", name, shown(point.peak), signed(delta))
        if self.enable_gc:
            _collect_rationed()
        return {
            "task_name": self.task_name,
            "start_mb": mb(start if running else None),
            "finish_mb": mb(point.rss),
            "peak_mb": mb(point.peak),
            "delta_mb": mb(delta),
        }

    def _given(self) -> Reading:
        return self._reading

    def _look(self) -> MemoryPoint:
        self._reading = reading = read_now(self._sources)
        sample = reading.sample
        gaps = [str(ReadError(*gap)) for gap in sample.gaps]
        snapshot = peak = None
        try:
            peak = self._tracker.peak if self._running else 0
            snapshot = self._tracker.now()
        except ReadError as error:
            gaps.append(str(error))
        if not self._running:
            self._tracker.close()
        if snapshot is not None:
            objects, age = snapshot.objects, snapshot.objects_age
        else:
            objects, age = self._census.objects()
        return MemoryPoint(
            wall=sample.wall,
            rss=resident(sample) if snapshot is None else snapshot.rss,
            peak=None if snapshot is None or peak is None else max(peak, snapshot.rss),
            vms=None if sample.process is None else sample.process.vms,
            whole=denominator(sample),
            available=reading.assessment.available,
            objects=objects,
            objects_age=age,
            gaps=tuple(dict.fromkeys(gaps)),
        )

    def _info(self, point: MemoryPoint) -> dict[str, Any]:
        return {
            "timestamp": iso(moment(point.wall, utc_offset=True)),
            "task_name": self.task_name,
            "process": {
                "pid": os.getpid(),
                "rss_mb": mb(point.rss),
                "vms_mb": mb(point.vms),
                "percent": rounded(point.percent),
                "peak_mb": mb(point.peak),
            },
            "system": {
                "total_mb": mb(None if point.whole is None else point.whole.limit.bytes),
                "available_mb": mb(point.available),
                "used_percent": rounded(point.system_percent),
                "limit_source": "" if point.whole is None else point.whole.limit.source,
            },
            "gc": {
                "collections": list(gc.get_count()),
                "objects": point.objects,
                "objects_age_seconds": round(point.objects_age, 3),
            },
            "gaps": list(point.gaps),
        }

    def _log(self, what: str, point: MemoryPoint) -> None:
        percent = point.percent
        high = percent is not None and percent > self.percent_warning
        line = (
            f"Memory [{one_line(self.task_name)}] {what}: RSS={shown(point.rss)} (peak={shown(point.peak)}), "
            f"Process%={share(percent)}, System={share(point.system_percent)}, GC objects={point.objects:,}"
        )
        if point.gaps:
            line += f" [not read: {one_line('; '.join(point.gaps))}]"
        extra = log.extra_of(None) | {"memwarden": self._info(point), "memwarden_kind": "task"}
        prefix = "HIGH MEMORY USAGE: " if high else ""
        log.logger().log(_WARNING if high else _INFO, "%s", prefix + line, extra=extra)


def check_memory_threshold(threshold_mb: float = THRESHOLD_MB, *, sources: Sources = default_readers) -> bool:
    """Return True where this process uses at most ``threshold_mb``; else log a warning and return False.

    Where its memory cannot be read an error is logged, and True returned.
    """
    threshold = _above_zero("threshold_mb", threshold_mb)
    sample = read_now(sources).sample
    if sample.process is None:
        why = "; ".join(str(ReadError(*gap)) for gap in sample.gaps) or "no reader covers this process"
        log.error("Memory threshold of %.1fMB was not checked: %s", threshold, one_line(why))
        return True
    rss = sample.process.rss
    if rss > threshold * MIB:
        log.warn("Memory threshold exceeded: RSS=%s, threshold=%.1fMB", shown(rss), threshold)
        return False
    return True


def get_system_memory_summary(*, sources: Sources = default_readers) -> dict[str, Any]:
    """Return memory and swap of the container where it has a limit, else of the machine; in GB of 2**30 bytes.

    None: could not be read, see ``gaps``. ``available_gb`` is the least headroom of container and machine.
    """
    sample, assessment = read_now(sources)
    whole, (total, used) = denominator(sample), swap(sample)
    return {
        "virtual_memory": {
            "total_gb": gb(None if whole is None else whole.limit.bytes),
            "available_gb": gb(assessment.available),
            "used_gb": gb(None if whole is None else whole.used),
            "percent": rounded(None if whole is None else 100 * whole.ratio),
            "limit_source": "" if whole is None else whole.limit.source,
        },
        "swap_memory": {
            "total_gb": gb(total),
            "used_gb": gb(used),
            "percent": None if total is None or used is None else round(100 * used / total, 2) if total else 0.0,
        },
        "gaps": [str(ReadError(*gap)) for gap in sample.gaps],
    }


def log_worker_memory_summary(*, sources: Sources = default_readers) -> None:
    """Log one line about this process."""
    sample, assessment = read_now(sources)
    whole, rss = denominator(sample), resident(sample)
    percent = None if whole is None or rss is None else 100 * rss / whole.limit.bytes
    line = (
        f"Worker memory summary: PID={os.getpid()}, RSS={shown(rss)}, Process%={share(percent)}, "
        f"System={share(None if whole is None else 100 * whole.ratio)} (available={shown(assessment.available)})"
    )
    log.logger().info("%s", line, extra=log.extra_of(None))


def _children() -> int:
    """Return the memory of all child processes; shared pages count once for each."""
    me = os.getpid()
    with closing(tree_reader(me)) as reader:
        rows = reader.read()["tree"].rows()
    return sum(row.rss for row in rows if row.key.pid != me)


def _measured(gaps: list[str], read: Callable[[], int]) -> int | None:
    try:
        return read()
    except MemwardenError as error:
        gaps.append(str(error))
        return None


# --- collecting ---------------------------------------------------------------------------------------

#: Monotonic time of the next collection after a task; shared by all tasks of a process.
_next_collection = float("-inf")


def _collect_rationed() -> None:
    """Collect within the ration; do nothing in a program that has disabled the collector."""
    if gc.isenabled() and time.monotonic() >= _next_collection:
        _force()


def _force() -> Freed:
    global _next_collection
    freed = _collect()
    _next_collection = time.monotonic() + freed.seconds / SHARE
    if freed.returned is not None and freed.returned > FREED_LOGGED_MB * MIB:
        log.logger().info(
            "Garbage collection freed %s (%d objects)", shown(freed.returned), freed.objects, extra=log.extra_of(None)
        )
    return freed


def _above_zero(name: str, value: float) -> float:
    if type(value) not in (int, float) or not (math.isfinite(value) and value > 0):
        raise SettingsError(f"{name} {value!r}: a number above zero, such as {THRESHOLD_MB:.0f}")
    return float(value)
