"""The old ``fileintel.utils.memory_monitor``: what one task takes, told to the log at its start, at points, at its end.

Native are :class:`memwarden.MemoryTracker` and :func:`memwarden.force_garbage_collection`; here are the old names,
shapes and lines. Differences from the original: the peak is the kernel's, so that one between two points is seen;
percentages are shares of the container's limit where there is one; what cannot be read is None and told, and never a
KeyError; the collection after a task is rationed, and what the allocator keeps is given back.
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

#: A task whose peak is above this many MB is a warning, and a process above this percentage of its limit.
PEAK_WARNING_MB, PERCENT_WARNING = 1000.0, 80.0
#: What :func:`check_memory_threshold` compares with when nothing is said.
THRESHOLD_MB = 3000.0
#: A collection is told when more than this many MB came back.
FREED_LOGGED_MB = 10.0
_INFO, _WARNING = 20, 30  # those of logging


class MemoryMonitor:
    """Memory of one task. ``enable_gc`` collects garbage at its end, on at most 1 % of the time.

    ``peak_warning_mb`` and ``percent_warning`` are what a task's peak and the process's share may be without a warning;
    ``task_id`` stands in the first of these. Monitors may be nested and used side by side: each has its own peak.
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
        self._tell("START", point)

    def checkpoint(self, label: str) -> None:
        """Log memory now, under a name of yours."""
        self._tell(f"checkpoint:{one_line(label)}", self._look())

    def get_memory_info(self) -> dict[str, Any]:
        """Memory now; its keys are always there, None where something could not be read (``gaps`` say why).

        ``process`` has ``children_mb`` and ``pss_mb`` besides, for which all processes below this one and its page
        tables are gone through: some 20 µs for each MB.
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

        The summary is of before the collection: it tells what the task left behind. Called again it is the same;
        without a start its ``start_mb`` and ``delta_mb`` are None.
        """
        if self._summary is None:
            self._summary = self._end("FINISH")
        return dict(self._summary)

    def force_garbage_collection(self) -> dict[str, Any]:
        """Collect garbage of all generations now and have the allocator give back what it keeps.

        Not rationed. ``freed_mb`` is what really left the process; None where that could not be measured.
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
        """The last line of a task, its warning and its collection."""
        running, start, point = self._running, self._start, self._look()
        self._tracker.close()
        self._running, self._start = False, None
        delta = None if not running or start is None or point.rss is None else point.rss - start
        self._tell(f"{what} (delta={signed(delta)}, peak={shown(point.peak)})", point)
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

    def _tell(self, what: str, point: MemoryPoint) -> None:
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
    """Return True where this process uses no more than that; else False, with a warning in the log.

    A reading that fails is told as an error, and then nothing is said against it: True.
    """
    threshold = _above_zero("threshold_mb", threshold_mb)
    sample = read_now(sources).sample
    if sample.process is None:
        why = "; ".join(str(ReadError(*gap)) for gap in sample.gaps) or "no reader tells of this process"
        log.error("Memory threshold of %.1fMB was not checked: %s", threshold, one_line(why))
        return True
    rss = sample.process.rss
    if rss > threshold * MIB:
        log.warn("Memory threshold exceeded: RSS=%s, threshold=%.1fMB", shown(rss), threshold)
        return False
    return True


def get_system_memory_summary(*, sources: Sources = default_readers) -> dict[str, Any]:
    """Memory and swap of the container where it has a limit, else of the machine; in GB of 2**30 bytes.

    None is what could not be read; ``gaps`` say why. ``available_gb`` is the least that container and machine leave.
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
    """Log one line about this process as it stands."""
    sample, assessment = read_now(sources)
    whole, rss = denominator(sample), resident(sample)
    percent = None if whole is None or rss is None else 100 * rss / whole.limit.bytes
    line = (
        f"Worker memory summary: PID={os.getpid()}, RSS={shown(rss)}, Process%={share(percent)}, "
        f"System={share(None if whole is None else 100 * whole.ratio)} (available={shown(assessment.available)})"
    )
    log.logger().info("%s", line, extra=log.extra_of(None))


def _children() -> int:
    """Return the memory of all descendants; shared pages count once for each."""
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

#: When the next collection after a task may be made, on the monotonic clock. All tasks of a process share it.
_rested = float("-inf")


def _collect_rationed() -> None:
    """Collect where the ration is not used up; where the program has switched the collector off, leave it alone."""
    if gc.isenabled() and time.monotonic() >= _rested:
        _force()


def _force() -> Freed:
    global _rested
    freed = _collect()
    _rested = time.monotonic() + freed.seconds / SHARE
    if freed.returned is not None and freed.returned > FREED_LOGGED_MB * MIB:
        log.logger().info(
            "Garbage collection freed %s (%d objects)", shown(freed.returned), freed.objects, extra=log.extra_of(None)
        )
    return freed


def _above_zero(name: str, value: float) -> float:
    if type(value) not in (int, float) or not (math.isfinite(value) and value > 0):
        raise SettingsError(f"{name} {value!r}: a number above zero, such as {THRESHOLD_MB:.0f}")
    return float(value)
