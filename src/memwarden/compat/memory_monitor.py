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
from typing import Any, NamedTuple

from memwarden.actions.collect import SHARE
from memwarden.assess.pressure import constraints
from memwarden.compat.figures import Sources, iso, look_once, moment
from memwarden.compat.shared import SYSTEM_CLOCK
from memwarden.errors import MemwardenError, ReadError, SettingsError
from memwarden.guards.freeing import Freed
from memwarden.guards.freeing import force_garbage_collection as _collect
from memwarden.guards.marks import Marks, marks
from memwarden.guards.tracker import MemoryTracker
from memwarden.model import log
from memwarden.model.facts import Gap
from memwarden.model.findings import Assessment, PressureLevel, Reading
from memwarden.model.limits import Constraint
from memwarden.model.sample import Sample
from memwarden.model.units import MIB
from memwarden.readers.census import Census, census
from memwarden.readers.process import read_pss
from memwarden.readers.sources import own_sources, tree_source

#: A task whose peak is above this many MB is a warning, and a process above this percentage of its limit.
PEAK_WARNING_MB, PERCENT_WARNING = 1000.0, 80.0
#: What :func:`check_memory_threshold` compares with when nothing is said.
THRESHOLD_MB = 3000.0
#: A collection is told when more than this many MB came back.
FREED_TOLD_MB = 10.0
_INFO, _WARNING = 20, 30  # those of logging


class _Point(NamedTuple):
    """Memory at one moment, in bytes. None: it could not be read, and ``gaps`` say why."""

    wall: float
    rss: int | None
    peak: int | None
    vms: int | None
    #: What percentages are of: the container's limit or the machine's memory, and what counts against it.
    whole: Constraint | None
    available: int | None
    objects: int
    objects_age: float
    gaps: tuple[str, ...]

    @property
    def percent(self) -> float | None:
        """The process as a share of the limit."""
        return None if self.whole is None or self.rss is None else 100 * self.rss / self.whole.limit.bytes

    @property
    def system_percent(self) -> float | None:
        """All that counts against the limit, as a share of it."""
        return None if self.whole is None else 100 * self.whole.ratio


class MemoryMonitor:
    """What one task takes. ``enable_gc`` collects garbage at its end, on at most a hundredth of the time.

    ``peak_warning_mb`` and ``percent_warning`` are what a task's peak and the process's share may be without a warning;
    ``task_id`` stands in the first of these. Monitors may be nested and used side by side: each has its own peak.
    ``sources``, ``objects`` and ``board`` are there for tests. Raises :class:`SettingsError` for a bad threshold.
    """

    def __init__(
        self,
        task_name: str = "task",
        enable_gc: bool = True,
        *,
        task_id: str = "",
        peak_warning_mb: float = PEAK_WARNING_MB,
        percent_warning: float = PERCENT_WARNING,
        sources: Sources = own_sources,
        objects: Census = census,
        board: Marks = marks,
    ) -> None:
        self.task_name, self.task_id, self.enable_gc = task_name, task_id, enable_gc
        self.peak_warning_mb = _above_zero("peak_warning_mb", peak_warning_mb)
        self.percent_warning = _above_zero("percent_warning", percent_warning)
        self._sources, self._census = sources, objects
        self._reading = _nothing(ReadError("memory", "this process", "absent", "nobody has looked"))
        self._tracker = MemoryTracker(look=self._given, objects=objects, board=board)
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
        self._tell(f"checkpoint:{_one_line(label)}", self._look())

    def get_memory_info(self) -> dict[str, Any]:
        """Memory now; its keys are always there, None where something could not be read (``gaps`` say why).

        ``process`` has ``children_mb`` and ``pss_mb`` besides, for which all processes below this one and its page
        tables are gone through: some 20 µs for each MB.
        """
        point = self._look()
        gaps = list(point.gaps)
        told = self._info(point)
        told["process"] |= {
            "children_mb": _mb(_measured(gaps, _children)),
            "pss_mb": _mb(_measured(gaps, lambda: read_pss(os.getpid()))),
        }
        return told | {"gaps": gaps}

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
            "before_mb": _mb(freed.before),
            "after_mb": _mb(freed.after),
            "freed_mb": _mb(freed.returned),
            "objects_collected": freed.objects,
            "collections_by_generation": dict(zip(("gen0", "gen1", "gen2"), freed.generations, strict=True)),
        }

    def _end(self, what: str) -> dict[str, Any]:
        """The last line of a task, its warning and its collection."""
        running, start, point = self._running, self._start, self._look()
        self._tracker.close()
        self._running, self._start = False, None
        delta = None if not running or start is None or point.rss is None else point.rss - start
        self._tell(f"{what} (delta={_signed(delta)}, peak={_shown(point.peak)})", point)
        if point.peak is not None and point.peak > self.peak_warning_mb * MIB:
            name = _one_line(f"{self.task_name}[{self.task_id}]" if self.task_id else self.task_name)
            log.warn("Task %s used significant memory: peak=%s, delta=%s", name, _shown(point.peak), _signed(delta))
        if self.enable_gc:
            _collect_rationed()
        return {
            "task_name": self.task_name,
            "start_mb": _mb(start if running else None),
            "finish_mb": _mb(point.rss),
            "peak_mb": _mb(point.peak),
            "delta_mb": _mb(delta),
        }

    def _given(self) -> Reading:
        return self._reading

    def _look(self) -> _Point:
        self._reading = reading = _read(self._sources)
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
        return _Point(
            wall=sample.wall,
            rss=_resident(sample) if snapshot is None else snapshot.rss,
            peak=None if snapshot is None or peak is None else max(peak, snapshot.rss),
            vms=None if sample.process is None else sample.process.vms,
            whole=_whole(sample),
            available=reading.assessment.available,
            objects=objects,
            objects_age=age,
            gaps=tuple(dict.fromkeys(gaps)),
        )

    def _info(self, point: _Point) -> dict[str, Any]:
        return {
            "timestamp": iso(moment(point.wall, utc_offset=True)),
            "task_name": self.task_name,
            "process": {
                "pid": os.getpid(),
                "rss_mb": _mb(point.rss),
                "vms_mb": _mb(point.vms),
                "percent": _rounded(point.percent),
                "peak_mb": _mb(point.peak),
            },
            "system": {
                "total_mb": _mb(None if point.whole is None else point.whole.limit.bytes),
                "available_mb": _mb(point.available),
                "used_percent": _rounded(point.system_percent),
                "limit_source": "" if point.whole is None else point.whole.limit.source,
            },
            "gc": {
                "collections": list(gc.get_count()),
                "objects": point.objects,
                "objects_age_seconds": round(point.objects_age, 3),
            },
            "gaps": list(point.gaps),
        }

    def _tell(self, what: str, point: _Point) -> None:
        percent = point.percent
        high = percent is not None and percent > self.percent_warning
        line = (
            f"Memory [{_one_line(self.task_name)}] {what}: RSS={_shown(point.rss)} (peak={_shown(point.peak)}), "
            f"Process%={_share(percent)}, System={_share(point.system_percent)}, GC objects={point.objects:,}"
        )
        if point.gaps:
            line += f" [not read: {_one_line('; '.join(point.gaps))}]"
        extra = log.extra_of(None) | {"memwarden": self._info(point), "memwarden_kind": "task"}
        prefix = "HIGH MEMORY USAGE: " if high else ""
        log.logger().log(_WARNING if high else _INFO, "%s", prefix + line, extra=extra)


def check_memory_threshold(threshold_mb: float = THRESHOLD_MB, *, sources: Sources = own_sources) -> bool:
    """Whether this process holds no more than that; False, with a warning in the log, when it does.

    A reading that fails is told as an error, and then nothing is said against it: True.
    """
    threshold = _above_zero("threshold_mb", threshold_mb)
    sample = _read(sources).sample
    if sample.process is None:
        why = "; ".join(str(ReadError(*gap)) for gap in sample.gaps) or "no reader tells of this process"
        log.error("Memory threshold of %.1fMB was not checked: %s", threshold, _one_line(why))
        return True
    rss = sample.process.rss
    if rss > threshold * MIB:
        log.warn("Memory threshold exceeded: RSS=%s, threshold=%.1fMB", _shown(rss), threshold)
        return False
    return True


def _read(sources: Sources) -> Reading:
    try:
        return look_once(sources, SYSTEM_CLOCK)
    except MemwardenError as error:  # no reader can be had here
        return _nothing(error)


def _nothing(error: MemwardenError) -> Reading:
    gap = Gap("memory", "this system", "absent", str(error))
    return Reading(
        Sample(time.time(), time.monotonic(), gaps=(gap,)),
        Assessment(PressureLevel.LOW, PressureLevel.LOW, None, None, None, 0.0),
    )


def _resident(sample: Sample) -> int | None:
    return None if sample.process is None else sample.process.rss


def _whole(sample: Sample) -> Constraint | None:
    """The smallest that resident memory counts against: a container's limit, or the machine."""
    found = [each for each in constraints(sample) if each.limit.source.startswith(("cgroup ", "machine"))]
    return min(found, key=lambda each: each.limit.bytes, default=None)


def _children() -> int:
    """What all below this process hold; shared pages count once for each."""
    me = os.getpid()
    with closing(tree_source(me)) as reader:
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
    if freed.returned is not None and freed.returned > FREED_TOLD_MB * MIB:
        log.logger().info(
            "Garbage collection freed %s (%d objects)", _shown(freed.returned), freed.objects, extra=log.extra_of(None)
        )
    return freed


# --- in words -----------------------------------------------------------------------------------------


def _above_zero(name: str, value: float) -> float:
    if type(value) not in (int, float) or not (math.isfinite(value) and value > 0):
        raise SettingsError(f"{name} {value!r}: a number above zero, such as {THRESHOLD_MB:.0f}")
    return float(value)


def _one_line(text: str) -> str:
    """Nobody can forge a line by a name."""
    return "".join(each if each.isprintable() else " " for each in str(text))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _mb(size: int | None) -> float | None:
    return None if size is None else round(size / MIB, 2)


def _shown(size: int | None) -> str:
    return "?" if size is None else f"{size / MIB:.1f}MB"


def _signed(size: int | None) -> str:
    return "?" if size is None else f"{round(size / MIB, 1) + 0.0:+.1f}MB"  # never -0.0


def _share(percent: float | None) -> str:
    return "?" if percent is None else f"{percent:.1f}%"
